"""Best route selection: who is asked, who is chosen, what is recorded, and that a venue's failure stays its own."""

import asyncio
from collections.abc import Sequence
from itertools import permutations
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dex.errors import DustError, NoLiquidityError, NotLaunchedError, VenueError, VenueUnavailableError
from app.dex.profile import Profile
from app.dex.router import (
    Answer,
    Offer,
    Refusal,
    Silence,
    choose,
    collect,
    recorded_quotes,
    select,
)
from app.dex.tokens import SOL, USDC
from app.dex.venue import Swap, Venue, VenueFees, VenueQuote, price_swap, simulated_venues
from app.orders.events import Quote, QuoteCode, Side
from app.orders.guards import STALE_SLOTS_MAX
from tests.clocks import VirtualClock

SLOT = 10_000
CALM = Profile(venue_error_ppm=0, venue_timeout_ppm=0)


def quote_of(venue: str, amount: int, slot: int = SLOT) -> VenueQuote:
    fees = VenueFees(lp=2_100_000, protocol=300_000, fund=100_000)
    return VenueQuote(venue=venue, amount=amount, fee=2_500_000, impact_ppm=24, slot=slot, fees=fees)


class ScriptedVenue:
    """Answers as told, after ``latency_ms``, in the state of ``slots_behind`` slots before the one asked for."""

    def __init__(
        self,
        name: str,
        outcome: int | Exception,
        clock: VirtualClock,
        latency_ms: int = 0,
        *,
        slots_behind: int = 0,
    ) -> None:
        self.name = name
        self._outcome = outcome
        self._clock = clock
        self._latency_ms = latency_ms
        self._slots_behind = slots_behind

    async def quote(self, swap: Swap, slot: int) -> VenueQuote:
        if self._latency_ms:
            await self._clock.sleep(self._latency_ms / 1_000)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return quote_of(self.name, self._outcome, slot - self._slots_behind)


def swap(side: Side = "sell", order_id: str = "order-1") -> Swap:
    return Swap(order_id=order_id, attempt=1, side=side, base=SOL, quote=USDC, amount=1_000_000_000)


def asked(venues: Sequence[Venue], clock: VirtualClock, *, timeout_ms: int = 1_000) -> tuple[Answer, ...]:
    async def run() -> tuple[Answer, ...]:
        task = asyncio.create_task(collect(venues, swap(), SLOT, timeout_ms=timeout_ms, clock=clock))
        await clock.run_until(task)
        return task.result()

    return asyncio.run(run())


def offers(**amounts: int) -> tuple[Offer, ...]:
    return tuple(Offer(venue, 200, quote_of(venue, amount)) for venue, amount in amounts.items())


def test_best_route_selection_takes_the_largest_amount_received_for_a_sell() -> None:
    chosen = select("sell", offers(raydium=163_099_531, meteora=167_582_456))
    assert chosen is not None
    assert (chosen.venue, chosen.amount, chosen.runner_up) == ("meteora", 167_582_456, "raydium")
    assert chosen.edge_bps == 267
    assert chosen.policy == "best-net/1"


def test_best_route_selection_takes_the_smallest_amount_paid_for_a_buy() -> None:
    chosen = select("buy", offers(raydium=163_099_531, meteora=167_582_456))
    assert chosen is not None
    assert (chosen.venue, chosen.amount, chosen.runner_up) == ("raydium", 163_099_531, "meteora")
    assert chosen.edge_bps == 274


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_best_route_selection_of_equal_prices_is_the_first_in_the_fixed_venue_order(side: Side) -> None:
    for order in permutations(offers(raydium=5, meteora=5)):
        chosen = select(side, order)
        assert chosen is not None
        assert (chosen.venue, chosen.runner_up, chosen.edge_bps) == ("raydium", "meteora", 0)


def test_best_route_selection_needs_only_one_venue() -> None:
    chosen = select("sell", (Silence("raydium", 1_000), *offers(meteora=5)))
    assert chosen is not None
    assert (chosen.venue, chosen.runner_up, chosen.edge_bps) == ("meteora", None, None)


