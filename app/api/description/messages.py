"""What the server says on a WebSocket and in an event stream, one Struct each; events are not among them."""

from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from app.api.description.answers import Frames
from app.api.problems import Closing
from app.api.streaming.snapshots import OrderSnapshot

MessageId = str | int


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel", tag_field="type"):
    """A message of the server."""

    id: MessageId | None = None
    """Of the message that this answers, if that has one."""


class Named(Message, frozen=True, kw_only=True, omit_defaults=True, rename="camel", tag_field="type"):
    """A message about a subscription: by its name, or by its scope if it has none."""

    sub: str | None = None
    order_id: str | None = None
    client_id: str | None = None
    scope: Literal["all"] | None = None


class Log(Struct, frozen=True, kw_only=True, rename="camel"):
    """What this process has read of the event log."""

    epochs: dict[str, int]
    """Of each partition with events."""
    head: str
    """The cursor of all of it."""


class Limits(Struct, frozen=True, kw_only=True, rename="camel"):
    """What one socket may hold and send."""

    frame_bytes: int
    subs: int
    inflight: int
    """Orders and cancellations that are under way at once."""
    window_max: int
    batch_max: int


class About(Struct, frozen=True, kw_only=True, rename="camel"):
    """The server."""

    version: str
    time: str


class Known(Struct, frozen=True, rename="camel"):
    """Who is welcome, where keys are asked for."""

    key: str
    """The key's id."""
    client_id: str | None
    roles: list[str]


class Welcome(Message, frozen=True, kw_only=True, omit_defaults=True, rename="camel", tag="welcome"):
    """The answer to ``hello``; from now on silence is broken by ``heartbeat``."""

    v: int
    """The version of the protocol."""
    connection: str
    log: Log
    heartbeat_ms: int
    limits: Limits
    server: About
    principal: Known | None = None


class Accepted(Message, frozen=True, kw_only=True, omit_defaults=True, rename="camel", tag="accepted"):
    """The order is placed; before its first event. Only where the order had ``id`` or ``follow``, or is repeated."""

    order_id: str
    duplicate: bool
    """The idempotency key was used before, with the same content: this is the first order."""
    cursor: str | None = None
    """Of the event that accepted it."""
    sub: str | None = None
    """The subscription that its events come under."""


class Cancelled(Message, frozen=True, kw_only=True, omit_defaults=True, rename="camel", tag="cancelled"):
    """The order has ended: no swap was or will be executed."""

    order_id: str
    seq: int
    cursor: str | None = None
    """Of the last event that the request caused."""


class CancelPending(Message, frozen=True, kw_only=True, omit_defaults=True, rename="camel", tag="cancel_pending"):
    """A swap may be on its way, and its outcome decides."""

    order_id: str
    seq: int
    cursor: str | None = None
    """Of the event that the request caused; absent if it caused none."""


class Subscribed(Named, frozen=True, kw_only=True, omit_defaults=True, rename="camel", tag="subscribed"):
    """Where the subscription begins."""

    after: str | int
    """For one order a seq, otherwise a cursor."""
    ended: bool | None = None
    """(one order) Nothing will come."""
    head: str | None = None
    """(one client, all) The end of its logs."""
    snapshot: OrderSnapshot | None = None


class Events(Message, frozen=True, kw_only=True, omit_defaults=True, rename="camel", tag="events"):
    """Events of a subscription that asked for batches. Describes them; their text is spliced from stored events."""

    sub: str
    items: Frames


class CaughtUp(Named, frozen=True, kw_only=True, omit_defaults=True, rename="camel", tag="caught_up"):
    """What was there has been sent; what follows is new."""

    cursor: str


class Bookmark(Named, frozen=True, kw_only=True, omit_defaults=True, rename="camel", tag="bookmark"):
    """Nothing that you want is before this cursor."""

    cursor: str


class Lagging(Named, frozen=True, kw_only=True, omit_defaults=True, rename="camel", tag="lagging"):
    """The subscription does not keep up; the socket is closed unless it does soon."""

    cursor: str
    behind: int
    """Events that are after its place."""
    close_in_ms: int


class Unsubscribed(Named, frozen=True, kw_only=True, omit_defaults=True, rename="camel", tag="unsubscribed"):
    """No more events of the subscription."""

    reason: Literal["completed", "client"] | None = None
    """Nothing more will come, or you asked for it."""
    cursor: str | UnsetType | None = UNSET
    """Its place; null where it had not begun."""


class Heartbeat(Message, frozen=True, kw_only=True, omit_defaults=True, rename="camel", tag="heartbeat"):
    """Ends silence, after ``hello``."""

    t: int
    """The server's time, milliseconds since 1970."""
    head: str
    """The cursor of everything that this process has read."""


class Pong(Message, frozen=True, kw_only=True, omit_defaults=True, rename="camel", tag="pong"):
    """The answer to ``ping``."""

    t: int | None = None
    """As the ping has it."""


class Goaway(Message, frozen=True, kw_only=True, omit_defaults=True, rename="camel", tag="goaway"):
    """The server ends the connection: said before the close, or as the last event of a stream."""

    code: int
    """The close code."""
    reason: str
    reconnect_after_ms: int | None = None
    """When to come back, to be spread by your own chance; absent: not unchanged."""
    cursors: dict[str, str] | None = None
    """What to resume each named subscription by."""


class StreamBegun(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Where an event stream begins."""

    order_id: str | None = None
    client_id: str | None = None
    scope: Literal["all"] | None = None
    after: str | int
    """For one order a seq, otherwise a cursor."""
    head: str
    """The cursor of everything that this process has read."""
    snapshot: OrderSnapshot | None = None


class StreamCaughtUp(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What was there has been sent; what follows is new."""

    cursor: str


SERVER_MESSAGES: tuple[type[Message], ...] = (
    Welcome,
    Accepted,
    Subscribed,
    Events,
    CaughtUp,
    Bookmark,
    Lagging,
    Unsubscribed,
    Heartbeat,
    Pong,
    Cancelled,
    CancelPending,
    Goaway,
)
"""All but errors, whose members depend on their code."""


def text_of(said: Struct) -> str:
    """Return a message as JSON."""
    return msgspec.json.encode(said).decode()


def goaway_of(closing: Closing, cursors: Mapping[str, str]) -> str:
    """Return what is said before a close; ``cursors``: what to resume each subscription by."""
    goaway = Goaway(
        code=closing.code,
        reason=closing.reason,
        reconnect_after_ms=closing.reconnect_after_ms,
        cursors=dict(cursors) or None,
    )
    return text_of(goaway)
