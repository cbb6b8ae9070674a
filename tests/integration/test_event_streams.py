"""Event streams over plain HTTP: Server-Sent Events as curl and browsers read them, and long-poll, on real sockets."""

import asyncio
import socket as sockets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
from msgspec import Struct

from app.api.streaming.eventstream import Reader
from app.api.streaming.sessions import SocketLimits
from app.clock import SystemClock
from eventstore.errors import StoreUnavailableError
from eventstore.ids import Cursor, partition_of
from eventstore.memory import MemoryEventStore
from eventstore.store import StoredCommit, StoredEvent
from tests.integration.api import (
    LIFE,
    WAIT_SECONDS,
    Api,
    connected,
    hear_close,
    live,
    memory_store,
    on_memory,
    problem,
    running,
)
from tests.integration.rewinding import rewindable
from tests.integration.test_subscription_flow import FailingLooks, HoleyLog, begun, lives, on_limited
from tests.integration.test_subscriptions import check_all, seen

Frame = dict[str, Any]


class Said(Struct):
    """One block of an event stream: what a browser dispatches, or a bookmark or comment that it does not."""

    id: str | None
    event: str | None
    data: Any


class Heard:
    """An event stream, read block by block."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> Said | None:
        """Return the next block; None at the end."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(WAIT_SECONDS):
            async for line in self._lines:
                if not line:
                    if fields:
                        data = fields.get("data")
                        return Said(fields.get("id"), fields.get("event"), data and msgspec.json.decode(data))
                    continue
                name, _, value = line.partition(":")
                fields[name or "comment"] = value.removeprefix(" ")
        return None

    async def until(self, kind: str | None) -> tuple[list[Said], Said | None]:
        """Return the blocks before the next one of that event (None: the end), and that one."""
        before: list[Said] = []
        while (said := await self.next()) is not None and said.event != kind:
            before.append(said)
        assert (said is None) == (kind is None), before
        return before, said


