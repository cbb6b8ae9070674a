"""What clients say on a WebSocket beside orders: describes what :mod:`app.api.streaming.messages` reads by hand."""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from app.api.requests import CLIENT_CHARACTERS_MAX
from app.api.streaming.messages import (
    BATCH_MAX,
    CURSOR_CHARACTERS_MAX,
    ID_CHARACTERS_MAX,
    NAME_CHARACTERS_MAX,
    TOKEN_CHARACTERS_MAX,
    VERSION,
    WINDOW_MAX,
)
from app.api.streaming.scopes import FILTER_VALUES_MAX, LAST_MAX, EventName
from app.orders.lifecycle import Status

Id = Annotated[str, Meta(min_length=1, max_length=ID_CHARACTERS_MAX)] | Annotated[int, Meta(ge=0, lt=10**15)]
Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARACTERS_MAX)]
Client = Annotated[str, Meta(min_length=1, max_length=CLIENT_CHARACTERS_MAX)]
Place = Annotated[str, Meta(min_length=1, max_length=CURSOR_CHARACTERS_MAX)]
Asset = Annotated[str, Meta(min_length=1, max_length=CLIENT_CHARACTERS_MAX)]
Few = Meta(min_length=1, max_length=FILTER_VALUES_MAX)


def _spelled(name: str) -> str:
    first, *rest = name.removesuffix("_").split("_")
    return first + "".join(map(str.capitalize, rest))


class Command(Struct, frozen=True, kw_only=True, omit_defaults=True, rename=_spelled, tag_field="type"):
    """A message of a client."""

    id: Id | None = None
    """Answers repeat it."""


class Program(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What connects; any further members may be given."""

    name: str | None = None
    version: str | None = None


class Shown(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key, as some clients show it."""

    token: str


class Hello(Command, frozen=True, kw_only=True, omit_defaults=True, rename=_spelled, tag="hello"):
    """Asks for `welcome` and for heartbeats. Once; optional where no keys are asked for."""

    v: Annotated[int, Meta(ge=1, le=1_000)] = VERSION
    """The version of the protocol; another than the default ends the socket with 4406."""
    token: Annotated[str, Meta(min_length=1, max_length=TOKEN_CHARACTERS_MAX)] | None = None
    """A key, where the server asks for keys; then this is the first message."""
    auth: Shown | None = None
    """The same as `token`."""
    client: Program | None = None


class Subscribe(Command, frozen=True, kw_only=True, omit_defaults=True, rename=_spelled, tag="subscribe"):
    """Asks for the events of one scope (`orderId`, `clientId` or `scope`), from one start on.

    With `orderId` and at most `after` and `id` beside it, its events come plain, without a subscription's name.
    """

    sub: Name | None = None
    """The subscription's name; without one it is the order id, `client:<clientId>` or `all`."""
    order_id: str | None = None
    client_id: Client | None = None
    scope: Literal["all"] | None = None
    after: Place | None = None
    """Start: exclusive; a cursor, or, of one order, also a seq or an event id."""
    last_event_id: Place | None = None
    """The same as `after`."""
    from_: Literal["start", "now"] | None = None
    """Start: before the first event (the default of one order), or what comes next (the default otherwise)."""
    since: str | None = None
    """Start: the first event recorded at that time or later; RFC 3339 with `Z` or an offset."""
    last: Annotated[int, Meta(ge=1, le=LAST_MAX)] | None = None
    """Start: the newest so many events that pass the filters."""
    snapshot: bool | None = None
    """Start: the orders as they are."""
    events: Annotated[list[EventName], Few] | None = None
    """Filter: only events of these names."""
    statuses: Annotated[list[Status], Few] | None = None
    """Filter: only events with these statuses."""
    assets: Annotated[list[Asset], Few] | None = None
    """Filter: only orders of these assets, by symbol or mint."""
    until: Literal["caught_up", "terminal"] | None = None
    """Ends it where the log ended, or, of one order, with its last event, which it always does."""
    window: Annotated[int, Meta(ge=1, le=WINDOW_MAX)] | None = None
    """So many events may be sent that were not acknowledged."""
    batch: Annotated[int, Meta(ge=1, le=BATCH_MAX)] | None = None
    """So many events may come in one message."""


class Unsubscribe(Command, frozen=True, kw_only=True, omit_defaults=True, rename=_spelled, tag="unsubscribe"):
    """Asks for no more events of a subscription: by its name, or by `orderId` for a plain one."""

    sub: Name | None = None
    order_id: str | None = None


class Ack(Command, frozen=True, kw_only=True, omit_defaults=True, rename=_spelled, tag="ack"):
    """Gives back the room of the event with that cursor, and of those before it. Not answered."""

    sub: Name
    cursor: Place


class CancelOrder(Command, frozen=True, kw_only=True, omit_defaults=True, rename=_spelled, tag="cancel"):
    """Asks for the order's end, if it can still be ended."""

    order_id: str


class Ping(Command, frozen=True, kw_only=True, omit_defaults=True, rename=_spelled, tag="ping"):
    """Asks for `pong`."""

    t: Annotated[int, Meta(ge=0, lt=10**15)] | None = None
    """Repeated in the answer."""


COMMANDS: Final[dict[str, type[Command]]] = {
    "hello": Hello,
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
    "ack": Ack,
    "cancel": CancelOrder,
    "ping": Ping,
}
"""By ``type``; an order is the other thing that a client may say."""
