"""Event frames: the envelope around each event's public payload, as sockets, streams and REST show it."""

from typing import Any, Final, Literal

from msgspec import Struct

from app.api.description.documents.schemas import Schema, components_of, ref
from app.orders.codec import EVENT_TYPES
from app.orders.lifecycle import Phase, Status

FRAME: Final = "EventFrame"
"""The component that is any of them."""


class Meta(Struct, kw_only=True, omit_defaults=True):
    """Who caused the event, and its place in the order's chain of hashes."""

    type: str
    """The event's internal name."""
    actor: str
    """The process that wrote it."""
    client: str | None = None
    """Whose order it is; absent for an anonymous one."""
    command: str
    """The commit that the event is part of."""
    prev: str | None
    """The hash of the event before it; null for the first."""
    hash: str
    """SHA-256 over the event without this member, lower-case hex."""


class Envelope(Struct, kw_only=True, rename="camel", omit_defaults=True):
    """An event as every reader gets it: as it is stored, with ``phase`` and ``cursor`` added."""

    event: str
    """The public name."""
    status: Status
    """The order's status after it."""
    order_id: str
    seq: int
    """1, 2, 3… per order."""
    at: str
    """When it happened, by its writer's clock."""
    meta: Meta
    phase: Phase
    """``status``, as coarse as clients that know four phases show it."""
    cursor: str
    """What to resume by once you have processed this event."""


class Mark(Struct, kw_only=True, rename="camel", omit_defaults=True):
    """What a named subscription puts before an event."""

    sub: str | None = None
    """The subscription's name."""
    replay: Literal[True] | None = None
    """The event is older than the subscription's ``caught_up``."""


PUBLIC_NAMES: Final[dict[str, tuple[tuple[str, Status], ...]]] = {
    "OrderAccepted": (("pending", "pending"),),
    "OrderRested": (("resting", "resting"),),
    "TriggerFired": (("triggered", "routing"),),
    "AttemptStarted": (("routing", "routing"),),
    "QuotesCollected": (("routing:quotes", "routing"),),
    "RouteSelected": (("building", "building"),),
    "PriceProtectionTripped": (("price_protected", "routing"),),
    "SubmitIntentRecorded": (("submitted", "submitted"),),
    "SubmissionUnknown": (("submitted:unknown", "submitted"), ("submitted:unknown", "cancel_pending")),
    "AttemptFailed": (("retrying", "pending"), ("attempt_failed", "routing")),
    "CancelRequested": (("cancel_pending", "cancel_pending"),),
    "CancelRejected": (("cancel_rejected", "submitted"),),
    "OrderConfirmed": (("confirmed", "confirmed"),),
    "OrderCancelled": (("cancelled", "cancelled"),),
    "OrderExpired": (("expired", "expired"),),
    "OrderRejected": (("rejected", "rejected"),),
    "OrderFailed": (("failed", "failed"),),
}
"""By internal name. Keep in step with :func:`app.orders.lifecycle.public_names`."""


def frame_schemas(*, marked: bool) -> dict[str, Schema]:
    """Return one schema for each type of event, those of what they contain, and :data:`FRAME`.

    Args:
        marked: with the members that named subscriptions add.
    """
    found = components_of([Envelope, Mark, *EVENT_TYPES.values()])
    envelope, mark = found.pop("Envelope"), found.pop("Mark")
    for name, names in PUBLIC_NAMES.items():
        found[name] = _framed(name, names, found[name], envelope, mark if marked else {"properties": {}})
    found[FRAME] = {
        "description": "One event of an order. Ignore events that you do not know.",
        "oneOf": [ref(name) for name in PUBLIC_NAMES],
    }
    return found


def _framed(
    name: str, names: tuple[tuple[str, Status], ...], payload: Schema, envelope: Schema, mark: Schema
) -> Schema:
    events, statuses = ([*dict.fromkeys(column)] for column in zip(*names, strict=True))
    own: dict[str, Any] = {"event": {"enum": events}, "status": {"enum": statuses}}
    properties = {**envelope["properties"], **own, **payload["properties"], **mark["properties"]}
    described = payload.get("description", f"The event `{events[0]}`.")
    return {
        "title": " or ".join(events),
        "description": described,
        "type": "object",
        "properties": properties,
        "required": [*envelope["required"], *payload["required"]],
    }
