"""Random but plausible commands for an order in any state, so that random lives reach every corner of the lifecycle."""

import random
from collections.abc import Callable
from typing import Final

from app.dex.router import choose
from app.orders.commands import (
    CancelOrder,
    Command,
    ConfirmOrder,
    EndSubmission,
    ExpireOrder,
    FireTrigger,
    PlaceOrder,
    PostponeResolve,
    RecordIntent,
    RejectOrder,
    RestOrder,
    RetryDraw,
    RouteAttempt,
    StartAttempt,
)
from app.orders.decide import decide
from app.orders.events import Event, Fees, OrderType, Proof, Quote, QuoteCode, Receipt, TimeInForce, Trigger, When
from app.orders.evolve import evolve
from app.orders.money import MAX_UNITS, format_units
from app.orders.state import (
    Absent,
    Accepted,
    Building,
    CancelPending,
    Resting,
    Routing,
    State,
    Submitted,
    Terms,
    Triggered,
    Waiting,
)
from tests.clocks import START_US

EXPIRE_US: Final = START_US + 10_000_000
TX_IDS: Final = ("tx1", "tx2")
_TYPES: Final[tuple[OrderType, ...]] = ("market", "limit", "limit", "sniper")
_IN_FORCE: Final[tuple[TimeInForce, ...]] = ("GTC", "GTC", "IOC", "FOK")
_CODES: Final[tuple[QuoteCode, ...]] = ("unavailable", "no_liquidity", "dust", "not_launched")
_AROUND_PPM: Final = (300_000, 990_000, 998_000, 1_000_000, 1_000_000, 1_003_000, 1_010_000, 2_000_000)
_APART_PPM: Final = (0, 0, 1_000, 1_000, 200_000)


def placement(chance: random.Random) -> PlaceOrder:
    """An order of any type, whose limit, if it has one, is near 200."""
    kind = chance.choice(_TYPES)
    in_force = chance.choice(_IN_FORCE) if kind == "limit" else "GTC"
    return PlaceOrder(
        side=chance.choice(["buy", "sell"]),
        base_asset="SOL",
        quote_asset="USDC",
        base_decimals=9,
        quote_decimals=6,
        amount=chance.choice([1_500_000_000, chance.randint(1, MAX_UNITS)]),
        slippage_bps=chance.choice([0, 50, 10_000]),
        order_type=kind,
        limit_price=f"{chance.randint(150, 250)}.{chance.randint(0, 9)}" if kind == "limit" else None,
        time_in_force=in_force,
        expire_at_us=EXPIRE_US if in_force == "GTC" and chance.random() < 0.5 else None,
        max_fee_bps=chance.choice([0, 100]) if kind == "sniper" else None,
        max_impact_bps=chance.choice([0, 1_000]),
        min_venues=chance.choice([1, 1, 2]),
    )


def move(state: State, chance: random.Random) -> Command:
    """A command that ``state`` may take, or, now and then, any."""
    if chance.random() < 0.04:
        return chance.choice(_ANY)(state, chance)
    match state:
        case Absent():
            return placement(chance)
        case Accepted(terms=terms) if terms.rests:
            return chance.choice([*[_rest] * 4, *[_fire] * 4, _reject])(state, chance)
        case Resting():
            return _fire(state, chance)
        case Accepted() | Triggered() | Waiting():
            return StartAttempt()
        case Routing():
            return route(state, chance)
        case Building():
            return _intend(state, chance)
        case _:
            return chance.choice([_confirm, *[_end] * 6, _postpone, _cancel])(state, chance)


def play(chance: random.Random, moves: int) -> tuple[list[Event], list[State]]:
    """All events of a random life of so many commands, and the state after each, beginning with Absent."""
    events: list[Event] = []
    states: list[State] = [Absent()]
    for _ in range(moves):
        for event in decide(states[-1], move(states[-1], chance)):
            events.append(event)
            states.append(evolve(states[-1], event))
    return events, states


def draw(chance: random.Random) -> RetryDraw:
    """A back-off that is drawn before or after the order's own end."""
    now_us = chance.choice([*[START_US] * 7, EXPIRE_US])
    return RetryDraw(now_us=now_us, jitter_ppm=chance.randint(0, 10**6), speed_ppm=chance.choice([0, 1, 10**6, 10**9]))


