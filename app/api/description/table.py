"""The one table of HTTP operations: what each takes and answers. A test ties it to the routes of the application."""

from typing import Final

from app.api.access.gate import TICKETS_PATH, Ticket
from app.api.description.answers import Poll
from app.api.description.operations import EVENT_STREAM, JSON, Answer, Operation
from app.api.description.order import ORDER
from app.api.description.parameters import (
    IDEMPOTENCY_KEY,
    IF_MATCH,
    IF_NONE_MATCH,
    LAST_EVENT_ID,
    PLACE_IN_LOG,
    limit,
)
from app.api.health import Health, Liveness, Readiness
from app.api.market.quotes import QUOTE_PARAMETERS, QUOTES_PATH, QuoteView
from app.api.market.tokens import TOKENS_PATH, TokenList
from app.api.market.volumes import LIST_LIMIT as VOLUMES_LIMIT
from app.api.market.volumes import VOLUMES_PATH, VOLUMES_QUERY, VolumeList
from app.api.orders.aliases import (
    EXECUTE_PATH,
    LIST_PATHS,
    ORDER_PATHS,
    SUBMIT_PATHS,
    AliasedAccepted,
    AliasedOrder,
    AliasedOrders,
)
from app.api.orders.answers import Accepted, Cancelling, OrderEvents, OrderList, OrderStats, QueueStats
from app.api.orders.freshness import LAG_HEADER, POSITION_HEADER
from app.api.orders.listing import LIST_PARAMETERS
from app.api.orders.routes import EVENTS_PARAMETERS, LIST_LIMIT, ORDER_PARAMETERS, WEBSOCKET_PATH
from app.api.orders.statistics import QUEUE_PATH, STATS_PATH
from app.api.orders.view import OrderView
from app.api.problems import Code
from app.api.problems.pages import ProblemPage, ProblemPages
from app.api.resume import PAGE
from app.api.streaming.eventstream import EVENTS_LIMIT, EVENTS_LIMIT_MAX, STREAM_QUERY
from projections.queries.orders import LIST_LIMIT_MAX
from projections.queries.volumes import LIST_LIMIT_MAX as VOLUMES_LIMIT_MAX

OPENAPI_PATH: Final = "/api/openapi.json"
ASYNCAPI_PATH: Final = "/api/asyncapi.json"
DOCS_PATH: Final = "/docs"

_RATES: Final = ("RateLimit", "RateLimit-Policy")
FRESH: Final = (POSITION_HEADER, LAG_HEADER)
_BODY: Final[tuple[Code, ...]] = ("json_malformed", "json_too_deep", "body_too_large")
_PLACING: Final[tuple[Code, ...]] = (
    *("invalid_order", *_BODY, "rate_limited"),
    *("idempotency_key_missing", "idempotency_key_malformed", "idempotency_conflict", "idempotency_in_flight"),
    *("outcome_unknown", "queue_full", "unavailable"),
)
_CANCELLING: Final[tuple[Code, ...]] = (
    *("order_id_malformed", "invalid_message", *_BODY, "not_found", "route_not_found"),
    *("order_ended", "version_mismatch", "order_moving", "outcome_unknown", "unavailable"),
)
_READING: Final[tuple[Code, ...]] = ("invalid_query", "cursor_forked", "read_model_behind", "unavailable")
_RESUMING: Final[tuple[Code, ...]] = (
    *("invalid_query", "after_malformed", "fork", "cursor_unavailable", "unavailable"),
)
_OF_ONE_ORDER: Final[tuple[Code, ...]] = (
    *("order_id_malformed", "not_found", "route_not_found", "after_beyond_end", "truncated"),
)
_CANCELLED: Final = (
    Answer(200, "The order has ended: no swap was or will be executed.", Cancelling, (POSITION_HEADER,)),
    Answer(202, "A swap may be on its way, and its outcome decides.", Cancelling, (POSITION_HEADER,)),
)
_PLACED: Final = (
    Answer(202, "Accepted. Nothing is known yet of its execution.", Accepted, ("Location", POSITION_HEADER, *_RATES)),
    Answer(
        200,
        "The idempotency key was used before, with the same content: the first order.",
        Accepted,
        ("Location", POSITION_HEADER, "Idempotent-Replayed", *_RATES),
    ),
)
_STREAMED: Final = (
    Answer(
        200,
        "A stream of events, or, with `wait`, those that came.",
        Poll,
        ("Last-Event-ID",),
        (EVENT_STREAM,),
    ),
    Answer(204, "Nothing will come any more: EventSource stops."),
)
_STREAM_PARAMETERS: Final = (PLACE_IN_LOG, limit(EVENTS_LIMIT, EVENTS_LIMIT_MAX), LAST_EVENT_ID)
_DOCUMENT: Final = (Answer(304, "You have it.", headers=("ETag",)),)

