"""Every read that the API makes goes through the index that was made for it, whatever the number of orders.

The statements are those that the code sends: they are overheard, and explained as they are.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import date
from typing import Any

import pytest
from msgspec import Struct
from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from projections.archive import events
from projections.database import reading
from projections.models.orders import PROJECTION as ORDERS
from projections.models.volumes import volumes
from projections.parking import held_orders, waiting_versions
from projections.projector.standing import read_trouble
from projections.queries import orders as queries
from tests.builders import stream_id
from tests.clocks import START_US
from tests.conftest import appends, database, execute, fill, market_life, memory_store, project

LIVES = 300
COPIES = 15
CLIENTS = 15
MULTIPLIED = f"""
INSERT INTO orders SELECT (json_populate_record(o, json_build_object(
    'id', o.id || '-' || n, 'created_at', o.created_at + n * interval '1 second'))).*
FROM orders o, generate_series(1, {COPIES}) n
"""
MULTIPLIED_EVENTS = f"""
INSERT INTO order_events (order_id, version, event, status, type, payload, created_at, partition, epoch, position,
    commit_id, hash, recorded_at)
SELECT order_id || '-' || n, version, event, status, type, payload, created_at, partition, epoch,
    position + n * (SELECT max(position) FROM order_events), commit_id, hash, recorded_at
FROM order_events, generate_series(1, {COPIES}) n
"""
MULTIPLIED_VOLUMES = """
INSERT INTO volumes SELECT (json_populate_record(v, json_build_object('day', v.day + n))).*
FROM volumes v, generate_series(1, 100) n
"""
VARIED = """
UPDATE orders SET idempotency_key = 'key-' || place.n, fingerprint = 'f',
    status = CASE WHEN place.n % 10 = 0 THEN 'failed' ELSE 'confirmed' END,
    quality = CASE WHEN place.n % 300 = 0 THEN 'incomplete' ELSE 'ok' END
FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM orders) AS place WHERE place.id = orders.id
"""
PARKED = """
INSERT INTO parked_events (projection, order_id, version, partition, position, recorded_at)
SELECT 'orders', order_id, version, partition, position, recorded_at FROM order_events
WHERE version > 5
"""


class Filled(Struct, frozen=True):
    """A database with orders of many clients, in every status."""

    url: str
    order_id: str
    """Of an order in the middle."""


Read = Callable[[AsyncEngine, str], Awaitable[object]]


def on_connection(read: Callable[[AsyncConnection, str], Awaitable[object]]) -> Read:
    async def run(engine: AsyncEngine, order_id: str) -> object:
        async with reading(engine) as connection:
            return await read(connection, order_id)

    return run


def volumes_of_a_client(connection: AsyncConnection, _: str) -> Awaitable[object]:
    by_day = select(volumes).where(volumes.c.client_id == "client-7", volumes.c.day >= date(2027, 1, 1))
    return connection.execute(by_day)


def listed(after: queries.Place | None = None, **wanted: Any) -> Read:
    found = queries.OrderFilter(**wanted)
    return lambda engine, _: queries.list_orders(engine, found, limit=50, after=after, scanned_max=60)


LATER = queries.Place(START_US + 5 * 10**6, "01ARZ3NDEKTSV4RRFFQ69G5FAV-03")

READS: dict[str, tuple[Read, set[str]]] = {
    "an order": (lambda engine, order: queries.get_order(engine, order), {"orders_pkey"}),
    "the newest orders": (lambda engine, _: queries.list_orders(engine, limit=100), {"orders_created"}),
    "a client's orders": (listed(client_id="client-7"), {"orders_client_created"}),
    "orders by status": (listed(statuses=("failed",)), {"orders_status_created"}),
    "orders of several statuses": (listed(statuses=("failed", "expired", "cancelled")), {"orders_status_created"}),
    "a client's orders by status": (
        listed(client_id="client-7", statuses=("failed",)),
        {"orders_client_status_created"},
    ),
    "a client's orders of several statuses": (
        listed(client_id="client-7", statuses=("failed", "confirmed")),
        {"orders_client_status_created"},
    ),
    "the orders of a time": (listed(created_from_us=START_US, created_to_us=START_US + 10**7), {"orders_created"}),
    "a later page": (listed(after=LATER), {"orders_created"}),
    "a later page of a client": (listed(after=LATER, client_id="client-7"), {"orders_client_created"}),
    "orders by pair": (listed(pair=("SOL", "USDC")), {"orders_created"}),
    "orders that no index leads to": (listed(asset="ETH", side="buy", type="limit"), {"orders_created"}),
    "a client's orders that no index leads to": (
        listed(client_id="client-7", statuses=("confirmed",), asset="ETH"),
        {"orders_client_status_created"},
    ),
    "an order's events": (
        on_connection(lambda connection, order: events.read_stream(connection, order)),
        {"order_events_pkey"},
    ),
    "a page of the log": (
        on_connection(lambda connection, _: events.read_log(connection, 1, 450, 50)),
        {"order_events_position_key", "order_events_pkey"},
    ),
    "a cursor's event": (
        on_connection(lambda connection, _: events.cursor_at(connection, 1, 450)),
        {"order_events_position_key"},
    ),
    "witnessed events": (
        on_connection(lambda connection, order: events.hashes(connection, [(order, 1), (order, 2)])),
        {"order_events_pkey"},
    ),
    "an idempotency key": (
        on_connection(lambda connection, _: events.find_key(connection, "client-7", "key-700")),
        {"orders_idempotency"},
    ),
    "orders that lack something": (
        on_connection(lambda connection, _: read_trouble(connection)),
        {"orders_quality", "parked_events_pkey"},
    ),
    "the parked events of an order": (
        on_connection(lambda connection, order: waiting_versions(connection, ORDERS.name, order)),
        {"parked_events_pkey"},
    ),
    "orders that stand still": (
        on_connection(lambda connection, order: held_orders(connection, ORDERS.name, [order])),
        {"parked_events_pkey"},
    ),
    "a client's volumes by day": (on_connection(volumes_of_a_client), {"volumes_client_day"}),
}
SMALL = {"leases"}
"""Tables with a row for each partition."""
SORTED_ROWS_MAX = 50
COUNTED = {"orders that lack something"}
"""Reads of a whole index of what is rare."""


@pytest.fixture(scope="module")
def many_orders(postgres_url: str, template_database: str) -> Iterator[Filled]:
    """Not to be changed: the tests of this module share it."""
    name = "query_plans"
    execute(postgres_url, f"CREATE DATABASE {name} TEMPLATE {template_database}")
    url = postgres_url.replace("/ordertape?", f"/{name}?")
    store = memory_store()
    ids = [stream_id(f"client-{number % CLIENTS}") for number in range(LIVES)]
    for number, order_id in enumerate(ids):
        fill(store, appends(order_id, market_life(), client=f"client-{number % CLIENTS}"))
    project(url, store)
    for statement in (MULTIPLIED, MULTIPLIED_EVENTS, MULTIPLIED_VOLUMES, VARIED, PARKED, "VACUUM ANALYZE"):
        execute(url, statement)
    yield Filled(url, ids[LIVES // 2])
    execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


async def plans_of(filled: Filled, read: Read) -> list[dict[str, Any]]:
    """The plans of the statements that ``read`` sends."""
    sent: list[tuple[str, Any]] = []
    async with database(filled.url) as engine, reading(engine) as connection:
        event.listen(engine.sync_engine, "before_cursor_execute", lambda *said: sent.append((said[2], said[3])))
        await read(engine, filled.order_id)
        statements = list(sent)
        assert statements
        return [
            (await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)).scalar_one()[0]
            for statement, parameters in statements
        ]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


@pytest.mark.parametrize("name", READS)
def test_reads_of_the_api_use_their_indexes(many_orders: Filled, name: str) -> None:
    read, indexes = READS[name]
    found = [node for plan in asyncio.run(plans_of(many_orders, read)) for node in nodes(plan["Plan"])]
    assert {node["Index Name"] for node in found if "Index Name" in node} == indexes
    assert [node["Relation Name"] for node in found if node["Node Type"] == "Seq Scan"] == [
        relation for relation in SMALL if name == "orders that lack something"
    ]
    sorts = [node for node in found if "Sort" in node["Node Type"] and node["Plan Rows"] > SORTED_ROWS_MAX]
    assert not sorts or name in COUNTED
