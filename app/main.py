"""The composition root: settings become stores, venues, workers, projectors and servers, and nothing else does that."""

import asyncio
import os
import secrets
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import metadata
from pathlib import Path
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.access.doors import AccessPolicy
from app.api.access.limits import AccessLimits
from app.api.access.start import require_guarded, require_keys
from app.api.application import Services, create_application
from app.api.orders.intake import OrderLimits
from app.api.server import Server, listen
from app.clock import Clock, SystemClock
from app.dashboard.pages import pages
from app.dex.chain import SimulatedChain
from app.dex.market import SLOT_MS
from app.dex.profile import Profile, profile_named
from app.dex.transaction import Wallet
from app.dex.venue import simulated_venues
from app.embedded import Servers, embedded_servers
from app.execution.coalesce import Observer, Shared
from app.execution.failpoints import Reach, unwatched
from app.execution.process import OrderProcess, ProcessSettings
from app.execution.quoting import Market, QuoteSettings, Quoting
from app.execution.scanner import Scanner, ScannerSettings
from app.execution.server_clock import ServerClock
from app.execution.streams import CLOSED, OrderStreams, duties
from app.execution.submission import Chain, Submission
from app.execution.triggers import Triggers
from app.execution.venues import AccessSettings, GuardedVenue
from app.execution.worker import Worker, WorkerSettings
from app.orders.lifecycle import TERMINAL
from app.settings import Settings
from eventstore.redis.connection import Pipeline
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from eventstore.store import EventStore
from projections.archive.archiver import Archiver, Retention
from projections.archive.epochs import SETTING
from projections.archive.healing import Obligations
from projections.archive.opening import attach_archived, open_archived, open_closed
from projections.archive.store import ArchivedEventStore
from projections.database import create_database_engine
from projections.projector.runner import Projector
from projections.rebuild.rebuilding import build_missing
from projections.schema.migrations import upgrade_schema

POLL_SECONDS: Final = 0.2
"""Time between two looks at the chain, at speed 1."""
POLL_SECONDS_MIN: Final = 0.005
SCAN_MS_MIN: Final = 50
REQUESTS_PER_SECOND: Final = 500
KEY_CONNECTIONS: Final = 500
ADDRESS_CONNECTIONS: Final = 1_000
SOCKET_MESSAGES_PER_SECOND: Final = 50
"""Of one key, key, address and socket, where keys are asked for and the settings say nothing else."""
_MILLION: Final = 1_000_000

OBLIGATIONS: Final = Obligations(duties=duties, terminal=TERMINAL)

Role = Callable[[Settings, Servers, asyncio.Event], Awaitable[None]]
"""A long-running part of the engine: works until the event is set, then drains and returns."""


@asynccontextmanager
async def servers(settings: Settings, on_end: Callable[[], None] = lambda: None) -> AsyncIterator[Servers]:
    """Yield the configured servers; what no URL names is embedded, and stops with the context.

    ``on_end`` is called when embedded servers end before that: close the context then, which tells why.

    Raises:
        EmbeddedError: an embedded server did not start.
    """
    if settings.redis_url is not None and settings.database_url is not None:
        yield Servers(settings.redis_url, settings.database_url)
        return
    data_dir, postgres = Path(settings.data_dir), settings.database_url is None
    async with embedded_servers(data_dir, postgres=postgres, on_end=on_end) as embedded:
        yield Servers(settings.redis_url or embedded.redis_url, settings.database_url or embedded.database_url)


async def open_hot_store(settings: Settings, redis_url: str, new_store_id: str | None = None) -> RedisEventStore:
    """Return the store at ``redis_url`` as it is: nothing is healed, and created only under ``new_store_id``.

    Close it at the end.

    Raises:
        EventStoreError: see :meth:`RedisEventStore.open`.
    """
    store_settings = StoreSettings(
        partitions=settings.partitions,
        level=settings.ack_level,
        namespace=settings.namespace,
        incarnation=None if settings.store_epoch is None else f"{SETTING}{settings.store_epoch}",
    )
    return await RedisEventStore.open(redis_url, store_settings, new_store_id=new_store_id)


async def open_store(settings: Settings, servers: Servers, database: AsyncEngine) -> ArchivedEventStore:
    """Return the event store on ``servers``, created if there is none, its partitions healed and open. Close it.

    Raises:
        EventStoreError, ProjectionError: see :func:`open_archived`.
    """
    hot = await open_hot_store(settings, servers.redis_url)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(hot.close)
        store = await open_archived(hot, database, OBLIGATIONS, settings.ack_level, new_store_id=uuid.uuid4().hex)
        stack.pop_all()
    return store


