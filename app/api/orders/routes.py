"""Orders over REST."""

from typing import Any, Final, get_args

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.api.orders.freshness import FRESHNESS_PARAMETERS, POSITION_HEADER, Freshness, read_wanted
from app.api.orders.intake import Intake
from app.api.orders.lookup import Lookup
from app.api.orders.request import read_order
from app.api.orders.view import view_of
from app.api.problems import ProblemError, unavailable
from app.api.requests import (
    Form,
    invalid_parameter,
    parse_object,
    read_body,
    read_choice,
    read_client,
    read_header_key,
    read_limit,
    read_query,
)
from app.api.resume import PAGE, parse_after, parse_order_id, resume
from app.clock import Clock
from app.orders.lifecycle import Status, phase
from eventstore.errors import StoreUnavailableError
from eventstore.ids import Cursor, partition_in, partition_of
from eventstore.store import EventStore
from projections.database import DATABASE_OUTAGES
from projections.errors import OrderUnknownError
from projections.queries.orders import list_orders

LIST_LIMIT: Final = 50
LIST_LIMIT_MAX: Final = 1000
WEBSOCKET_PATH: Final = "/api/orders/ws"
EXECUTE_PATH: Final = "/api/orders/execute"
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
        self._lookup = Lookup(store, database, freshness)
        self._clock = clock

    def routes(self) -> list[BaseRoute]:
        """Return the routes in the order in which they are to be tried."""
        return [
            Route("/api/orders", self.collection, methods=["GET", "POST"]),
            Route(EXECUTE_PATH, self.execute, methods=["GET", "POST"]),
            Route(WEBSOCKET_PATH, self.execute, methods=["GET"]),
            Route("/order", self.place, methods=["POST"]),
            Route("/api/orders/{order_id}", self.one, methods=["GET", "DELETE"]),
            Route("/api/orders/{order_id}/cancel", self.cancel, methods=["POST"]),
            Route("/api/orders/{order_id}/events", self.events, methods=["GET"]),
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
        header_key = read_header_key(request.headers.getlist("idempotency-key"))
        order = read_order(parse_object(await read_body(request)), header_key, now_us=self._clock.now_us())
        placed = await self._intake.place(self._intake.new_order_id(order), order)
        answer: dict[str, Any] = {
            "orderId": placed.order_id,
            "status": "pending",
            "phase": phase("pending"),
            "seq": 1,
            "duplicate": placed.repeated,
            "wsUrl": f"{WEBSOCKET_PATH}?orderId={placed.order_id}",
        }
        headers = {"Location": f"/api/orders/{placed.order_id}", **_show_cursor(placed.cursor, placed.order_id, answer)}
        if placed.repeated:
            headers["Idempotent-Replayed"] = "true"
        return Response(msgspec.json.encode(answer), 200 if placed.repeated else 202, headers, _JSON)

    async def cancel(self, request: Request) -> Response:
        """Cancel an order: 200 when it has ended, 202 when that depends on a swap that may be on its way."""
        order_id = parse_order_id(request.path_params["order_id"])
        body = await read_body(request)
        if body.strip():
            form = Form(parse_object(body))
            form.refuse_unknown(())
            form.finish("invalid_message")
        cancel = await self._intake.cancel(order_id)
        answer: dict[str, Any] = {"orderId": order_id, "status": cancel.status, "phase": phase(cancel.status)}
        answer["seq"] = cancel.seq
        headers = _show_cursor(cancel.cursor, order_id, answer)
        return Response(msgspec.json.encode(answer), 200 if cancel.status == "cancelled" else 202, headers, _JSON)

    async def newest(self, request: Request) -> Response:
        """Return orders as the read model has them, newest first; ``next`` leads to the following page."""
        query = read_query(request, ("limit", "before", "status", "clientId", *FRESHNESS_PARAMETERS))
        limit = read_limit(query, LIST_LIMIT, LIST_LIMIT_MAX)
        before = query.get("before")
        if before is not None:
            parse_order_id(before)
        status = read_choice(query, "status", get_args(Status))
        client = read_client(query)
        partition = None if client is None else partition_of(client, self._store.partitions)
        await self._freshness.projected(read_wanted(query, self._store.partitions, partition))
        try:
            as_of = await self._freshness.as_of(partition)
            rows = await list_orders(self._database, limit=limit, before=before, client_id=client, status=status)
        except OrderUnknownError as error:
            raise invalid_parameter("before", "must be an order of the list; start again without it") from error
        except DATABASE_OUTAGES as error:
            raise unavailable("single orders and their events can still be read") from error
        answer: dict[str, Any] = {"orders": [view_of(row) for row in rows], "asOf": as_of}
        if len(rows) == limit:
            answer["next"] = rows[-1].id
        return Response(msgspec.json.encode(answer), 200, as_of.headers(), _JSON)

    async def show(self, request: Request) -> Response:
        """Return one order as its stream has it now; as the read model has it where the stream is gone."""
        order_id = parse_order_id(request.path_params["order_id"])
        query = read_query(request, FRESHNESS_PARAMETERS)
        found = await self._lookup.find(order_id, read_wanted(query, self._store.partitions, partition_in(order_id)))
        view = view_of(found.row, found.as_of)
        return Response(msgspec.json.encode(view), 200, found.as_of.headers(), _JSON)

    async def events(self, request: Request) -> Response:
        """Return an order's events after ``after``; ``last`` is the ``after`` of the following page."""
        order_id = parse_order_id(request.path_params["order_id"])
        query = read_query(request, ("after", "limit"))
        after = parse_after(query.get("after", "0"), order_id)
        try:
            resumed = await resume(self._store, order_id, after, read_limit(query, PAGE, PAGE))
        except StoreUnavailableError as error:
            raise unavailable("ask again") from error
        last = resumed.frames[-1].seq if resumed.frames else resumed.seq
        events = ",".join(frame.text for frame in resumed.frames)
        more = "true" if resumed.more else "false"
        answer = f'{{"orderId":"{order_id}","last":{last},"more":{more},"events":[{events}]}}'
        return Response(answer, media_type=_JSON)


def _show_cursor(cursor: Cursor | None, order_id: str, answer: dict[str, Any]) -> dict[str, str]:
    """Add to an answer the event that a later read can ask for; return the header that says its position."""
    if cursor is None:
        return {}
    answer["cursor"] = str(cursor)
    return {POSITION_HEADER: f"{partition_in(order_id):02d}:{cursor.position}"}
