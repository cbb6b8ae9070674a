"""What a client is told when something is refused, lost or unreachable, and what to do then."""

from typing import Any, NamedTuple


class ClientError(Exception):
    """Base of what this client raises on purpose."""


class OrderRefusedError(ClientError):
    """The server refused the request; ``problem`` is its RFC 9457 object or in-band error. Correct it."""

    def __init__(self, problem: dict[str, Any]) -> None:
        details = [f"{error.get('pointer', '')} {error.get('message', '')}" for error in problem.get("errors", [])]
        text = str(problem.get("detail") or problem.get("message") or problem.get("code") or problem)
        super().__init__("; ".join([text, *details]))
        self.problem = problem


class LastCommon(NamedTuple):
    """The last event that a client has and that lasted."""

    seq: int | None
    """Of one order; None where several orders are followed."""
    cursor: str


class HistoryForkedError(OrderRefusedError):
    """The event to resume after did not last: the server lost it, and events after it may be others now.

    Forget the events after ``last_common``, all of them if it is None, and resume after its cursor.
    """

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem)
        common = problem.get("lastCommon")
        self.last_common: LastCommon | None = LastCommon(common.get("seq"), common["cursor"]) if common else None


class PlaceLostError(OrderRefusedError):
    """What followed the place to resume after cannot all be had: ``truncated`` or ``cursor_unavailable``.

    Forget what you have. Read one order again from its first event; follow several with ``snapshot``.
    """


class OrderEndedError(OrderRefusedError):
    """Too late to cancel: the order has ended as ``status``, and nothing was changed."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem)
        self.status = str(problem.get("orderStatus"))


class SentAwayError(ClientError):
    """The server closed the connection with ``code``, 44xx or 1009: do not come back unchanged."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the server closed with {code}: {reason}")
        self.code = code


class EventMissingError(ClientError):
    """Event ``expected`` of an order did not come, though ``seq`` did, and not at a second look either.

    The server does not tell what it has. Tell its operator; read the order's events over HTTP.
    """

    def __init__(self, order_id: str, expected: int, seq: int) -> None:
        super().__init__(f"event {expected} of order {order_id} did not come, but {seq} did")
        self.order_id = order_id
        self.expected = expected
        self.seq = seq


class UnreachableError(ClientError):
    """No answer from the server, or none for now. What has an idempotency key, or cancels, may be sent again."""
