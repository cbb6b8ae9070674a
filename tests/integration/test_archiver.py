"""Closed orders leave Redis for PostgreSQL, proven and unnoticed; the log is trimmed behind its readers."""

import logging
import random
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import text

from app.audit.replay import replay
from app.audit.verify import verify
from app.clock import SystemClock
from app.execution.streams import CLOSED
from app.orders.state import Terminal
from eventstore.ids import LOG_START, Cursor, partition_in
from projections.archive.archiver import PAGE_STREAMS, Archiver
from projections.diff import diff
from tests.conftest import execute
from tests.desk import FAILURES, STOPS
from tests.integration.api import running
from tests.integration.copies import Copies, finish, on_copies, placing, retention

WAIT_SECONDS = 20
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
GRACE_SECONDS = 120

Tamper = Callable[[Copies, str], Awaitable[None]]


async def everything_read(copies: Copies, orders: list[str]) -> dict[str, object]:
    """All that readers are told, byte for byte."""
    found: dict[str, object] = {"diff": await diff(copies.store, copies.engine)}
    report = await verify(copies.store, copies.engine, SystemClock().now_us)
    found["verify"] = (report.findings, report.orders, report.events)
    for number in range(copies.store.partitions):
        commits = await copies.store.read_log({number: LOG_START}, 1000)
        found[f"log {number}"] = commits
        for commit in commits:
            found[f"log after {commit.end}"] = await copies.store.read_log({number: commit.end}, 3)
    async with running(copies.store, copies.engine.url.render_as_string(hide_password=False)) as api:
        for order in orders:
            events = await copies.store.read_stream(order)
            found[order] = (events, await copies.store.read_stream(order, 2, 2), await replay(copies.store, order))
            paths = [f"/api/orders/{order}", f"/api/orders/{order}/events"]
            paths += [f"/api/orders/{order}/events?after={event.cursor}" for event in events]
            for path in paths:
                answer = await api.http.get(path)
                found[path] = (answer.status_code, answer.content)
    return found


@pytest.mark.parametrize("seed", [2, 3])
def test_every_read_gives_the_same_before_and_after_a_sweep(redis_url: str, database_url: str, seed: int) -> None:
    async def scenario(copies: Copies) -> None:
        chance = random.Random(seed)
        orders = []
        for _ in range(8):
            plot = [*chance.choices(FAILURES, k=chance.randrange(3)), chance.choice(STOPS)]
            copies.desk.owner = chance.choice(["owner", "somebody"])
            orders.append(await copies.desk.live(plot))
        await copies.project()
        ended = [order for order in orders if isinstance((await copies.desk.streams.load(order)).state, Terminal)]
        before = await everything_read(copies, orders)

        swept = await copies.sweep(log_window=chance.randrange(5))

        assert swept.removed == len(ended) > 0
        assert swept.trimmed > 0
        assert {order for order in orders if await copies.is_hot(order)} == set(orders) - set(ended)
        after = await everything_read(copies, orders)
        assert before["diff"] == []
        assert before["verify"][0] == ()  # type: ignore[index]
        for name, value in before.items():
            assert after[name] == value, name
        assert (await copies.archiver.sweep()).removed == 0

    on_copies(redis_url, database_url, scenario)


def test_nothing_of_an_archived_order_stays_in_redis(redis_url: str, database_url: str) -> None:
    async def scenario(copies: Copies) -> None:
        streams = copies.desk.streams
        order = streams.new_order_id("owner", "key")
        await streams.place(order, "client", placing("key"))
        await finish(copies, [order])
        assert (await copies.sweep()).removed == 1

        keys = {key.decode().rpartition("}:")[2] async for key in copies.redis.scan_iter(f"*{copies.namespace}*")}
        assert keys == {"meta", "tasks", "log"}
        assert await copies.redis.xlen(copies.key(order, "tasks")) == 0
        assert await copies.redis.xlen(copies.key(order, "log")) == 1

    on_copies(redis_url, database_url, scenario)


def test_an_open_order_and_one_in_its_grace_period_stay(redis_url: str, database_url: str) -> None:
    async def scenario(copies: Copies) -> None:
        (early,) = await copies.confirmed(1)
        index = copies.key(early, CLOSED)
        now_ms = await copies.hot.now_ms(partition_in(early))
        await copies.redis.zadd(index, {early: now_ms - GRACE_SECONDS * 1000 + 60_000})
        (late,) = await copies.confirmed(1)
        await copies.redis.zadd(index, {late: now_ms - GRACE_SECONDS * 1000 - 1})
        open_order = await copies.desk.live(["submitted"])
        await copies.project()

        assert (await copies.archiver.sweep()).removed == 1

        assert [await copies.is_hot(order) for order in (early, late, open_order)] == [True, False, True]

    on_copies(redis_url, database_url, scenario)


