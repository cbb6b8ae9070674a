"""Orders over REST."""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.api.access.entry import principal_of, require_order
from app.api.orders.aliases import (
    EXECUTE_PATH,
    LIST_PATHS,
    ORDER_PATHS,
    SUBMIT_PATHS,
    aliased_accepted,
    aliased_order,
    aliased_orders,
)
from app.api.orders.answers import Accepted, Cancelling, OrderEvents, OrderList
from app.api.orders.freshness import FRESHNESS_PARAMETERS, POSITION_HEADER, Freshness, read_wanted
from app.api.orders.intake import Intake
from app.api.orders.listing import link_to, read_filter, read_list_query, read_page, text_of
from app.api.orders.lookup import Found, Lookup
from app.api.orders.request import read_order
from app.api.orders.view import view_of
from app.api.problems import ProblemError, unavailable
from app.api.requests import (
    Form,
    invalid_parameter,
    is_known,
    parse_object,
    read_body,
    read_header_key,
    read_limit,
    read_query,
    read_versions,
    tag_of,
)
from app.api.resume import PAGE, parse_after, parse_order_id, resume
from app.clock import Clock
from app.orders.lifecycle import phase
from eventstore.errors import StoreUnavailableError
from eventstore.ids import Cursor, partition_in, partition_of
from eventstore.store import EventStore
from projections.database import DATABASE_OUTAGES
from projections.queries.orders import LIST_LIMIT_MAX, list_orders

LIST_LIMIT: Final = 50
WEBSOCKET_PATH: Final = "/api/orders/ws"
ORDER_PARAMETERS: Final = ("asOf", *FRESHNESS_PARAMETERS)
EVENTS_PARAMETERS: Final = ("after", "limit")
KEY_HEADERS: Final = ("idempotency-key", "x-idempotency-key")
_JSON: Final = "application/json"