def test_best_route_selection_without_any_offer_selects_nothing() -> None:
    assert select("sell", (Silence("raydium", 1_000), Refusal("meteora", 3, "closed", "unavailable"))) is None


def test_a_quote_of_an_older_slot_is_chosen_up_to_the_limit_and_never_beyond_it() -> None:
    clock = VirtualClock()

    def answers(slots_behind: int) -> tuple[Answer, ...]:
        stale = ScriptedVenue("raydium", 9, clock, slots_behind=slots_behind)
        return asked([stale, ScriptedVenue("meteora", 4, clock)], clock)

    at_the_limit, beyond_it = (select("sell", answers(STALE_SLOTS_MAX + more)) for more in (0, 1))
    assert at_the_limit is not None
    assert beyond_it is not None
    assert (at_the_limit.venue, at_the_limit.runner_up) == ("raydium", "meteora")
    assert (beyond_it.venue, beyond_it.runner_up) == ("meteora", None)
    assert select("sell", answers(STALE_SLOTS_MAX + 1)[:1]) is None


@pytest.mark.parametrize(
    ("slots_behind", "status", "slot"),
    [(0, "ok", None), (1, "ok", SLOT - 1), (8, "ok", SLOT - 8), (9, "stale", SLOT - 9), (-1, "ok", SLOT + 1)],
)
def test_a_quote_s_slot_is_recorded_where_it_is_not_the_one_asked_for(
    slots_behind: int, status: str, slot: int | None
) -> None:
    clock = VirtualClock()
    answers = asked([ScriptedVenue("raydium", 163_099_531, clock, slots_behind=slots_behind)], clock)
    (recorded,) = recorded_quotes(answers, swap())
    assert (recorded.status, recorded.slot, recorded.amount) == (status, slot, "163.099531")


def test_the_decision_is_the_same_in_every_version() -> None:
    chosen = choose("sell", {"raydium": 163_099_531, "meteora": 167_582_456})
    assert chosen is not None
    assert chosen.decision == "a8c119c4b70f711d"


@given(
    st.sampled_from(["buy", "sell"]),
    st.dictionaries(st.sampled_from(["raydium", "meteora", "a", "b"]), st.integers(1, 9), min_size=1),
)
def test_the_selection_does_not_depend_on_who_answered_first(side: Side, amounts: dict[str, int]) -> None:
    reversed_amounts = dict(reversed(amounts.items()))
    chosen = choose(side, amounts)
    assert chosen is not None
    assert choose(side, reversed_amounts) == chosen
    assert chosen.amount == (max if side == "sell" else min)(amounts.values())


def test_the_decision_changes_with_every_input_that_it_rests_on() -> None:
    inputs: list[tuple[Side, dict[str, int]]] = [
        ("sell", {"raydium": 5, "meteora": 4}),
        ("sell", {"raydium": 5, "meteora": 3}),
        ("sell", {"raydium": 5}),
        ("buy", {"raydium": 5, "meteora": 6}),
        ("buy", {"raydium": 5}),
    ]
    chosen = [choose(*given) for given in inputs]
    assert len({one.decision for one in chosen if one}) == len(inputs)


def test_all_venues_are_asked_at_once() -> None:
    clock = VirtualClock()
    venues = [ScriptedVenue("raydium", 5, clock, 200), ScriptedVenue("meteora", 4, clock, 300)]
    started = clock.now_us()
    answers = asked(venues, clock)
    assert [(answer.venue, answer.latency_ms) for answer in answers] == [("raydium", 200), ("meteora", 300)]
    assert clock.now_us() - started == 300_000


@pytest.mark.parametrize(
    "error",
    [
        VenueUnavailableError("closed"),
        NoLiquidityError("too little"),
        DustError("nothing"),
        NotLaunchedError("opens later"),
    ],
)
def test_a_failing_venue_leaves_the_other_one_its_answer(error: VenueError) -> None:
    clock = VirtualClock()
    answers = asked([ScriptedVenue("raydium", error, clock, 7), ScriptedVenue("meteora", 4, clock)], clock)
    assert answers[0] == Refusal("raydium", 7, str(error), error.code)
    assert isinstance(answers[1], Offer)


