"""The bodies of answers about orders, beside the order itself."""

import msgspec
from msgspec import Struct

from app.api.orders.freshness import AsOf
from app.api.orders.view import OrderView
from app.orders.lifecycle import Phase, Status


class Accepted(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The answer to an order: it is accepted, now or, for a repeated key, before."""

    order_id: str
    status: Status
    phase: Phase
    seq: int
    duplicate: bool
    ws_url: str
    """Where its events come over a WebSocket."""
    cursor: str | None = None
    """Of the event that accepted it."""


class Cancelling(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The answer to a request to cancel."""

    order_id: str
    status: Status
    phase: Phase
    seq: int
    cursor: str | None = None
    """Of the last event that the request caused."""


class OrderList(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A page of orders, newest first; ``next`` goes into ``cursor`` for the following one, and is absent at the end."""

    orders: list[OrderView]
    as_of: AsOf
    next: str | None = None


class OrderEvents(Struct, frozen=True, kw_only=True, rename="camel"):
    """A page of an order's events; ``last`` goes into ``after`` for the following one."""

    order_id: str
    last: int
    more: bool
    events: list[msgspec.Raw]
    """Public frames, as docs/protocol.md describes them."""


class OrderStats(Struct, frozen=True, kw_only=True, rename="camel"):
    """How many orders there are, by status and by phase; those that none has are 0."""

    total: int
    statuses: dict[Status, int]
    phases: dict[Phase, int]
    as_of: AsOf


class QueueDepth(Struct, frozen=True, kw_only=True, rename="camel"):
    """Work that is not finished."""

    waiting: int
    """Free for any worker, or in its lane until it is its turn."""
    active: int
    """Held by a worker."""
    delayed: int
    """Timers: back-offs, looks at the chain, and orders' own ends."""
    failed: int
    """Parked: taken away from the workers, until somebody retries or skips it."""


class PartitionDepth(QueueDepth, frozen=True, kw_only=True, rename="camel"):
    """The same of one partition."""

    partition: int
    position: int
    """Events in its log."""


class QueueStats(QueueDepth, frozen=True, kw_only=True, rename="camel"):
    """The work of all partitions together, and of each."""

    partitions: list[PartitionDepth]