def route(state: Routing, chance: random.Random) -> RouteAttempt:
    """The answers of two venues, around what the order needs."""
    terms = state.terms
    wanted = next((bound for bound in (state.limit, terms.floor) if bound and bound > 1), 300_000_000)
    around = wanted * chance.choice(_AROUND_PPM) // 10**6
    amounts = {
        venue: min(MAX_UNITS, max(1, around + around * chance.choice(_APART_PPM) // 10**6))
        for venue in ("raydium", "meteora")
        if chance.random() < 0.9
    }
    selection = choose(terms.side, amounts)
    return RouteAttempt(
        slot=chance.randint(10, 20),
        quotes=tuple(_quote(venue, amounts.get(venue), terms, chance) for venue in ("raydium", "meteora")),
        selection=selection,
        retry=draw(chance),
        reference=None if selection is None else chance.choice([None, *[selection.amount] * 4, selection.amount * 2]),
        launch_slot=3 if terms.order_type == "sniper" else None,
        rearmed=trigger(terms, chance) if terms.rests and chance.random() < 0.9 else None,
        steps=("swap", "memo"),
    )


def _quote(venue: str, amount: int | None, terms: Terms, chance: random.Random) -> Quote:
    if amount is not None:
        impact_ppm = chance.choice([*[0] * 9, 200_000])
        fee = format_units(
            chance.choice([0, 0, 3]), terms.base_decimals if terms.side == "sell" else terms.quote_decimals
        )
        return Quote(venue=venue, amount=format_units(amount, 6), fee=fee, impact_ppm=impact_ppm, latency_ms=1)
    if chance.random() < 0.2:
        return Quote(venue=venue, status="stale", amount="1", fee="0", impact_ppm=0, latency_ms=1, slot=1)
    if chance.random() < 0.2:
        return Quote(venue=venue, status="timeout", latency_ms=1)
    return Quote(venue=venue, status="error", reason="no", code=chance.choice(_CODES), latency_ms=1)


def trigger(terms: Terms, chance: random.Random) -> Trigger:
    """What an order may wait for."""
    if terms.order_type == "sniper":
        return Trigger(pair="NEW1/SOL", when="launched", level=chance.randint(0, 3), number=1)
    when: When = "rises_to" if terms.side == "sell" else "falls_to"
    return Trigger(pair="SOL/USDC", when=when, level=chance.randint(-16_100, -16_090))


def _terms(state: State) -> Terms:
    terms: Terms | None = getattr(state, "terms", None)
    return terms or Terms(
        side="sell",
        base_asset="SOL",
        quote_asset="USDC",
        base_decimals=9,
        quote_decimals=6,
        amount=1,
        slippage_bps=0,
    )


def _place(state: State, chance: random.Random) -> Command:
    return placement(chance)


def _rest(state: State, chance: random.Random) -> Command:
    return RestOrder(trigger=trigger(_terms(state), chance), slot=chance.randint(1, 5))


def _fire(state: State, chance: random.Random) -> Command:
    awaited = trigger(_terms(state), chance)
    slot = chance.randint(1, 30)
    if isinstance(state, Resting) and chance.random() < 0.9:
        awaited, slot = state.trigger, state.slot + chance.randint(0, 3)
    return FireTrigger(trigger=awaited, slot=slot, observed=awaited.level, venue="raydium")


def _reject(state: State, chance: random.Random) -> Command:
    return RejectOrder(code="no_liquidity")


def _start(state: State, chance: random.Random) -> Command:
    return StartAttempt()


def _route_any(state: State, chance: random.Random) -> Command:
    return route(Routing(terms=_terms(state), attempt=1, limit=None), chance)


def _intend(state: State, chance: random.Random) -> Command:
    return RecordIntent(tx_id=chance.choice(TX_IDS), message="AA==", last_valid_height=157)


def _tx_id(state: State, chance: random.Random) -> str:
    live = state.submitted if isinstance(state, CancelPending) else state
    return live.tx_id if isinstance(live, Submitted) and chance.random() < 0.9 else chance.choice(TX_IDS)


def _confirm(state: State, chance: random.Random) -> Command:
    receipt = Receipt(
        venue="raydium", amount_in="1", amount_out="2", fee="0", network_fee="0.000005", slot=9, fees=Fees()
    )
    return ConfirmOrder(tx_id=_tx_id(state, chance), receipt=receipt)


def _end(state: State, chance: random.Random) -> Command:
    tx_id = _tx_id(state, chance)
    if chance.random() < 0.5:
        proof = Proof(kind="expired", tx_id=tx_id, slot=160, height=158, last_valid_height=157)
    else:
        error = chance.choice([None, "ExceededSlippage", "ProgramError"])
        proof = Proof(kind="failed_on_chain", tx_id=tx_id, slot=9, error=error)
    return EndSubmission(proof=proof, retry=draw(chance))


def _postpone(state: State, chance: random.Random) -> Command:
    return PostponeResolve(now_us=START_US, speed_ppm=chance.choice([0, 10**6]))


def _cancel(state: State, chance: random.Random) -> Command:
    return CancelOrder(by="client")


def _expire(state: State, chance: random.Random) -> Command:
    return ExpireOrder(now_us=chance.choice([EXPIRE_US - 1, EXPIRE_US]))


_ANY: Final[tuple[Callable[[State, random.Random], Command], ...]] = (
    _place,
    _rest,
    _fire,
    _reject,
    _start,
    _route_any,
    _intend,
    _confirm,
    _end,
    _postpone,
    _cancel,
    _cancel,
    _expire,
    _expire,
)


def anything(state: State, chance: random.Random) -> Command:
    """Any command at all."""
    return chance.choice(_ANY)(state, chance)