async def attach_store(settings: Settings, servers: Servers, database: AsyncEngine) -> ArchivedEventStore:
    """Return the event store on ``servers`` as it is, to be read: nothing is created, healed or opened. Close it.

    Raises:
        EventStoreError: see :meth:`RedisEventStore.open`; StoreEmptyError.
    """
    hot = await open_hot_store(settings, servers.redis_url)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(hot.close)
        store = await attach_archived(hot, database, OBLIGATIONS, settings.ack_level)
        stack.pop_all()
    return store


def open_database(servers: Servers, role: str) -> AsyncEngine:
    """Return an engine for the servers' database. Dispose of it at the end."""
    if servers.database_url is None:
        raise ValueError("these servers have no database")
    return create_database_engine(servers.database_url, application_name=f"ordertape {role}")


@asynccontextmanager
async def opened(
    settings: Settings, servers: Servers, role: str
) -> AsyncIterator[tuple[ArchivedEventStore, AsyncEngine]]:
    """Yield the event store and the database of a process, closed with the context; see :func:`open_store`."""
    database = open_database(servers, role)
    try:
        store = await open_store(settings, servers, database)
        try:
            yield store, database
        finally:
            await store.close()
    finally:
        await database.dispose()


def open_chain(settings: Settings, redis_url: str, profile: Profile | None = None) -> tuple[SimulatedChain, Pipeline]:
    """Return the simulated chain, and the connection under it, to be closed at the end.

    ``profile`` replaces the one that the settings name.
    """
    pipeline = Pipeline(settings.chain_redis_url or redis_url)
    chain = SimulatedChain(
        pipeline,
        seed=settings.seed,
        profile=profile or profile_named(settings.profile),
        speed_ppm=settings.speed_ppm,
        namespace=f"chain:{{{settings.namespace}}}",
    )
    return chain, pipeline


def build_streams(store: EventStore, clock: Clock, role: str, queue_max: int | None = None) -> OrderStreams:
    """Return the order streams as a process of this role writes them; for ``queue_max`` see :class:`OrderStreams`."""
    return OrderStreams(store, clock, secrets.token_bytes, f"{role}-{secrets.token_hex(2)}", queue_max=queue_max)


def build_worker(
    settings: Settings,
    store: EventStore,
    chain: Chain,
    clock: Clock,
    *,
    profile: Profile | None = None,
    reach: Reach = unwatched,
) -> Worker:
    """Return a worker on ``store`` and ``chain``.

    ``profile`` replaces the one that the settings name; ``reach`` is told each crash point that execution passes."""
    speed_ppm = settings.speed_ppm
    poll_seconds = max(POLL_SECONDS_MIN, POLL_SECONDS * _MILLION / speed_ppm if speed_ppm else 0)
    submission = Submission(
        chain=chain,
        blockhashes=Shared(chain.latest_blockhash, _gather),
        observer=Observer(chain.observe, clock, poll_seconds),
        wallet=Wallet(settings.seed),
        clock=clock,
        speed_ppm=speed_ppm,
        reach=reach,
    )
    profile = profile or profile_named(settings.profile)
    process = OrderProcess(
        store=store,
        streams=build_streams(store, clock, "worker"),
        venues=build_venues(settings, profile, clock),
        triggers=Triggers(chain, seed=settings.seed, profile=profile),
        slots=Shared(chain.slot, _gather),
        submission=submission,
        clock=clock,
        settings=ProcessSettings(
            seed=settings.seed,
            profile=profile,
            speed_ppm=speed_ppm,
            quote_timeout_ms=settings.quote_timeout_ms,
            task_ms=settings.task_ms,
            intent_level=settings.intent,
        ),
        reach=reach,
    )
    worker_settings = WorkerSettings(
        consumer=f"{os.getpid()}-{secrets.token_hex(4)}",
        concurrency=settings.concurrency,
        claim_idle_ms=settings.claim_idle_ms,
    )
    return Worker(store, process, clock, worker_settings)


def build_venues(settings: Settings, profile: Profile, clock: Clock) -> tuple[GuardedVenue, ...]:
    """Return the simulated venues as a worker asks them."""
    speed_ppm = settings.speed_ppm
    access = AccessSettings(
        concurrency=settings.venue_concurrency,
        failures_max=settings.venue_failures_max,
        open_us=settings.venue_open_ms * 1_000 * _MILLION // speed_ppm if speed_ppm else 0,
    )
    venues = simulated_venues(seed=settings.seed, profile=profile, clock=clock, speed_ppm=speed_ppm)
    return tuple(GuardedVenue(venue, clock, access) for venue in venues)


