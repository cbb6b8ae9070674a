"""Events to public frames and back: a frame is an event's stored, streamed and projected form."""

from typing import Any, Final

import msgspec

from app.orders.errors import UnknownEventTypeError
from app.orders.events import (
    AttemptFailed,
    AttemptStarted,
    CancelRejected,
    CancelRequested,
    Event,
    OrderAccepted,
    OrderCancelled,
    OrderConfirmed,
    OrderExpired,
    OrderFailed,
    OrderRejected,
    OrderRested,
    PriceProtectionTripped,
    QuotesCollected,
    RouteSelected,
    SubmissionUnknown,
    SubmitIntentRecorded,
    TriggerFired,
)
from app.orders.lifecycle import public_names

SCHEMA: Final = 1
"""Shape of the payloads; ``meta.schema`` names it from 2 on, absent means 1."""

EVENT_TYPES: Final[dict[str, type[Event]]] = {
    kind.__name__: kind
    for kind in (
        OrderAccepted,
        OrderRested,
        TriggerFired,
        AttemptStarted,
        QuotesCollected,
        RouteSelected,
        PriceProtectionTripped,
        SubmitIntentRecorded,
        SubmissionUnknown,
        AttemptFailed,
        CancelRequested,
        CancelRejected,
        OrderConfirmed,
        OrderCancelled,
        OrderExpired,
        OrderRejected,
        OrderFailed,
    )
}


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Who caused a commit: the same for all of its events."""

    actor: str
    """The process that wrote it, e.g. ``api`` or ``worker-1``."""
    client: str | None
    """The client the order belongs to; absent for an anonymous one."""
    command: str
    """The commit id."""


class _Meta(msgspec.Struct):
    type: str
    schema: int = SCHEMA
    client: str | None = None


class _Head(msgspec.Struct):
    meta: _Meta


class _Stamp(msgspec.Struct):
    at: str


# msgspec leaves a default out only if it is the very same object: bytes must not depend on how a value was made.
_DEFAULTS: Final = {
    kind: tuple(
        (field.encode_name, field.default)
        for field in msgspec.structs.fields(kind)
        if field.default is not msgspec.NODEFAULT and field.default is not None
    )
    for kind in EVENT_TYPES.values()
}

_head: Final = msgspec.json.Decoder(_Head)
_stamp: Final = msgspec.json.Decoder(_Stamp)
_decoders: Final = {name: msgspec.json.Decoder(kind) for name, kind in EVENT_TYPES.items()}


def to_frame(event: Event, *, order_id: str, seq: int, at: str, origin: Origin) -> dict[str, Any]:
    """Return ``event`` as a frame without ``meta.prev`` and ``meta.hash``, which the store adds."""
    frame: dict[str, Any] = msgspec.to_builtins(event)
    for field, default in _DEFAULTS[type(event)]:
        if frame.get(field) == default:
            del frame[field]
    name, status = public_names(event)
    meta: dict[str, Any] = {"actor": origin.actor, "command": origin.command, "type": type(event).__name__}
    if origin.client is not None:
        meta["client"] = origin.client
    frame.update(event=name, status=status, orderId=order_id, seq=seq, at=at, meta=meta)
    return frame


def client_in(data: bytes) -> str | None:
    """Return the client that a stored frame's order belongs to; None for an anonymous one."""
    return _head.decode(data).meta.client


def at_in(data: bytes) -> str:
    """Return when a stored frame's event happened, by its writer's clock."""
    return _stamp.decode(data).at


def from_frame(data: bytes) -> Event:
    """Return the event that a stored frame holds; the envelope is dropped.

    Raises:
        UnknownEventTypeError: written by a newer version of this code.
        msgspec.ValidationError: the frame lacks a field of its type: the history is damaged.
    """
    meta = _head.decode(data).meta
    decoder = _decoders.get(meta.type)
    if decoder is None or meta.schema != SCHEMA:
        raise UnknownEventTypeError(meta.type, meta.schema)
    return decoder.decode(data)
