"""Rebuilding from Redis: what it has is what counts, and the archive has the rest."""

import asyncio

import pytest

from eventstore.memory import MemoryEventStore
from projections.models.projection import Projection
from projections.models.registry import PROJECTIONS
from projections.rebuild.gate import ROW
from projections.rebuild.rebuilding import Rebuilt, Wanted, rebuild
from tests.conftest import contents, database, differences, execute, fill, filled, interleaved, project, total
from tests.integration.copies import Copies, on_copies

COMMITS = interleaved(seed=71, orders=12)


def rebuilt(url: str, store: MemoryEventStore | None, projection: Projection, *changed: str) -> Rebuilt:
    async def scenario() -> Rebuilt:
        async with database(url) as engine:
            return await rebuild(engine, projection, Wanted(changed=changed), hot=store)

    return asyncio.run(scenario())


@pytest.mark.parametrize("projection", PROJECTIONS.values(), ids=list(PROJECTIONS))
def test_both_copies_come_to_the_same_table_where_they_agree(database_url: str, projection: Projection) -> None:
    store = filled(COMMITS)
    project(database_url, store)
    before = contents(database_url)
    for hot in (store, None):
        done = rebuilt(database_url, hot, projection)
        assert done.compared is not None
        assert (done.orders, done.events, done.compared.rows) == (12, total(store), 0)
        assert contents(database_url) == before
    project(database_url, fill(store, interleaved(seed=72, orders=3)))
    assert differences(database_url, store) == []


def test_a_damaged_payload_of_the_archive_is_not_what_the_table_is_built_from(database_url: str) -> None:
    store = filled(COMMITS)
    project(database_url, store)
    right = contents(database_url)["orders"]
    execute(database_url, """UPDATE order_events SET payload = payload || '{"amount": "77"}' WHERE version = 1""")
    done = rebuilt(database_url, store, PROJECTIONS["orders"])
    assert done.compared is not None and done.compared.rows == 0
    rebuilt(database_url, None, PROJECTIONS["orders"], "*")
    assert contents(database_url)["orders"] != right
    rebuilt(database_url, store, PROJECTIONS["orders"], "*")
    assert contents(database_url)["orders"] == right


def test_a_life_of_which_redis_has_more_than_is_projected_counts_as_far_as_it_is(database_url: str) -> None:
    store = filled(COMMITS[:30])
    project(database_url, store)
    before = contents(database_url)
    fill(store, COMMITS[30:])
    rebuilt(database_url, store, PROJECTIONS["orders"])
    assert contents(database_url) == before


@pytest.mark.parametrize("name", PROJECTIONS)
def test_orders_that_have_left_redis_come_from_the_archive(redis_url: str, database_url: str, name: str) -> None:
    async def scenario(copies: Copies) -> None:
        left = await copies.confirmed(3)
        await copies.sweep()
        kept = await copies.confirmed(2)
        await copies.project()
        assert [await copies.is_hot(order) for order in [*left, *kept]] == [False] * 3 + [True] * 2
        before = contents(database_url)
        done = await rebuild(copies.engine, PROJECTIONS[name], hot=copies.hot)
        assert done.orders == 5
        assert contents(database_url) == before

    on_copies(redis_url, database_url, scenario)


def test_a_row_that_was_deleted_comes_back_from_redis(database_url: str) -> None:
    store = filled(COMMITS)
    project(database_url, store)
    before = contents(database_url)
    execute(database_url, "DELETE FROM orders WHERE id = (SELECT min(id) FROM orders)")
    done = rebuilt(database_url, store, PROJECTIONS["orders"], ROW)
    assert done.compared is not None and done.compared.columns == {ROW: 1}
    assert contents(database_url) == before
