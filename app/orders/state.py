"""What an order can be: a closed union; each state holds exactly the facts that its next step needs."""

from typing import Final

from msgspec import Struct

from app.orders.events import (
    IMPACT_BPS_MAX,
    CancelCode,
    Failure,
    OrderType,
    Quote,
    Receipt,
    Side,
    TimeInForce,
    Trigger,
)

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
    order_type: OrderType = "market"
    price: tuple[int, int] | None = None
    """Limit orders: quote asset per base asset, as numerator and denominator."""
    floor: int | None = None
    """Limit orders: worst acceptable amount in quote base units; least received for a sell, most paid for a buy."""
    time_in_force: TimeInForce = "GTC"
    expire_at: str | None = None
    max_fee_bps: int | None = None
    max_impact_bps: int = IMPACT_BPS_MAX
    min_venues: int = 1

    @property
    def rests(self) -> bool:
        """Whether the order waits for a trigger; the others begin at once."""
        return self.order_type == "sniper" or (self.order_type == "limit" and self.time_in_force == "GTC")

    def is_worse(self, amount: int, limit: int) -> bool:
        """Return whether ``amount`` is past ``limit``, both in quote base units."""
        return amount < limit if self.side == "sell" else amount > limit


class Absent(Struct, frozen=True):
    """No event yet."""


class Accepted(Struct, frozen=True, kw_only=True):
    """Waits for its first attempt, or to be put where it waits for its trigger."""

    terms: Terms


class Resting(Struct, frozen=True, kw_only=True):
    """Waits for its trigger, from the slot after ``slot`` on."""

    terms: Terms
    attempt: int
    """The attempt that the trigger begins."""
    limit: int | None
    trigger: Trigger
    slot: int


class Triggered(Struct, frozen=True, kw_only=True):
    """The trigger has fired; the attempt follows."""

    terms: Terms
    attempt: int
    limit: int | None


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
    slot: int
    quotes: tuple[Quote, ...]
    reference: int | None = None
    launch_slot: int | None = None


class Building(Struct, frozen=True, kw_only=True):
    """A route is chosen; nothing is signed."""

    terms: Terms
    attempt: int
    limit: int
    venue: str
    launch_slot: int | None = None


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


class CancelPending(Struct, frozen=True, kw_only=True):
    """As Submitted, and the order is to end with the swap's outcome, whatever that is."""

    submitted: Submitted
    by: str
    """Who asked for it."""

    @property
    def terms(self) -> Terms:
        """What was ordered."""
        return self.submitted.terms


class Exhausted(Struct, frozen=True, kw_only=True):
    """The last attempt ended without a swap; the order's end follows in the same commit."""

    terms: Terms
    attempt: int
    error: Failure


class Confirmed(Struct, frozen=True, kw_only=True):
    terms: Terms
    tx_id: str
    receipt: Receipt


class Cancelled(Struct, frozen=True, kw_only=True):
    terms: Terms
    code: CancelCode


class Expired(Struct, frozen=True, kw_only=True):
    terms: Terms


class Rejected(Struct, frozen=True, kw_only=True):
    terms: Terms
    error: Failure


class Failed(Struct, frozen=True, kw_only=True):
    terms: Terms
    error: Failure


Unsent = Accepted | Resting | Triggered | Waiting | Routing | Quoted | Building
"""Open, and no swap of it is or may be on its way: it can end at once."""
Live = Submitted | CancelPending
"""A swap may be on its way."""
Terminal = Confirmed | Cancelled | Expired | Rejected | Failed
State = Absent | Unsent | Live | Exhausted | Terminal