OPERATIONS: Final = (
    Operation(
        id="placeOrder",
        tag="Orders",
        method="POST",
        path="/api/orders",
        also=SUBMIT_PATHS,
        also_kind=AliasedAccepted,
        summary="Place an order",
        notes="Give an idempotency key, and repeat the request with it whenever its outcome is not known.",
        own=(IDEMPOTENCY_KEY,),
        body=ORDER,
        answers=_PLACED,
        problems=_PLACING,
        links=("showOrder", "listEvents", "cancelOrder", "streamOrder"),
    ),
    Operation(
        id="listOrders",
        tag="Orders",
        method="GET",
        path="/api/orders",
        summary="List orders, newest first",
        notes="From the read model, which follows the streams by some milliseconds: `asOf` says how far it is.",
        also=LIST_PATHS,
        also_kind=AliasedOrders,
        query=LIST_PARAMETERS,
        own=(limit(LIST_LIMIT, LIST_LIMIT_MAX),),
        answers=(Answer(200, "Orders, and how fresh they are.", OrderList, (*FRESH, "Link")),),
        problems=_READING,
    ),
    Operation(
        id="showOrder",
        tag="Orders",
        method="GET",
        path="/api/orders/{order_id}",
        summary="Show an order",
        notes="Folded from its stream, so never older than your last write.",
        also=ORDER_PATHS,
        also_kind=AliasedOrder,
        query=ORDER_PARAMETERS,
        own=(IF_NONE_MATCH,),
        answers=(
            Answer(200, "The order as it is, or, with `asOf`, as it was.", OrderView, (*FRESH, "ETag")),
            Answer(304, "You have it.", headers=("ETag",)),
        ),
        problems=(
            *_READING,
            *("order_id_malformed", "not_found", "route_not_found", "order_unreadable", "truncated"),
        ),
    ),
    Operation(
        id="cancelOrder",
        tag="Orders",
        method="DELETE",
        path="/api/orders/{order_id}",
        also=ORDER_PATHS,
        summary="Cancel an order",
        notes="Always safe to repeat.",
        own=(IF_MATCH,),
        body="Nothing",
        body_needed=False,
        answers=_CANCELLED,
        problems=_CANCELLING,
    ),
    Operation(
        id="cancelOrderByPost",
        tag="Orders",
        method="POST",
        path="/api/orders/{order_id}/cancel",
        summary="Cancel an order, for clients that cannot DELETE",
        own=(IF_MATCH,),
        body="Nothing",
        body_needed=False,
        answers=_CANCELLED,
        problems=_CANCELLING,
    ),
    Operation(
        id="listEvents",
        tag="Orders",
        method="GET",
        path="/api/orders/{order_id}/events",
        summary="List an order's events",
        query=EVENTS_PARAMETERS,
        own=(limit(PAGE, PAGE),),
        answers=(Answer(200, "Its events after `after`, oldest first.", OrderEvents, ("Link",)),),
        problems=(*_RESUMING, *_OF_ONE_ORDER),
    ),
    Operation(
        id="streamOrder",
        tag="Streams",
        method="GET",
        path="/api/orders/{order_id}/stream",
        summary="Follow one order",
        notes="Ends with the order.",
        query=STREAM_QUERY,
        own=_STREAM_PARAMETERS,
        answers=_STREAMED,
        problems=(*_RESUMING, *_OF_ONE_ORDER, "order_unreadable"),
    ),
    Operation(
        id="streamClient",
        tag="Streams",
        method="GET",
        path="/api/clients/{client:path}/stream",
        summary="Follow one client's orders",
        query=STREAM_QUERY,
        own=_STREAM_PARAMETERS,
        answers=_STREAMED,
        problems=(*_RESUMING, "route_not_found"),
    ),
    Operation(
        id="streamAll",
        tag="Streams",
        method="GET",
        path="/api/stream",
        summary="Follow all orders",
        query=STREAM_QUERY,
        own=_STREAM_PARAMETERS,
        answers=_STREAMED,
        problems=_RESUMING,
    ),
    Operation(
        id="connect",
        tag="Streams",
        method="GET",
        path=WEBSOCKET_PATH,
        also=(EXECUTE_PATH,),
        summary="Open the WebSocket",
        notes="With the headers of a WebSocket handshake; what is said on it is described below.",
        problems=("upgrade_required", "subprotocol_unknown"),
    ),
    Operation(
        id="listVolumes",
        tag="Market",
        method="GET",
        path=VOLUMES_PATH,
        summary="List volumes by day, pair and venue",
        notes="Newest day first; of all clients, or of one.",
        query=VOLUMES_QUERY,
        own=(limit(VOLUMES_LIMIT, VOLUMES_LIMIT_MAX),),
        answers=(Answer(200, "Volumes, and how fresh they are.", VolumeList, FRESH),),
        problems=_READING,
    ),
    Operation(
        id="quote",
        tag="Market",
        method="GET",
        path=QUOTES_PATH,
        summary="Ask both venues what a market order would meet now",
        notes="Nothing is appended. Give `tokenIn`, `tokenOut` and an amount, or `side` and the assets.",
        query=QUOTE_PARAMETERS,
        answers=(Answer(200, "Every venue's quote, the choice and why.", QuoteView),),
        problems=("invalid_query", "unavailable"),
    ),
    Operation(
        id="listTokens",
        tag="Market",
        method="GET",
        path=TOKENS_PATH,
        summary="List tokens and pools",
        own=(IF_NONE_MATCH,),
        answers=(
            Answer(200, "Everything that the venues trade.", TokenList, ("ETag",)),
            Answer(304, "You have it.", headers=("ETag",)),
        ),
        problems=("invalid_query",),
    ),
    Operation(
        id="countOrders",
        tag="Health",
        method="GET",
        path=STATS_PATH,
        summary="Count orders by status and phase",
        answers=(Answer(200, "The counts of the read model.", OrderStats, FRESH),),
        problems=("invalid_query", "unavailable"),
    ),
    Operation(
        id="measureQueue",
        tag="Health",
        method="GET",
        path=QUEUE_PATH,
        summary="Count the work that is not finished",
        answers=(Answer(200, "The depth of each partition's queue.", QueueStats),),
        problems=("invalid_query", "unavailable"),
    ),
    Operation(
        id="isAlive",
        tag="Health",
        public=True,
        method="GET",
        path="/livez",
        summary="Tell whether the process answers",
        answers=(Answer(200, "It does.", Liveness),),
    ),
    Operation(
        id="isReady",
        tag="Health",
        public=True,
        method="GET",
        path="/readyz",
        summary="Tell whether the process can do its work",
        answers=(
            Answer(200, "It can.", Readiness),
            Answer(503, "It cannot: the checks say why.", Readiness),
        ),
    ),
    Operation(
        id="health",
        tag="Health",
        public=True,
        method="GET",
        path="/health",
        also=("/api/health",),
        summary="Tell whether the process answers, and its version",
        answers=(Answer(200, "It does.", Health),),
    ),
    Operation(
        id="issueTicket",
        tag="Access",
        method="POST",
        path=TICKETS_PATH,
        summary="Get a ticket that opens one event stream or WebSocket",
        notes="For `EventSource`, which sends no headers. There is no such path where no keys are asked for.",
        answers=(Answer(201, "The ticket: give it as `?ticket=`, once.", Ticket),),
        problems=("invalid_query", "route_not_found", "unavailable"),
    ),
    Operation(
        id="listProblems",
        tag="Description",
        public=True,
        method="GET",
        path="/problems",
        summary="List every type of problem",
        answers=(Answer(200, "As JSON, or as a page for a browser.", ProblemPages, (), ("text/html",)),),
    ),
    Operation(
        id="showProblem",
        tag="Description",
        public=True,
        method="GET",
        path="/problems/{code}",
        summary="Explain one type of problem",
        answers=(Answer(200, "As JSON, or as a page for a browser.", ProblemPage, (), ("text/html",)),),
        problems=("route_not_found",),
    ),
    Operation(
        id="openapi",
        tag="Description",
        public=True,
        method="GET",
        path=OPENAPI_PATH,
        summary="Describe the operations, as OpenAPI 3.1",
        own=(IF_NONE_MATCH,),
        answers=(Answer(200, "The document.", headers=("ETag",), media_types=(JSON,)), *_DOCUMENT),
    ),
    Operation(
        id="asyncapi",
        tag="Description",
        public=True,
        method="GET",
        path=ASYNCAPI_PATH,
        summary="Describe WebSocket and event streams, as AsyncAPI 3.0",
        own=(IF_NONE_MATCH,),
        answers=(Answer(200, "The document.", headers=("ETag",), media_types=(JSON,)), *_DOCUMENT),
    ),
    Operation(
        id="docs",
        tag="Description",
        public=True,
        method="GET",
        path=DOCS_PATH,
        summary="Show both as a page",
        own=(IF_NONE_MATCH,),
        answers=(Answer(200, "The page.", headers=("ETag",), media_types=("text/html",)), *_DOCUMENT),
    ),
)
