"""What clients see when a server behind the API fails, when the log is damaged, and when the API stops."""

import asyncio
import time
from collections.abc import Mapping, Sequence

import pytest

from app.clock import SystemClock
from eventstore.errors import OutcomeUnknownError, PositionMissingError, StoreUnavailableError
from eventstore.ids import Cursor
from eventstore.memory import MemoryEventStore
from eventstore.store import Append, AppendResult, StoredCommit, StoredEvent
from tests.integration.api import (
    LIFE,
    ORDER,
    WAIT_SECONDS,
    advance,
    connected,
    finished_order,
    hear,
    hear_close,
    hear_many,
    live,
    memory_store,
    problem,
    ready,
    redis_store,
    running,
    say,
)


class FailingStore(MemoryEventStore):
    """Raises ``failure`` at each append; ``bug`` makes reads of streams fail in a way nobody foresaw."""

    def __init__(self) -> None:
        super().__init__(partitions=4, store_id="failing", now_us=SystemClock().now_us)
        self.failure: Exception | None = None
        self.bug = False

    async def append(self, commit: Append) -> AppendResult:
        if self.failure is not None:
            raise self.failure
        return await super().append(commit)

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> Sequence[StoredEvent]:
        if self.bug:
            raise ZeroDivisionError("secret detail")
        return await super().read_stream(stream, after, limit)


def test_an_order_that_is_not_known_to_be_accepted_is_answered_503() -> None:
    async def main() -> None:
        store = FailingStore()
        async with running(store) as api:
            store.failure = StoreUnavailableError("redis://user:password@host is down")
            response = await api.http.post("/api/orders", json=ORDER)
            body = problem(response, 503, "unavailable")
            assert response.headers["retry-after"] == "1"
            assert "password" not in response.text
            store.failure = OutcomeUnknownError("c1", "time-out")
            body = problem(await api.http.post("/api/orders", json=ORDER), 503, "outcome_unknown")
            assert "same idempotency key" in str(body["detail"])
            assert len(str(body["orderId"])) == 29

    asyncio.run(main())


