"""How subscriptions flow: filters and bookmarks, windows and batches, greetings and heartbeats, and who is too slow."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from app.api.streaming.sessions import SocketLimits
from app.clock import SystemClock
from app.orders.commands import RecordIntent
from eventstore.errors import StoreUnavailableError
from eventstore.ids import Cursor, partition_of
from eventstore.memory import MemoryEventStore
from eventstore.store import StoredCommit, StoredEvent
from tests.integration.api import (
    LIFE,
    Api,
    connected,
    hear,
    hear_close,
    hear_many,
    hear_nothing_more,
    live,
    memory_store,
    on_memory,
    running,
    say,
)
from tests.integration.test_subscriptions import check_all, seen, subscribed, until

Frame = dict[str, Any]


def on_limited(limits: SocketLimits, scenario: Callable[[Api], Awaitable[None]], ring_frames_max: int = 1000) -> None:
    async def main() -> None:
        async with running(memory_store(), sockets=limits, ring_frames_max=ring_frames_max) as api:
            await scenario(api)

    asyncio.run(main())


async def lives(api: Api, count: int, **fields: object) -> list[str]:
    """Let so many orders live from beginning to end."""
    order_ids = [await api.place(**fields) for _ in range(count)]
    for order_id in order_ids:
        await live(api.streams, order_id)
    return order_ids


@pytest.mark.parametrize("ring_frames_max", [1, 1000])
def test_a_filter_lets_through_what_it_names_and_nothing_else(ring_frames_max: int) -> None:
    filters: list[tuple[dict[str, object], Callable[[Frame], bool]]] = [
        ({"events": ["confirmed", "routing:quotes"]}, lambda frame: frame["event"] in ("confirmed", "routing:quotes")),
        ({"statuses": ["submitted"]}, lambda frame: frame["status"] == "submitted"),
        ({"assets": ["BONK", "ETH"]}, lambda frame: frame["orderId"] in bonk),
        ({"assets": ["USDC"], "events": "pending,building"}, lambda frame: frame["event"] in ("pending", "building")),
        ({"events": ["confirmed"], "statuses": ["submitted"]}, lambda frame: False),
    ]
    bonk: list[str] = []

    async def scenario(api: Api) -> None:
        await lives(api, 2)
        bonk.extend(await lives(api, 2, baseAsset="BONK", amount=1_000_000))
        async with connected(api) as socket:
            await subscribed(socket, sub="whole", scope="all", **{"from": "start"})
            whole, _ = await until(socket, "caught_up")
            for number, (filter_, wanted) in enumerate(filters):
                scope: dict[str, object] = {"clientId": "user01"} if number % 2 else {"scope": "all"}
                await subscribed(socket, sub=f"s{number}", until="caught_up", **scope, **filter_, **{"from": "start"})
                frames, _ = await until(socket, "unsubscribed")
                assert seen(frames) == seen([frame for frame in whole if wanted(frame)]), filter_
            for number, (filter_, wanted) in enumerate(filters):
                await subscribed(socket, sub=f"o{number}", orderId=bonk[0], **filter_)
                frames, _ = await until(socket, "unsubscribed")
                own = [frame for frame in whole if frame["orderId"] == bonk[0] and wanted(frame)]
                assert seen(frames) == seen(own), filter_

    on_limited(SocketLimits(), scenario, ring_frames_max)


class CountingReads(MemoryEventStore):
    """Counts the commits that reading the log returned."""

    def __init__(self) -> None:
        super().__init__(partitions=4, store_id="memory", now_us=SystemClock().now_us)
        self.commits = 0

    async def read_log(
        self, after: Mapping[int, Cursor], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        found = await super().read_log(after, limit, wait_seconds)
        if wait_seconds == 0:
            self.commits += len(found)
        return found


def test_a_filtered_subscription_is_told_how_far_it_is_so_that_a_resume_rescans_nothing() -> None:
    async def main() -> None:
        store, limits = CountingReads(), SocketLimits(bookmark_events=20)
        async with running(store, sockets=limits, ring_frames_max=1) as api, connected(api) as socket:
            await lives(api, 12)
            await subscribed(socket, sub="s", scope="all", events=["expired"], **{"from": "start"})
            bookmarks = []
            while (frame := await hear(socket))["type"] == "bookmark":
                bookmarks.append(frame)
            assert len(bookmarks) == 72 // 20
            assert frame["type"] == "caught_up"
            store.commits = 0
            await subscribed(socket, sub="t", scope="all", after=bookmarks[-1]["cursor"])
            frames, _ = await until(socket, "caught_up")
            assert (len(frames), store.commits <= 12 + 1) == (72 % 20, True)

    asyncio.run(main())


def test_a_quiet_subscription_is_told_of_its_place_after_a_while() -> None:
    async def scenario(api: Api) -> None:
        async with connected(api) as socket:
            await subscribed(socket, sub="mine", clientId="user01")
            assert (await hear(socket))["type"] == "caught_up"
            # Another client's orders, in the same partition, move the place of this one.
            mine = partition_of("user01", 4)
            await lives(api, 1, clientId=next(name for name in map(str, range(99)) if partition_of(name, 4) == mine))
            head = str((await api.store.log_ends())[mine])
            while (bookmark := await hear(socket))["cursor"] != head:
                assert bookmark["type"] == "bookmark"
            assert bookmark == {"type": "bookmark", "sub": "mine", "cursor": head}
            [order_id] = await lives(api, 1)
            events: list[Frame] = []
            while len(events) < 6:
                frame = await hear(socket)
                events += [frame] if "event" in frame else []
            assert seen(events) == [(order_id, seq) for seq in range(1, 7)]

    on_limited(SocketLimits(bookmark_seconds=0.05), scenario, ring_frames_max=2)


@pytest.mark.parametrize("batch", [None, 3])
def test_a_window_stops_the_events_until_they_are_acknowledged(batch: int | None) -> None:
    options = {} if batch is None else {"batch": batch}

    async def scenario(api: Api) -> None:
        await lives(api, 3)
        async with connected(api) as socket:
            await subscribed(socket, sub="s", scope="all", window=4, **options, **{"from": "start"})
            frames: list[Frame] = []
            while len(frames) < 18:
                room = min(4, 18 - len(frames))
                got: list[Frame] = []
                while len(got) < room:
                    frame = await hear(socket)
                    got += frame["items"] if batch else [frame]
                assert len(got) == room
                frames += got
                if len(frames) < 18:
                    await hear_nothing_more(socket)
                    # One in the middle gives back as many as came before it, and a second time none.
                    for _ in range(2):
                        await say(socket, type="ack", sub="s", cursor=got[1]["cursor"])
                    got = []
                    while len(got) < min(2, 18 - len(frames)):
                        frame = await hear(socket)
                        got += frame["items"] if batch else [frame]
                    frames += got
                    if len(frames) < 18:
                        await hear_nothing_more(socket)
                    await say(socket, type="ack", sub="s", cursor=frames[-1]["cursor"])
            assert (await hear(socket))["type"] == "caught_up"
            await check_all(api.store, frames)
            await say(socket, type="ack", sub="t", cursor="1-1-00000000", id=3)
            error = await hear(socket)
            assert (error["code"], error["id"]) == ("not_subscribed", 3)
            await say(socket, type="ack", sub="s", id=4)
            assert (await hear(socket))["errors"][0]["pointer"] == "/cursor"

    on_memory(scenario)


def test_events_come_in_batches_where_that_is_asked_for() -> None:
    async def scenario(api: Api) -> None:
        await lives(api, 4)
        async with connected(api) as socket:
            await subscribed(socket, sub="s", scope="all", batch=10, **{"from": "start"})
            batches: list[Frame] = []
            while (frame := await hear(socket))["type"] == "events":
                batches.append(frame)
            assert [frame["sub"] for frame in batches] == ["s"] * len(batches)
            assert max(len(frame["items"]) for frame in batches) == 10
            items = [item for frame in batches for item in frame["items"]]
            assert all(item["replay"] for item in items)
            await check_all(api.store, items)
            assert frame["cursor"] == items[-1]["cursor"]

    on_memory(scenario)


def test_a_batch_of_large_events_is_sent_in_parts() -> None:
    async def scenario(api: Api) -> None:
        for _ in range(20):
            order_id = await api.place()
            intent = RecordIntent(tx_id="5xSignature", message="AQID" * 2_000, last_valid_height=157)
            await live(api.streams, order_id, (*LIFE[:2], intent))
        async with connected(api) as socket:
            await subscribed(socket, sub="s", clientId="user01", batch=500, **{"from": "start"})
            sizes: list[int] = []
            while (text := await socket.recv())[:16] == '{"type":"events"':
                sizes.append(len(text))
            assert len(sizes) > 2 and max(sizes) < 65_536

    on_memory(scenario)


def test_hello_is_welcomed_with_limits_epochs_and_head_and_said_once() -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        async with connected(api) as socket:
            await subscribed(socket, scope="all", **{"from": "start"})
            [pending], _ = await until(socket, "caught_up")
            await say(socket, type="hello", id="h", v=1, client={"name": "test", "version": "1"})
            welcome = await hear(socket)
            assert welcome.pop("connection").startswith("c_")
            assert welcome["server"].pop("time") > pending["at"]
            assert welcome == {
                "type": "welcome",
                "id": "h",
                "v": 1,
                "log": {"epochs": {str(int(order_id[-2:])): 1}, "head": pending["cursor"]},
                "heartbeatMs": 15_000,
                "limits": {"frameBytes": 65_536, "subs": 200, "inflight": 64, "windowMax": 4_096, "batchMax": 500},
                "server": {"version": "0.0.test"},
            }
            await say(socket, type="ping", t=1_795_300_457_000)
            assert await hear(socket) == {"type": "pong", "t": 1_795_300_457_000}
            await say(socket, type="hello", client="me", tier="x")
            error = await hear(socket)
            assert [one["pointer"] for one in error["errors"]] == ["/client", "/tier"]
            await say(socket, type="hello")
            code, [goaway] = await hear_close(socket)
            assert (code, goaway["reason"]) == (4409, "hello was said before")
            assert goaway["cursors"] == {"all": pending["cursor"]}
        async with connected(api) as socket:
            await say(socket, type="hello", v=2)
            assert (await hear_close(socket))[0] == 4406

    on_memory(scenario)


def test_silence_is_broken_by_heartbeats_with_the_head_for_whoever_said_hello() -> None:
    async def scenario(api: Api) -> None:
        async with connected(api) as plain, connected(api) as socket:
            await say(socket, type="hello")
            assert (await hear(socket))["log"] == {"epochs": {}, "head": "start"}
            first = await hear(socket)
            assert (first["type"], first["head"]) == ("heartbeat", "start")
            order_id = await api.place()
            while (heartbeat := await hear(socket))["head"] == "start":
                assert heartbeat["t"] >= first["t"]
            assert heartbeat["head"].startswith(f"{int(order_id[-2:])}.1-1-")
            await hear_nothing_more(plain)

    on_limited(SocketLimits(heartbeat_seconds=0.05), scenario)


def test_a_subscription_that_does_not_keep_up_is_told_and_closed_with_its_cursor() -> None:
    async def scenario(api: Api) -> None:
        async with connected(api) as socket, connected(api) as quick:
            await subscribed(quick, sub="q", scope="all")
            await subscribed(socket, sub="s", clientId="user01", window=2)
            for one in (quick, socket):
                assert (await hear(one))["type"] == "caught_up"
            await lives(api, 1)
            events = await hear_many(socket, 2)
            lagging = await hear(socket)
            assert lagging == {
                "type": "lagging",
                "sub": "s",
                "cursor": events[1]["cursor"],
                "behind": 4,
                "closeInMs": 50,
            }
            code, [goaway] = await hear_close(socket)
            assert (code, goaway["code"], goaway["reconnectAfterMs"]) == (4508, 4508, 1_000)
            assert goaway["cursors"] == {"s": events[1]["cursor"]}
            assert len(await hear_many(quick, 6)) == 6
            await hear_nothing_more(quick)

    on_limited(SocketLimits(lag_seconds_max=0.05, lag_close_seconds=0.05), scenario)


def test_a_subscription_that_catches_up_in_time_is_not_closed() -> None:
    async def scenario(api: Api) -> None:
        async with connected(api) as socket:
            await subscribed(socket, sub="s", scope="all", window=2)
            assert (await hear(socket))["type"] == "caught_up"
            order_id = await api.place()
            await live(api.streams, order_id, LIFE[:2])
            events = await hear_many(socket, 2)
            assert (await hear(socket))["type"] == "lagging"
            await say(socket, type="ack", sub="s", cursor=events[1]["cursor"])
            events += await hear_many(socket, 2)
            await say(socket, type="ack", sub="s", cursor=events[3]["cursor"])
            await live(api.streams, order_id, LIFE[2:])
            assert [frame["seq"] for frame in await hear_many(socket, 2)] == [5, 6]

    on_limited(SocketLimits(lag_events_max=1, lag_close_seconds=5, heartbeat_seconds=0.1), scenario)


def test_a_quiet_clients_place_keeps_up_without_reading_the_log() -> None:
    async def main() -> None:
        store = CountingReads()
        async with running(store, ring_frames_max=2) as api, connected(api) as socket, connected(api) as witness:
            await subscribed(socket, clientId="user01")
            await until(socket, "caught_up")
            await subscribed(witness, scope="all")
            await until(witness, "caught_up")
            mine = partition_of("user01", 4)
            other = next(name for name in map(str, range(99)) if partition_of(name, 4) == mine)
            for _ in range(5):
                order_id = await api.place(clientId=other)
                await live(api.streams, order_id, LIFE[:1])
                await hear_many(witness, 2)
            store.commits = 0
            order_id = await api.place()
            assert seen(await hear_many(socket, 1)) == [(order_id, 1)]
            assert store.commits == 0

    asyncio.run(main())


class HoleyLog(MemoryEventStore):
    """Leaves a commit out of what subscribers read of the log, once ``holey`` is set."""

    holey = False

    async def read_log(
        self, after: Mapping[int, Cursor], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        found = await super().read_log(after, limit, wait_seconds)
        return found[1:] if self.holey and wait_seconds == 0 and len(found) > 1 else found


@pytest.mark.parametrize("scope", [{"scope": "all"}, {"clientId": "user01"}])
def test_a_log_with_a_hole_is_never_passed_on(scope: dict[str, object]) -> None:
    async def main() -> None:
        store = HoleyLog(partitions=4, store_id="memory", now_us=SystemClock().now_us)
        async with running(store, ring_frames_max=1) as api, connected(api) as socket:
            await lives(api, 1)
            store.holey = True
            await subscribed(socket, **scope, **{"from": "start"})
            code, frames = await hear_close(socket)
            assert code == 4510
            assert [frame for frame in frames if "event" in frame] == []

    asyncio.run(main())


class FailingLooks(MemoryEventStore):
    """Looking up what an order's first event says fails every other time, once ``failing`` is set."""

    failing = False
    looks = 0

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> Sequence[StoredEvent]:
        if self.failing and limit == 1:
            self.looks += 1
            if self.looks % 2:
                raise StoreUnavailableError("down")
        return await super().read_stream(stream, after, limit)


async def begun(api: Api, count: int) -> tuple[list[str], str]:
    """Let orders begin, and live; return them and the cursor between the two."""
    order_ids = [await api.place() for _ in range(count)]
    cursor = str((await api.store.log_ends())[partition_of("user01", 4)])
    for order_id in order_ids:
        await live(api.streams, order_id)
    return order_ids, cursor


@pytest.mark.parametrize("batch", [None, 50])
def test_an_outage_in_the_middle_of_a_page_loses_no_event(batch: int | None) -> None:
    async def main() -> None:
        store = FailingLooks(partitions=4, store_id="memory", now_us=SystemClock().now_us)
        async with running(store) as api, connected(api) as socket:
            order_ids, cursor = await begun(api, 3)
            store.failing = True
            options = {} if batch is None else {"batch": batch}
            await subscribed(socket, sub="s", clientId="user01", assets=["SOL"], after=cursor, **options)
            frames, _ = await until(socket, "caught_up")
            assert seen(frames) == [(order_id, seq) for order_id in order_ids for seq in range(2, 7)]
            assert store.looks == 6

    asyncio.run(main())
