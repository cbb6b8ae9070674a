"""Orders that cannot be worked on: parked, reported, shown, retried and skipped, while all others go on."""

import asyncio
import json
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from app.audit.verify import verify
from app.cli.main import app
from app.clock import SystemClock
from app.execution.failpoints import Reach, unwatched
from app.execution.worker import error_text
from app.main import build_worker, open_chain
from app.orders.state import Confirmed
from app.settings import Settings
from eventstore.canonical import seal
from eventstore.errors import ERROR_CHARACTERS_MAX, BadIdError, StoreUnavailableError
from eventstore.ids import partition_in
from eventstore.memory import MemoryEventStore
from eventstore.store import Append, ParkedTask, Task
from tests.clocks import StepClock
from tests.desk import Desk, desk
from tests.integration import tampering
from tests.integration.test_worker import Bench, on_bench

WAIT_SECONDS = 20


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.01)


async def is_parked(bench: Bench) -> bool:
    return bool(await bench.store.list_parked())


@asynccontextmanager
async def at_work(bench: Bench, reach: Reach = unwatched) -> AsyncIterator[None]:
    """A worker that claims soon; it drains at the end."""
    settings = msgspec.structs.replace(bench.settings, task_ms=300, quote_timeout_ms=200, claim_idle_ms=400)
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        worker = build_worker(settings, bench.store, bench.chain, SystemClock(), profile=bench.profile, reach=reach)
        group.create_task(worker.run(stopping))
        try:
            yield
        finally:
            stopping.set()


class Trap:
    """Raises ``error`` for one order whenever it is to be routed, until it is disarmed; counts that."""

    def __init__(self, order_id: str, error: Exception) -> None:
        self.order_id = order_id
        self.error: Exception | None = error
        self.sprung = 0

    def reach(self, point: str, order_id: str) -> None:
        if (point, order_id) == ("K3", self.order_id) and self.error is not None:
            self.sprung += 1
            raise self.error


