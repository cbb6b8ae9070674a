"""Best execution: ask every venue at once, take the best net price, and make the choice reproducible."""

import asyncio
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final, assert_never

import msgspec
from msgspec import Struct

from app.clock import Clock
from app.dex.errors import VenueError, VenueTimeoutError
from app.dex.venue import VENUES, Swap, Venue, VenueQuote
from app.orders.commands import Selection
from app.orders.events import Quote, QuoteCode, Side
from app.orders.guards import STALE_SLOTS_MAX
from app.orders.money import BPS, MAX_UNITS, format_units

POLICY: Final = "best-net/1"
"""Largest amount received for a sell, smallest amount paid for a buy; of equal ones the first in ``VENUES``."""


class Offer(Struct, frozen=True):
    """A venue answered with a price."""

    venue: str
    latency_ms: int
    quote: VenueQuote
    slots_behind: int = 0
    """How many slots before the one that was asked for the venue's state is; below 0 for a later one."""

    @property
    def is_stale(self) -> bool:
        """Whether the price is too old to be chosen."""
        return self.slots_behind > STALE_SLOTS_MAX


class Refusal(Struct, frozen=True):
    """A venue answered without a usable price."""

    venue: str
    latency_ms: int
    reason: str
    code: QuoteCode


class Silence(Struct, frozen=True):
    """A venue did not answer in time."""

    venue: str
    latency_ms: int


Answer = Offer | Refusal | Silence


async def collect(
    venues: Sequence[Venue], swap: Swap, slot: int, *, timeout_ms: int, clock: Clock
) -> tuple[Answer, ...]:
    """Ask all ``venues`` at once and return their answers in the same order, after ``timeout_ms`` at the latest.

    A venue's failure or silence is an answer; it is never raised and never takes another venue's answer away.
    """
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(_ask(venue, swap, slot, clock)) for venue in venues]
        deadline = group.create_task(clock.sleep(timeout_ms / 1_000))
        waiting: set[asyncio.Task[Answer]] = set(asked)
        while waiting and not deadline.done():
            await asyncio.wait({*waiting, deadline}, return_when=asyncio.FIRST_COMPLETED)
            waiting = {task for task in waiting if not task.done()}
        for task in (deadline, *waiting):
            task.cancel()
    return tuple(
        Silence(venue.name, timeout_ms) if task.cancelled() else task.result()
        for venue, task in zip(venues, asked, strict=True)
    )


async def _ask(venue: Venue, swap: Swap, slot: int, clock: Clock) -> Answer:
    started_us = clock.now_us()
    try:
        quote = await venue.quote(swap, slot)
    except VenueTimeoutError:
        return Silence(venue.name, _ms_since(started_us, clock))
    except VenueError as error:
        return Refusal(venue.name, _ms_since(started_us, clock), error.reason, error.code)
    latency_ms = _ms_since(started_us, clock)
    if not 0 < quote.amount <= MAX_UNITS:
        return Refusal(venue.name, latency_ms, f"unusable amount {quote.amount}", "unusable")
    return Offer(venue.name, latency_ms, quote, slot - quote.slot)


def _ms_since(started_us: int, clock: Clock) -> int:
    return max(0, clock.now_us() - started_us) // 1_000


def select(side: Side, answers: Sequence[Answer]) -> Selection | None:
    """Return the best of ``answers``, or None when none of them is an offer that is fresh enough."""
    fresh = [answer for answer in answers if isinstance(answer, Offer) and not answer.is_stale]
    return choose(side, {offer.venue: offer.quote.amount for offer in fresh})


def choose(side: Side, amounts: Mapping[str, int]) -> Selection | None:
    """Return the best of the venues' ``amounts`` by :data:`POLICY`, or None when there are none.

    Pure, and independent of the mapping's order: an auditor who repeats it on the recorded quotes gets the same
    selection, ``decision`` included. Amounts are quote base units, at least 1.
    """
    if not amounts:
        return None
    sign = -1 if side == "sell" else 1
    ranked = sorted(amounts, key=lambda venue: (sign * amounts[venue], *_rank(venue)))
    best = ranked[0]
    runner_up = ranked[1] if len(ranked) > 1 else None
    edge_bps = None if runner_up is None else abs(amounts[best] - amounts[runner_up]) * BPS // amounts[best]
    evidence = {
        "policy": POLICY,
        "side": side,
        "amounts": {venue: str(amount) for venue, amount in amounts.items()},
        "venue": best,
        "runnerUp": runner_up,
        "edgeBps": edge_bps,
    }
    return Selection(
        policy=POLICY,
        venue=best,
        amount=amounts[best],
        decision=sha256(msgspec.json.encode(evidence, order="sorted")).hexdigest()[:16],
        runner_up=runner_up,
        edge_bps=edge_bps,
    )


def _rank(venue: str) -> tuple[int, str]:
    return (VENUES.index(venue) if venue in VENUES else len(VENUES)), venue


def recorded_quotes(answers: Sequence[Answer], swap: Swap) -> tuple[Quote, ...]:
    """Return ``answers`` as an event records them: decimal text, in the order given."""
    return tuple(_recorded(answer, swap) for answer in answers)


def _recorded(answer: Answer, swap: Swap) -> Quote:
    match answer:
        case Offer(venue=venue, latency_ms=latency_ms, quote=quote):
            paid_in = swap.base if swap.side == "sell" else swap.quote
            return Quote(
                venue=venue,
                status="stale" if answer.is_stale else "ok",
                amount=format_units(quote.amount, swap.quote.decimals),
                fee=format_units(quote.fee, paid_in.decimals),
                impact_ppm=quote.impact_ppm,
                latency_ms=latency_ms,
                slot=quote.slot if answer.slots_behind else None,
            )
        case Refusal(venue=venue, latency_ms=latency_ms, reason=reason, code=code):
            return Quote(venue=venue, status="error", latency_ms=latency_ms, reason=reason, code=code)
        case Silence(venue=venue, latency_ms=latency_ms):
            return Quote(venue=venue, status="timeout", latency_ms=latency_ms)
        case _:
            assert_never(answer)