def test_each_refusal_of_a_venue_has_a_code_of_its_own() -> None:
    codes = [refusal.code for refusal in VenueError.__subclasses__()]
    assert sorted(codes) == sorted(set(get_args(QuoteCode)) - {"unusable"})


def test_a_silent_venue_is_given_up_at_the_deadline_and_listed() -> None:
    clock = VirtualClock()
    started = clock.now_us()
    answers = asked([ScriptedVenue("raydium", 5, clock, 60_000), ScriptedVenue("meteora", 4, clock)], clock)
    assert answers[0] == Silence("raydium", 1_000)
    assert isinstance(answers[1], Offer)
    assert clock.now_us() - started == 1_000_000


def test_a_bug_in_a_venue_is_not_taken_for_an_answer() -> None:
    clock = VirtualClock()
    with pytest.raises(ExceptionGroup) as raised:
        asked([ScriptedVenue("raydium", KeyError("bug"), clock), ScriptedVenue("meteora", 4, clock)], clock)
    assert raised.group_contains(KeyError)


@pytest.mark.parametrize("amount", [0, -1, 1 << 64])
def test_an_amount_that_is_none_is_no_usable_quote(amount: int) -> None:
    clock = VirtualClock()
    (answer,) = asked([ScriptedVenue("raydium", amount, clock)], clock)
    assert answer == Refusal("raydium", 0, f"unusable amount {amount}", "unusable")


def test_the_largest_token_amount_is_a_usable_quote() -> None:
    clock = VirtualClock()
    (answer,) = asked([ScriptedVenue("raydium", (1 << 64) - 1, clock)], clock)
    assert isinstance(answer, Offer)


@pytest.mark.parametrize("speed_ppm", [0, 1_000_000, 1_000_000_000])
def test_a_drawn_silence_of_a_simulated_venue_outlasts_the_deadline(speed_ppm: int) -> None:
    clock = VirtualClock()
    silent = Profile(venue_timeout_ppm=1_000_000)
    answers = asked(simulated_venues(seed="s", profile=silent, clock=clock, speed_ppm=speed_ppm), clock)
    waited_ms = 1_000 if speed_ppm else 0
    assert answers == (Silence("raydium", waited_ms), Silence("meteora", waited_ms))


def test_a_drawn_error_of_a_simulated_venue_is_its_answer() -> None:
    clock = VirtualClock()
    broken = Profile(venue_error_ppm=1_000_000, venue_timeout_ppm=0)
    answers = asked(simulated_venues(seed="s", profile=broken, clock=clock, speed_ppm=0), clock)
    assert answers == tuple(
        Refusal(name, 0, "simulated: venue unavailable", "unavailable") for name in ("raydium", "meteora")
    )


def test_simulated_venues_offer_what_the_auditor_recomputes() -> None:
    clock = VirtualClock()
    answers = asked(simulated_venues(seed="s", profile=CALM, clock=clock, speed_ppm=1_000_000), clock)
    assert answers == tuple(
        Offer(name, 200, price_swap(name, swap(), SLOT, seed="s", profile=CALM)) for name in ("raydium", "meteora")
    )


def test_answers_are_recorded_as_decimal_text_with_the_fee_in_the_asset_paid_in() -> None:
    quote = quote_of("raydium", 163_099_531)
    answers = (Offer("raydium", 203, quote), Silence("meteora", 1_000), Refusal("other", 7, "closed", "dust"))
    amount = "163.099531"
    expected = (
        Quote(venue="raydium", amount=amount, fee="0.0025", impact_ppm=24, latency_ms=203),
        Quote(venue="meteora", status="timeout", latency_ms=1_000),
        Quote(venue="other", status="error", latency_ms=7, reason="closed", code="dust"),
    )
    assert recorded_quotes(answers, swap("sell")) == expected
    assert recorded_quotes(answers[:1], swap("buy"))[0].fee == "2.5"
