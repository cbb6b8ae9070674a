"""Why a request is refused, and why a socket is closed."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from app.api.problems.kinds import Code
from eventstore.errors import (
    BadIdError,
    EpochStaleError,
    EventStoreError,
    IdempotencyConflictError,
    LevelUnavailableError,
    OutcomeUnknownError,
    QueueFullError,
    StoreUnavailableError,
    WrongVersionError,
)

RETRY_AFTER_MS: Final = 1_000
"""When to come back where nothing better is known."""

Fact = str | int | Mapping[str, str | int] | None


class FieldError(Struct, frozen=True):
    """What is wrong with one field, and what it accepts; ``pointer`` is its JSON pointer."""

    pointer: str
    message: str


class ProblemError(Exception):
    """A request is refused. Show it to the client.

    ``facts`` are further members of the answer, e.g. ``orderId``; ``headers`` are further headers of an HTTP answer.
    """

    def __init__(self, code: Code, detail: str, errors: Sequence[FieldError] = (), **facts: Fact) -> None:
        super().__init__(detail)
        self.code: Final = code
        self.detail: Final = detail
        self.errors: Final = tuple(errors)
        self.facts: Final = facts
        self.headers: Final[dict[str, str]] = {}


class Closing(Struct, frozen=True):
    """Why the server ends a socket; ``reason`` has at most 123 bytes."""

    code: int
    reason: str
    reconnect_after_ms: int | None = None
    """When to come back, to be spread by each client's own chance; None: not unchanged."""


# 44xx: do not come back unchanged. 45xx: reconnect and resume.
UNAUTHENTICATED: Final = Closing(4401, "say who you are: hello with the token of an active key, first and in time")
FOREIGN_KEY: Final = Closing(4403, "this connection belongs to another key")
TOO_MANY_OF_ONE: Final = Closing(4429, "too many connections of one key or address")
TOO_OFTEN: Final = Closing(4429, "too many attempts of this address without an active key")
TOO_MANY_SOCKETS: Final = Closing(4429, "too many connections to this process")
AGED: Final = Closing(4503, "this connection is old enough: reconnect and resume", RETRY_AFTER_MS)
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
        case BadIdError():
            # Well-formed, but of a partition that there is none of.
            return ProblemError("not_found", f"there is no order {order_id}")
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


def closing_of(problem: ProblemError) -> Closing:
    """Return why a socket is closed whose opener is refused with ``problem``."""
    match problem.code:
        case "unavailable":
            return Closing(4503, "who you are cannot be checked now: reconnect", RETRY_AFTER_MS)
        case "too_many_connections":
            return TOO_MANY_OF_ONE
        case "rate_limited":
            return TOO_OFTEN
        case _:
            return UNAUTHENTICATED
