"""Errors as clients see them: RFC 9457 problems over HTTP, the same codes in WebSocket messages, and close codes."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from eventstore.errors import (
    EpochStaleError,
    EventStoreError,
    IdempotencyConflictError,
    LevelUnavailableError,
    OutcomeUnknownError,
    QueueFullError,
    StoreUnavailableError,
    WrongVersionError,
)

Code = Literal[
    "after_beyond_end",
    "after_malformed",
    "already_subscribed",
    "binary_frame",
    "body_too_large",
    "cursor_forked",
    "cursor_unavailable",
    "fork",
    "idempotency_conflict",
    "internal",
    "invalid_message",
    "invalid_order",
    "invalid_query",
    "json_malformed",
    "json_too_deep",
    "method_not_allowed",
    "not_found",
    "not_subscribed",
    "order_ended",
    "order_id_malformed",
    "order_moving",
    "order_unreadable",
    "outcome_unknown",
    "queue_full",
    "rate_limited",
    "read_model_behind",
    "route_not_found",
    "too_many_subscriptions",
    "truncated",
    "unavailable",
    "upgrade_required",
]

PROBLEMS: Final[dict[Code, tuple[HTTPStatus, str]]] = {
    "after_beyond_end": (HTTPStatus.BAD_REQUEST, "The order has no such event yet"),
    "after_malformed": (HTTPStatus.BAD_REQUEST, "Not a place in an order's events"),
    "already_subscribed": (HTTPStatus.CONFLICT, "This socket already receives the order's events"),
    "binary_frame": (HTTPStatus.BAD_REQUEST, "Messages are JSON in text frames"),
    "body_too_large": (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large"),
    "cursor_forked": (HTTPStatus.CONFLICT, "The history went another way"),
    "cursor_unavailable": (HTTPStatus.GONE, "The cursor names no event of this order"),
    "fork": (HTTPStatus.GONE, "The event did not last"),
    "idempotency_conflict": (HTTPStatus.UNPROCESSABLE_ENTITY, "The idempotency key belongs to another order"),
    "internal": (HTTPStatus.INTERNAL_SERVER_ERROR, "The server made a mistake"),
    "invalid_message": (HTTPStatus.BAD_REQUEST, "The message is not acceptable"),
    "invalid_order": (HTTPStatus.BAD_REQUEST, "The order is not acceptable"),
    "invalid_query": (HTTPStatus.BAD_REQUEST, "The query is not acceptable"),
    "json_malformed": (HTTPStatus.BAD_REQUEST, "Not a JSON object"),
    "json_too_deep": (HTTPStatus.BAD_REQUEST, "The JSON is nested too deeply"),
    "method_not_allowed": (HTTPStatus.METHOD_NOT_ALLOWED, "The method is not allowed here"),
    "not_found": (HTTPStatus.NOT_FOUND, "There is no such order"),
    "not_subscribed": (HTTPStatus.CONFLICT, "This socket does not receive the order's events"),
    "order_ended": (HTTPStatus.CONFLICT, "The order has ended"),
    "order_id_malformed": (HTTPStatus.BAD_REQUEST, "Not an order id"),
    "order_moving": (HTTPStatus.SERVICE_UNAVAILABLE, "The order is moving"),
    "order_unreadable": (HTTPStatus.SERVICE_UNAVAILABLE, "The order's events make no order"),
    "outcome_unknown": (HTTPStatus.SERVICE_UNAVAILABLE, "What became of the request is not known"),
    "queue_full": (HTTPStatus.SERVICE_UNAVAILABLE, "Too many orders are waiting"),
    "rate_limited": (HTTPStatus.TOO_MANY_REQUESTS, "Too much at once"),
    "read_model_behind": (HTTPStatus.SERVICE_UNAVAILABLE, "The answer would be older than asked for"),
    "route_not_found": (HTTPStatus.NOT_FOUND, "There is nothing here"),
    "too_many_subscriptions": (HTTPStatus.TOO_MANY_REQUESTS, "Too many subscriptions on one socket"),
    "truncated": (HTTPStatus.GONE, "The log begins after this place"),
    "unavailable": (HTTPStatus.SERVICE_UNAVAILABLE, "A server behind this one does not answer"),
    "upgrade_required": (HTTPStatus.UPGRADE_REQUIRED, "This is a WebSocket"),
}
"""The one table from an error's code to its HTTP status and title."""

RETRY_AFTER_MS: Final = 1_000
"""When to come back where nothing better is known."""

Fact = str | int | Mapping[str, str | int] | None


class FieldError(Struct, frozen=True):
    """What is wrong with one field, and what it accepts; ``pointer`` is its JSON pointer."""

    pointer: str
    message: str


class ProblemError(Exception):
    """A request is refused. Show it to the client.

    ``facts`` are further members of the answer, e.g. ``orderId``.
    """

    def __init__(self, code: Code, detail: str, errors: Sequence[FieldError] = (), **facts: Fact) -> None:
        super().__init__(detail)
        self.code: Final = code
        self.detail: Final = detail
        self.errors: Final = tuple(errors)
        self.facts: Final = facts


class Closing(Struct, frozen=True):
    """Why the server ends a socket; ``reason`` has at most 123 bytes."""

    code: int
    reason: str
    reconnect_after_ms: int | None = None
    """When to come back, to be spread by each client's own chance; None: not unchanged."""


