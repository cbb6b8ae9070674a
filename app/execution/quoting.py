"""Quotes without an order: what the venues, the router and the guards would say of one now. Nothing is appended."""

from collections.abc import Sequence
from typing import Final, Protocol

from msgspec import Struct

from app.clock import Clock
from app.dex.profile import Profile
from app.dex.router import collect, recorded_quotes, select
from app.dex.tokens import Token, is_launched_token
from app.dex.transaction import instructions
from app.dex.venue import Swap, Venue, reference_amount
from app.orders.commands import RetryDraw, RouteAttempt, Selection
from app.orders.decide import decide
from app.orders.events import AttemptFailed, Failure, PriceProtectionTripped, Quote, RouteSelected
from app.orders.money import MAX_UNITS
from app.orders.state import Routing, Terms

_NO_RETRY: Final = RetryDraw(now_us=0, jitter_ppm=0, speed_ppm=0)


class Market(Protocol):
    """What quoting needs of a chain; :class:`app.dex.chain.SimulatedChain` says what each method does."""

    async def slot(self) -> int: ...

    async def launch_slots(self, tokens: Sequence[Token]) -> dict[str, int]: ...


class Quoted(Struct, frozen=True, kw_only=True):
    """What an attempt at ``slot`` would have met."""

    slot: int
    quotes: tuple[Quote, ...]
    """Every venue's answer, errors and time-outs too."""
    selection: Selection | None
    """The router's choice; None: no venue gave a usable price."""
    route: RouteSelected | None
    """The route that would be taken; None: there is none, or a guard stands before it."""
    tripped: PriceProtectionTripped | None
    failure: Failure | None
    """Why there would be no route."""


class QuoteSettings(Struct, frozen=True, kw_only=True):
    """What quotes are made from, and how long the venues have for them."""

    seed: str
    profile: Profile
    timeout_ms: int


class Quoting:
    """Asks the venues as an attempt does, and lets the domain decide as it does for one.

    The simulated venues draw what they answer for an order and an attempt. Here these are the trade and the slot: the
    same question at the same slot has the same answer, an order that follows has draws of its own.

    Args:
        venues: in the fixed order that breaks ties.
        market: the slot, and the launches.
        clock: measures the time-out.
    """

    def __init__(self, venues: Sequence[Venue], market: Market, clock: Clock, settings: QuoteSettings) -> None:
        self._venues = venues
        self._market = market
        self._clock = clock
        self._settings = settings

    async def quote(self, terms: Terms, base: Token, quote: Token) -> Quoted:
        """Return what an attempt of an order of ``terms`` would meet now.

        Raises:
            ChainError: the chain gave no answer.
        """
        slot = await self._market.slot()
        launch_slot = await self._launch_slot(base, quote)
        swap = Swap(
            order_id=f"quote {terms.side} {terms.amount} {base.symbol} {quote.symbol}",
            attempt=slot,
            side=terms.side,
            base=base,
            quote=quote,
            amount=terms.amount,
            launch_slot=launch_slot,
        )
        timeout_ms = self._settings.timeout_ms
        answers = await collect(self._venues, swap, slot, timeout_ms=timeout_ms, clock=self._clock)
        attempt = RouteAttempt(
            slot=slot,
            quotes=recorded_quotes(answers, swap),
            selection=select(terms.side, answers),
            retry=_NO_RETRY,
            reference=self._reference(swap, slot),
            launch_slot=launch_slot,
            steps=instructions(swap),
        )
        return _decided(terms, attempt)

    async def _launch_slot(self, base: Token, quote: Token) -> int | None:
        launched = [token for token in (base, quote) if is_launched_token(token)]
        return (await self._market.launch_slots(launched))[launched[0].symbol] if launched else None

    def _reference(self, swap: Swap, slot: int) -> int | None:
        amount = reference_amount(swap, slot, seed=self._settings.seed, profile=self._settings.profile)
        return amount if amount is not None and amount <= MAX_UNITS else None


def _decided(terms: Terms, attempt: RouteAttempt) -> Quoted:
    route, tripped, failure = None, None, None
    for event in decide(Routing(terms=terms, attempt=1, limit=None), attempt):
        match event:
            case RouteSelected():
                route = event
            case PriceProtectionTripped():
                tripped = event
            case AttemptFailed(error=error):
                failure = error
    return Quoted(
        slot=attempt.slot,
        quotes=attempt.quotes,
        selection=attempt.selection,
        route=route,
        tripped=tripped,
        failure=failure,
    )
