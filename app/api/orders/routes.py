"""Orders over REST."""

from collections.abc import Collection, Mapping
from typing import Any, Final, get_args

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.api.orders.intake import Intake
from app.api.orders.request import read_order
from app.api.orders.view import view_of
from app.api.problems import FieldError, ProblemError, unavailable
from app.api.requests import (
    BODY_BYTES_MAX,
    CLIENT_CHARACTERS_MAX,
    Form,
    is_printable,
    parse_object,
    read_header_key,
)
from app.api.resume import PAGE, parse_after, parse_order_id, read_events, resume
from app.clock import Clock
from app.orders.lifecycle import Status, phase
from eventstore.errors import StoreUnavailableError
from eventstore.ids import event_id
from eventstore.store import EventStore
from projections.database import DATABASE_OUTAGES
from projections.errors import OrderUnknownError
from projections.fold.frames import decode_frame
from projections.fold.orders import OrderRow, apply
from projections.queries import get_order, list_orders

LIST_LIMIT: Final = 50
LIST_LIMIT_MAX: Final = 1000
WEBSOCKET_PATH: Final = "/api/orders/ws"
EXECUTE_PATH: Final = "/api/orders/execute"
_JSON: Final = "application/json"


class OrderRoutes:
    """``/api/orders`` and what is below it, except the WebSocket."""

    def __init__(self, intake: Intake, store: EventStore, database: AsyncEngine, clock: Clock) -> None:
        self._intake = intake
        self._store = store
        self._database = database
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
        order = read_order(parse_object(await _body(request)), header_key, now_us=self._clock.now_us())
        placed = await self._intake.place(self._intake.new_order_id(order), order)
        answer = {
            "orderId": placed.order_id,
            "status": "pending",
            "phase": phase("pending"),
            "seq": 1,
            "duplicate": placed.repeated,
            "wsUrl": f"{WEBSOCKET_PATH}?orderId={placed.order_id}",
        }
        headers = {"Location": f"/api/orders/{placed.order_id}"}
        if placed.repeated:
            headers["Idempotent-Replayed"] = "true"
        return Response(msgspec.json.encode(answer), 200 if placed.repeated else 202, headers, _JSON)

    async def cancel(self, request: Request) -> Response:
        """Cancel an order: 200 when it has ended, 202 when that depends on a swap that may be on its way."""
        order_id = parse_order_id(request.path_params["order_id"])
        body = await _body(request)
        if body.strip():
            form = Form(parse_object(body))
            form.refuse_unknown(())
            form.finish("invalid_message")
        cancel = await self._intake.cancel(order_id)
        answer = {"orderId": order_id, "status": cancel.status, "phase": phase(cancel.status), "seq": cancel.seq}
        return Response(msgspec.json.encode(answer), 200 if cancel.status == "cancelled" else 202, media_type=_JSON)

    async def newest(self, request: Request) -> Response:
        """Return orders as the read model has them, newest first; ``next`` leads to the following page."""
        query = _query(request, ("limit", "before", "status", "clientId"))
        limit = _limit(query, LIST_LIMIT, LIST_LIMIT_MAX)
        before = query.get("before")
        if before is not None:
            parse_order_id(before)
        status = _choice(query, "status", get_args(Status))
        client = query.get("clientId")
        if client is not None and not is_printable(client, CLIENT_CHARACTERS_MAX):
            raise _invalid("clientId", f"must be 1 to {CLIENT_CHARACTERS_MAX} printable characters")
        try:
            rows = await list_orders(self._database, limit=limit, before=before, client_id=client, status=status)
        except OrderUnknownError as error:
            raise _invalid("before", "must be an order of the list; start again without it") from error
        except DATABASE_OUTAGES as error:
            raise unavailable("single orders and their events can still be read") from error
        answer: dict[str, Any] = {"orders": [view_of(row) for row in rows]}
        if len(rows) == limit:
            answer["next"] = rows[-1].id
        return Response(msgspec.json.encode(answer), media_type=_JSON)

    async def show(self, request: Request) -> Response:
        """Return one order as its stream has it now; as the read model has it where the stream is gone."""
        order_id = parse_order_id(request.path_params["order_id"])
        try:
            row = await self._folded(order_id) or await get_order(self._database, order_id)
        except (StoreUnavailableError, *DATABASE_OUTAGES) as error:
            raise unavailable("ask again") from error
        if row is None:
            raise ProblemError("not_found", f"there is no order {order_id}")
        return Response(msgspec.json.encode(view_of(row)), media_type=_JSON)

    async def events(self, request: Request) -> Response:
        """Return an order's events after ``after``; ``last`` is the ``after`` of the following page."""
        order_id = parse_order_id(request.path_params["order_id"])
        query = _query(request, ("after", "limit"))
        after = parse_after(query.get("after", "0"), order_id)
        try:
            resumed = await resume(self._store, order_id, after, _limit(query, PAGE, PAGE))
        except StoreUnavailableError as error:
            raise unavailable("ask again") from error
        last = resumed.frames[-1].seq if resumed.frames else resumed.seq
        events = ",".join(frame.text for frame in resumed.frames)
        more = "true" if resumed.more else "false"
        answer = f'{{"orderId":"{order_id}","last":{last},"more":{more},"events":[{events}]}}'
        return Response(answer, media_type=_JSON)

    async def _folded(self, order_id: str) -> OrderRow | None:
        row: OrderRow | None = None
        version = 0
        while page := await read_events(self._store, order_id, version, PAGE):
            for event in page:
                row = apply(row, decode_frame(event.data, event_id(order_id, event.version)))
            version = page[-1].version
            if len(page) < PAGE:
                break
        return row


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise ProblemError("body_too_large", f"a body has at most {BODY_BYTES_MAX} bytes")
    return bytes(body)


def _query(request: Request, accepted: tuple[str, ...]) -> Mapping[str, str]:
    given = request.query_params
    for name, _ in given.multi_items():
        if name not in accepted:
            raise _invalid(name, f"is not a parameter here; accepted are {', '.join(accepted)}")
        if len(given.getlist(name)) > 1:
            raise _invalid(name, "must be given once")
    return given


def _limit(query: Mapping[str, str], default: int, most: int) -> int:
    text = query.get("limit", str(default))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= most):
        raise _invalid("limit", f"must be a whole number from 1 to {most}")
    return int(text[:9])


def _choice(query: Mapping[str, str], name: str, choices: Collection[str]) -> str | None:
    value = query.get(name)
    if value is not None and value not in choices:
        raise _invalid(name, f"must be one of {', '.join(choices)}")
    return value


def _invalid(name: str, message: str) -> ProblemError:
    shown = name[:64].encode("ascii", "backslashreplace").decode()
    return ProblemError("invalid_query", f"{shown} {message}", [FieldError(f"/{shown}", message)])