def test_an_unforeseen_error_is_a_500_without_any_detail(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        store = FailingStore()
        async with running(store) as api:
            store.bug = True
            response = await api.http.get("/api/orders/01ARZ3NDEKTSV4RRFFQ69G5FAV-03")
            problem(response, 500, "internal")
            assert "secret" not in response.text and "Traceback" not in response.text
            assert (await api.http.get("/livez")).status_code == 200

    asyncio.run(main())
    assert [record.getMessage() for record in caplog.records if record.exc_info] == ["request_failed"]


def test_readiness_names_the_check_that_fails(redis_url: str, database_url: str) -> None:
    async def main() -> None:
        async with redis_store(redis_url) as store, running(store, database_url) as api:
            response = await api.http.get("/readyz")
            assert (response.status_code, response.json()["status"]) == (200, "ready")
            assert list(response.json()["checks"]) == ["store", "database", "log", "accepting"]
            assert (await api.http.get("/health")).json() == {"status": "ok", "version": "0.0.test"}
        async with running(memory_store()) as api:
            response = await api.http.get("/readyz")
            assert (response.status_code, response.json()["status"]) == (503, "unavailable")
            checks = response.json()["checks"]
            assert [name for name, check in checks.items() if not check["ok"]] == ["database"]
            assert checks["database"]["problem"] == "the database does not answer"
            problem(await api.http.get("/api/orders"), 503, "unavailable")
            problem(await api.http.get("/api/orders/01ARZ3NDEKTSV4RRFFQ69G5FAV-03"), 503, "unavailable")

    asyncio.run(main())


def test_readiness_says_that_the_schema_is_missing(empty_database_url: str) -> None:
    async def main() -> None:
        async with running(memory_store(), empty_database_url) as api:
            checks = (await api.http.get("/readyz")).json()["checks"]
            assert "the database's schema is empty" in checks["database"]["problem"]

    asyncio.run(main())


class FailingReads(MemoryEventStore):
    """The first reads of streams fail."""

    failures = 2

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> Sequence[StoredEvent]:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailableError("down")
        return await super().read_stream(stream, after, limit)


def test_an_outage_of_the_streams_is_waited_out() -> None:
    async def main() -> None:
        store = FailingReads(partitions=4, store_id="memory", now_us=SystemClock().now_us)
        order_id = await finished_order(store)
        async with running(store) as api, connected(api, f"?orderId={order_id}&after=3") as socket:
            assert [frame["seq"] for frame in await hear_many(socket, 3)] == [4, 5, 6]

    asyncio.run(main())


class BrokenLog(MemoryEventStore):
    """Reading the log fails with each of ``failures``, one read each."""

    def __init__(self) -> None:
        super().__init__(partitions=4, store_id="memory", now_us=SystemClock().now_us)
        self.failures: list[Exception] = []

    async def read_log(
        self, after: Mapping[int, Cursor], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        if self.failures:
            raise self.failures.pop()
        found = await super().read_log(after, limit, min(wait_seconds, 0.05))
        if self.failures:
            # Read, but lost on the way: the reader must come back to where it was.
            raise self.failures.pop()
        return found


def test_an_outage_of_the_log_loses_no_event() -> None:
    async def main() -> None:
        store = BrokenLog()
        async with running(store) as api, connected(api) as socket:
            await say(socket, **ORDER)
            order_id = (await hear(socket))["orderId"]
            order = await api.streams.load(order_id)
            for command in LIFE:
                store.failures = [StoreUnavailableError("down"), StoreUnavailableError("down")]
                order = await advance(api.streams, order, command)
            assert [frame["seq"] for frame in await hear_many(socket, 5)] == [2, 3, 4, 5, 6]

    asyncio.run(main())


def test_a_hole_in_the_log_sends_every_subscriber_away_and_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        store = BrokenLog()
        async with running(store) as api:
            order_id = await api.place()
            async with connected(api, f"?orderId={order_id}") as socket:
                assert (await hear(socket))["seq"] == 1
                store.failures = [PositionMissingError(0, 5, 7)]
                code, frames = await hear_close(socket)
                reason = "the event log was rewound: reconnect and resume by cursor"
                goaway = {"type": "goaway", "code": 4510, "reason": reason, "reconnectAfterMs": 1_000}
                assert (code, frames) == (4510, [goaway])
            await ready(api)
            async with connected(api, f"?orderId={order_id}&after=1") as socket:
                await live(api.streams, order_id)
                assert [frame["seq"] for frame in await hear_many(socket, 5)] == [2, 3, 4, 5, 6]

    asyncio.run(main())
    [forked] = [vars(record) for record in caplog.records if record.getMessage() == "log_forked"]
    assert (forked["partition"], forked["cursor"]) == (0, "0-0-")
    assert "position 5 is missing" in forked["problem"]


def test_the_api_is_not_ready_while_a_broken_log_cannot_be_taken_up_again() -> None:
    class Broken(BrokenLog):
        down = False

        async def log_ends(self) -> Mapping[int, Cursor]:
            if self.down:
                raise StoreUnavailableError("down")
            return await super().log_ends()

    async def main() -> None:
        store = Broken()
        async with running(store) as api:
            async with connected(api) as socket:
                store.down = True
                store.failures = [PositionMissingError(0, 5, 7)]
                assert (await hear_close(socket))[0] == 4510
            async with connected(api) as socket:
                assert (await hear_close(socket))[0] == 4510
            checks = (await api.http.get("/readyz")).json()["checks"]
            assert checks["log"]["problem"] == "the log is not followed"
            assert checks["accepting"]["problem"] == "the event log was rewound: reconnect and resume by cursor"
            store.down = False
            await ready(api)
            async with connected(api) as socket:
                await say(socket, **ORDER)
                assert (await hear(socket))["event"] == "pending"

    asyncio.run(main())


class SkippingStore(MemoryEventStore):
    """Leaves the first event out when it reads a stream from anywhere but its start."""

    def __init__(self) -> None:
        super().__init__(partitions=4, store_id="memory", now_us=SystemClock().now_us)

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> Sequence[StoredEvent]:
        events = await super().read_stream(stream, after, limit)
        return events if after == 0 else events[1:]


def test_a_read_with_a_hole_is_never_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        store = SkippingStore()
        async with running(store, ring_frames_max=1) as api:
            order_id = await api.place()
            await live(api.streams, order_id)
            async with connected(api) as socket:
                await say(socket, orderId=order_id, after=2)
                assert await hear_close(socket) == (4500, [])
            assert (await api.http.get(f"/api/orders/{order_id}/events?after=2")).status_code == 500

    asyncio.run(main())
    assert [record.getMessage() for record in caplog.records if record.exc_info] == ["request_failed"] * 2


class StuckLog(MemoryEventStore):
    """Reading the log does not return any more once ``stuck`` is set; ``waiting`` is set then."""

    def __init__(self) -> None:
        super().__init__(partitions=4, store_id="memory", now_us=SystemClock().now_us)
        self.stuck = False
        self.waiting = asyncio.Event()

    async def read_log(
        self, after: Mapping[int, Cursor], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        if self.stuck:
            self.waiting.set()
            await asyncio.Event().wait()
        return await super().read_log(after, limit, min(wait_seconds, 0.05))


class ShiftedClock(SystemClock):
    """Shows ``shift_us`` more than it is."""

    shift_us = 0

    def now_us(self) -> int:
        return super().now_us() + self.shift_us


def test_readiness_ends_when_the_log_falls_silent() -> None:
    async def main() -> None:
        store, clock = StuckLog(), ShiftedClock()
        async with running(store, clock=clock) as api:
            assert (await api.http.get("/readyz")).json()["checks"]["log"]["ok"]
            store.stuck = True
            async with asyncio.timeout(WAIT_SECONDS):
                await store.waiting.wait()
            clock.shift_us = 11_000_000
            log = (await api.http.get("/readyz")).json()["checks"]["log"]
            assert not log["ok"] and log["problem"].startswith("the log has not answered for 1")

    asyncio.run(main())


def test_stopping_tells_every_client_and_takes_less_than_a_second() -> None:
    async def main() -> None:
        async with running(memory_store()) as api:
            order_id = await api.place()
            async with connected(api) as idle, connected(api, f"?orderId={order_id}") as subscribed:
                assert (await hear(subscribed))["seq"] == 1
                started = time.monotonic()
                api.stopping.set()
                for socket in (idle, subscribed):
                    code, frames = await hear_close(socket)
                    assert code == 4503
                    reason = "the server is stopping: reconnect and resume"
                    assert frames == [{"type": "goaway", "code": 4503, "reason": reason, "reconnectAfterMs": 1_000}]
                await api.serving
            assert time.monotonic() - started < 1

    asyncio.run(main())