@asynccontextmanager
async def listening(api: Api, path: str, last: str | None = None, **query: object) -> AsyncIterator[Heard]:
    headers = {} if last is None else {"Last-Event-ID": last}
    params = {name.rstrip("_"): str(value) for name, value in query.items()}
    async with api.http.stream("GET", path, params=params, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield Heard(response)


def events(said: Sequence[Said]) -> list[Frame]:
    return [one.data for one in said if isinstance(one.data, dict) and "event" in one.data]


async def subscribers(api: Api, count: int) -> None:
    """Return when so many are connected."""
    async with asyncio.timeout(WAIT_SECONDS):
        while len(api.sessions) != count:
            await api.http.get("/livez")


def test_an_orders_stream_has_its_events_with_ids_and_ends_with_it() -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        path = f"/api/orders/{order_id}/stream"
        async with listening(api, path) as heard:
            headers = heard.response.headers
            assert headers["content-type"] == "text/event-stream; charset=utf-8"
            assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-store", "no")
            assert headers["last-event-id"] == "0"
            opened = await heard.next()
            assert opened is not None and (opened.id, opened.event) == ("0", "subscribed")
            assert (opened.data["orderId"], opened.data["after"]) == (order_id, 0)
            before, caught_up = await heard.until("caught_up")
            assert caught_up is not None and caught_up.data["cursor"] == before[0].id
            await live(api.streams, order_id)
            rest, _ = await heard.until(None)
        frames = events([*before, *rest])
        assert [frame["seq"] for frame in frames] == [1, 2, 3, 4, 5, 6]
        assert [one.event for one in (*before, *rest)] == [frame["event"] for frame in frames]
        assert [one.id for one in (*before, *rest)] == [frame["cursor"] for frame in frames]
        async with listening(api, path, last=frames[3]["cursor"], after=1) as heard:
            assert heard.response.headers["last-event-id"] == frames[3]["cursor"]
            rest, _ = await heard.until(None)
        assert events(rest) == frames[4:]
        response = await api.http.get(path, headers={"Last-Event-ID": frames[5]["cursor"]})
        assert (response.status_code, response.content) == (204, b"")
        assert (await api.http.get(path, params={"after": "6"})).status_code == 204

    on_memory(scenario)


@pytest.mark.parametrize("ring_frames_max", [1, 1000])
def test_streams_of_a_client_and_of_all_resume_by_their_last_id(ring_frames_max: int) -> None:
    async def scenario(api: Api) -> None:
        await lives(api, 2)
        await lives(api, 2, clientId="other/one two")
        for path, count in (("/api/clients/other%2Fone%20two/stream", 12), ("/api/stream", 24)):
            async with listening(api, path, from_="start") as heard:
                said, _ = await heard.until("caught_up")
                whole = [one for one in said if one.event != "subscribed"]
            assert len(whole) == count
            for index in range(0, count, 5):
                async with listening(api, path, last=whole[index].id, from_="start", until="caught_up") as heard:
                    rest, _ = await heard.until("caught_up")
                    assert await heard.next() is None
                # The events of different partitions may come in another order.
                frames = events([*whole[: index + 1], *rest])
                if count == 24:
                    await check_all(api.store, frames)
                else:
                    assert seen(frames) == seen(events(whole))
            headers = {"Last-Event-ID": str(whole[-1].id)}
            assert (await api.http.get(path, params={"until": "caught_up"}, headers=headers)).status_code == 204

    on_limited(SocketLimits(), scenario, ring_frames_max)


def test_a_filtered_stream_is_told_its_place_by_ids_without_data_and_stays_alive_by_comments() -> None:
    async def scenario(api: Api) -> None:
        async with listening(api, "/api/stream", events="confirmed") as heard:
            await heard.until("caught_up")
            [order_id] = await lives(api, 1)
            before, confirmed = await heard.until("confirmed")
            assert confirmed is not None and confirmed.data["orderId"] == order_id
            assert all(one.data is None for one in before)
            await lives(api, 1, clientId="other", orderType="market")
            await heard.until("confirmed")
            open_id = await api.place()
            number = int(open_id[-2:])
            while (bookmark := await heard.next()) is not None and bookmark.id is None:
                assert bookmark.data is None
            assert bookmark is not None and bookmark.event is None
            assert f"{number}.{(await api.store.log_ends())[number]}" in str(bookmark.id).split("~")
            while (comment := await heard.next()) is not None and comment.id is not None:
                assert comment.data is None
            assert comment == Said(None, None, None)

    on_limited(SocketLimits(bookmark_seconds=0.05, heartbeat_seconds=0.1), scenario)


def test_many_unwanted_events_are_marked_on_the_way() -> None:
    async def scenario(api: Api) -> None:
        await lives(api, 5)
        query = {"events": "expired", "from_": "start"}
        async with listening(api, "/api/stream", **query) as heard:
            said, _ = await heard.until("caught_up")
        assert [(one.event, one.data) for one in said[1:]] == [(None, None)] * (30 // 7)
        assert {one.id for one in said[1:]} != {None}

    on_limited(SocketLimits(bookmark_events=7), scenario, 1)


def test_a_bad_request_for_a_stream_is_a_problem() -> None:
    unknown = "01ARZ3NDEKTSV4RRFFQ69G5FAV-03"

    async def scenario(api: Api) -> None:
        cases: list[tuple[str, int, str]] = [
            ("/api/orders/x/stream", 400, "order_id_malformed"),
            (f"/api/orders/{unknown}/stream", 404, "not_found"),
            (f"/api/orders/{unknown}/stream?after=x", 400, "after_malformed"),
            (f"/api/orders/{unknown}/stream?after=1-1-00000000", 410, "fork"),
            ("/api/stream?after=0.1-1-00000000", 410, "fork"),
            ("/api/clients/c/stream?after=1-1-00000000", 410, "fork"),
            ("/api/clients/c/stream?after=0.1-1-00000000", 400, "after_malformed"),
            ("/api/clients/%00/stream", 400, "invalid_query"),
            ("/api/stream?noise=1", 400, "invalid_query"),
            ("/api/stream?last=1&last=2", 400, "invalid_query"),
            ("/api/stream?last=x", 400, "invalid_query"),
            ("/api/stream?wait=61", 400, "invalid_query"),
            ("/api/stream?until=terminal", 400, "invalid_query"),
            ("/api/stream?snapshot=1", 400, "invalid_query"),
            ("/api/stream?snapshot=true", 503, "unavailable"),
        ]
        for path, status, code in cases:
            problem(await api.http.get(path), status, code)
        assert len(api.sessions) == 0
        async with listening(api, "/api/stream", last="start", after="nonsense") as heard:
            await heard.until("caught_up")
        response = await api.http.head("/api/stream")
        assert (response.status_code, response.headers["content-type"][:17]) == (200, "text/event-stream")

    on_memory(scenario)


def test_a_cursor_that_has_left_the_log_for_ever_is_gone() -> None:
    async def scenario(api: Api) -> None:
        store = api.store
        assert isinstance(store, MemoryEventStore)
        await lives(api, 2)
        [cursor] = (await api.http.get("/api/clients/user01/stream?from=start&wait=0&limit=1")).json()["events"]
        number = partition_of("user01", 4)
        end = (await store.log_ends())[number]
        await store.trim_log(number, end)
        response = await api.http.get("/api/clients/user01/stream", headers={"Last-Event-ID": cursor["cursor"]})
        body = problem(response, 410, "cursor_unavailable")
        assert (body["earliest"], body["head"]) == (str(end), str(end))
        assert body["snapshot"] == "/api/orders?clientId=user01"

    on_limited(SocketLimits(), scenario, 1)


def test_stopping_ends_streams_long_polls_and_idle_sockets_within_a_second() -> None:
    async def main() -> None:
        async with running(memory_store()) as api:
            order_id = await api.place()
            async with (
                connected(api) as idle,
                listening(api, "/api/stream") as heard,
                listening(api, f"/api/orders/{order_id}/stream") as one,
            ):
                await heard.until("caught_up")
                await one.until("caught_up")
                polling = asyncio.create_task(api.http.get("/api/stream?wait=30"))
                await subscribers(api, 4)
                started = time.monotonic()
                api.stopping.set()
                for stream in (heard, one):
                    _, goaway = await stream.until("goaway")
                    reason = "the server is stopping: reconnect and resume"
                    told = {"type": "goaway", "code": 4503, "reason": reason, "reconnectAfterMs": 1_000}
                    assert goaway is not None and goaway.data == told
                    assert await stream.next() is None
                assert (await hear_close(idle))[0] == 4503
                answer = (await polling).json()
                assert (answer["events"], answer["ended"]) == ([], False)
                await api.serving
            assert time.monotonic() - started < 1

    asyncio.run(main())


class StoppingStore(MemoryEventStore):
    """Stops the server during the third read of a subscriber that is behind."""

    reads = 0
    api: Api | None = None

    async def read_log(
        self, after: Mapping[int, Cursor], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        if wait_seconds == 0 and self.api is not None:
            self.reads += 1
            if self.reads == 3:
                self.api.stopping.set()
                async with asyncio.timeout(WAIT_SECONDS):
                    while self.api.sessions.refusal is None:
                        await self.api.http.get("/livez")
        return await super().read_log(after, limit, wait_seconds)


def test_stopping_does_not_wait_for_a_stream_that_has_far_to_go() -> None:
    async def main() -> None:
        store = StoppingStore(partitions=4, store_id="memory", now_us=SystemClock().now_us)
        async with running(store, ring_frames_max=1) as api:
            await lives(api, 60)
            store.api = api
            async with listening(api, "/api/clients/user01/stream", from_="start") as heard:
                before, goaway = await heard.until("goaway")
                assert goaway is not None and goaway.data["code"] == 4503
                assert await heard.next() is None
            assert 100 <= len(events(before)) < 360

    asyncio.run(main())


def test_streams_count_among_the_sockets_of_a_process() -> None:
    async def scenario(api: Api) -> None:
        async with listening(api, "/api/stream") as heard:
            await heard.until("caught_up")
            problem(await api.http.get("/api/stream"), 503, "unavailable")
            async with connected(api) as socket:
                assert (await hear_close(socket))[0] == 4429
        await subscribers(api, 0)

    on_limited(SocketLimits(sockets_max=1), scenario)


async def unread(api: Api) -> sockets.socket:
    """A client that asks for all events and takes nothing of the answer."""
    host, _, port = api.url.removeprefix("http://").partition(":")
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    raw.connect((host, int(port)))
    before = len(api.sessions)
    raw.sendall(b"GET /api/stream?from=start HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await subscribers(api, before + 1)
    return raw


@pytest.mark.slow
def test_stopping_does_not_wait_for_whoever_reads_nothing() -> None:
    async def main() -> None:
        async with running(memory_store()) as api:
            await lives(api, 40)
            with await unread(api):
                readers = [one for one in api.sessions._open if isinstance(one, Reader)]
                async with asyncio.timeout(WAIT_SECONDS):
                    while api.sessions.source.behind(readers[0].subscription) < 300:
                        await lives(api, 10)
                started = time.monotonic()
                api.stopping.set()
                await api.serving
                assert time.monotonic() - started < 1

    asyncio.run(main())


@pytest.mark.slow
def test_a_stream_that_nobody_reads_is_broken_off_and_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(api: Api) -> None:
        await lives(api, 40)
        raw = await unread(api)
        async with asyncio.timeout(WAIT_SECONDS):
            while len(api.sessions):
                await lives(api, 1)
        # What the connection had taken is still there, and nothing else: not the end of the answer, no silence either.
        raw.setblocking(False)
        heard = b""
        with raw:
            async with asyncio.timeout(WAIT_SECONDS):
                while more := await asyncio.get_running_loop().sock_recv(raw, 65_536):
                    heard += more
        assert heard and not heard.endswith(b"0\r\n\r\n")
        assert [record for record in caplog.records if record.levelname == "ERROR"] == []

    on_limited(SocketLimits(send_seconds_max=0.2), scenario)


def test_a_long_poll_waits_for_events_and_goes_on_by_its_cursor() -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        await live(api.streams, order_id, LIFE[:2])
        path = f"/api/orders/{order_id}/stream"
        first = (await api.http.get(path, params={"wait": 5, "limit": 3})).json()
        assert [frame["seq"] for frame in first["events"]] == [1, 2, 3]
        assert (first["cursor"], first["more"], first["ended"]) == (first["events"][2]["cursor"], True, False)
        second = (await api.http.get(path, params={"wait": 5, "after": first["cursor"]})).json()
        assert ([frame["seq"] for frame in second["events"]], second["more"]) == ([4], False)
        nothing = (await api.http.get(path, params={"wait": 0, "after": second["cursor"]})).json()
        assert nothing == {"cursor": second["cursor"], "more": False, "ended": False, "events": []}
        waiting = asyncio.create_task(api.http.get(path, params={"wait": 20, "after": second["cursor"]}))
        await subscribers(api, 1)
        await live(api.streams, order_id, LIFE[2:])
        third = (await waiting).json()
        assert [frame["seq"] for frame in third["events"]][:1] == [5]
        last = (await api.http.get(path, params={"wait": 20, "after": 6})).json()
        assert (last["events"], last["ended"]) == ([], True)

    on_memory(scenario)


@pytest.mark.parametrize("path", ["/api/stream", "/api/clients/user01/stream"])
@pytest.mark.parametrize("ring_frames_max", [1, 1000])
def test_long_polls_of_any_size_tell_the_whole_log(path: str, ring_frames_max: int) -> None:
    async def scenario(api: Api) -> None:
        await lives(api, 3)
        cursor, frames = "start", []
        while True:
            params: dict[str, int | str] = {"wait": 0, "limit": 4, "after": cursor}
            answer = (await api.http.get(path, params=params)).json()
            frames += answer["events"]
            cursor = answer["cursor"]
            if not answer["events"]:
                break
        await check_all(api.store, frames)
        assert cursor.endswith(str((await api.store.log_ends())[partition_of("user01", 4)]))

    on_limited(SocketLimits(), scenario, ring_frames_max)


class FailingReads(MemoryEventStore):
    """Reads of streams from anywhere but their start fail so many times."""

    failures = 0

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> Sequence[StoredEvent]:
        if self.failures and after:
            self.failures -= 1
            raise StoreUnavailableError("down")
        return await super().read_stream(stream, after, limit)


def test_an_outage_is_waited_out_by_a_stream_and_told_at_its_beginning() -> None:
    async def main() -> None:
        store = FailingReads(partitions=4, store_id="memory", now_us=SystemClock().now_us)
        async with running(store, ring_frames_max=1) as api:
            order_id = await api.place()
            path = f"/api/orders/{order_id}/stream"
            async with listening(api, path) as heard:
                await heard.until("caught_up")
                await live(api.streams, order_id, LIFE[:1])
                await heard.until("routing")
                # The ring holds the last of what follows only, so the others are read.
                store.failures = 1
                await live(api.streams, order_id, LIFE[1:])
                rest, _ = await heard.until(None)
                assert [frame["seq"] for frame in events(rest)] == [3, 4, 5, 6]
                assert store.failures == 0
            store.failures = 1
            problem(await api.http.get(path, params={"after": 3}), 503, "unavailable")

    asyncio.run(main())


def test_an_outage_in_the_middle_of_a_page_loses_no_event_of_a_stream() -> None:
    async def main() -> None:
        store = FailingLooks(partitions=4, store_id="memory", now_us=SystemClock().now_us)
        async with running(store) as api:
            order_ids, cursor = await begun(api, 3)
            store.failing = True
            async with listening(api, "/api/clients/user01/stream", assets="SOL", after=cursor) as heard:
                before, _ = await heard.until("caught_up")
            expected = [(order_id, seq) for order_id in order_ids for seq in range(2, 7)]
            assert (seen(events(before)), store.looks) == (expected, 6)

    asyncio.run(main())


def test_a_stream_of_a_log_with_a_hole_ends_before_it() -> None:
    async def main() -> None:
        store = HoleyLog(partitions=4, store_id="memory", now_us=SystemClock().now_us)
        async with running(store, ring_frames_max=1) as api:
            await lives(api, 1)
            store.holey = True
            async with listening(api, "/api/stream", from_="start") as heard:
                before, goaway = await heard.until("goaway")
                assert goaway is not None and goaway.data["code"] == 4510
                assert (events(before), await heard.next()) == ([], None)
            problem(await api.http.get("/api/stream?from=start&wait=5"), 503, "unavailable")

    asyncio.run(main())


def test_a_stream_of_a_rewound_log_ends_and_is_refused_until_the_client_forgets(
    redis_url: str, database_url: str
) -> None:
    async def main() -> None:
        async with rewindable(redis_url, database_url) as on:
            store = await on.open()
            async with running(store, database_url) as api:
                order_id = await api.place()
                await on.project(store)
                await live(api.streams, order_id, LIFE[:1])
                async with listening(api, "/api/clients/user01/stream", from_="start") as heard:
                    said, _ = await heard.until("caught_up")
                    await on.flush()
                    await live(api.streams, order_id, LIFE[:1])
                    _, goaway = await heard.until("goaway")
                    assert goaway is not None and goaway.data["code"] == 4510
                frames = events(said)
                response = await welcome_again(api, "/api/clients/user01/stream", frames[-1]["cursor"])
                common = problem(response, 410, "fork")["lastCommon"]
                assert common == {"cursor": frames[0]["cursor"]}

    asyncio.run(main())


async def welcome_again(api: Api, path: str, last: str) -> httpx.Response:
    """The answer of a server that takes subscribers again after it took up a rewound log."""
    async with asyncio.timeout(WAIT_SECONDS):
        while (response := await api.http.get(path, headers={"Last-Event-ID": last})).status_code == 503:
            continue
    return response
