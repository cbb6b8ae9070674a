"""The audit on Valkey and PostgreSQL: clean while orders run, and every kind of tampering found with its rule."""

import asyncio
import json
import random
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest
from typer.testing import CliRunner

from app.audit.replay import replay
from app.audit.verify import Report
from app.cli.audit import audit
from app.clock import SystemClock
from app.main import build_worker, open_chain
from app.settings import Settings
from projections.errors import ReadModelMismatchError
from projections.projector.runner import Projector
from tests.conftest import execute
from tests.desk import FAILURES, LIVES, STOPS, Desk
from tests.integration.tampering import (
    Bench,
    add_a_task_for_nobody,
    add_an_event,
    break_the_text,
    change_a_log_entry,
    change_a_log_entrys_order,
    change_a_position,
    drop_a_log_entry,
    drop_an_event,
    drop_the_first_log_entry,
    drop_the_last_event,
    drop_the_last_log_entry,
    drop_the_stream,
    flip_a_byte,
    move_the_timer,
    on_bench,
    remove_the_task,
    remove_the_timer,
    remove_the_trigger,
    swap_two_events,
)

END_SECONDS: Final = 30


async def several_lives(bench: Bench, count: int = 30) -> list[str]:
    chance = random.Random(7)
    orders: list[str] = []
    for number in range(count):
        trader = Desk(bench.store, SystemClock(), seed=number)
        trader.tasks = bench.desk.tasks
        failures = [chance.choice(FAILURES) for _ in range(chance.randrange(3))]
        orders.append(await trader.live([*failures, chance.choice(STOPS)], chance.choice(["buy", "sell"])))
    return orders


