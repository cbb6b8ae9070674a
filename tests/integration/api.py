"""A real server on a free port for the tests of the API, with a scripted writer in the worker's place."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from app.api.access.doors import AccessPolicy
from app.api.application import Services, create_application
from app.api.orders.intake import Intake, OrderLimits
from app.api.server import Server, address_of, listen
from app.api.streaming.ring import Ring
from app.api.streaming.sessions import Sessions, SocketLimits
from app.api.streaming.snapshots import Snapshots
from app.api.streaming.subscriptions import Source
from app.clock import Clock, SystemClock
from app.execution.quoting import Quoting
from app.execution.streams import OrderHead, OrderStreams
from app.orders.commands import (
    Command,
    ConfirmOrder,
    RecordIntent,
    RetryDraw,
    RouteAttempt,
    Selection,
    StartAttempt,
)
from app.orders.events import Fees, Quote, Receipt
from eventstore.ids import partition_in
from eventstore.memory import MemoryEventStore
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from eventstore.store import EventStore, Task
from projections.database import create_database_engine
from tests.builders import stream_id
from tests.clocks import START_US
from tests.conftest import appends, market_life

WAIT_SECONDS = 20
ORDER = {"clientId": "user01", "side": "buy", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": 10}
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
NO_WAIT = RetryDraw(now_us=START_US, jitter_ppm=0, speed_ppm=0)


class Api(Struct):
    """A running server, and what is behind it."""

    url: str
    store: EventStore
    streams: OrderStreams
    database: AsyncEngine
    sessions: Sessions
    serving: asyncio.Task[None]
    stopping: asyncio.Event
    http: httpx.AsyncClient

    @property
    def socket_url(self) -> str:
        return "ws" + self.url.removeprefix("http") + "/api/orders/ws"

    async def place(self, **fields: object) -> str:
        """Submit an order and return its id."""
        response = await self.http.post("/api/orders", json={**ORDER, **fields})
        assert response.status_code == 202, response.text
        order_id: str = response.json()["orderId"]
        return order_id


@asynccontextmanager
async def running(
    store: EventStore,
    database_url: str = NOWHERE,
    *,
    sockets: SocketLimits | None = None,
    orders: OrderLimits | None = None,
    access: AccessPolicy | None = None,
    queue_max: int | None = None,
    ring_frames_max: int = 1000,
    clock: Clock | None = None,
    quoting: Quoting | None = None,
    ping_seconds: float | None = None,
) -> AsyncIterator[Api]:
    """Serve ``store`` on a free port until the context closes; sockets are pinged that often, if it says so."""
    database = create_database_engine(database_url, application_name="test api")
    clock = clock or SystemClock()
    streams = OrderStreams(store, clock, lambda count: uuid.uuid4().bytes[:count], "test", queue_max=queue_max)
    services = Services(
        store=store,
        streams=streams,
        database=database,
        clock=clock,
        version="0.0.test",
        orders=orders or OrderLimits(),
        sockets=sockets or SocketLimits(),
        access=access or AccessPolicy(),
        ring_frames_max=ring_frames_max,
        quoting=quoting,
    )
    application, stopping, listener = create_application(services), asyncio.Event(), listen("127.0.0.1", 0)
    url = address_of(listener)
    server = Server(application)
    if ping_seconds is not None:
        server.config.ws_ping_interval, server.config.ws_ping_timeout = ping_seconds, 20 * ping_seconds
    serving = asyncio.create_task(server.serve_until(stopping, listener))
    try:
        async with httpx.AsyncClient(base_url=url, timeout=WAIT_SECONDS) as http:
            # The listening socket takes connections before the server does, so this waits for the start.
            assert (await http.get("/livez")).json() == {"status": "ok"}
            yield Api(url, store, streams, database, application.state.sessions, serving, stopping, http)
    finally:
        stopping.set()
        await serving
        await database.dispose()


def sessions_on(store: EventStore, ring: Ring, intake: Intake, limits: SocketLimits | None = None) -> Sessions:
    """Subscribers' sessions without a server around them; there is no database."""
    database = create_database_engine(NOWHERE, application_name="test api")
    return Sessions(
        source=Source(store, ring, Snapshots(store, database)),
        intake=intake,
        ring=ring,
        clock=SystemClock(),
        limits=limits or SocketLimits(),
        version="0.0.test",
    )


