"""What is said of a type of problem, and the codes that there are."""

from http import HTTPStatus
from typing import Literal

from msgspec import Struct

Code = Literal[
    "after_beyond_end",
    "after_malformed",
    "already_subscribed",
    "binary_frame",
    "body_too_large",
    "cursor_forked",
    "cursor_unavailable",
    "forbidden",
    "fork",
    "headers_too_large",
    "host_refused",
    "idempotency_conflict",
    "idempotency_in_flight",
    "idempotency_key_malformed",
    "idempotency_key_missing",
    "internal",
    "invalid_message",
    "invalid_order",
    "invalid_query",
    "json_malformed",
    "json_too_deep",
    "key_in_url",
    "method_not_allowed",
    "not_found",
    "not_subscribed",
    "order_ended",
    "order_id_malformed",
    "order_moving",
    "order_unreadable",
    "origin_refused",
    "outcome_unknown",
    "queue_full",
    "rate_limited",
    "read_model_behind",
    "route_not_found",
    "subprotocol_unknown",
    "too_many_connections",
    "too_many_subscriptions",
    "truncated",
    "unauthenticated",
    "unavailable",
    "upgrade_required",
    "version_mismatch",
]

Repeat = Literal["unchanged", "corrected", "no"]
"""May the request be sent again: as it is; once what is wrong with it is mended; not with any other result."""


class ProblemType(Struct, frozen=True):
    """What a code means, why it usually comes, and what to do about it."""

    status: HTTPStatus
    title: str
    repeat: Repeat
    meaning: str
    cause: str
    remedy: str