async def claim_an_open_order_ended(copies: Copies, order: str) -> None:
    streams = copies.desk.streams
    await copies.redis.zrem(copies.key(order, CLOSED), order)
    other = await copies.desk.live(["submitted"])
    await copies.redis.zadd(copies.key(other, CLOSED), {other: 1})
    assert (await streams.load(other)).version > 0


async def change_redis(copies: Copies, order: str) -> None:
    key = copies.key(order)
    entries = await copies.redis.xrange(key)
    await copies.redis.delete(key)
    for entry_id, fields in entries:
        fields[b"event"] = fields[b"event"].replace(b'"fee":"0.003"', b'"fee":"0.004"')
        await copies.redis.xadd(key, fields, id=entry_id)


async def break_redis(copies: Copies, order: str) -> None:
    key = copies.key(order)
    ((entry_id, _),) = await copies.redis.xrevrange(key, count=1)
    await copies.redis.delete(key)
    await copies.redis.xadd(key, {"no": "event"}, id=entry_id)


async def renumber_redis(copies: Copies, order: str) -> None:
    key = copies.key(order)
    entries = await copies.redis.xrange(key)
    await copies.redis.delete(key)
    for entry_id, fields in entries:
        await copies.redis.xadd(key, {**fields, b"commit": b"another"}, id=entry_id)


async def shorten_redis(copies: Copies, order: str) -> None:
    ((entry_id, _),) = await copies.redis.xrevrange(copies.key(order), count=1)
    await copies.redis.xdel(copies.key(order), entry_id)


async def in_postgres(copies: Copies, statement: str, order: str) -> None:
    async with copies.engine.begin() as connection:
        assert (await connection.execute(text(statement), {"id": order})).rowcount > 0


async def change_postgres(copies: Copies, order: str) -> None:
    changed = """payload = jsonb_set(payload, '{meta,actor}', '"another"')"""
    await in_postgres(copies, f"UPDATE order_events SET {changed} WHERE order_id = :id AND version = 3", order)


async def shorten_postgres(copies: Copies, order: str) -> None:
    await in_postgres(copies, "DELETE FROM order_events WHERE order_id = :id AND version = 6", order)


async def change_both(copies: Copies, order: str) -> None:
    key = copies.key(order)
    entries = await copies.redis.xrange(key)
    await copies.redis.delete(key)
    for entry_id, fields in entries:
        fields[b"event"] = fields[b"event"].replace(b'"actor":"test"', b'"actor":"another"')
        await copies.redis.xadd(key, fields, id=entry_id)
    changed = """payload = jsonb_set(payload, '{meta,actor}', '"another"')"""
    await in_postgres(copies, f"UPDATE order_events SET {changed} WHERE order_id = :id", order)


async def lose_both(copies: Copies, order: str) -> None:
    await copies.redis.delete(copies.key(order))
    await in_postgres(copies, "DELETE FROM order_events WHERE order_id = :id", order)


async def change_the_key(copies: Copies, order: str) -> None:
    statement = "UPDATE orders SET idempotency_key = 'another', fingerprint = 'f' WHERE id = :id"
    await in_postgres(copies, statement, order)


async def drop_the_row(copies: Copies, order: str) -> None:
    await in_postgres(copies, "DELETE FROM orders WHERE id = :id", order)


async def misname(copies: Copies, order: str) -> None:
    index = copies.key(order, CLOSED)
    await copies.redis.zrem(index, order)
    await copies.redis.zadd(index, {"nobody": 1})


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (change_redis, "is not the same in both copies: data"),
        (renumber_redis, "is not the same in both copies: commit_id"),
        (break_redis, "cannot be read"),
        (shorten_redis, "Redis has 5 events, PostgreSQL 6"),
        (change_postgres, "version 3 is not the same in both copies: data"),
        (shorten_postgres, "Redis has 6 events, PostgreSQL 5"),
        (change_both, "does not match its hash"),
        (lose_both, "neither copy has an event of it"),
        (change_the_key, "its row in PostgreSQL is not what its events say"),
        (drop_the_row, "its row in PostgreSQL is not what its events say"),
        (claim_an_open_order_ended, "its status is submitted"),
        (misname, "is not an order id"),
    ],
)
def test_an_order_that_is_not_proven_stays_is_told_once_and_stops_no_other(
    redis_url: str, database_url: str, caplog: pytest.LogCaptureFixture, tamper: Tamper, reason: str
) -> None:
    async def scenario(copies: Copies) -> None:
        order, other = await copies.confirmed(2)
        await copies.project()
        await tamper(copies, order)
        await copies.project()
        await copies.age()
        held = await copies.redis.xrange(copies.key(order))

        with caplog.at_level(logging.ERROR):
            swept = await copies.archiver.sweep()
            assert (await copies.archiver.sweep()).removed == 0

        assert swept.removed == 1
        assert not await copies.is_hot(other)
        assert await copies.redis.xrange(copies.key(order)) == held
        assert await copies.redis.zcard(copies.key(order, CLOSED)) == 1
        told = [record for record in caplog.records if record.message == "order_not_archived"]
        assert [reason in vars(record)["reason"] for record in told] == [True]

    on_copies(redis_url, database_url, scenario)


