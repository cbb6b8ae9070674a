"""`projections` as an operator uses it: how they stand, what differs, and the way out of quarantine."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from eventstore.ids import event_id, partition_in
from eventstore.redis.store import RedisEventStore
from projections.models.registry import PROJECTIONS
from projections.projector.leases import Leases
from tests.builders import stream_id
from tests.conftest import appends, contents, execute, interleaved, market_life
from tests.integration.projected import NOWHERE, Engine, engine_here
from tests.poison import poisoned

pytestmark = pytest.mark.slow

ORDER = stream_id("owner-3")
OTHER = stream_id("owner-4")
NOBODY = stream_id("nobody")
GOOD = interleaved(seed=51, orders=6)
POISON = poisoned(appends(ORDER, market_life()), 2, {"side": "s\x1b[31m"})
REASON = f"event {event_id(ORDER, 2)}: Invalid enum value 's\\x1b[31m' - at `$.side`"


@pytest.fixture
def engine(
    redis_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Engine:
    return engine_here(redis_url, database_url, monkeypatch, tmp_path, capsys)


@pytest.fixture
def bare(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Engine:
    """An engine whose PostgreSQL is away."""
    return engine_here(redis_url, NOWHERE, monkeypatch, tmp_path, capsys)


@pytest.fixture
def poisoned_engine(engine: Engine) -> Engine:
    """An engine with one order that stands still before its second event."""
    engine.project([*GOOD, *POISON])
    return engine


def told(engine: Engine, *command: str, status: int = 0) -> Any:
    return json.loads(engine.both("projections", *command, "--json", status=status)[0])


def test_the_status_names_places_lag_owners_and_projectors(engine: Engine) -> None:
    engine.project(GOOD)

    async def own(_store: RedisEventStore, database: AsyncEngine) -> None:
        await Leases(database, "one").renew()

    engine.on_data(own)
    behind = partition_in(ORDER)
    engine.append(appends(ORDER, market_life())[:2])
    execute(engine.database_url, "UPDATE checkpoints SET recorded_at = now() - interval '90 s'")
    standing = told(engine, "status")
    assert [each["projection"] for each in standing["projections"]] == list(PROJECTIONS)
    places = execute(
        engine.database_url,
        "SELECT partition, epoch, position FROM checkpoints WHERE projection = 'orders' ORDER BY partition",
    )
    for each in standing["projections"]:
        assert [(at["partition"], at["epoch"], at["position"]) for at in each["partitions"]] == places
        lags = {at["partition"]: at["lag"] for at in each["partitions"]}
        assert lags == {partition: 2 if partition == behind else 0 for partition in lags}
        seconds = {at["partition"]: at["lagSeconds"] for at in each["partitions"]}
        assert 90 <= seconds.pop(behind) < 150
        assert set(seconds.values()) == {0.0}
    assert standing["projectors"] == ["one"]
    assert [(lease["owner"], lease["held"], lease["problem"]) for lease in standing["leases"]] == [
        ("one", True, None) for _ in places
    ]
    assert (standing["rebuilds"], standing["quarantined"], standing["incomplete"]) == ([], 0, 0)
    assert "projectors: one" in engine.run("projections", "status")


def test_the_status_tells_what_stands_still_and_which_rebuilds_there_are(poisoned_engine: Engine) -> None:
    url = poisoned_engine.database_url
    poisoned_engine.run("rebuild", "--keep-old")
    execute(url, "UPDATE orders SET quality = 'incomplete' WHERE quality = 'ok'")
    execute(url, "UPDATE leases SET problem = E'fork\\x1b[2J' WHERE partition = 1")
    execute(url, "DELETE FROM checkpoints WHERE projection = 'volumes'")
    text = poisoned_engine.run("projections", "status")
    assert "orders: the old table is kept: `ordertape rebuild rollback orders`" in text
    assert "volumes is not projected yet: ordertape rebuild volumes" in text
    assert "projectors: none: nothing is projected" in text
    assert "partition 1 stands still: fork�[2J" in text
    assert "1 order is quarantined: ordertape projections parked list" in text
    assert "6 orders are incomplete: an event of each was skipped" in text
    standing = told(poisoned_engine, "status")
    assert standing["leases"][1]["problem"] == "fork\x1b[2J"
    assert (standing["quarantined"], standing["incomplete"]) == (1, 6)
    (kept,) = standing["rebuilds"]
    assert (kept["projection"], kept["state"], kept["source"], kept["orders"]) == ("orders", "kept", "archive", 7)
    assert standing["projections"][1] == {"projection": "volumes", "partitions": []}


def test_what_differs_is_found_and_repaired(engine: Engine) -> None:
    engine.project([*GOOD, *appends(ORDER, market_life()), *appends(OTHER, market_life())])
    right = contents(engine.database_url)
    assert "clean" in engine.run("projections", "diff")
    assert told(engine, "diff") == {"projection": "orders", "findings": []}
    execute(engine.database_url, "UPDATE orders SET venue = E'x\\x1b[2J', amount_out = NULL WHERE id = %s", ORDER)
    execute(engine.database_url, "DELETE FROM orders WHERE id = %s", OTHER)
    found = told(engine, "diff", status=1)["findings"]
    assert {(each["orderId"], each["kind"], each["field"]) for each in found} == {
        (ORDER, "value", "venue"),
        (ORDER, "value", "amount_out"),
        (OTHER, "missing", "row"),
    }
    text = engine.run("projections", "diff", "--order", ORDER, status=1)
    assert "x�[2J" in text and "\x1b" not in text and OTHER not in text and "2 findings" in text
    assert engine.run("projections", "repair", ORDER, OTHER) == (
        f"{ORDER} is mended, at version 6: venue, amount_out\n{OTHER} is added, at version 6\n"
    )
    assert told(engine, "repair", ORDER) == {
        "repaired": [{"orderId": ORDER, "outcome": "unchanged", "columns": [], "version": 6, "reason": None}]
    }
    assert contents(engine.database_url) == right


def test_orders_that_nobody_knows_are_not_repaired_and_the_others_are(engine: Engine) -> None:
    engine.project(appends(ORDER, market_life()))
    text = engine.run("projections", "repair", NOBODY, ORDER, status=1)
    assert f"ordertape: order {NOBODY} is not in the read model" in text
    assert f"{ORDER} is unchanged, at version 6" in text
    execute(engine.database_url, "DELETE FROM orders")
    engine.run("projections", "repair", ORDER, "order-1", status=2)
    assert execute(engine.database_url, "SELECT 1 FROM orders") == []


def test_quarantined_orders_are_listed_and_shown(poisoned_engine: Engine) -> None:
    text = poisoned_engine.run("projections", "parked", "list")
    assert ORDER in text and REASON in text and "\x1b" not in text
    (listed,) = told(poisoned_engine, "parked", "list")["parked"]
    assert (listed["orderId"], listed["version"], listed["reason"], listed["parked"]) == (ORDER, 2, REASON, 5)
    shown = told(poisoned_engine, "parked", "show", ORDER)
    assert (shown["order"], shown["versions"], shown["row"]["version"]) == (listed, [2, 3, 4, 5, 6], 1)
    assert shown["event"].encode() == POISON[1].events[0].data
    assert (msgspec.json.decode(shown["event"])["side"], shown["row"]["quality"]) == ("s\x1b[31m", "quarantined")
    text = poisoned_engine.run("projections", "parked", "show", ORDER)
    assert "stands still before event 2" in text and "waiting: 2, 3, 4, 5, 6" in text
    assert "quality          quarantined" in text and "\x1b" not in text


def test_an_order_without_a_row_is_shown(engine: Engine) -> None:
    engine.project(poisoned(appends(ORDER, market_life()), 1, {"amount": "NaN"}))
    assert told(engine, "parked", "show", ORDER)["row"] is None
    assert "there is no row" in engine.run("projections", "parked", "show", ORDER)
    assert "the first event of order" in engine.run("projections", "parked", "skip", ORDER, "--reason", "x", status=2)


def test_a_retry_succeeds_once_the_cause_is_gone_and_not_before(engine: Engine) -> None:
    commits = appends(ORDER, market_life())
    engine.project(commits[:2])
    execute(engine.database_url, "DELETE FROM orders")
    engine.project([*commits[2:], *poisoned(appends(OTHER, market_life()), 3, {"at": "yesterday"})])
    assert engine.run("projections", "parked", "retry", ORDER) == f"{ORDER} is added, at version 6\n"
    text = engine.run("projections", "parked", "retry", "--all", status=1)
    assert text.startswith(f"{OTHER} is quarantined, at version 2 (event {event_id(OTHER, 3)}: ")
    (retried,) = told(engine, "parked", "retry", OTHER, status=1)["retried"]
    assert (retried["orderId"], retried["outcome"], retried["version"]) == (OTHER, "quarantined", 2)
    assert f"no event of order {ORDER} is parked" in engine.run("projections", "parked", "retry", ORDER, status=1)


def test_a_skipped_event_is_passed_over_and_so_it_is_by_a_rebuild(poisoned_engine: Engine) -> None:
    skip = ("parked", "skip", ORDER, "--reason", "known \x1b[2J")
    (skipped,) = told(poisoned_engine, *skip)["skipped"]
    assert (skipped["outcome"], skipped["version"]) == ("mended", 6)
    assert skipped["reason"] == "event 2 was skipped: known \x1b[2J"
    assert poisoned_engine.run("projections", "parked", "list") == "no order stands still\n"
    assert poisoned_engine.run("projections", "parked", "retry", "--all") == "no order stands still\n"
    assert told(poisoned_engine, "status")["incomplete"] == 1
    assert "it equals the live table" in poisoned_engine.run("rebuild")
    assert f"no event of order {ORDER} is parked" in poisoned_engine.run("projections", *skip, status=1)


def test_a_skip_says_what_became_of_the_row(poisoned_engine: Engine) -> None:
    text = poisoned_engine.run("projections", "parked", "skip", ORDER, "--reason", "known \x1b[2J")
    assert f"{ORDER} is mended, at version 6: " in text
    assert "(event 2 was skipped: known �[2J)" in text and "\x1b" not in text


def test_status_and_doctor_mention_what_stands_still(poisoned_engine: Engine) -> None:
    execute(poisoned_engine.database_url, "UPDATE leases SET problem = E'fork\\x1b[2J' WHERE partition = 1")
    text = poisoned_engine.run("status")
    assert "1 order is quarantined: ordertape projections parked list" in text
    assert "partition 1 stands still: fork�[2J" in text
    report = json.loads(poisoned_engine.run("status", "--json"))
    assert (report["quarantined"], report["stopped"]) == (1, [{"partition": 1, "problem": "fork\x1b[2J"}])
    findings = json.loads(poisoned_engine.both("doctor", "--json", status=1)[0])["findings"]
    told = {each["id"]: each["found"] for each in findings}
    assert told["orders-quarantined"] == "1 quarantined order"
    assert told["projection-stopped"] == "partition 1: fork\x1b[2J"
    assert "partition 1: fork�[2J" in poisoned_engine.run("doctor", status=1)


@pytest.mark.parametrize(
    ("damage", "kind", "fields"),
    [
        ("DELETE FROM volumes", "missing", {"row": ("there", "")}),
        ("UPDATE volumes SET venue = E'or\\x1b[31mca'", "extra", {"row": ("", "there")}),
        ("UPDATE volumes SET orders = orders + 1", "value", {"orders": ("1", "2")}),
    ],
)
def test_a_projection_that_is_not_what_the_archive_comes_to_is_told_by_kind_and_column(
    engine: Engine, damage: str, kind: str, fields: dict[str, tuple[str, str]]
) -> None:
    engine.project(appends(ORDER, market_life()))
    assert engine.run("projections", "diff", "volumes") == "clean: every row of volumes is what the archive comes to\n"
    assert told(engine, "diff", "volumes") == {"projection": "volumes", "findings": [], "rows": 0, "columns": {}}
    execute(engine.database_url, damage)
    wrong = contents(engine.database_url)
    text = engine.run("projections", "diff", "volumes", status=1)
    found = told(engine, "diff", "volumes", status=1)
    same = [each for each in found["findings"] if each["kind"] == kind]
    assert {each["field"]: (each["expected"], each["found"]) for each in same} == fields
    assert found["rows"] == len(found["findings"])
    assert found["columns"] == dict.fromkeys(fields, found["rows"])
    assert f"{found['rows']} rows differ: {next(iter(fields))} ({found['rows']})" in text
    assert kind in text
    assert "\x1b" not in text
    assert contents(engine.database_url) == wrong
    assert execute(engine.database_url, "SELECT to_regclass('volumes_next'), count(*) FROM rebuilds") == [(None, 0)]


def test_a_projection_that_is_not_projected_yet_cannot_be_compared(engine: Engine) -> None:
    engine.project(GOOD)
    execute(engine.database_url, "DELETE FROM checkpoints WHERE projection = 'volumes'")
    text = engine.run("projections", "diff", "volumes", status=2)
    assert "volumes is not projected yet: ordertape rebuild volumes" in text


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["diff", "nothing"], "nothing is no projection"),
        (["diff", "volumes", "--order", NOBODY], "a row of volumes is no single order's"),
        (["repair"], "Missing argument"),
        (["parked", "retry"], "name orders, or give --all"),
        (["parked", "retry", NOBODY, "--all"], "name orders, or give --all"),
        (["parked", "skip", NOBODY], "--reason"),
        (["parked", "skip", NOBODY, "--reason", " "], "a reason is needed"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(bare: Engine, command: list[str], says: str) -> None:
    assert says in bare.run("projections", *command, status=2)


def test_orders_that_there_are_not_are_refused_by_name(engine: Engine) -> None:
    missing = engine.run("projections", "parked", "show", NOBODY, status=1)
    assert missing == f"ordertape: no event of order {NOBODY} is parked\n"
    for command in (["diff", "--order"], ["parked", "show"], ["parked", "retry"], ["parked", "skip", "--reason", "x"]):
        text = engine.run("projections", *command, "order-\x1b[2J", status=2)
        assert "order-" in text and "\x1b" not in text


@pytest.mark.parametrize("command", [["status"], ["diff"], ["repair", NOBODY], ["parked", "list"]])
def test_without_postgresql_nothing_is_told(bare: Engine, command: list[str]) -> None:
    assert "PostgreSQL cannot be used" in bare.run("projections", *command, status=2)


@pytest.mark.parametrize(
    "command", ["status", "diff", "repair", "parked list", "parked show", "parked retry", "parked skip"]
)
def test_every_command_has_help(bare: Engine, command: str) -> None:
    assert len(bare.run("projections", *command.split(), "--help").splitlines()) > 4
