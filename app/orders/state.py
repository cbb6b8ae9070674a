"""What an order can be: a closed union; each state holds exactly the facts that its next step needs."""

from typing import Final

from msgspec import Struct

from app.orders.events import Failure, Quote, Receipt, Side

MAX_ATTEMPTS: Final = 3


class Terms(Struct, frozen=True, kw_only=True):
    """What was ordered; fixed by OrderAccepted."""

    side: Side
    base_asset: str
    quote_asset: str
    base_decimals: int
    quote_decimals: int
    amount: int
    """Base units of the base asset."""
    slippage_bps: int


class Absent(Struct, frozen=True):
    """No event yet."""


class Accepted(Struct, frozen=True, kw_only=True):
    """Waits for its first attempt."""

    terms: Terms


class Waiting(Struct, frozen=True, kw_only=True):
    """Waits for a further attempt, due at a recorded time."""

    terms: Terms
    attempt: int
    due_at: str
    limit: int | None


class Routing(Struct, frozen=True, kw_only=True):
    """An attempt runs; no venue has answered yet."""

    terms: Terms
    attempt: int
    limit: int | None
    """Worst acceptable amount in quote base units, anchored to the first route; ``None`` before there is one."""


class Quoted(Struct, frozen=True, kw_only=True):
    """The venues have answered; no route is chosen yet."""

    terms: Terms
    attempt: int
    limit: int | None
    quotes: tuple[Quote, ...]


class Building(Struct, frozen=True, kw_only=True):
    """A route is chosen; nothing is signed."""

    terms: Terms
    attempt: int
    limit: int
    venue: str


class Submitted(Struct, frozen=True, kw_only=True):
    """A signed swap may be on its way; only the chain can end this state."""

    terms: Terms
    attempt: int
    limit: int
    venue: str
    tx_id: str
    message: str
    last_valid_height: int
    checks: int = 0
    next_check_at: str | None = None


class Exhausted(Struct, frozen=True, kw_only=True):
    """The last attempt ended without a swap; OrderFailed follows in the same commit."""

    terms: Terms
    attempt: int
    error: Failure


class Confirmed(Struct, frozen=True, kw_only=True):
    terms: Terms
    tx_id: str
    receipt: Receipt


class Failed(Struct, frozen=True, kw_only=True):
    terms: Terms
    error: Failure


State = Absent | Accepted | Waiting | Routing | Quoted | Building | Submitted | Exhausted | Confirmed | Failed
Terminal = Confirmed | Failed