def test_more_unproven_orders_than_a_page_holds_do_not_hold_up_those_behind(redis_url: str, database_url: str) -> None:
    async def scenario(copies: Copies) -> None:
        damaged = await copies.confirmed(PAGE_STREAMS + 5)
        await copies.project()
        for order in damaged:
            await copies.redis.zadd(copies.key(order, CLOSED), {order: 1})
            await drop_the_row(copies, order)
        (behind,) = await copies.confirmed(1)

        assert (await copies.sweep()).removed == 1

        assert not await copies.is_hot(behind)

    on_copies(redis_url, database_url, scenario)


def test_what_is_not_projected_stays_until_it_is(
    redis_url: str, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(copies: Copies) -> None:
        await copies.confirmed(2)
        await copies.age()

        assert (await copies.archiver.sweep()).removed == 0
        assert caplog.records == []
        await copies.project()
        assert (await copies.archiver.sweep()).removed == 2

    on_copies(redis_url, database_url, scenario)


def test_the_log_keeps_its_window_and_the_entry_of_the_checkpoint(redis_url: str, database_url: str) -> None:
    async def scenario(copies: Copies) -> None:
        (order,) = await copies.confirmed(1)
        await copies.confirmed(3)
        await copies.project()
        number = partition_in(order)
        commits = await copies.store.read_log({number: LOG_START}, 100)
        slow, end = commits[3].end, commits[-1].end

        async def set_checkpoint(at: Cursor) -> None:
            place = f"epoch = {at.epoch}, position = {at.position}, anchor = '{at.anchor}'"
            async with copies.engine.begin() as connection:
                await connection.execute(text(f"UPDATE checkpoints SET {place} WHERE partition = {number}"))

        await set_checkpoint(slow)
        assert (await copies.archiver.sweep()).trimmed == 3
        assert await copies.hot.log_start(number) == commits[3].position - len(commits[3].events) + 1
        assert await copies.hot.read_log({number: slow}, 1) == [commits[4]]
        assert (await copies.archiver.sweep()).trimmed == 0

        await set_checkpoint(end)
        await Archiver(copies.store, copies.engine, retention(log_window=5)).sweep()
        assert end.position - 6 <= await copies.hot.log_start(number) <= end.position - 5
        await copies.archiver.sweep()
        assert await copies.redis.xlen(copies.key(order, "log")) == 1
        await copies.desk.live(["confirmed"])
        await copies.project()
        assert await diff(copies.store, copies.engine) == []

    on_copies(redis_url, database_url, scenario)


def test_a_log_that_is_not_postgresqls_is_not_trimmed(
    redis_url: str, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(copies: Copies) -> None:
        (order,) = await copies.confirmed(1)
        await copies.project()
        await in_postgres(copies, "UPDATE order_events SET hash = repeat('0', 64) WHERE order_id = :id", order)

        assert await copies.archiver.sweep() == await copies.archiver.sweep()

        assert await copies.hot.log_start(partition_in(order)) == 1
        assert [record.message for record in caplog.records] == ["log_not_trimmed"]

    on_copies(redis_url, database_url, scenario)


def test_a_closed_partition_is_opened_before_anything_leaves_it(redis_url: str, database_url: str) -> None:
    async def scenario(copies: Copies) -> None:
        (order,) = await copies.confirmed(1)
        await copies.project()
        await copies.redis.hset(copies.key(order, "meta"), "incarnation", "another")

        assert (await copies.sweep()).removed == 1

        assert (await copies.hot.partition_record(partition_in(order))).is_open
        assert not await copies.is_hot(order)

    on_copies(redis_url, database_url, scenario)


def test_a_forked_partition_is_left_alone(redis_url: str, database_url: str) -> None:
    async def scenario(copies: Copies) -> None:
        (order,) = await copies.confirmed(1)
        await copies.project()
        execute(database_url, "UPDATE checkpoints SET anchor = '00000000' WHERE partition = %s", partition_in(order))
        await copies.redis.hset(copies.key(order, "meta"), "incarnation", "another")

        swept = await copies.sweep()

        assert (swept.removed, swept.trimmed) == (0, 0)
        assert await copies.is_hot(order)

    on_copies(redis_url, database_url, scenario)