def build_scanner(
    settings: Settings, store: EventStore, chain: Chain, clock: Clock, *, profile: Profile | None = None
) -> Scanner:
    """Return a scanner of slots on ``store`` and ``chain``; ``profile`` replaces the one that the settings name."""
    speed_ppm, profile = settings.speed_ppm, profile or profile_named(settings.profile)
    return Scanner(
        store=store,
        streams=build_streams(store, clock, "scanner"),
        chain=chain,
        triggers=Triggers(chain, seed=settings.seed, profile=profile),
        clock=clock,
        settings=ScannerSettings(
            seed=settings.seed,
            profile=profile,
            scan_ms=max(SCAN_MS_MIN, SLOT_MS * _MILLION // speed_ppm if speed_ppm else 0),
        ),
    )


async def run_worker(settings: Settings, servers: Servers, stopping: asyncio.Event) -> None:
    """Execute orders until ``stopping`` is set; then finish those in hand."""
    async with opened(settings, servers, "worker") as (store, _):
        chain, chain_connection = open_chain(settings, servers.redis_url)
        try:
            # Timers fire by the server's clock, so what is written down for them is measured by it.
            clock = await ServerClock.agreed(lambda: store.hot.now_ms(0))
            async with asyncio.TaskGroup() as group:
                group.create_task(clock.run(stopping))
                group.create_task(build_scanner(settings, store, chain, clock).run(stopping))
                await build_worker(settings, store, chain, clock).run(stopping)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            await chain_connection.close()


async def run_api(settings: Settings, servers: Servers, stopping: asyncio.Event) -> None:
    """Answer clients until ``stopping`` is set; then tell them, and close.

    Raises:
        OSError: the address cannot be listened on.
        AccessError: everybody could use the API, or nobody.
    """
    require_guarded(settings.auth, settings.host)
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        store, database = await stack.enter_async_context(opened(settings, servers, "api"))
        chain, chain_connection = open_chain(settings, servers.redis_url)
        stack.push_async_callback(chain_connection.close)
        await require_keys(settings.auth, database)
        services = Services(
            store=store,
            streams=build_streams(store, clock, "api", settings.queue_max),
            database=database,
            clock=clock,
            version=metadata.version("ordertape"),
            orders=OrderLimits(
                client_per_minute=settings.client_orders_per_minute,
                per_minute=settings.orders_per_minute,
                key_required=settings.idempotency_key == "required",
            ),
            quoting=build_quoting(settings, chain, clock),
            access=access_policy(settings),
        )
        server = Server(create_application(services, pages()))
        await server.serve_until(stopping, listen(settings.host, settings.port))


def build_quoting(settings: Settings, chain: Market, clock: Clock) -> Quoting:
    """Return what gives quotes without orders, from venues of its own: workers are not held up, nor held back."""
    profile = profile_named(settings.profile)
    quote_settings = QuoteSettings(seed=settings.seed, profile=profile, timeout_ms=settings.quote_timeout_ms)
    return Quoting(build_venues(settings, profile, clock), chain, clock, quote_settings)


def access_policy(settings: Settings) -> AccessPolicy:
    """Return who may use the API, and how much one of them may ask for."""

    def limit(given: int | None, with_keys: int) -> int:
        return (with_keys if settings.auth == "keys" else 0) if given is None else given

    limits = AccessLimits(
        requests_per_second=limit(settings.requests_per_second, REQUESTS_PER_SECOND),
        key_connections=limit(settings.key_connections, KEY_CONNECTIONS),
        address_connections=limit(settings.address_connections, ADDRESS_CONNECTIONS),
        messages_per_second=limit(settings.socket_messages_per_second, SOCKET_MESSAGES_PER_SECOND),
    )
    return AccessPolicy(mode=settings.auth, allowed_origins=frozenset(settings.allowed_origins), limits=limits)


async def run_projector(settings: Settings, servers: Servers, stopping: asyncio.Event) -> None:
    """Bring the schema up to date, then project the log and archive what has ended, until ``stopping`` is set."""
    database = open_database(servers, "projector")
    try:
        await upgrade_schema(database)
    finally:
        await database.dispose()
    async with opened(settings, servers, "projector") as (store, database):
        await open_closed(store, database)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(Archiver(store, database, retention(settings)).run(stopping))
                group.create_task(build_missing(database, stopping))
                await Projector(store, database, on_fork=store.report_fork).run(stopping)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None


def retention(settings: Settings) -> Retention:
    """Return what stays in Redis, and for how long."""
    return Retention(
        index=CLOSED,
        terminal=TERMINAL,
        archive_seconds=settings.archive_seconds,
        log_window=settings.log_window,
    )


async def _gather() -> None:
    # One turn of the loop lets every caller that is ready now share the request.
    await asyncio.sleep(0)
