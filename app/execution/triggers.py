"""Triggers: what an order waits for, whether the simulated market meets it at a slot, and when to look again."""

from collections.abc import Sequence
from typing import Final, Protocol

from app.dex.pools.launches import PERIOD_SLOTS, first_slot_under
from app.dex.profile import Profile
from app.dex.tokens import Token, is_launched_token, launch_number, pair_of, token
from app.dex.triggers import Watch, first_met, rearmed, tick_of, watch_of
from app.dex.venue import VENUES, spot_tick
from app.orders.commands import FireTrigger, RestOrder, Selection
from app.orders.events import LAUNCH_BITS, Trigger
from app.orders.state import Routing, Terms

BEGUN: Final = "scan begun"
"""The mark of a partition that holds the last slot that a scanner has begun to look at."""
DONE: Final = "scan done"
"""The mark of a partition that holds the last slot up to which everything met has been fired."""
NEVER: Final = (1 << LAUNCH_BITS) - 1
"""Slots after a launch that no order waits for in earnest: its fee limit is below the least fee."""


class Launches(Protocol):
    """Where launches are known; :class:`app.dex.chain.SimulatedChain` says what the method does."""

    async def launch_slots(self, tokens: Sequence[Token]) -> dict[str, int]: ...


class Triggers:
    """Watches the simulated market of a seed and profile for the orders of one process."""

    def __init__(self, launches: Launches, *, seed: str, profile: Profile) -> None:
        self._launches = launches
        self._seed = seed
        self._profile = profile

    async def launch_slot(self, terms: Terms) -> int | None:
        """Return the slot at which the launched token of an order's pair opens, or opened; None for other pairs.

        Raises:
            ChainError: the chain gave no answer.
        """
        launched = launched_token(terms)
        if launched is None:
            return None
        return (await self._launches.launch_slots([launched]))[launched.symbol]

    async def first_look(self, terms: Terms, slot: int) -> RestOrder | FireTrigger:
        """Return whether a newly accepted order's trigger is met at ``slot``, or what it is to wait for.

        Raises:
            ChainError: the chain gave no answer.
        """
        trigger = trigger_of(terms)
        if trigger.when == "launched":
            launch = await self.launch_slot(terms)
            assert launch is not None
            met = self.launch_met(trigger, launch, range(slot, slot + 1))
        else:
            met = self.price_met(trigger, range(slot, slot + 1))
        return met or RestOrder(trigger=trigger, slot=slot)

    def price_met(self, trigger: Trigger, slots: range) -> FireTrigger | None:
        """Return the evidence that a price trigger is met at one of ``slots``, the first such; None if it is not."""
        found = first_met(watch_in(trigger), slots, seed=self._seed, profile=self._profile)
        if found is None:
            return None
        slot, venue, tick = found
        return FireTrigger(trigger=trigger, slot=slot, observed=tick, venue=venue)

    @staticmethod
    def launch_met(trigger: Trigger, launch_slot: int, slots: range) -> FireTrigger | None:
        """Return the evidence that a launch trigger is met at one of ``slots``; None if it is not."""
        slot = max(launch_slot + trigger.level, slots.start)
        if slot >= slots.stop:
            return None
        return FireTrigger(trigger=trigger, slot=slot, observed=slot - launch_slot, launch_slot=launch_slot)

    def rearmed(
        self, state: Routing, slot: int, selection: Selection | None, launch_slot: int | None
    ) -> Trigger | None:
        """Return what an order that can rest waits for if the best quote at ``slot`` is not good enough for it.

        A price trigger moves on by as much as the quote has to improve; a launch trigger by one period of its fee.
        """
        terms = state.terms
        if not terms.rests or selection is None:
            return None
        trigger = trigger_of(terms)
        if trigger.when == "launched":
            after = 0 if launch_slot is None else max(0, slot - launch_slot)
            return _launch_trigger(terms, min(NEVER, max(trigger.level, after + PERIOD_SLOTS)))
        required = terms.floor if state.limit is None else state.limit
        if required is None or not terms.is_worse(selection.amount, required):
            return None
        watch = watch_in(trigger)
        base, quote = token(terms.base_asset), token(terms.quote_asset)
        ticks: dict[str, int] = {
            venue: spot_tick(venue, pair_of(base, quote), slot, seed=self._seed, profile=self._profile)
            for venue in VENUES
        }
        spot = tick_of(watch.when, ticks)[1]
        moved = rearmed(watch, spot, selection.amount, required)
        return Trigger(pair=moved.pair, when=moved.when, level=moved.tick)


def trigger_of(terms: Terms) -> Trigger:
    """Return what an order of these terms waits for at first; only for one that rests."""
    if terms.price is None:
        return _launch_trigger(terms, _eligible_slots(terms))
    watch = watch_of(terms.side, token(terms.base_asset), token(terms.quote_asset), terms.price)
    return Trigger(pair=watch.pair, when=watch.when, level=watch.tick)


def launched_token(terms: Terms) -> Token | None:
    """Return the launched token of an order's pair, if it has one."""
    base, quote = token(terms.base_asset), token(terms.quote_asset)
    return next((one for one in (base, quote) if is_launched_token(one)), None)


def watch_in(trigger: Trigger) -> Watch:
    """Return the price that ``trigger`` waits for."""
    assert trigger.when != "launched"
    return Watch(trigger.pair, trigger.when, trigger.level)


def _eligible_slots(terms: Terms) -> int:
    """Slots after the launch from which the pool charges no more than the order's greatest fee."""
    after = 0 if terms.max_fee_bps is None else first_slot_under(terms.max_fee_bps)
    return NEVER if after is None else after


def _launch_trigger(terms: Terms, level: int) -> Trigger:
    launched = launched_token(terms)
    assert launched is not None, "a sniper order has a launched token"
    number = launch_number(launched)
    assert number is not None
    pair = pair_of(token(terms.base_asset), token(terms.quote_asset))
    return Trigger(pair=pair.name, when="launched", level=level, number=number)