# 44xx: do not come back unchanged. 45xx: reconnect and resume.
TOO_MANY_SOCKETS: Final = Closing(4429, "too many connections to this process")
DRAINING: Final = Closing(4503, "the server is stopping: reconnect and resume", RETRY_AFTER_MS)
SLOW: Final = Closing(4508, "too slow: reconnect and resume", RETRY_AFTER_MS)
LOG_LOST: Final = Closing(4510, "the event log cannot be followed: reconnect and resume", RETRY_AFTER_MS)
LOG_REWOUND: Final = Closing(4510, "the event log was rewound: reconnect and resume by cursor", RETRY_AFTER_MS)
TOO_MANY_MESSAGES: Final = Closing(4513, "too many unread answers: reconnect and resume", RETRY_AFTER_MS)


def store_problem(error: EventStoreError, order_id: str) -> ProblemError:
    """Return what a failed append of a new order means for its client."""
    match error:
        case IdempotencyConflictError():
            return ProblemError(
                "idempotency_conflict",
                "this idempotency key was used for an order with another content: use a new key for a new order",
                orderId=error.stream,
            )
        case OutcomeUnknownError():
            return ProblemError(
                "outcome_unknown",
                "the order is not known to be accepted: repeat it with the same idempotency key, "
                f"or look at /api/orders/{order_id}",
                orderId=order_id,
            )
        case QueueFullError():
            return ProblemError(
                "queue_full",
                f"{error.depth} orders are waiting where this one belongs, and no more are taken: nothing was created, "
                "send it again later",
                retryAfterMs=RETRY_AFTER_MS,
            )
        case StoreUnavailableError() | EpochStaleError() | LevelUnavailableError():
            return unavailable("the order was not accepted: repeat it with the same idempotency key")
        case _:
            raise error


def cancel_problem(error: EventStoreError, order_id: str) -> ProblemError:
    """Return what a failed append of a cancellation means for its client."""
    match error:
        case WrongVersionError():
            return ProblemError("order_moving", "the order is moving, ask again", orderId=order_id)
        case OutcomeUnknownError():
            return ProblemError(
                "outcome_unknown", "the order is not known to be cancelled: ask again", orderId=order_id
            )
        case StoreUnavailableError() | EpochStaleError() | LevelUnavailableError():
            return unavailable("the order is not known to be cancelled: ask again")
        case _:
            raise error


def unavailable(consequence: str) -> ProblemError:
    """Return the problem of a server that does not answer; ``consequence`` says what that means for the client."""
    return ProblemError("unavailable", f"a server behind this one does not answer: {consequence}")


def goaway_of(closing: Closing, cursors: Mapping[str, str]) -> str:
    """Return what is said before a close; ``cursors``: what to resume each subscription by."""
    body: dict[str, Any] = {"type": "goaway", "code": closing.code, "reason": closing.reason}
    if closing.reconnect_after_ms is not None:
        body["reconnectAfterMs"] = closing.reconnect_after_ms
    if cursors:
        body["cursors"] = cursors
    return msgspec.json.encode(body).decode()


def message_of(
    problem: ProblemError, message_id: str | int | None = None, names: Mapping[str, str] | None = None
) -> str:
    """Return ``problem`` as a WebSocket message, naming the message or the subscription that it answers."""
    body: dict[str, Any] = {"type": "error", "code": problem.code, "message": problem.detail}
    if message_id is not None:
        body["id"] = message_id
    body.update(names or {})
    body.update(problem.facts)
    if problem.errors:
        body["errors"] = problem.errors
    return msgspec.json.encode(body).decode()


def response_of(problem: ProblemError, path: str) -> Response:
    """Return ``problem`` as an HTTP answer to a request for ``path``."""
    status, title = PROBLEMS[problem.code]
    body: dict[str, Any] = {
        "type": f"/problems/{problem.code}",
        "title": title,
        "status": status.value,
        "detail": problem.detail,
        "instance": path,
        "code": problem.code,
        # Clients of engines like this one read these three.
        "message": problem.detail,
        "error": status.phrase,
        "statusCode": status.value,
        **problem.facts,
    }
    if problem.errors:
        body["errors"] = problem.errors
    headers = {}
    wait_ms = problem.facts.get("retryAfterMs", RETRY_AFTER_MS if status == HTTPStatus.SERVICE_UNAVAILABLE else None)
    if isinstance(wait_ms, int):
        headers["Retry-After"] = str(-(-wait_ms // 1_000))
    if status == HTTPStatus.UPGRADE_REQUIRED:
        headers |= {"Upgrade": "websocket", "Connection": "Upgrade"}
    return Response(msgspec.json.encode(body), status.value, headers, "application/problem+json")


async def answer_problem(request: Request, error: Exception) -> Response:
    """Answer a refused request."""
    assert isinstance(error, ProblemError)
    return response_of(error, request.url.path)


async def answer_routing_error(request: Request, error: Exception) -> Response:
    """Answer a request that no route takes."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "")
        response = response_of(ProblemError("method_not_allowed", f"use {allowed}, not {request.method}"), path)
        response.headers["Allow"] = allowed
        return response
    return response_of(ProblemError("route_not_found", f"Route {request.method}:{path} not found"), path)