@asynccontextmanager
async def redis_store(redis_url: str) -> AsyncIterator[RedisEventStore]:
    """A store in a namespace of its own; the server is gone after the tests."""
    namespace = f"t{uuid.uuid4().hex[:12]}"
    store = await RedisEventStore.open(redis_url, StoreSettings(namespace=namespace), new_store_id=namespace)
    try:
        yield store
    finally:
        await store.close()


def memory_store() -> MemoryEventStore:
    """A store whose clock is the server's, as it takes no new stream whose id is old."""
    return MemoryEventStore(partitions=4, store_id="memory", now_us=SystemClock().now_us)


def on_memory(scenario: Callable[[Api], Awaitable[None]]) -> None:
    """Run ``scenario`` on a server whose store is memory and whose database is down."""

    async def main() -> None:
        async with running(memory_store()) as api:
            await scenario(api)

    asyncio.run(main())


LIFE: tuple[Command, ...] = (
    StartAttempt(),
    RouteAttempt(
        slot=7,
        quotes=(
            Quote(venue="raydium", amount="1502.25", fee="3.75", impact_ppm=12, latency_ms=200),
            Quote(venue="meteora", amount="1549.3", fee="3.1", impact_ppm=10, latency_ms=201),
        ),
        selection=Selection(
            policy="best-net/1",
            venue="raydium",
            amount=1_502_250_000,
            decision="0" * 16,
            runner_up="meteora",
            edge_bps=313,
        ),
        retry=NO_WAIT,
    ),
    RecordIntent(tx_id="5xSignature", message="AQID", last_valid_height=157),
    ConfirmOrder(
        tx_id="5xSignature",
        receipt=Receipt(
            venue="raydium",
            amount_in="1502.25",
            amount_out="10",
            fee="3.75",
            network_fee="0.000005",
            slot=12,
            fees=Fees(lp="3.15", protocol="0.45", fund="0.15"),
        ),
    ),
)
"""What a worker does to an order; five events in four commits, after the first one."""


EVENTS = ["pending", "routing", "routing:quotes", "building", "submitted", "confirmed"]


async def advance(streams: OrderStreams, order: OrderHead, command: Command) -> OrderHead:
    """Record one command as a worker would."""
    task = Task(order.order_id, "attempt", partition_in(order.order_id), "0-1")
    return (await streams.record(order, command, task)).order


async def live(streams: OrderStreams, order_id: str, commands: Sequence[Command] = LIFE) -> None:
    """Record a whole life."""
    order = await streams.load(order_id)
    for command in commands:
        order = await advance(streams, order, command)


@asynccontextmanager
async def connected(api: Api, query: str = "", path: str = "/api/orders/ws") -> AsyncIterator[ClientConnection]:
    url = "ws" + api.url.removeprefix("http") + path + query
    async with connect(url, compression=None, open_timeout=WAIT_SECONDS) as socket:
        yield socket


async def say(socket: ClientConnection, **members: object) -> None:
    await socket.send(json.dumps(members))


async def hear(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(WAIT_SECONDS):
        frame: dict[str, Any] = json.loads(await socket.recv())
        return frame


async def hear_many(socket: ClientConnection, count: int) -> list[dict[str, Any]]:
    return [await hear(socket) for _ in range(count)]


async def hear_nothing_more(socket: ClientConnection) -> None:
    """Everything sent before now has been heard: the next frame answers this ping."""
    await say(socket, type="ping", id="nothing more")
    assert await hear(socket) == {"type": "pong", "id": "nothing more"}


async def hear_close(socket: ClientConnection) -> tuple[int, list[dict[str, Any]]]:
    """Return the close code, and the frames before it."""
    frames: list[dict[str, Any]] = []
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                frames.append(json.loads(await socket.recv()))
            except ConnectionClosed as closed:
                assert closed.rcvd is not None
                return closed.rcvd.code, frames


def problem(response: httpx.Response, status: int, code: str) -> dict[str, object]:
    """Check the form of a problem and return it."""
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, object] = response.json()
    assert (response.status_code, body["code"]) == (status, code)
    assert body["type"] == f"/problems/{code}"
    assert body["status"] == body["statusCode"] == status
    assert body["detail"] == body["message"] and body["title"] and body["error"]
    assert body["instance"] == response.request.url.path
    return body


async def ready(api: Api) -> None:
    """Wait until the log is followed and sockets are welcome."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            checks = (await api.http.get("/readyz")).json()["checks"]
            if checks["log"]["ok"] and checks["accepting"]["ok"]:
                return


async def finished_order(store: EventStore) -> str:
    """Append a whole life to an otherwise unused stream."""
    order_id = stream_id()
    for commit in appends(order_id, market_life()):
        await store.append(commit)
    return order_id
