"""Every type of problem, once: its code, status, title, and what its page says."""

from http import HTTPStatus
from typing import Final, Literal

from msgspec import Struct

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
    "idempotency_in_flight",
    "idempotency_key_malformed",
    "idempotency_key_missing",
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


PROBLEMS: Final[dict[Code, ProblemType]] = {
    "after_beyond_end": ProblemType(
        HTTPStatus.BAD_REQUEST,
        "The order has no such event yet",
        "corrected",
        "The seq or event id is greater than that of the order's last event, which `last` names.",
        "The place was computed, not taken from an event; or the events it came from were lost with a server.",
        "Resume after `last`, or by the cursor of the last event that you processed.",
    ),
    "after_malformed": ProblemType(
        HTTPStatus.BAD_REQUEST,
        "Not a place in an order's events",
        "corrected",
        "A place to go on from is a seq, an event id or a cursor, and one of the scope that is asked for.",
        "A cursor was cut off or edited, or belongs to another order, client or scope.",
        "Send what an event of this scope carried as `cursor`, unchanged.",
    ),
    "already_subscribed": ProblemType(
        HTTPStatus.CONFLICT,
        "This socket already receives the order's events",
        "no",
        "A socket has one subscription of each name, and this name is in use.",
        "The same subscribe message was sent twice, or two subscriptions were given one name.",
        "Go on reading; or unsubscribe first; or give another name as `sub`.",
    ),
    "binary_frame": ProblemType(
        HTTPStatus.BAD_REQUEST,
        "Messages are JSON in text frames",
        "corrected",
        "A binary WebSocket frame arrived. It was not read, and the socket stays open.",
        "The client library sends bytes where text was meant.",
        "Send the same JSON as text.",
    ),
    "body_too_large": ProblemType(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "The body is too large",
        "corrected",
        "The body has more bytes than any order needs; it was not read to its end.",
        "Several orders in one body, or a file by mistake.",
        "Send one order in each request.",
    ),
    "cursor_forked": ProblemType(
        HTTPStatus.CONFLICT,
        "The history went another way",
        "corrected",
        "The event that `afterCursor` names did not last, or is another partition's.",
        "The event store lost what it had acknowledged; docs/guarantees.md says at which level it may.",
        "Read again without `afterCursor`, and take what you get for what is true now.",
    ),
    "cursor_unavailable": ProblemType(
        HTTPStatus.GONE,
        "Nothing can follow this cursor",
        "corrected",
        "The event that it names is another order's, or what came after it is gone.",
        "Cursors of two orders were mixed up; or the log was trimmed and the archive does not begin early enough.",
        "Read the order again from its first event, or take a snapshot and subscribe with it.",
    ),
    "fork": ProblemType(
        HTTPStatus.GONE,
        "The event did not last",
        "corrected",
        "The event that the cursor names was lost with a server, and other events may stand in its place.",
        "The event store lost what it had acknowledged; docs/guarantees.md says at which level it may.",
        "Forget every event after `lastCommon`, then resume after its cursor; without one, forget the whole order.",
    ),
    "idempotency_conflict": ProblemType(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "The idempotency key belongs to another order",
        "corrected",
        "This client used the key before, for an order with another content, which `orderId` names.",
        "A key was used twice, or an order was changed between two tries.",
        "Use a new key for a new order; to repeat the first one, send exactly its content.",
    ),
    "idempotency_in_flight": ProblemType(
        HTTPStatus.CONFLICT,
        "A request with this idempotency key is under way",
        "unchanged",
        "The first request with this key has not been answered yet, and the wait for its result is over.",
        "The request was repeated before its answer came, and the store is slow.",
        "Send the same request, with the same key, again after `Retry-After`: it gets the first one's result.",
    ),
    "idempotency_key_malformed": ProblemType(
        HTTPStatus.BAD_REQUEST,
        "Not an idempotency key",
        "corrected",
        "The header has no usable key. Nothing was created.",
        "A quote is missing, the key is empty or longer than 255 characters, or two keys were given.",
        'Send one key, as a string of RFC 8941 such as "8e03978e-40d5-43e8-bc93-6894a57f9324" with its quotes.',
    ),
    "idempotency_key_missing": ProblemType(
        HTTPStatus.BAD_REQUEST,
        "An idempotency key is needed",
        "corrected",
        "This server takes no order without an idempotency key. Nothing was created.",
        "The operator has set ORDERTAPE_IDEMPOTENCY_KEY=required, and the order came without a key.",
        "Send the header `Idempotency-Key` or the member `idempotencyKey`: a new UUID for each new order.",
    ),
    "internal": ProblemType(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "The server made a mistake",
        "unchanged",
        "Something happened that nobody foresaw; the server's log says what.",
        "A mistake in OrderTape.",
        "Repeat reads; repeat an order only with its idempotency key. Tell the operator when it was.",
    ),
    "invalid_message": ProblemType(
        HTTPStatus.BAD_REQUEST,
        "The message is not acceptable",
        "corrected",
        "A member of the message is unknown, missing or has a wrong value; `errors` names each.",
        "A misspelled member, or a message of another protocol.",
        "Correct what `errors` lists; docs/protocol.md shows every message.",
    ),
    "invalid_order": ProblemType(
        HTTPStatus.BAD_REQUEST,
        "The order is not acceptable",
        "corrected",
        "A field of the order is unknown, missing or has a wrong value; `errors` names each. Nothing was created.",
        "An amount with too many digits, an ambiguous slippage, or a field that its type of order does not have.",
        "Correct what `errors` lists; docs/api.md explains every field.",
    ),
    "invalid_query": ProblemType(
        HTTPStatus.BAD_REQUEST,
        "The query is not acceptable",
        "corrected",
        "A parameter is unknown, given twice or has a wrong value; `errors` names it and what it accepts.",
        "A misspelled name, a time without its offset, or a `cursor` that is not the `next` of an answer.",
        "Correct the parameter.",
    ),
    "json_malformed": ProblemType(
        HTTPStatus.BAD_REQUEST,
        "Not a JSON object",
        "corrected",
        "The body or message is not one JSON object in UTF-8; the detail says where it stops being one.",
        "Text was put together by hand, a name occurs twice, or a number is NaN.",
        "Let a JSON library write it.",
    ),
    "json_too_deep": ProblemType(
        HTTPStatus.BAD_REQUEST,
        "The JSON is nested too deeply",
        "corrected",
        "Arrays and objects are nested deeper than any order or message.",
        "An object was wrapped again and again.",
        "Send a flat object.",
    ),
    "method_not_allowed": ProblemType(
        HTTPStatus.METHOD_NOT_ALLOWED,
        "The method is not allowed here",
        "corrected",
        "The path exists, but not with this method; the header `Allow` lists those it has.",
        "POST and GET, or DELETE and POST, were mixed up.",
        "Use one of the methods in `Allow`.",
    ),
    "not_found": ProblemType(
        HTTPStatus.NOT_FOUND,
        "There is no such order",
        "no",
        "Neither the event store nor the archive has an order of this id, or not yet at the time asked for.",
        "The id is of another deployment; or its only events were lost before they were worth anything.",
        "Look at the id in the answer to the POST. After `outcome_unknown`, repeat the POST with its key.",
    ),
    "not_subscribed": ProblemType(
        HTTPStatus.CONFLICT,
        "This socket does not receive the order's events",
        "no",
        "The socket has no subscription of this name.",
        "It has ended by itself, with the order's last event, or was never made.",
        "Nothing: no further event comes.",
    ),
    "order_ended": ProblemType(
        HTTPStatus.CONFLICT,
        "The order has ended",
        "no",
        "The order cannot be cancelled any more: it has ended before, as `orderStatus` says. Nothing was changed.",
        "It was executed, or cancelled by an earlier request, meanwhile.",
        "Take `orderStatus` for its end.",
    ),
    "order_id_malformed": ProblemType(
        HTTPStatus.BAD_REQUEST,
        "Not an order id",
        "corrected",
        "An order id has 26 characters, a hyphen and two digits.",
        "The id was cut off, or is one of another system.",
        "Send the `orderId` of the answer to the POST, unchanged.",
    ),
    "order_moving": ProblemType(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The order is moving",
        "unchanged",
        "A worker moved the order each time the request was about to; nothing was changed by the request.",
        "The order is being executed right now.",
        "Ask again, which is always safe.",
    ),
    "order_unreadable": ProblemType(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The order's events make no order",
        "unchanged",
        "One of the order's events is damaged or of a newer version of OrderTape. Its events can still be read.",
        "Data was changed by hand, or an old process reads what a new one wrote.",
        "Tell the operator: `ordertape audit verify` says which event it is.",
    ),
    "outcome_unknown": ProblemType(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "What became of the request is not known",
        "unchanged",
        "The event store did not answer in time, so the request may or may not have been done.",
        "A connection to the store was lost in the middle, or the store is overloaded.",
        "Repeat the request; an order only with the same idempotency key, or after a look at `orderId`.",
    ),
    "queue_full": ProblemType(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Too many orders are waiting",
        "unchanged",
        "The partition that the order belongs to has as much unfinished work as the operator allows. Nothing was "
        "created.",
        "Orders come faster than the workers execute them.",
        "Send it again after `Retry-After`.",
    ),
    "rate_limited": ProblemType(
        HTTPStatus.TOO_MANY_REQUESTS,
        "Too much at once",
        "unchanged",
        "More was sent in a minute, or at once on one socket, than the limits allow. Nothing was created.",
        "A loop without a pause, or several programs under one client id.",
        "Send it again after `Retry-After`; the header `RateLimit` says how much is left.",
    ),
    "read_model_behind": ProblemType(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The answer would be older than asked for",
        "unchanged",
        "The read model did not reach `wanted` in the time that the request gave it; it is at `reached`.",
        "No projector runs, or it has much to catch up with.",
        "Ask again, with a longer `waitMs`, or without `afterCursor` and `minPosition`.",
    ),
    "route_not_found": ProblemType(
        HTTPStatus.NOT_FOUND,
        "There is nothing here",
        "corrected",
        "No route has this path.",
        "A misspelled path, or one of another server.",
        "Look at docs/api.md, which lists every path.",
    ),
    "too_many_subscriptions": ProblemType(
        HTTPStatus.TOO_MANY_REQUESTS,
        "Too many subscriptions on one socket",
        "corrected",
        "The socket has as many subscriptions as one may have.",
        "One subscription for each of many orders.",
        "Subscribe to the client, or to all, instead; or unsubscribe from some.",
    ),
    "truncated": ProblemType(
        HTTPStatus.GONE,
        "The log begins after this place",
        "corrected",
        "The log was trimmed past the cursor, and the archive has nothing there, so what became of it cannot be told.",
        "The cursor is old, and no projector archived the events in time.",
        "Read the order again from its first event; a list, without `afterCursor`.",
    ),
    "unavailable": ProblemType(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "A server behind this one does not answer",
        "unchanged",
        "The event store, the database or the chain is out of reach; the detail says what still works.",
        "One of them restarts, or the network between them is interrupted.",
        "Ask again after `Retry-After`; repeat an order only with its idempotency key.",
    ),
    "upgrade_required": ProblemType(
        HTTPStatus.UPGRADE_REQUIRED,
        "This is a WebSocket",
        "corrected",
        "A GET without an upgrade came to a path that speaks WebSocket alone.",
        "The address was opened in a browser, or a proxy removed the header `Upgrade`.",
        "Connect with `ws://`; for plain HTTP there are event streams and long-polls, see docs/protocol.md.",
    ),
    "version_mismatch": ProblemType(
        HTTPStatus.PRECONDITION_FAILED,
        "The order has moved",
        "corrected",
        "The order is not at a version that `If-Match` names; `seq` says where it is. Nothing was changed.",
        "An event came between the read and the request.",
        "Read the order again, decide again, and send its new `ETag`; `If-Match: *` takes any version.",
    ),
}
"""The one table of problem types: answers over HTTP and WebSocket, and the pages at ``/problems``, follow from it."""


def type_of(code: Code) -> str:
    """Return the URI reference that names a problem type, and leads to its page."""
    return f"/problems/{code}"
