"""Orders over REST, and the intake that accepts them, shared with WebSocket."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any, Final, cast, get_args

import msgspec
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.api.problems import FieldError, ProblemError, store_problem, unavailable
from app.api.requests import (
    BODY_BYTES_MAX,
    CLIENT_CHARACTERS_MAX,
    OrderRequest,
    is_printable,
    parse_object,
    read_header_key,
    read_order,
)
from app.api.resume import PAGE, parse_after, parse_order_id, read_events, resume
from app.execution.streams import OrderStreams, Placed
from app.orders.lifecycle import Phase, Status, phase
from app.orders.money import format_units
from eventstore.errors import EventStoreError, StoreUnavailableError
from eventstore.ids import event_id
from eventstore.store import EventStore
from projections.database import DATABASE_OUTAGES
from projections.errors import OrderUnknownError
from projections.orders import LAMPORTS_DECIMALS, OrderRow, apply, decode_frame
from projections.queries import get_order, list_orders

CLOSE_SECONDS: Final = 5
LIST_LIMIT: Final = 50
LIST_LIMIT_MAX: Final = 1000
WEBSOCKET_PATH: Final = "/api/orders/ws"
EXECUTE_PATH: Final = "/api/orders/execute"
_JSON: Final = "application/json"


class Intake:
    """Appends new orders; an append that was started ends, whatever becomes of its request."""

    def __init__(self, streams: OrderStreams) -> None:
        self._streams = streams
        self._started: set[asyncio.Task[Placed]] = set()

    def new_order_id(self, request: OrderRequest) -> str:
        """Return an unused id for the order."""
        return self._streams.new_order_id(request.client, request.command.idempotency_key)

    async def place(self, order_id: str, request: OrderRequest) -> Placed:
        """Accept an order under ``order_id``, or find the one that its idempotency key names.

        Raises:
            ProblemError: not, or not known to be, accepted.
        """
        task = asyncio.create_task(self._streams.place(order_id, request.client, request.command))
        self._started.add(task)
        task.add_done_callback(self._started.discard)
        try:
            return await asyncio.shield(task)
        except EventStoreError as error:
            raise store_problem(error, order_id) from error

    async def close(self) -> None:
        """Wait for the appends that were started, a few seconds at most."""
        if self._started:
            await asyncio.wait(self._started, timeout=CLOSE_SECONDS)


class _Failure(Struct, frozen=True):
    code: str
    message: str


class OrderView(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """An order as ``GET /api/orders/{id}`` shows it; amounts are decimal text in the unit of their asset."""

    order_id: str
    client_id: str | None = None
    side: str
    order_type: str
    base_asset: str
    quote_asset: str
    amount: str
    slippage_bps: int
    status: str
    phase: Phase
    attempts: int
    venue: str | None = None
    tx_id: str | None = None
    amount_in: str | None = None
    amount_out: str | None = None
    fee: str | None = None
    """Pool fees, in the asset that was paid in."""
    network_fee: str | None = None
    """In SOL."""
    error: _Failure | None = None
    seq: int
    created_at: str
    updated_at: str


class OrderRoutes:
    """``/api/orders`` and what is below it, except the WebSocket."""

    def __init__(self, intake: Intake, store: EventStore, database: AsyncEngine) -> None:
        self._intake = intake
        self._store = store
        self._database = database

    def routes(self) -> list[BaseRoute]:
        """Return the routes in the order in which they are to be tried."""
        return [
            Route("/api/orders", self.collection, methods=["GET", "POST"]),
            Route(EXECUTE_PATH, self.execute, methods=["GET", "POST"]),
            Route(WEBSOCKET_PATH, self.execute, methods=["GET"]),
            Route("/order", self.place, methods=["POST"]),
            Route("/api/orders/{order_id}", self.show, methods=["GET"]),
            Route("/api/orders/{order_id}/events", self.events, methods=["GET"]),
        ]

    async def collection(self, request: Request) -> Response:
        """List orders, or place one."""
        return await (self.place(request) if request.method == "POST" else self.newest(request))

    async def execute(self, request: Request) -> Response:
        """Place an order; without a body, only a WebSocket makes sense here."""
        if request.method == "POST":
            return await self.place(request)
        raise ProblemError("upgrade_required", f"{request.url.path} is a WebSocket: connect with the scheme ws")

    async def place(self, request: Request) -> Response:
        """Accept an order: 202, or 200 with the first order's id when its idempotency key was used before."""
        header_key = read_header_key(request.headers.getlist("idempotency-key"))
        order = read_order(parse_object(await _body(request)), header_key)
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
        answer: dict[str, Any] = {"orders": [_view(row) for row in rows]}
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
        return Response(msgspec.json.encode(_view(row)), media_type=_JSON)

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


def _view(row: OrderRow) -> OrderView:
    paid, received = row.base_decimals, row.quote_decimals
    if row.side == "buy":
        paid, received = received, paid
    failure = None
    if row.failure_code is not None:
        failure = _Failure(row.failure_code, row.failure_message or "")
    return OrderView(
        order_id=row.id,
        client_id=row.client_id,
        side=row.side,
        order_type=row.type,
        base_asset=row.base_asset,
        quote_asset=row.quote_asset,
        amount=row.amount,
        slippage_bps=row.slippage_bps,
        status=row.status,
        phase=phase(cast(Status, row.status)),
        attempts=row.attempts,
        venue=row.venue,
        tx_id=row.tx_id,
        amount_in=_text(row.amount_in, paid),
        amount_out=_text(row.amount_out, received),
        fee=_text(row.fee, paid),
        network_fee=_text(row.network_fee, LAMPORTS_DECIMALS),
        error=failure,
        seq=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _text(units: int | None, decimals: int) -> str | None:
    return None if units is None else format_units(units, decimals)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise ProblemError("body_too_large", f"an order has at most {BODY_BYTES_MAX} bytes")
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