def test_a_projected_store_is_clean_in_both_copies(redis_url: str, database_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        orders = await several_lives(bench)
        orders += [await bench.desk.live(plot, "buy", kind) for kind, plot in LIVES.values()]
        await bench.project()
        # What the projector has not reached is no finding either.
        orders += await several_lives(bench, 5)
        report = await bench.verify()
        assert report.findings == ()
        assert (report.orders, report.both_copies) == (len(orders), True)
        assert report.events == sum(part.position for part in await bench.store.status())
        assert (await bench.verify(*orders)).findings == ()
        assert [(await replay(bench.store, order_id)).findings for order_id in orders] == [()] * len(orders)

    on_bench(redis_url, scenario, database_url)


def test_running_orders_and_a_running_projector_are_no_findings(redis_url: str, database_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        settings = Settings(namespace=bench.namespace, speed_ppm=0)
        chain, connection = open_chain(settings, redis_url)
        assert bench.engine is not None
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(build_worker(settings, bench.store, chain, SystemClock()).run(stopping))
            group.create_task(Projector(bench.store, bench.engine).run(stopping))
            reports: list[Report] = []
            for _ in range(6):
                for _ in range(15):
                    await bench.desk.live(["accepted"])
                reports.append(await bench.verify())
            async with asyncio.timeout(END_SECONDS):
                while sum(part.tasks + part.timers + part.waiting for part in await bench.store.status()):
                    reports.append(await bench.verify())
            stopping.set()
        await connection.close()
        reports.append(await bench.verify())
        assert [finding for report in reports for finding in report.findings] == []
        assert reports[-1].orders == 90

    on_bench(redis_url, scenario, database_url)


Tamper = Callable[[Bench, str], Awaitable[None]]

TAMPERINGS: Final[list[tuple[Tamper, str, set[str]]]] = [
    (flip_a_byte, "confirmed", {"chain", "log_differs"}),
    (break_the_text, "confirmed", {"chain", "readable", "log_differs"}),
    (change_a_position, "confirmed", {"density", "log_differs"}),
    (drop_the_last_event, "confirmed", {"stream_missing"}),
    (drop_an_event, "confirmed", {"stream_missing", "density", "chain", "lifecycle"}),
    (drop_the_stream, "confirmed", {"stream_missing"}),
    (swap_two_events, "confirmed", {"chain", "identity", "log_differs"}),
    (add_an_event, "confirmed", {"chain", "identity", "lifecycle", "density"}),
    (change_a_log_entry, "confirmed", {"log_differs"}),
    (change_a_log_entrys_order, "confirmed", {"log_entry", "log_missing"}),
    (drop_a_log_entry, "confirmed", {"log_density", "log_missing"}),
    (drop_the_first_log_entry, "confirmed", {"log_start"}),
    (drop_the_last_log_entry, "confirmed", {"log_end"}),
    (remove_the_task, "submitted", {"obligation"}),
    (remove_the_timer, "no_quote", {"obligation"}),
    (move_the_timer, "no_quote", {"obligation"}),
    (add_a_task_for_nobody, "confirmed", {"unknown_order"}),
]


@pytest.mark.parametrize("tamper,outcome,rules", TAMPERINGS, ids=[tamper.__name__ for tamper, *_ in TAMPERINGS])
def test_tampering_with_the_streams_is_found(redis_url: str, tamper: Tamper, outcome: str, rules: set[str]) -> None:
    async def scenario(bench: Bench) -> None:
        other = await bench.desk.live(["expired", "confirmed"])
        order_id = await bench.desk.live([outcome])
        assert await bench.rules() == set()
        await tamper(bench, order_id)
        found = (await bench.verify()).findings
        assert rules <= {finding.rule for finding in found}, found
        log_findings = {finding for finding in found if finding.order_id == other and finding.rule == "log_missing"}
        assert {finding for finding in found if finding.order_id == other} == log_findings
        if tamper is not drop_the_stream:
            alone = (await bench.verify(order_id)).findings
            by_log = {"stream_missing", "log_differs"}
            assert {f.rule for f in found if f.order_id == order_id} - by_log <= {f.rule for f in alone}

    on_bench(redis_url, scenario)


def test_a_resting_order_that_is_not_in_the_index_of_its_trigger_is_found(redis_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        order_id = await bench.desk.live(["rest"], "sell", "limit")
        assert await bench.rules() == set()
        await remove_the_trigger(bench, order_id)
        assert await bench.rules() == await bench.rules(order_id) == {"obligation"}

    on_bench(redis_url, scenario)


def test_everything_around_several_holes_in_the_log_is_still_compared(redis_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        orders = [await bench.desk.live(["confirmed"]) for _ in range(40)]
        key = bench.key(orders[0], "log")
        entries = await bench.entries(key)
        holes = {17, 18, 60, 199 - 1}
        for index in holes:
            await bench.redis.xdel(key, entries[index][0])
        await flip_a_byte(bench, orders[25])
        found = (await bench.verify()).findings
        assert [finding.rule for finding in found if finding.partition is not None] == ["log_density"] * 3
        assert {finding.order_id for finding in found if finding.rule == "chain"} == {orders[25]}
        assert sum(finding.rule == "log_missing" for finding in found) == sum(
            entries[index][1][b"events"].count(b"\n") + 1 for index in holes
        )

    on_bench(redis_url, scenario)


def test_a_log_whose_beginning_is_archived_is_clean_and_without_the_archive_it_is_not(
    redis_url: str, database_url: str
) -> None:
    async def scenario(bench: Bench) -> None:
        order_id = await bench.desk.live(["confirmed"])
        await bench.desk.live(["expired", "submitted"])
        engine = await bench.project()
        await drop_the_first_log_entry(bench, order_id)
        assert await bench.rules() == set()
        assert await bench.rules(order_id) == set()
        bench.engine = None
        assert await bench.rules() == {"log_start"}
        bench.engine = engine
        execute(database_url, "DELETE FROM order_events WHERE order_id = %s AND version = 1", order_id)
        assert "log_start" in await bench.rules()

    on_bench(redis_url, scenario, database_url)


SQL: Final[list[tuple[str, set[str]]]] = [
    ("UPDATE orders SET status = 'failed' WHERE id = %s", {"row"}),
    ("UPDATE orders SET amount_out = amount_out + 1 WHERE id = %s", {"row"}),
    ("DELETE FROM orders WHERE id = %s", {"row"}),
    ("UPDATE order_events SET payload = jsonb_set(payload, '{seq}', '9') WHERE order_id = %s", {"archive"}),
    ("UPDATE order_events SET hash = 'ff' WHERE order_id = %s AND version = 2", {"archive"}),
    ("DELETE FROM order_events WHERE order_id = %s AND version = 3", {"archive", "archive_density"}),
    ("UPDATE order_events SET position = position + 100 WHERE order_id = %s", {"archive", "archive_density"}),
    ("UPDATE checkpoints SET anchor = 'ffffffff' WHERE position > 0 AND %s <> ''", {"checkpoint"}),
    ("UPDATE checkpoints SET position = position + 1 WHERE position > 0 AND %s <> ''", {"checkpoint"}),
]


@pytest.mark.parametrize("statement,rules", SQL, ids=[statement[:50] for statement, _ in SQL])
def test_tampering_with_postgresql_is_found(redis_url: str, database_url: str, statement: str, rules: set[str]) -> None:
    async def scenario(bench: Bench) -> None:
        order_id = await bench.desk.live(["confirmed"])
        await bench.desk.live(["expired", "submitted"])
        await bench.project()
        assert await bench.rules() == set()
        execute(database_url, statement, order_id)
        assert rules <= await bench.rules()
        if rules & {"row", "archive"}:
            assert await bench.rules(order_id) >= rules & {"row", "archive"}

    on_bench(redis_url, scenario, database_url)


def test_an_order_that_only_postgresql_has_is_found(redis_url: str, database_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.desk.live(["confirmed"])
        await bench.project()
        execute(
            database_url,
            "INSERT INTO orders SELECT * FROM jsonb_populate_record(NULL::orders, "
            "(SELECT jsonb_set(to_jsonb(o), '{id}', to_jsonb('7' || substr(id, 2))) FROM orders o))",
        )
        assert await bench.rules() == {"row"}

    on_bench(redis_url, scenario, database_url)


def test_an_unreadable_stream_does_not_hide_what_is_wrong_with_other_orders(redis_url: str, database_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        other = await bench.desk.live(["confirmed"])
        order_id = await bench.desk.live(["confirmed"])
        await bench.project()
        await break_the_text(bench, order_id)
        execute(database_url, "UPDATE orders SET venue = 'orca' WHERE id = %s", other)
        found = {(finding.rule, finding.order_id) for finding in (await bench.verify()).findings}
        assert {("readable", order_id), ("row", other)} <= found

    on_bench(redis_url, scenario, database_url)


def test_the_database_of_another_store_is_refused(redis_url: str, database_url: str) -> None:
    async def fill(bench: Bench) -> None:
        await bench.desk.live(["confirmed"])
        await bench.project()

    async def scenario(bench: Bench) -> None:
        order_id = await bench.desk.live(["confirmed"])
        with pytest.raises(ReadModelMismatchError):
            await bench.verify()
        with pytest.raises(ReadModelMismatchError):
            await bench.verify(order_id)

    on_bench(redis_url, fill, database_url)
    on_bench(redis_url, scenario, database_url)


@pytest.fixture
def namespace(redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The namespace of a store that the command line finds through its environment."""
    name = f"a{secrets.token_hex(5)}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("ORDERTAPE_NAMESPACE", name)
    return name


def test_the_commands_exit_with_0_when_clean_1_on_findings_and_2_when_they_cannot_run(
    redis_url: str, database_url: str, namespace: str
) -> None:
    orders: list[str] = []

    async def fill(bench: Bench) -> None:
        orders.append(await bench.desk.live(["expired", "confirmed"]))
        await bench.project()

    async def tamper(bench: Bench) -> None:
        await flip_a_byte(bench, orders[0])

    commands = CliRunner()
    on_bench(redis_url, fill, database_url, namespace)
    (order,) = orders
    told = commands.invoke(audit, ["replay", order])
    assert told.exit_code == 0, told.output
    assert told.stdout.count("hash ok") == 11
    assert "bps better than" in told.stdout
    assert "paid 1.5 SOL" in told.stdout
    early = json.loads(commands.invoke(audit, ["replay", order, "--as-of", "4", "--json"]).stdout)
    assert (early["state"]["status"], early["seq"], early["lastSeq"]) == ("building", 4, 11)
    clean = commands.invoke(audit, ["verify"])
    assert (clean.exit_code, clean.stdout.startswith("clean: 1 orders, 11 events")) == (0, True)
    beyond = commands.invoke(audit, ["replay", order, "--as-of", "12"])
    assert (beyond.exit_code, beyond.stdout) == (2, "")
    assert "ends at seq 11" in beyond.stderr
    unknown = commands.invoke(audit, ["replay", f"7{order[1:]}"])
    assert (unknown.exit_code, "holds no order" in unknown.stderr) == (2, True)
    assert commands.invoke(audit, ["verify", f"7{order[1:]}"]).exit_code == 2
    assert commands.invoke(audit, ["replay", order, "--as-of", "0"]).exit_code == 2
    on_bench(redis_url, tamper, None, namespace)
    broken = commands.invoke(audit, ["replay", order])
    assert (broken.exit_code, broken.stdout.count("BROKEN")) == (1, 1)
    report = commands.invoke(audit, ["verify", "--json"])
    assert report.exit_code == 1
    assert ("chain", 3) in {(found["rule"], found.get("seq")) for found in json.loads(report.stdout)["findings"]}


def test_a_database_that_is_down_means_that_the_audit_cannot_run(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    refused = CliRunner().invoke(audit, ["verify"])
    assert (refused.exit_code, "PostgreSQL cannot be used" in refused.stderr) == (2, True)
