"""The doctor on real servers: fit ones pass, each thing wrong with others is found, and nothing is created."""

import asyncio
import json
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.audit.doctor.checkup import ORDERS_MAX, examine_all, fatal_findings, require_fit
from app.audit.doctor.errors import UnfitError
from app.audit.doctor.findings import Finding
from app.cli.main import app
from app.clock import SystemClock
from app.embedded import Servers
from app.settings import Settings
from eventstore.errors import StoreUnavailableError
from eventstore.levels import FSYNC, MEMORY, WITNESSED
from eventstore.redis.inspection import inspect_redis
from eventstore.redis.opening import StoreSettings
from projections.schema.inspection import inspect_database, open_orders
from tests.conftest import database_at, execute
from tests.integration.tampering import Bench, on_bench, remove_the_task
from tests.servers.cluster import redis_cluster
from tests.servers.replicas import master_with_replicas
from tests.servers.single import redis_server

NOTES = {"redis-version", "waitaof-probe", "postgres-version", "orders-checked"}
NOWHERE = "127.0.0.1:1"
HIDDEN = {"rename_command": 'CONFIG ""'}


def named(**settings: object) -> Settings:
    # Of a configured server, as its URL would say; what that URL is, the tests hand over by themselves.
    return Settings(**{"namespace": f"d{secrets.token_hex(5)}", "redis_url": "redis://", **settings})  # type: ignore[arg-type]


async def examined(settings: Settings, redis_url: str, database_url: str) -> list[Finding]:
    return await examine_all(settings, Servers(redis_url, database_url))


def found(settings: Settings, redis_url: str, database_url: str) -> dict[str, Finding]:
    """What is found beside the usual notes, by id."""
    findings = asyncio.run(examined(settings, redis_url, database_url))
    return {each.id: each for each in findings if each.id not in NOTES}


def severities(findings: dict[str, Finding]) -> dict[str, str]:
    return {name: each.severity for name, each in findings.items()}


