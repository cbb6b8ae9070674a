"""Servers and databases for tests, and the lives of orders to fill them with.

Each test process has its own pair of embedded servers, started at first use and gone at the end, unless
it is lent another's.
"""

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import TypeVar

import msgspec
import psycopg
import pytest
from hypothesis import settings
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from app.embedded import Servers, embedded_servers
from app.orders.codec import Origin, to_frame
from app.orders.events import (
    AttemptFailed,
    AttemptStarted,
    Chosen,
    Event,
    Failure,
    Fees,
    OrderAccepted,
    OrderConfirmed,
    OrderFailed,
    Quote,
    QuotesCollected,
    Receipt,
    Retry,
    RouteSelected,
    Side,
    SubmitIntentRecorded,
)
from app.orders.times import format_time
from eventstore.canonical import SealedEvent, seal
from eventstore.memory import MemoryEventStore
from eventstore.store import Append, EventStore
from projections.checkpoints import wait_for
from projections.database import create_database_engine
from projections.diff import Finding, diff
from projections.projector.runner import Projector
from projections.schema.migrations import upgrade_schema
from tests.builders import stream_id
from tests.clocks import START_US, StepClock
from tests.servers.cluster import redis_cluster
from tests.servers.single import redis_server

START_SECONDS_MAX = 60
WAIT_SECONDS = 20
LENT_SERVERS = "ORDERTAPE_TEST_SERVERS"
"""Names a variable by which a test process lends its servers, as JSON, to one that it starts."""
TEMPLATE = f"migrated_{os.getpid()}"
EMPTY = "TRUNCATE orders, order_events, checkpoints, store, leases, volumes, parked_events"
PLACES = "SELECT partition, epoch, position, anchor FROM checkpoints"
PARKED = "SELECT order_id, version, position, reason, recorded_at FROM parked_events"

_databases = count(1)

# Servers flush every write, as they do for users: in memory that costs nothing, where there is enough of it.
MEMORY = Path("/dev/shm")
MEMORY_FREE_MIN = 6 * 1024**3
if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_FREE_MIN:
    tempfile.tempdir = str(MEMORY)

# A machine that is busy with other tests is no failure.
settings.register_profile("ordertape", deadline=None)
settings.load_profile("ordertape")

StoreT = TypeVar("StoreT", bound=EventStore)

Life = Sequence[Sequence[Event]]
"""What happens to one order: the events of each commit."""


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Valkey and PostgreSQL of this test process, or of the one that started it and lends its own."""
    if LENT_SERVERS in os.environ:
        yield msgspec.json.decode(os.environ[LENT_SERVERS], type=Servers)
        return
    data_dir = Path(tempfile.mkdtemp(prefix="ot-"))
    context = embedded_servers(data_dir, start_timeout_seconds=START_SECONDS_MAX)
    try:
        with asyncio.Runner() as runner:
            yield runner.run(context.__aenter__())
            runner.run(context.__aexit__(None, None, None))
    finally:
        shutil.rmtree(data_dir)


@pytest.fixture(scope="session")
def redis_url(servers: Servers) -> str:
    """The embedded Valkey; shared by the tests of this process, so each uses a namespace of its own."""
    return servers.redis_url


@pytest.fixture(scope="session")
def system_redis_url() -> Iterator[str]:
    """A server of our own from the system's ``redis-server``, flushing every write; skips where there is none."""
    with redis_server(program=_system_redis(), appendonly="yes", appendfsync="always") as server:
        yield server.url


@pytest.fixture(scope="session")
def unflushed_redis_url() -> Iterator[str]:
    """The same without an append-only file."""
    with redis_server(program=_system_redis(), appendonly="no") as server:
        yield server.url


def _system_redis() -> str:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server on PATH")
    return program


@pytest.fixture(scope="session")
def cluster_url() -> Iterator[str]:
    """Three masters with a replica each, flushing every write."""
    with redis_cluster() as cluster:
        yield cluster.url


@pytest.fixture(scope="session")
def postgres_url(servers: Servers) -> str:
    """The embedded PostgreSQL's own database; tests use ``database_url``, or create others beside it."""
    assert servers.database_url is not None
    return servers.database_url


@pytest.fixture(scope="session")
def template_database(postgres_url: str) -> str:
    """The name of a migrated database without rows."""
    execute(postgres_url, f"CREATE DATABASE {TEMPLATE}")

    async def migrate() -> None:
        async with database(database_at(postgres_url, TEMPLATE)) as engine:
            await upgrade_schema(engine)

    asyncio.run(migrate())
    return TEMPLATE


@pytest.fixture
def database_url(postgres_url: str, template_database: str) -> Iterator[str]:
    """A migrated database of the test's own."""
    yield from _database(postgres_url, f"TEMPLATE {template_database}")


@pytest.fixture
def empty_database_url(postgres_url: str) -> Iterator[str]:
    """A database without any table."""
    yield from _database(postgres_url, "")


