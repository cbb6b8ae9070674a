"""Any quote of any past order is recomputable from the seed and its slot alone, in a process that knows nothing."""

import asyncio
import sys

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from app.dex.errors import VenueError
from app.dex.pools.launches import launch_token
from app.dex.profile import ASSIGNMENT, LONGTAIL, MAJOR, Profile
from app.dex.tokens import PAIRS, SOL, Pair
from app.dex.venue import VENUES, SimulatedVenue, Swap, VenueName, VenueQuote, price_swap, stale_slots
from app.orders.events import Side
from tests.clocks import VirtualClock

# As in the profiles, but with more stale answers, and without those that name no price.
PROFILES = tuple(
    structs.replace(profile, venue_error_ppm=0, venue_timeout_ppm=0, outage_ppm=0, stale_ppm=500_000)
    for profile in (ASSIGNMENT, MAJOR, LONGTAIL)
)
SIDES: tuple[Side, ...] = ("sell", "buy")
LAUNCHED = tuple(Pair(launch_token(number), SOL) for number in (1, 7, 60_000))


@st.composite
def swaps(draw: st.DrawFn) -> Swap:
    pair = draw(st.sampled_from(PAIRS + LAUNCHED))
    base, quote = draw(st.permutations([pair.base, pair.quote]))
    return Swap(
        order_id=draw(st.text("0123456789ABCDEF", min_size=1, max_size=8)),
        attempt=draw(st.integers(1, 3)),
        side=draw(st.sampled_from(SIDES)),
        base=base,
        quote=quote,
        amount=draw(st.integers(1, 1 << draw(st.integers(0, 44)))),
        launch_slot=draw(st.integers(9_900, 10_100)) if pair in LAUNCHED else None,
    )


def forget() -> None:
    """Empty every cache of the simulated world, as in a new process."""
    for name, module in list(sys.modules.items()):
        if name.startswith("app.dex"):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


@given(swaps(), st.sampled_from(VENUES), st.integers(10_000, 1 << 24), st.sampled_from(PROFILES), st.text(max_size=3))
def test_what_a_venue_answers_is_recomputed_from_its_seed_and_the_slot_that_it_names(
    swap: Swap, name: VenueName, slot: int, profile: Profile, seed: str
) -> None:
    venue = SimulatedVenue(name, seed=seed, profile=profile, clock=VirtualClock(), speed_ppm=0)
    answer = answered(venue, swap, slot)
    forget()
    if isinstance(answer, VenueError):
        known = slot - stale_slots(name, swap, slot, seed=seed, profile=profile)
        assert refused(name, swap, known, seed=seed, profile=profile) == (type(answer), answer.reason)
    else:
        assert slot - profile.stale_slots_max <= answer.slot <= slot
        assert price_swap(name, swap, answer.slot, seed=seed, profile=profile) == answer


def answered(venue: SimulatedVenue, swap: Swap, slot: int) -> VenueQuote | VenueError:
    try:
        return asyncio.run(venue.quote(swap, slot))
    except VenueError as error:
        return error


def refused(name: str, swap: Swap, slot: int, *, seed: str, profile: Profile) -> tuple[type, str] | None:
    try:
        price_swap(name, swap, slot, seed=seed, profile=profile)
    except VenueError as error:
        return type(error), error.reason
    return None