def fatal(settings: Settings, redis_url: str, database_url: str) -> list[str]:
    return [each.id for each in asyncio.run(fatal_findings(settings, Servers(redis_url, database_url)))]


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command as a person runs it, in a directory without `.env`."""
    monkeypatch.chdir(tmp_path)

    def run(redis_url: str, database_url: str, *options: str, **environment: str) -> Result:
        servers = {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "ORDERTAPE_DATA_DIR": str(tmp_path)}
        return CliRunner().invoke(app, ["doctor", *options], env={**servers, **environment})

    return run


def test_the_embedded_servers_are_fit_and_no_store_is_created(
    redis_url: str, database_url: str, doctor: Callable[..., Result]
) -> None:
    namespace = f"d{secrets.token_hex(5)}"
    told = doctor(redis_url, database_url, "--json", ORDERTAPE_NAMESPACE=namespace)
    assert told.exit_code == 0, told.output
    report = json.loads(told.stdout)
    assert (report["fatal"], report["warning"], report["note"]) == (0, 0, len(NOTES))
    assert {each["id"] for each in report["findings"]} == NOTES
    facts = asyncio.run(inspect_redis(redis_url, StoreSettings(namespace=namespace), SystemClock().now_us))
    assert facts.records == (None, None, None, None)


def test_a_person_reads_each_finding_with_its_fix_below_and_a_verdict(
    database_url: str, doctor: Callable[..., Result]
) -> None:
    with redis_server(maxmemory_policy="allkeys-lru") as server:
        told = doctor(server.url, database_url)
    lines = told.stdout.splitlines()
    assert told.exit_code == 1
    assert lines[0] == (
        f"fatal    eviction-policy     Valkey 127.0.0.1:{server.port}: maxmemory-policy is allkeys-lru; "
        "short of memory, the server deletes history"
    )
    assert lines[1] == "         fix: CONFIG SET maxmemory-policy noeviction"
    assert lines[-1] == "unfit: 1 fatal finding, 0 warnings"


def test_servers_that_are_away_end_the_command_with_2(
    redis_url: str, database_url: str, doctor: Callable[..., Result]
) -> None:
    told = doctor(redis_url, f"postgresql://postgres@{NOWHERE}/x")
    assert (told.exit_code, told.stderr.partition(":")[0]) == (2, "ordertape")
    with pytest.raises(StoreUnavailableError):
        asyncio.run(examined(named(), f"redis://{NOWHERE}", database_url))


def test_everything_wrong_with_a_redis_server_is_found_at_once(database_url: str) -> None:
    wrong = {"maxmemory_policy": "volatile-lru", "maxmemory": "1mb", "stream_node_max_bytes": "4096"}
    with redis_server(appendonly="no", appendfsync="no", aof_load_truncated="no", **wrong) as server:
        at_fsync = severities(found(named(), server.url, database_url))
        at_memory = severities(found(named(ack_level=MEMORY), server.url, database_url))
    warnings = {"memory-short": "warning", "node-max-bytes": "warning", "aof-truncated": "warning"}
    assert at_fsync == {**warnings, "eviction-policy": "fatal", "aof-off": "fatal", "aof-fsync": "fatal"}
    assert at_memory == {**warnings, "eviction-policy": "fatal", "aof-off": "warning", "aof-fsync": "warning"}


def test_a_server_that_hides_its_configuration_still_tells_two_settings(database_url: str) -> None:
    with redis_server(**HIDDEN, appendonly="no", maxmemory_policy="allkeys-lfu") as server:
        told = found(named(), server.url, database_url)
        assert severities(found(named(ack_level=MEMORY), server.url, database_url))["config-hidden"] == "warning"
    assert severities(told) == {"config-hidden": "fatal", "eviction-policy": "fatal", "aof-off": "fatal"}
    assert told["config-hidden"].found == (
        "hides appendfsync, aof-load-truncated, min-replicas-to-write, stream-node-max-bytes"
    )


def test_a_server_whose_waitaof_answers_before_it_flushed_is_refused(database_url: str) -> None:
    # The embedded Valkey is one: with `appendfsync everysec` it answers at once and flushes up to a second later.
    with redis_server(appendfsync="everysec") as server:
        assert severities(found(named(), server.url, database_url)) == {"waitaof-dishonest": "fatal"}
        assert severities(found(named(ack_level=MEMORY), server.url, database_url)) == {"waitaof-dishonest": "warning"}
        assert fatal(named(), server.url, database_url) == ["waitaof-dishonest"]


def test_a_server_that_flushes_before_each_reply_is_not_probed(system_redis_url: str, database_url: str) -> None:
    findings = {each.id: each for each in asyncio.run(examined(named(), system_redis_url, database_url))}
    assert findings["waitaof-probe"].found == "not probed: appendfsync is always"
    assert findings["redis-version"].place.startswith("Redis ")


def test_replicas_demand_that_the_intent_is_witnessed(database_url: str) -> None:
    with master_with_replicas(1) as replicated:
        assert severities(found(named(intent_level=FSYNC), replicated.url, database_url)) == {"intent-level": "fatal"}
        assert found(named(intent_level=WITNESSED), replicated.url, database_url) == {}
        assert found(named(), replicated.url, database_url) == {}


def test_every_master_of_a_cluster_is_examined(database_url: str) -> None:
    with redis_cluster(masters=3, replicas=0) as cluster:
        assert found(named(), cluster.url, database_url) == {}
        assert fatal(named(intent_level=FSYNC), cluster.url, database_url) == ["intent-level"] * 3
        cluster.nodes[2].server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
        told = found(named(), cluster.url, database_url)
    assert [each.place for each in told.values()] == [f"Valkey 127.0.0.1:{cluster.nodes[2].port}"]


def test_clocks_are_compared_both_ways(redis_url: str, database_url: str) -> None:
    def slow_us() -> int:
        return SystemClock().now_us() - 10_000_000

    redis = asyncio.run(inspect_redis(redis_url, StoreSettings(namespace="d"), slow_us))
    database = asyncio.run(inspect_database(database_url, slow_us))
    for skew_us in (redis.servers[0].skew_us, database.skew_us):
        assert abs(skew_us - 10_000_000) < 500_000
    assert redis.servers[0].round_trip_us > 0
    assert database.round_trip_us > 0


def test_a_store_with_another_number_of_partitions_is_found_on_both_sides(redis_url: str, database_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.desk.live(["accepted"])
        await bench.project()
        for partitions in (2, 8):
            settings = Settings(namespace=bench.namespace, partitions=partitions)
            told = [each for each in await examined(settings, redis_url, database_url) if each.severity == "fatal"]
            assert [(each.id, each.place) for each in told] == [
                ("partition-count", "Redis"),
                ("partition-count", "PostgreSQL"),
            ]
            assert {each.fix for each in told} == {"ORDERTAPE_PARTITIONS=4"}

    on_bench(redis_url, scenario, database_url)


def test_another_stores_read_model_and_lost_records_are_found(redis_url: str, database_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.desk.live(["accepted"])
        await bench.project()
        settings = Settings(namespace=bench.namespace)
        servers = Servers(redis_url, database_url)
        await bench.redis.delete(f"{{{bench.namespace}:02}}:meta")
        told = [each.id for each in await examined(settings, redis_url, database_url) if each.severity == "fatal"]
        assert told == ["store-incomplete"]
        # A start heals from PostgreSQL what Redis lost, but for all of it: a wrong URL looks the same.
        assert await fatal_findings(settings, servers) == []
        for number in range(4):
            await bench.redis.delete(f"{{{bench.namespace}:{number:02}}}:meta")
        assert [each.id for each in await fatal_findings(settings, servers)] == ["store-lost"]
        await bench.redis.hset(f"{{{bench.namespace}:00}}:meta", mapping={"store": bench.namespace, "partitions": 4})
        execute(database_url, "UPDATE store SET store_id = 'another'")
        assert [each.id for each in await fatal_findings(settings, servers)] == ["store-id"]

    on_bench(redis_url, scenario, database_url)


def test_orders_that_nothing_moves_on_are_counted(redis_url: str, database_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        orders = [await bench.desk.live([stop]) for stop in ("accepted", "routing", "submitted", "confirmed")]
        await bench.project()
        settings = Settings(namespace=bench.namespace)
        told = {each.id: each for each in await examined(settings, redis_url, database_url)}
        assert told["orders-checked"].found == "looked at 3 open orders, all there are"
        assert "orders-stuck" not in told
        await remove_the_task(bench, orders[0])
        told = {each.id: each for each in await examined(settings, redis_url, database_url)}
        assert (told["orders-stuck"].severity, told["orders-stuck"].found) == ("warning", "1 of 3 open orders")
        assert set(await open_orders(database_url, ["confirmed"], ORDERS_MAX)) == set(orders[:3])
        assert await open_orders(database_url, ["confirmed"], 2) == orders[:2]

    on_bench(redis_url, scenario, database_url)


def test_a_parked_task_is_counted_until_somebody_skips_it_and_its_order_is_not_stuck(
    redis_url: str, database_url: str
) -> None:
    async def scenario(bench: Bench) -> None:
        order = await bench.desk.live(["accepted"])
        await bench.project()
        settings = Settings(namespace=bench.namespace)
        (task,) = await bench.store.take_tasks("doctor", 1)
        await bench.store.park_task(task, "it fails")
        told = {each.id: each for each in await examined(settings, redis_url, database_url)}
        assert told["tasks-parked"].found == "1 parked task"
        assert "orders-stuck" not in told
        await bench.store.skip_parked(order, "known")
        assert {each.id for each in await examined(settings, redis_url, database_url)} == NOTES

    on_bench(redis_url, scenario, database_url)


def test_what_is_wrong_with_a_database_is_found(redis_url: str, database_url: str, empty_database_url: str) -> None:
    assert severities(found(named(), redis_url, empty_database_url)) == {"schema-empty": "note"}
    name = execute(database_url, "SELECT current_database()")[0][0]
    execute(database_url, f"ALTER DATABASE {name} SET synchronous_commit = off")
    on_disk = named(intent_level=FSYNC)
    assert severities(found(on_disk, redis_url, database_url)) == {"synchronous-commit": "warning"}
    assert fatal(named(ack_level=WITNESSED), redis_url, database_url) == ["synchronous-commit"]
    execute(database_url, f"ALTER DATABASE {name} RESET synchronous_commit")
    execute(database_url, "UPDATE alembic_version SET version_num = '9999'")
    assert fatal(named(), redis_url, database_url) == []
    execute(database_url, "UPDATE compatibility SET oldest = '9998'")
    assert severities(found(named(), redis_url, database_url)) == {"schema-unknown": "fatal"}
    assert fatal(named(), redis_url, database_url) == ["schema-unknown"]


def test_a_later_schema_that_this_code_works_on_is_no_obstacle(redis_url: str, database_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.desk.live(["accepted"])
        await bench.project()
        execute(database_url, "UPDATE alembic_version SET version_num = '9999'")
        settings = Settings(namespace=bench.namespace)
        told = {each.id: each for each in await examined(settings, redis_url, database_url)}
        assert {each.id for each in told.values()} == {*NOTES, "schema-later"}
        assert told["orders-checked"].found.startswith("looked at 1 open order")
        execute(database_url, "UPDATE compatibility SET oldest = '9998'")
        told = {each.id: each for each in await examined(settings, redis_url, database_url)}
        assert told["schema-unknown"].severity == "fatal"
        assert told["orders-checked"].found.startswith("not looked at")

    on_bench(redis_url, scenario, database_url)


def test_an_older_schema_is_found_but_no_obstacle_to_a_start_that_migrates_it(
    redis_url: str, database_url: str
) -> None:
    known = asyncio.run(inspect_database(database_url, SystemClock().now_us)).schemas_known
    if len(known) < 2:
        pytest.skip("there has been one schema only")
    execute(database_url, "UPDATE alembic_version SET version_num = %s", known[1])
    assert severities(found(named(), redis_url, database_url)) == {"schema-behind": "fatal"}
    assert fatal(named(), redis_url, database_url) == []


def test_a_database_of_another_encoding_is_found(redis_url: str, postgres_url: str) -> None:
    name = f"latin_{secrets.token_hex(4)}"
    execute(postgres_url, f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        told = asyncio.run(examined(named(), redis_url, database_at(postgres_url, name)))
        assert [(each.id, each.found) for each in told if each.id not in NOTES] == [
            ("postgres-encoding", "encoding LATIN1")
        ]
    finally:
        execute(postgres_url, f"DROP DATABASE {name}")


def test_a_start_is_refused_with_every_reason_at_once(database_url: str) -> None:
    wrong = {"maxmemory_policy": "allkeys-lru", "stream_node_max_bytes": "4096"}
    with redis_server(appendonly="no", **wrong) as server, pytest.raises(UnfitError) as refused:
        asyncio.run(require_fit(named(), Servers(server.url, database_url)))
    assert [each.id for each in refused.value.findings] == ["eviction-policy", "aof-off"]
    assert "    fix: CONFIG SET maxmemory-policy noeviction\n" in str(refused.value)


def test_a_start_waits_for_nothing_that_it_need_not_know(redis_url: str) -> None:
    away = f"postgresql://postgres@{NOWHERE}/x"
    asyncio.run(require_fit(named(), Servers(redis_url, away)))
    with redis_server(appendfsync="everysec") as server:
        asyncio.run(require_fit(named(ack_level=MEMORY), Servers(server.url, away)))
        assert "cmdstat_waitaof" not in server.command("INFO", "commandstats")
