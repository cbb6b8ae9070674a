"""The examinations: a quick one at every start, and a whole one, which also looks at open orders."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from app.audit.doctor.errors import UnfitError
from app.audit.doctor.facts import Facts, OrderFacts, gather
from app.audit.doctor.findings import Finding
from app.audit.doctor.rules import judge
from app.audit.duties import unmet_obligations
from app.clock import SystemClock
from app.embedded import Servers
from app.orders.lifecycle import TERMINAL
from app.settings import Settings
from eventstore.ids import partition_in
from eventstore.levels import MEMORY
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from eventstore.store import EventStore
from projections.schema.inspection import open_orders, projection_trouble

ORDERS_MAX: Final = 10_000
"""Most open orders that one examination looks at."""
MENDED_BY_STARTING: Final = frozenset({"schema-behind", "store-incomplete"})
"""A start migrates the schema, and heals partitions; an empty Redis it refuses, since a wrong URL looks the same."""


async def examine_all(settings: Settings, servers: Servers) -> list[Finding]:
    """Return every finding about ``servers``, the worst first.

    Reads, and where WAITAOF is worth a probe writes one key that expires. Orders are looked at where Redis and
    PostgreSQL hold one store that fits the settings.

    Raises:
        StoreUnavailableError, DATABASE_OUTAGES: a server cannot be reached.
        DamagedEntryError: an order cannot be read. Run ``ordertape audit verify``.
    """
    facts = await gather(settings, servers, SystemClock().now_us)
    if servers.database_url is not None and _has_orders(facts):
        facts = replace(facts, orders=await _orders(settings, servers.redis_url, servers.database_url))
    return judge(facts)


async def fatal_findings(settings: Settings, servers: Servers) -> list[Finding]:
    """Return why nothing may be started on ``servers``; empty where everything may.

    Takes some 100 ms, and 2 to 5 s where a level rests on WAITAOF, which is probed then. A PostgreSQL that is away is
    no reason, nor is what a start mends by itself (:data:`MENDED_BY_STARTING`); orders are not looked at.

    Raises:
        StoreUnavailableError: Redis cannot be reached. Back off and retry.
    """
    facts = await gather(settings, servers, SystemClock().now_us, is_start=True)
    return [each for each in judge(facts) if each.severity == "fatal" and each.id not in MENDED_BY_STARTING]


async def require_fit(settings: Settings, servers: Servers) -> None:
    """Return if the engine may be started on ``servers``.

    Raises:
        UnfitError: it may not; the message names each reason and what mends it.
        StoreUnavailableError: Redis cannot be reached. Back off and retry.
    """
    found = await fatal_findings(settings, servers)
    if found:
        raise UnfitError(found)


def _has_orders(facts: Facts) -> bool:
    """Return whether Redis and PostgreSQL hold one store that the settings fit, of a schema that this code works on."""
    database, records = facts.database, facts.redis.records
    if database is None or database.store is None:
        return False
    if database.schema != database.schemas_known[0] and not database.is_later:
        return False
    return database.store[1] == facts.wanted.partitions and all(
        record is not None and (record.store_id, record.partitions) == database.store for record in records
    )


async def _orders(settings: Settings, redis_url: str, database_url: str) -> OrderFacts:
    found = await open_orders(database_url, TERMINAL, ORDERS_MAX + 1)
    orders = found[:ORDERS_MAX]
    # Nothing is appended through this store, so it needs neither a level nor the identity of the server's data.
    reading = StoreSettings(
        partitions=settings.partitions, namespace=settings.namespace, level=MEMORY, incarnation="doctor"
    )
    store = await RedisEventStore.open(redis_url, reading, new_store_id=None)
    try:
        parked = [task for task in await store.list_parked() if task.skipped_reason is None]
        stuck = await _stuck(store, orders)
    finally:
        await store.close()
    trouble = await projection_trouble(database_url)
    return OrderFacts(
        checked=len(orders),
        stuck=len(stuck),
        is_sample=len(found) > len(orders),
        parked=len(parked),
        quarantined=trouble.quarantined,
        stopped=tuple(trouble.stopped),
    )


async def _stuck(store: EventStore, orders: Iterable[str]) -> set[str]:
    """Return those of ``orders`` that nothing will move on."""
    by_partition: dict[int, list[str]] = defaultdict(list)
    for order_id in orders:
        by_partition[partition_in(order_id)].append(order_id)
    stuck: set[str] = set()
    for partition, order_ids in by_partition.items():
        unmet = await unmet_obligations(store, partition, order_ids)
        stuck.update(each.order_id for each in unmet if each.order_id is not None)
    return stuck