class OrderRoutes:
    """``/api/orders`` and what is below it, except the WebSocket."""

    def __init__(
        self, intake: Intake, store: EventStore, database: AsyncEngine, freshness: Freshness, clock: Clock
    ) -> None:
        self._intake = intake
        self._store = store
        self._database = database
        self._freshness = freshness
        self._lookup = Lookup(store, database, freshness, clock)
        self._clock = clock

    def routes(self) -> list[BaseRoute]:
        """Return the routes in the order in which they are to be tried: an order id comes after every other word."""
        return [
            Route("/api/orders", self.collection, methods=["GET", "POST"]),
            Route(EXECUTE_PATH, self.execute, methods=["GET", "POST"]),
            Route(WEBSOCKET_PATH, self.execute, methods=["GET"]),
            Route("/orders", self.collection, methods=["GET", "POST"]),
            Route("/order", self.place, methods=["POST"]),
            Route("/api/orders/history", self.newest, methods=["GET"]),
            Route("/api/orders/{order_id}", self.one, methods=["GET", "DELETE"]),
            Route("/api/orders/{order_id}/cancel", self.cancel, methods=["POST"]),
            Route("/api/orders/{order_id}/events", self.events, methods=["GET"]),
            *(Route(path, self.one, methods=["GET", "DELETE"]) for path in ORDER_PATHS),
        ]

    async def collection(self, request: Request) -> Response:
        """List orders, or place one."""
        return await (self.place(request) if request.method == "POST" else self.newest(request))

    async def one(self, request: Request) -> Response:
        """Show an order, or cancel it."""
        return await (self.cancel(request) if request.method == "DELETE" else self.show(request))

    async def execute(self, request: Request) -> Response:
        """Place an order; without a body, only a WebSocket makes sense here."""
        if request.method == "POST":
            return await self.place(request)
        raise ProblemError("upgrade_required", f"{request.url.path} is a WebSocket: connect with the scheme ws")

    async def place(self, request: Request) -> Response:
        """Accept an order: 202, or 200 with the first order's id when its idempotency key was used before."""
        header_key = read_header_key([value for name in KEY_HEADERS for value in request.headers.getlist(name)])
        members = principal_of(request).claimed(parse_object(await read_body(request)))
        order = read_order(members, header_key, now_us=self._clock.now_us())
        placed = await self._intake.place(self._intake.new_order_id(order), order)
        accepted = Accepted(
            order_id=placed.order_id,
            status="pending",
            phase=phase("pending"),
            seq=1,
            duplicate=placed.repeated,
            ws_url=f"{WEBSOCKET_PATH}?orderId={placed.order_id}",
            cursor=_text_of(placed.cursor),
        )
        headers = {"Location": f"/api/orders/{placed.order_id}", **placed.headers}
        headers |= _position_of(placed.cursor, placed.order_id)
        if placed.repeated:
            headers["Idempotent-Replayed"] = "true"
        answer = aliased_accepted(accepted, self._clock.now_us()) if request.url.path in SUBMIT_PATHS else accepted
        return _answer(answer, headers, 200 if placed.repeated else 202)

    async def cancel(self, request: Request) -> Response:
        """Cancel an order: 200 when it has ended, 202 when that depends on a swap that may be on its way."""
        order_id = parse_order_id(request.path_params["order_id"])
        body = await read_body(request)
        if body.strip():
            form = Form(parse_object(body))
            form.refuse_unknown(())
            form.finish("invalid_message")
        await principal_of(request).require_cancelling(order_id)
        cancel = await self._intake.cancel(order_id, read_versions(request))
        answer = Cancelling(
            order_id=order_id,
            status=cancel.status,
            phase=phase(cancel.status),
            seq=cancel.seq,
            cursor=_text_of(cancel.cursor),
        )
        return _answer(answer, _position_of(cancel.cursor, order_id), 200 if cancel.status == "cancelled" else 202)

    async def newest(self, request: Request) -> Response:
        """Return orders as the read model has them, newest first; ``next`` leads to the following page."""
        query = read_list_query(request)
        limit, asked = read_limit(query, LIST_LIMIT, LIST_LIMIT_MAX), read_filter(query)
        wanted = replace(asked, client_id=principal_of(request).narrowed(asked.client_id))
        after, offset = read_page(query, wanted)
        partition = None if wanted.client_id is None else partition_of(wanted.client_id, self._store.partitions)
        await self._freshness.projected(read_wanted(query, self._store.partitions, partition))
        try:
            as_of = await self._freshness.as_of(partition)
            page = await list_orders(self._database, wanted, limit=limit, after=after, offset=offset)
        except DATABASE_OUTAGES as error:
            raise unavailable("single orders and their events can still be read") from error
        answer = OrderList(
            orders=[view_of(row) for row in page.orders],
            as_of=as_of,
            next=None if page.next is None else text_of(page.next),
        )
        headers = as_of.headers() if page.next is None else {**as_of.headers(), "Link": link_to(request, page.next)}
        return _answer(aliased_orders(answer) if request.url.path in LIST_PATHS else answer, headers)

    async def show(self, request: Request) -> Response:
        """Return one order as it is now, or as it was; 304 where the client has that."""
        order_id = parse_order_id(request.path_params["order_id"])
        await require_order(request, order_id)
        query = read_query(request, ORDER_PARAMETERS)
        found = await self._found(order_id, query)
        headers = {} if found.as_of is None else found.as_of.headers()
        if found.from_stream:
            headers["ETag"] = tag_of(found.row.version)
            if is_known(request, headers["ETag"]):
                return Response(status_code=304, headers=headers)
        view = view_of(found.row, found.as_of, found.point_in_time)
        return _answer(view if request.url.path.startswith("/api/") else aliased_order(view), headers)

    async def _found(self, order_id: str, query: Mapping[str, str]) -> Found:
        as_of = query.get("asOf")
        if as_of is None:
            wanted = read_wanted(query, self._store.partitions, partition_in(order_id))
            return await self._lookup.find(order_id, wanted)
        if len(query) > 1:
            message = "must not be given beside " + ", ".join(FRESHNESS_PARAMETERS) + ": the past does not change"
            raise invalid_parameter("asOf", message)
        return await self._lookup.find_at(order_id, as_of)

    async def events(self, request: Request) -> Response:
        """Return an order's events after ``after``; ``last`` is the ``after`` of the following page."""
        order_id = parse_order_id(request.path_params["order_id"])
        await require_order(request, order_id)
        query = read_query(request, EVENTS_PARAMETERS)
        after, limit = parse_after(query.get("after", "0"), order_id), read_limit(query, PAGE, PAGE)
        try:
            resumed = await resume(self._store, order_id, after, limit)
        except StoreUnavailableError as error:
            raise unavailable("ask again") from error
        answer = OrderEvents(
            order_id=order_id,
            last=resumed.frames[-1].seq if resumed.frames else resumed.seq,
            more=resumed.more,
            events=[msgspec.Raw(frame.text.encode()) for frame in resumed.frames],
        )
        link = f'<{request.url.path}?after={answer.last}&limit={limit}>; rel="next"'
        return _answer(answer, {"Link": link} if resumed.more else {})


def _answer(body: Struct, headers: Mapping[str, str], status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, headers, _JSON)


def _text_of(cursor: Cursor | None) -> str | None:
    return None if cursor is None else str(cursor)


def _position_of(cursor: Cursor | None, order_id: str) -> dict[str, str]:
    """Return the header that says the position of an event, for reads that ask for it."""
    return {} if cursor is None else {POSITION_HEADER: f"{partition_in(order_id):02d}:{cursor.position}"}