def _database(postgres_url: str, options: str) -> Iterator[str]:
    name = f"test_{os.getpid()}_{next(_databases)}"
    execute(postgres_url, f"CREATE DATABASE {name} {options}")
    yield database_at(postgres_url, name)
    execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


def database_at(url: str, name: str) -> str:
    """``url`` with another database of the same server."""
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def driver_url(url: str) -> str:
    """``url`` as psycopg and psql read it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def execute(url: str, statement: str, *parameters: object) -> list[tuple[object, ...]]:
    """Run one statement in a connection of its own, committed at once; return its rows."""
    with psycopg.connect(driver_url(url), autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []


@asynccontextmanager
async def database(url: str) -> AsyncIterator[AsyncEngine]:
    """An engine on ``url``, disposed of at the end."""
    engine = create_database_engine(url, application_name="tests")
    try:
        yield engine
    finally:
        await engine.dispose()


def contents(url: str) -> dict[str, list[tuple[object, ...]]]:
    """Everything that is projected, but for the time at which it was."""
    return {
        "orders": execute(url, "SELECT * FROM orders ORDER BY id"),
        "order_events": execute(url, "SELECT * FROM order_events ORDER BY order_id, version"),
        "volumes": execute(
            url, "SELECT * FROM volumes ORDER BY day, base_asset, quote_asset, venue, client_id, partition"
        ),
        "parked_events": execute(url, f"{PARKED} WHERE projection = 'orders' ORDER BY order_id, version"),
        "checkpoints": execute(url, f"{PLACES} WHERE projection = 'orders' ORDER BY partition"),
    }


def project(url: str, store: EventStore, batch_commits_max: int = 5000) -> int:
    """Project what the log holds, by a projector of its own; return the number of events."""

    async def scenario() -> int:
        async with database(url) as engine:
            return await Projector(store, engine, batch_commits_max=batch_commits_max).project_available()

    return asyncio.run(scenario())


def differences(url: str, store: EventStore) -> list[Finding]:
    """What the database holds that is not what the streams say."""

    async def scenario() -> list[Finding]:
        async with database(url) as engine:
            return await diff(store, engine)

    return asyncio.run(scenario())


def memory_store(partitions: int = 4, store_id: str = "memory") -> MemoryEventStore:
    return MemoryEventStore(partitions=partitions, store_id=store_id, now_us=StepClock().now_us)


def total(store: MemoryEventStore) -> int:
    """The number of events in the log."""
    return sum(status.position for status in asyncio.run(store.status()))


@asynccontextmanager
async def running(
    url: str, store: EventStore, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> AsyncIterator[AsyncEngine]:
    """A projector that runs until the context closes; it stops when asked."""
    stopping = asyncio.Event()
    async with database(url) as engine:
        task = asyncio.create_task(Projector(store, engine, sleep=sleep).run(stopping))
        try:
            yield engine
        finally:
            stopping.set()
            async with asyncio.timeout(WAIT_SECONDS):
                await task


async def caught_up(engine: AsyncEngine, store: EventStore) -> None:
    for partition, end in (await store.log_ends()).items():
        await wait_for(engine, partition, end.position, WAIT_SECONDS)


def filled(commits: Iterable[Append]) -> MemoryEventStore:
    """A new store with ``commits`` in its log."""
    return fill(memory_store(), commits)


def fill(store: StoreT, commits: Iterable[Append]) -> StoreT:
    """Add ``commits`` to the log of ``store``."""
    asyncio.run(append_all(store, commits))
    return store


async def append_all(store: EventStore, commits: Iterable[Append]) -> None:
    for commit in commits:
        await store.append(commit)


def accepted(side: Side = "sell", *, amount: str = "1.5", idempotency_key: str | None = None) -> OrderAccepted:
    """SOL against USDC: 9 and 6 decimals."""
    return OrderAccepted(
        side=side,
        base_asset="SOL",
        quote_asset="USDC",
        amount=amount,
        decimals=(9, 6),
        order_type="market",
        slippage_bps=50,
        idempotency_key=idempotency_key,
        fingerprint="f" * 32 if idempotency_key else None,
    )


QUOTES = (Quote(venue="meteora", amount="299.1", fee="0.003"), Quote(venue="raydium", amount="301.25", fee="0.003"))


def routed(attempt: int = 1, venue: str = "raydium", side: Side = "sell") -> Life:
    """An attempt up to its chosen route."""
    route = RouteSelected(
        policy="best",
        guards="guards/1",
        steps=("swap", "memo"),
        chosen=Chosen(venue=venue, amount="301.25"),
        decision="d" * 16,
        min_out="299.7" if side == "sell" else None,
        max_in="302.9" if side == "buy" else None,
    )
    return [[AttemptStarted(attempt=attempt)], [QuotesCollected(slot=7, quotes=QUOTES), route]]


def unquoted(attempt: int, *, last: bool) -> Life:
    """An attempt that no venue quoted."""
    quotes = tuple(Quote(venue=quote.venue, status="timeout") for quote in QUOTES)
    failed = attempt_failed(attempt, "no_quote", last=last)
    return [[AttemptStarted(attempt=attempt)], [QuotesCollected(slot=7, quotes=quotes), failed]]


def attempt_failed(attempt: int = 1, code: str = "slippage_exceeded", *, last: bool = False) -> AttemptFailed:
    retry = None if last else Retry(attempt=attempt + 1, delay_ms=250, due_at=format_time(START_US))
    return AttemptFailed(attempt=attempt, error=_failure(code), retry=retry)


def _failure(code: str) -> Failure:
    return Failure(code=code, message="a tab\there, a line\nthere, a \\ and a “quote”")  # type: ignore[arg-type]


def submitted(tx_id: str = "5xSignature") -> SubmitIntentRecorded:
    return SubmitIntentRecorded(tx_id=tx_id, message="AQID", last_valid_height=157)


def confirmed(tx_id: str = "5xSignature", *, paid: str = "1.5", received: str = "301.25") -> OrderConfirmed:
    fees = Fees(lp="0.00315", protocol="0.0006")
    receipt = Receipt(
        venue="raydium", amount_in=paid, amount_out=received, fee="0.00375", network_fee="0.000005", slot=9, fees=fees
    )
    return OrderConfirmed(tx_id=tx_id, receipt=receipt)


def market_life(side: Side = "sell") -> Life:
    """Six events in five commits: accepted, routed, submitted, confirmed at the first attempt."""
    outcome = confirmed() if side == "sell" else confirmed(paid="301.25", received="1.5")
    return [[accepted(side)], *routed(side=side), [submitted()], [outcome]]


def failed_life() -> Life:
    """Eleven events in eight commits: three attempts, none of which any venue quoted."""
    attempts = [commit for attempt in (1, 2, 3) for commit in unquoted(attempt, last=attempt == 3)]
    return [[accepted()], *attempts, [OrderFailed(error=_failure("no_quote"), attempts=3)]]


def random_life(chance: random.Random) -> Life:
    """A lawful life with up to three attempts; it may stop anywhere."""
    side: Side = chance.choice(["buy", "sell"])
    commits: list[Sequence[Event]] = [[accepted(side, amount=str(chance.randint(1, 9)))]]
    for attempt in (1, 2, 3):
        if chance.random() < 0.3:
            commits += unquoted(attempt, last=attempt == 3)
            continue
        commits += [*routed(attempt, chance.choice(["raydium", "meteora"]), side), [submitted(f"tx{attempt}")]]
        if chance.random() < 0.7:
            commits.append([confirmed(f"tx{attempt}")])
            break
        commits.append([attempt_failed(attempt, last=attempt == 3)])
    else:
        commits.append([OrderFailed(error=_failure("no_quote"), attempts=3)])
    return commits[: chance.randint(1, len(commits))] if chance.random() < 0.3 else commits


def appends(order_id: str, life: Life, *, client: str | None = "client-1", start_us: int = START_US) -> list[Append]:
    """The appends that record ``life``, to be made in this order; one event per millisecond."""
    found: list[Append] = []
    version, head = 0, ""
    for number, events in enumerate(life, 1):
        origin = Origin(actor="test", client=client, command=f"c{number}")
        sealed: list[SealedEvent] = []
        expected = (version, head)
        for event in events:
            version += 1
            at = format_time(start_us + version * 1000)
            sealed.append(seal(to_frame(event, order_id=order_id, seq=version, at=at, origin=origin), head))
            head = sealed[-1].hash
        found.append(
            Append(
                stream=order_id,
                expected_version=expected[0],
                expected_hash=expected[1],
                commit_id=f"{order_id}:{number}",
                events=tuple(sealed),
            )
        )
    return found


def interleaved(seed: int, orders: int) -> list[Append]:
    """The appends of ``orders`` random lives of several owners, in a random order that each order's own keeps."""
    chance = random.Random(seed)
    lives = [
        appends(stream_id(f"owner-{number % 7}"), random_life(chance), client=f"client-{number % 3}", start_us=START_US)
        for number in range(orders)
    ]
    queues = [list(reversed(life)) for life in lives]
    found: list[Append] = []
    while queues:
        queue = chance.choice(queues)
        found.append(queue.pop())
        if not queue:
            queues.remove(queue)
    return found


def second(order: str, head: str, fields: Mapping[str, object], prev: str | None = None) -> Append:
    """A second event for ``order``, of a type unknown to the projections."""
    frame = {"event": "note", "status": "pending", "orderId": order, "seq": 2, "at": "2027-01-15T08:00:01.000000Z"}
    sealed = seal({**frame, "meta": {"type": "Noted", "schema": 1}, **fields}, head if prev is None else prev)
    return Append(stream=order, expected_version=1, expected_hash=head, commit_id=f"{order}:2", events=(sealed,))