def test_a_poison_order_is_parked_after_four_deliveries_while_others_end_and_ends_when_it_is_retried(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(bench: Bench) -> None:
        poison = await bench.place()
        others = [await bench.place() for _ in range(10)]
        trap = Trap(poison, TypeError("no such route"))
        async with at_work(bench, trap.reach):
            async with asyncio.timeout(WAIT_SECONDS):
                for order_id in others:
                    assert isinstance((await bench.ended(order_id)).state, Confirmed)
            await until(lambda: is_parked(bench))
            (parked,) = await bench.store.list_parked()
            assert (parked.stream, parked.kind, parked.deliveries, trap.sprung) == (poison, "attempt", 4, 4)
            assert parked.error.startswith("TypeError: no such route\n")
            assert parked.error.endswith("raise self.error")
            status = await bench.store.status()
            assert sum(part.tasks + part.pending + part.timers + part.waiting for part in status) == 0
            assert await bench.store.skip_parked(poison, "under investigation")
            report = await verify(bench.store, None, SystemClock().now_us)
            assert (report.findings, report.parked, report.orders) == ((), 1, 11)
            trap.error = None
            assert await bench.store.retry_parked(poison)
            assert isinstance((await bench.ended(poison)).state, Confirmed)
        assert await bench.swaps() == Counter([poison, *others])
        assert await bench.store.list_parked() == []

    on_bench(redis_url, scenario)
    logged = [record for record in caplog.records if record.message == "task_parked"]
    assert [(record.levelno, vars(record)["reason"]) for record in logged] == [
        (logging.ERROR, "TypeError: no such route")
    ]


async def add_an_event(bench: Bench, order_id: str, event_type: str) -> None:
    """Add the first event once more, as one of another type."""
    (head,) = await bench.store.read_stream(order_id)
    frame = {**json.loads(head.data), "seq": 2}
    frame["meta"] = {**frame["meta"], "type": event_type}
    del frame["meta"]["hash"], frame["meta"]["prev"]
    event = seal(frame, head.hash)
    await bench.store.append(
        Append(stream=order_id, expected_version=1, expected_hash=head.hash, commit_id="c", events=(event,))
    )


async def add_an_unknown_event(bench: Bench, order_id: str) -> None:
    await add_an_event(bench, order_id, "OrderTeleported")


async def add_an_impossible_event(bench: Bench, order_id: str) -> None:
    await add_an_event(bench, order_id, "OrderAccepted")


async def damage_the_stream(bench: Bench, order_id: str) -> None:
    prefix = f"{{{bench.settings.namespace}:{partition_in(order_id):02d}}}"
    await bench.connection.execute("XADD", f"{prefix}:stream:{order_id}", "1-2", "commit", "c")


@pytest.mark.parametrize(
    "spoil,error",
    [
        (add_an_unknown_event, "UnknownEventTypeError: unknown event type 'OrderTeleported'"),
        (add_an_impossible_event, "UndefinedTransitionError: "),
        (damage_the_stream, "DamagedEntryError: "),
    ],
)
def test_an_order_whose_stream_cannot_be_read_or_folded_is_parked(
    redis_url: str, spoil: Callable[[Bench, str], Awaitable[None]], error: str
) -> None:
    async def scenario(bench: Bench) -> None:
        poison = await bench.place()
        await spoil(bench, poison)
        async with at_work(bench):
            await until(lambda: is_parked(bench))
        (parked,) = await bench.store.list_parked()
        assert (parked.stream, parked.deliveries) == (poison, 4)
        assert parked.error.startswith(error)

    on_bench(redis_url, scenario)


def test_an_outage_never_parks_a_task(redis_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        order_id = await bench.place()
        trap = Trap(order_id, StoreUnavailableError("down"))

        async def often() -> bool:
            return trap.sprung >= 6

        async with at_work(bench, trap.reach):
            await until(often)
            assert not await is_parked(bench)
            trap.error = None
            async with asyncio.timeout(WAIT_SECONDS):
                assert isinstance((await bench.ended(order_id)).state, Confirmed)
        assert not await is_parked(bench)

    on_bench(redis_url, scenario)


def test_an_error_text_has_the_message_and_the_last_lines_of_the_traceback_that_fit() -> None:
    # Two functions in turn, as a traceback shortens a function that only calls itself.
    def odd(depth: int) -> None:
        even(depth - 1)

    def even(depth: int) -> None:
        if depth:
            odd(depth - 1)
        raise ValueError("x" * 300)

    with pytest.raises(ValueError) as one:
        even(50)
    wrapped = ExceptionGroup("unhandled errors in a TaskGroup", [one.value])
    for error in (one.value, wrapped):
        text = error_text(error)
        assert text.startswith("ValueError: xxx")
        assert text.endswith('raise ValueError("x" * 300)')
        assert ERROR_CHARACTERS_MAX - 200 < len(text) <= ERROR_CHARACTERS_MAX
    assert len(error_text(ValueError("x" * 5_000))) == 1_000


class NotingStore(MemoryEventStore):
    """Notes for how long a consumer must have been idle to be dropped."""

    def __init__(self, *, partitions: int, store_id: str, now_us: Callable[[], int]) -> None:
        super().__init__(partitions=partitions, store_id=store_id, now_us=now_us)
        self.asked: list[int] = []

    async def drop_dead_consumers(self, idle_ms: int) -> Sequence[str]:
        self.asked.append(idle_ms)
        return await super().drop_dead_consumers(idle_ms)


@pytest.mark.parametrize("claim_idle_ms,idle_ms", [(8_000, 60_000), (60_000, 120_000)])
def test_a_worker_forgets_a_consumer_that_has_held_nothing_for_a_minute_and_two_claims(
    redis_url: str, caplog: pytest.LogCaptureFixture, claim_idle_ms: int, idle_ms: int
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        clock = StepClock()
        store = NotingStore(partitions=4, store_id="s", now_us=clock.now_us)
        settings = Settings(namespace=f"w{secrets.token_hex(5)}", claim_idle_ms=claim_idle_ms)
        chain, connection = open_chain(settings, redis_url)
        worker = build_worker(settings, store, chain, clock)
        await store.take_tasks("dead", 1)
        stopping = asyncio.Event()

        async def logged() -> bool:
            return any(record.message == "consumers_dropped" for record in caplog.records)

        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run(stopping))
            try:
                await until(logged)
            finally:
                stopping.set()
        await connection.close()
        assert set(store.asked) == {idle_ms}

    asyncio.run(scenario())
    (record, *_) = [record for record in caplog.records if record.message == "consumers_dropped"]
    assert vars(record)["consumers"] == ["dead"]


@pytest.mark.parametrize(
    "plot,kind,covered",
    [
        (["accepted"], "attempt", True),
        (["submitted"], "attempt", True),
        (["unknown"], "resolve", True),
        (["accepted"], "resolve", True),
        (["accepted"], "expire", False),
    ],
)
def test_a_parked_task_meets_the_obligation_that_it_would_do(plot: list[str], kind: str, covered: bool) -> None:
    async def scenario(trader: Desk) -> None:
        order_id = await trader.live(plot)
        await trader.clock.sleep(60)
        await trader.store.fire_timers(10)
        (task,) = await trader.store.claim_tasks("w", 0, 10) or await trader.store.take_tasks("w", 10)
        await trader.store.park_task(Task(order_id, kind, task.partition, task.id), "broken")
        report = await verify(trader.store, None, trader.clock.now_us)
        assert [finding.rule for finding in report.findings] == ([] if covered else ["obligation"])
        assert report.parked == 1
        await trader.store.retry_parked(order_id)
        assert bool((await verify(trader.store, None, trader.clock.now_us)).findings) == (not covered)

    asyncio.run(scenario(desk()))


@pytest.fixture
def namespace(redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The namespace of a store that the command line finds through its environment."""
    name = f"a{secrets.token_hex(5)}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("ORDERTAPE_NAMESPACE", name)
    return name


@pytest.fixture
def orders(redis_url: str, namespace: str) -> list[str]:
    """Three orders of that store; the tasks of the first two are parked."""
    placed: list[str] = []

    async def fill(bench: tampering.Bench) -> None:
        for error in ("TypeError: no \x1b[31mroute\n  line 7", "KeyError: 'venue'", ""):
            placed.append(await bench.desk.live(["accepted"]))
            (task,) = await bench.store.take_tasks("w", 10)
            if error:
                await bench.store.park_task(task, error)

    tampering.on_bench(redis_url, fill, None, namespace)
    return placed


def stored(redis_url: str, namespace: str) -> list[ParkedTask]:
    found: list[ParkedTask] = []

    async def look(bench: tampering.Bench) -> None:
        found.extend(await bench.store.list_parked())

    tampering.on_bench(redis_url, look, None, namespace)
    return found


def run(*command: str, status: int = 0) -> str:
    """Run a command; return what it prints, both streams."""
    done = CliRunner().invoke(app, list(command))
    assert done.exit_code == status, done.output
    return done.output


def test_parked_tasks_are_listed_and_shown(orders: list[str]) -> None:
    first, second, free = orders
    table = run("parked", "list")
    assert [order in table for order in orders] == [True, True, False]
    assert "\x1b" not in table
    listed = json.loads(run("parked", "list", "--json"))["parked"]
    assert [(task["orderId"], task["kind"], task["deliveries"]) for task in listed] == [
        (first, "attempt", 1),
        (second, "attempt", 1),
    ]
    text = run("parked", "show", first)
    assert "TypeError: no �[31mroute" in text
    assert "  line 7" in text
    assert "pending" in text
    shown = json.loads(run("parked", "show", first, "--json"))
    assert shown["task"] == listed[0]
    assert shown["task"]["error"] == "TypeError: no \x1b[31mroute\n  line 7"
    assert (shown["state"]["status"], shown["unreadable"]) == ("pending", None)
    assert f"no task of {free} is parked" in run("parked", "show", free, status=1)
    assert "2 parked: ordertape parked list" in run("audit", "verify")


def test_retrying_gives_tasks_back_and_says_what_is_not_parked(
    redis_url: str, namespace: str, orders: list[str]
) -> None:
    first, second, free = orders
    assert "parked" in run("status")
    assert f"no task of {free} is parked" in run("parked", "retry", first, free, status=1)
    assert [task.stream for task in stored(redis_url, namespace)] == [second]
    assert run("parked", "retry", "--all") == f"{second} is retried\n"
    assert run("parked", "retry", "--all") == "nothing to retry\n"
    assert run("parked", "list") == "nothing is parked\n"
    assert "parked" not in run("status")
    run("parked", "retry", status=2)
    run("parked", "retry", first, "--all", status=2)


def test_skipping_keeps_the_task_with_its_reason_and_retrying_all_leaves_it(
    redis_url: str, namespace: str, orders: list[str]
) -> None:
    first, second, free = orders
    assert run("parked", "skip", first, "--reason", "refunded by hand") == f"{first} is skipped: refunded by hand\n"
    assert "skipped: refunded" in run("parked", "list")
    assert json.loads(run("parked", "list", "--json"))["parked"][0]["skippedReason"] == "refunded by hand"
    assert "skipped: refunded by hand" in run("parked", "show", first)
    assert run("parked", "retry", "--all") == f"{second} is retried\n"
    (left,) = stored(redis_url, namespace)
    assert (left.stream, left.skipped_reason) == (first, "refunded by hand")
    run("parked", "skip", first, status=2)
    run("parked", "skip", first, "--reason", " ", status=2)
    run("parked", "skip", free, "--reason", "why", status=1)
    assert run("parked", "retry", first) == f"{first} is retried\n"


def test_an_order_that_cannot_be_read_is_shown_with_the_reason(
    redis_url: str, namespace: str, orders: list[str]
) -> None:
    async def damage(bench: tampering.Bench) -> None:
        await bench.redis.xadd(bench.key(orders[0], f"stream:{orders[0]}"), {"commit": "c"}, id="1-2")

    tampering.on_bench(redis_url, damage, None, namespace)
    assert "state unknown: the entry 1-2 cannot be read" in run("parked", "show", orders[0])
    shown = json.loads(run("parked", "show", orders[0], "--json"))
    assert (shown["state"], shown["task"]["orderId"]) == (None, orders[0])


@pytest.mark.parametrize("command", [("show",), ("retry",), ("skip", "--reason", "why")])
def test_a_malformed_order_id_is_refused(namespace: str, command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, ["parked", *command, "order-1"])
    assert isinstance(done.exception, BadIdError)


def test_a_mistyped_order_id_leaves_everything_as_it_is(redis_url: str, namespace: str, orders: list[str]) -> None:
    assert isinstance(CliRunner().invoke(app, ["parked", "retry", orders[0], "order-1"]).exception, BadIdError)
    assert len(stored(redis_url, namespace)) == 2


def test_a_database_that_is_down_means_that_the_command_cannot_run(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert "PostgreSQL cannot be used" in run("parked", "list", status=2)


@pytest.mark.parametrize("command", ["list", "show", "retry", "skip"])
def test_every_command_has_help(command: str) -> None:
    assert len(run("parked", command, "--help").splitlines()) > 4
