"""Subscriptions to one order, one client's orders and all of them: what comes, in which order, and from where on."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosedError

from app.api.streaming.scopes import ClientScope
from app.api.streaming.snapshots import Snapshots
from app.clock import SystemClock
from app.orders.times import format_time
from eventstore.ids import LOG_START, Cursor, partition_in, partition_of
from eventstore.memory import MemoryEventStore
from eventstore.store import EventStore, StoredCommit
from tests.integration.api import (
    LIFE,
    ORDER,
    WAIT_SECONDS,
    Api,
    connected,
    hear,
    hear_many,
    hear_nothing_more,
    live,
    memory_store,
    on_memory,
    redis_store,
    running,
    say,
)
from tests.integration.rewinding import rewindable

Frame = dict[str, Any]
RINGS = [1, 7, 1000]
"""Ring sizes: nearly all is read from the log, some of it, nothing."""


async def subscribed(socket: ClientConnection, **members: object) -> Frame:
    """Subscribe and return the answer."""
    await say(socket, type="subscribe", **members)
    answer = await hear(socket)
    assert answer["type"] == "subscribed", answer
    return answer


async def until(socket: ClientConnection, kind: str) -> tuple[list[Frame], Frame]:
    """Return the events before the next message of that type, and that message."""
    events: list[Frame] = []
    while (frame := await hear(socket)).get("type") != kind:
        events += frame["items"] if frame.get("type") == "events" else [frame] if "event" in frame else []
    return events, frame


async def told(store: EventStore, partition: int) -> list[tuple[str, int]]:
    """Order and seq of every event in a partition's log."""
    commits = await store.read_log({partition: LOG_START}, 10_000)
    return [
        (commit.stream, commit.version - len(commit.events) + 1 + number)
        for commit in commits
        for number in range(len(commit.events))
    ]


def seen(frames: Sequence[Frame]) -> list[tuple[str, int]]:
    return [(frame["orderId"], frame["seq"]) for frame in frames]


async def check_all(store: EventStore, frames: Sequence[Frame]) -> None:
    """Every event of every partition is there once, in its partition's order."""
    for number in range(store.partitions):
        expected = await told(store, number)
        assert [place for place in seen(frames) if partition_in(place[0]) == number] == expected


def on_rings(scenario: Callable[[Api], Awaitable[None]], ring_frames_max: int) -> None:
    async def main() -> None:
        async with running(memory_store(), ring_frames_max=ring_frames_max) as api:
            await scenario(api)

    asyncio.run(main())


@pytest.mark.parametrize("ring_frames_max", RINGS)
def test_a_clients_subscription_has_its_orders_and_nobody_elses(ring_frames_max: int) -> None:
    async def scenario(api: Api) -> None:
        mine, other = [await api.place() for _ in range(2)], await api.place(clientId="other")
        await live(api.streams, mine[0])
        async with connected(api) as socket:
            answer = await subscribed(socket, sub="s", clientId="user01", id=1, **{"from": "start"})
            head = (await api.store.log_ends())[partition_of("user01", 4)]
            assert answer == {
                "type": "subscribed",
                "id": 1,
                "sub": "s",
                "clientId": "user01",
                "after": "start",
                "head": str(head),
            }
            replayed, caught_up = await until(socket, "caught_up")
            assert seen(replayed) == [(mine[0], 1), (mine[1], 1), *((mine[0], seq) for seq in range(2, 7))]
            assert {(frame["sub"], frame["replay"]) for frame in replayed} == {("s", True)}
            assert caught_up["sub"] == "s"
            await live(api.streams, other)
            await live(api.streams, mine[1])
            later = await hear_many(socket, 5)
            assert seen(later) == [(mine[1], seq) for seq in range(2, 7)]
            assert all("replay" not in frame for frame in later)
            await hear_nothing_more(socket)

    on_rings(scenario, ring_frames_max)


@pytest.mark.parametrize("ring_frames_max", RINGS)
def test_a_subscription_to_everything_has_a_cursor_for_all_partitions_at_once(ring_frames_max: int) -> None:
    async def scenario(api: Api) -> None:
        order_ids = [await api.place(clientId=f"client-{number}") for number in range(9)]
        for order_id in order_ids[:5]:
            await live(api.streams, order_id)
        async with connected(api) as socket:
            answer = await subscribed(socket, scope="all", **{"from": "start"})
            assert (answer["sub"], answer["scope"], answer["after"]) == ("all", "all", "start")
            frames, caught_up = await until(socket, "caught_up")
            for order_id in order_ids[5:]:
                await live(api.streams, order_id)
            frames += await hear_many(socket, 20)
            await check_all(api.store, frames)
            await hear_nothing_more(socket)
        ends = await api.store.log_ends()
        head = "~".join(f"{number}.{ends[number]}" for number in range(4) if ends[number] != LOG_START)
        assert frames[-1]["cursor"] == head
        assert answer["head"] == caught_up["cursor"]
        for cut in range(0, len(frames), 7):
            async with connected(api) as socket:
                await subscribed(socket, scope="all", after=frames[cut]["cursor"])
                rest, _ = await until(socket, "caught_up")
            await check_all(api.store, [*frames[: cut + 1], *rest])

    on_rings(scenario, ring_frames_max)


@pytest.mark.parametrize("ring_frames_max", RINGS)
def test_a_clients_subscription_resumes_after_any_of_its_cursors(ring_frames_max: int) -> None:
    async def scenario(api: Api) -> None:
        for number in range(4):
            await live(api.streams, await api.place(clientId="other" if number == 2 else "user01"))
        async with connected(api) as socket:
            await subscribed(socket, sub="s", clientId="user01", **{"from": "start"})
            frames, caught_up = await until(socket, "caught_up")
            assert len(frames) == 18
            for index, frame in enumerate(frames):
                await subscribed(socket, sub=f"s{index}", clientId="user01", after=frame["cursor"])
                rest, end = await until(socket, "caught_up")
                assert seen(rest) == seen(frames[index + 1 :])
                assert end["cursor"] == caught_up["cursor"]

    on_rings(scenario, ring_frames_max)


SCOPES: list[dict[str, object]] = [{"clientId": "user01"}, {"scope": "all"}]


@pytest.mark.parametrize("ring_frames_max", [1, 1000])
def test_a_subscription_begins_at_the_start_now_a_time_or_the_last_events(ring_frames_max: int) -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        await live(api.streams, order_id)
        async with connected(api) as socket:
            await subscribed(socket, sub="whole", orderId=order_id)
            [*_, fifth, sixth] = (await until(socket, "unsubscribed"))[0]
            whole: dict[str, object] = {"orderId": order_id}
            for number, scope in enumerate([whole, *SCOPES]):
                ending = "unsubscribed" if number == 0 else "caught_up"
                cases: list[tuple[dict[str, object], list[int]]] = [
                    ({"from": "start"}, [1, 2, 3, 4, 5, 6]),
                    ({"from": "now"}, []),
                    ({"last": 2}, [5, 6]),
                    ({"last": 1_000}, [1, 2, 3, 4, 5, 6]),
                    ({"last": 1, "events": ["routing"]}, [2]),
                    ({"since": "2000-01-01T00:00:00Z"}, [1, 2, 3, 4, 5, 6]),
                    ({"since": "2999-01-01T00:00:00+01:00"}, []),
                ]
                if number == 0:
                    cases += [({"since": sixth["at"]}, [6]), ({"after": 4}, [5, 6]), ({"after": fifth["cursor"]}, [6])]
                for index, (start, expected) in enumerate(cases):
                    await subscribed(socket, sub=f"s{number}-{index}", **scope, **start)
                    frames, _ = await until(socket, ending)
                    assert [frame["seq"] for frame in frames] == expected, (scope, start)

    on_rings(scenario, ring_frames_max)


class TimedStore(MemoryEventStore):
    """Records lives at times of its own, one second apart, in a future that no order's beginning is in."""

    seconds = 1_900_000_000

    def __init__(self) -> None:
        self.is_ahead = False
        super().__init__(partitions=2, store_id="timed", now_us=self._now)

    def _now(self) -> int:
        return self.seconds * 1_000_000 if self.is_ahead else SystemClock().now_us()

    async def tick(self, api: Api, order_id: str) -> int:
        """Let an order live, a second after whatever came before; return when its events were recorded."""
        self.is_ahead = True
        self.seconds += 1
        await live(api.streams, order_id)
        return self.seconds


@pytest.mark.parametrize("ring_frames_max", [1, 1000])
def test_since_finds_the_first_event_recorded_then_in_every_partition(ring_frames_max: int) -> None:
    async def main() -> None:
        store = TimedStore()
        async with running(store, ring_frames_max=ring_frames_max) as api:
            order_ids = [await api.place(clientId=f"client-{number % 3}") for number in range(120)]
            recorded = {order_id: await store.tick(api, order_id) for order_id in order_ids}
            async with connected(api) as socket:
                for number in range(0, 121, 8):
                    second = 1_900_000_001 + number
                    await subscribed(socket, sub=f"s{number}", scope="all", since=format_time(second * 1_000_000))
                    frames, _ = await until(socket, "caught_up")
                    expected = [order_id for order_id, at in recorded.items() if at >= second for _ in range(5)]
                    assert sorted(frame["orderId"] for frame in frames) == sorted(expected)
                    await say(socket, type="unsubscribe", sub=f"s{number}")
                    await hear(socket)
                await subscribed(socket, sub="last", scope="all", last=7)
                frames, _ = await until(socket, "caught_up")
                newest = [(order_ids[-1], seq) for seq in (2, 3, 4, 5, 6)]
                assert len(frames) == 7 and set(newest) <= set(seen(frames))

    asyncio.run(main())


def test_a_start_that_is_no_place_is_refused_by_field() -> None:
    cases: list[tuple[dict[str, object], str, str]] = [
        ({"sub": "s"}, "invalid_message", "/orderId"),
        ({"sub": 5, "scope": "all"}, "invalid_message", "/sub"),
        ({"scope": "everything"}, "invalid_message", "/scope"),
        ({"scope": "all", "clientId": "c"}, "invalid_message", "/scope"),
        ({"scope": "all", "from": "then"}, "invalid_message", "/from"),
        ({"scope": "all", "since": 1_900_000_000}, "invalid_message", "/since"),
        ({"scope": "all", "since": "2027-01-31"}, "invalid_message", "/since"),
        ({"scope": "all", "since": "2027-13-31T00:00:00Z"}, "invalid_message", "/since"),
        ({"scope": "all", "last": 0}, "invalid_message", "/last"),
        ({"scope": "all", "last": 1_001}, "invalid_message", "/last"),
        ({"scope": "all", "last": 1, "from": "now"}, "invalid_message", "/after"),
        ({"scope": "all", "snapshot": True, "from": "now"}, "invalid_message", "/after"),
        ({"scope": "all", "snapshot": "yes"}, "invalid_message", "/snapshot"),
        ({"scope": "all", "until": "terminal"}, "invalid_message", "/until"),
        ({"scope": "all", "window": 0}, "invalid_message", "/window"),
        ({"scope": "all", "batch": 501}, "invalid_message", "/batch"),
        ({"scope": "all", "events": []}, "invalid_message", "/events"),
        ({"scope": "all", "events": ["dance"]}, "invalid_message", "/events"),
        ({"scope": "all", "statuses": [5]}, "invalid_message", "/statuses"),
        ({"scope": "all", "assets": ["GOLD"]}, "invalid_message", "/assets"),
        ({"scope": "all", "noise": 1}, "invalid_message", "/noise"),
        ({"scope": "all", "after": "1-1-00000000"}, "after_malformed", "/after"),
        ({"scope": "all", "after": "0.1-1-00000000~0.1-1-00000000"}, "after_malformed", "/after"),
        ({"scope": "all", "after": "4.1-1-00000000"}, "after_malformed", "/after"),
        ({"scope": "all", "after": "0.x"}, "after_malformed", "/after"),
        ({"clientId": "c", "after": "0.1-1-00000000"}, "after_malformed", "/after"),
        ({"clientId": "c", "after": "3"}, "after_malformed", "/after"),
    ]

    async def scenario(api: Api) -> None:
        async with connected(api) as socket:
            for members, code, pointer in cases:
                await say(socket, type="subscribe", id=7, **members)
                error = await hear(socket)
                assert (error["type"], error["id"], error["code"]) == ("error", 7, code), members
                assert error["errors"][0]["pointer"] == pointer, members
            await subscribed(socket, sub="s", scope="all")
            await until(socket, "caught_up")
            await say(socket, type="subscribe", sub="s", clientId="c")
            error = await hear(socket)
            assert (error["code"], error["sub"]) == ("already_subscribed", "s")
            await say(socket, type="unsubscribe", sub="t")
            assert (await hear(socket))["code"] == "not_subscribed"

    on_memory(scenario)


def test_an_ended_or_unsubscribed_subscription_says_where_it_was() -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        async with connected(api) as socket:
            await subscribed(socket, sub="o", orderId=order_id, until="terminal")
            await until(socket, "caught_up")
            await live(api.streams, order_id)
            frames, ended = await until(socket, "unsubscribed")
            facts = {"sub": "o", "reason": "completed", "cursor": frames[-1]["cursor"]}
            assert ended == {"type": "unsubscribed", **facts}
            again = await subscribed(socket, sub="o", orderId=order_id, after=6)
            assert again["ended"] is True
            assert (await hear(socket))["reason"] == "completed"
            await subscribed(socket, sub="c", clientId="user01", until="caught_up", **{"from": "start"})
            frames, caught_up = await until(socket, "caught_up")
            assert await hear(socket) == {**caught_up, "type": "unsubscribed", "reason": "completed"}
            await subscribed(socket, sub="a", scope="all")
            await until(socket, "caught_up")
            await say(socket, type="unsubscribe", sub="a", id=9)
            gone = await hear(socket)
            assert (gone["id"], gone["sub"], gone["reason"]) == (9, "a", "client")
            assert gone["cursor"].endswith(caught_up["cursor"])
            await api.place()
            await hear_nothing_more(socket)

    on_memory(scenario)


def test_an_order_can_be_followed_under_a_name_from_its_submission() -> None:
    async def scenario(api: Api) -> None:
        async with connected(api) as socket:
            await say(socket, **ORDER, follow="mine", id=1, idempotencyKey="k")
            accepted, pending = await hear_many(socket, 2)
            order_id = pending["orderId"]
            placed = {"orderId": order_id, "duplicate": False, "cursor": pending["cursor"]}
            assert accepted == {"type": "accepted", "id": 1, **placed, "sub": "mine"}
            assert (pending["sub"], pending["event"]) == ("mine", "pending")
            await until(socket, "caught_up")
            await live(api.streams, order_id)
            frames, _ = await until(socket, "unsubscribed")
            assert [frame["seq"] for frame in frames] == [2, 3, 4, 5, 6]
            await say(socket, **ORDER, follow="again", idempotencyKey="k")
            assert (await hear(socket))["duplicate"] is True
            frames, _ = await until(socket, "unsubscribed")
            assert [frame["seq"] for frame in frames] == [1, 2, 3, 4, 5, 6]
            await say(socket, **ORDER, follow=5)
            assert (await hear(socket))["errors"][0]["pointer"] == "/follow"

    on_memory(scenario)


def test_a_snapshot_and_the_events_after_it_have_no_hole_between_them(redis_url: str, database_url: str) -> None:
    async def main() -> None:
        async with rewindable(redis_url, database_url) as on:
            store = await on.open()
            async with running(store, database_url) as api, connected(api) as socket:
                first, other = await api.place(), await api.place(clientId="other")
                await live(api.streams, first, LIFE[:2])
                await on.project(store)
                # The read model does not know these yet.
                await live(api.streams, first, LIFE[2:])
                second = await api.place()
                for scope, orders in (({"clientId": "user01"}, {first}), ({"scope": "all"}, {first, other})):
                    answer = await subscribed(socket, snapshot=True, **scope)
                    snapshot = {order["orderId"]: order["seq"] for order in answer["snapshot"]["orders"]}
                    assert snapshot.keys() == orders and snapshot[first] == 4
                    assert answer["snapshot"]["asOf"] == answer["after"]
                    frames, _ = await until(socket, "caught_up")
                    assert [place for place in seen(frames) if place[0] == first] == [(first, 5), (first, 6)]
                    assert (second, 1) in seen(frames) and (other, 1) not in seen(frames)
                answer = await subscribed(socket, sub="o", snapshot=True, orderId=first)
                [order] = answer["snapshot"]["orders"]
                assert (order["seq"], order["status"], answer["after"], answer["ended"]) == (6, "confirmed", 6, True)
                assert (await hear(socket))["reason"] == "completed"
                answer = await subscribed(socket, sub="o2", snapshot=True, orderId=second)
                assert (answer["snapshot"]["orders"][0]["seq"], answer["ended"]) == (1, False)
                await until(socket, "caught_up")
                await live(api.streams, second)
                frames, _ = await until(socket, "unsubscribed")
                assert [frame["seq"] for frame in frames if frame["sub"] == "o2"] == [2, 3, 4, 5, 6]

    asyncio.run(main())


def test_a_snapshot_without_a_database_is_refused_and_the_socket_stays_open() -> None:
    async def scenario(api: Api) -> None:
        async with connected(api) as socket:
            await say(socket, type="subscribe", clientId="user01", snapshot=True, id=1)
            error = await hear(socket)
            assert (error["code"], error["id"], error["sub"]) == ("unavailable", 1, "client:user01")
            await say(socket, type="subscribe", orderId="01ARZ3NDEKTSV4RRFFQ69G5FAV-03", snapshot=True)
            assert (await hear(socket))["code"] == "not_found"

    on_memory(scenario)


def test_what_has_left_the_log_for_ever_is_told_with_where_it_begins_and_a_snapshot() -> None:
    async def scenario(api: Api) -> None:
        store = api.store
        assert isinstance(store, MemoryEventStore)
        first, second = await api.place(), await api.place()
        await live(api.streams, first)
        await live(api.streams, second)
        number = partition_in(first)
        async with connected(api) as socket:
            await subscribed(socket, clientId="user01", **{"from": "start"})
            frames, _ = await until(socket, "caught_up")
        await store.trim_log(number, Cursor.parse(frames[6]["cursor"]))
        head = str((await store.log_ends())[number])
        scopes: list[tuple[dict[str, object], Callable[[str], str], str]] = [
            ({"clientId": "user01"}, lambda cursor: cursor, "/api/orders?clientId=user01"),
            ({"scope": "all"}, lambda cursor: f"{number}.{cursor}", "/api/orders"),
        ]
        async with connected(api) as socket:
            for scope, spelled, snapshot in scopes:
                cursor = spelled(frames[0]["cursor"])
                lost: list[dict[str, object]] = [{"from": "start"}, {"after": "start"}, {"since": frames[5]["at"]}]
                told: list[tuple[dict[str, object], str]] = [
                    ({"after": cursor}, cursor),
                    *((start, "start") for start in lost),
                ]
                for start, shown in told:
                    await say(socket, type="subscribe", **scope, **start)
                    error = await hear(socket)
                    assert error["code"] == "cursor_unavailable"
                    assert (error["cursor"], error["head"]) == (shown, spelled(head))
                    assert (error["earliest"], error["snapshot"]) == (spelled(frames[6]["cursor"]), snapshot)
                kept: list[dict[str, object]] = [
                    {"after": spelled(frames[6]["cursor"])},
                    {"last": 1_000},
                ]
                for start in kept:
                    await subscribed(socket, sub="s", until="caught_up", **scope, **start)
                    rest, _ = await until(socket, "unsubscribed")
                    assert seen(rest) == seen(frames[7:])
                await subscribed(socket, sub="s", until="caught_up", **scope, since=frames[9]["at"])
                rest, _ = await until(socket, "unsubscribed")
                assert seen(frames[9:]) == seen(rest)[-3:] and len(rest) <= 5

    # So small that what was trimmed is not in the ring either.
    on_rings(scenario, 2)


def test_a_cursor_of_a_lost_event_is_told_with_the_last_one_that_lasted(redis_url: str, database_url: str) -> None:
    async def main() -> None:
        async with rewindable(redis_url, database_url) as on:
            store = await on.open()
            async with running(store, database_url) as api:
                kept, forked = await api.place(), await api.place()
                await live(api.streams, kept)
                await on.project(store)
                await live(api.streams, forked, LIFE[:2])
                async with connected(api) as socket:
                    await subscribed(socket, clientId="user01", **{"from": "start"})
                    mine, _ = await until(socket, "caught_up")
                    await subscribed(socket, scope="all", **{"from": "start"})
                    everything, _ = await until(socket, "caught_up")
                await on.flush()
                await live(api.streams, forked)
                lasted = 7
                for frames, scope in ((mine, {"clientId": "user01"}), (everything, {"scope": "all"})):
                    error = await refused(api, scope, frames[-1]["cursor"])
                    assert error["code"] == "fork"
                    common = error["lastCommon"]["cursor"]
                    assert common == frames[lasted - 1]["cursor"]
                    rest = await resumed(api, scope, common)
                    assert seen(rest) == [(forked, seq) for seq in range(2, 7)]
                    assert seen(await resumed(api, scope, frames[2]["cursor"])) == [
                        *seen(frames[3:lasted]),
                        *seen(rest),
                    ]

    asyncio.run(main())


async def refused(api: Api, scope: Mapping[str, object], cursor: str) -> Frame:
    return (await answered(api, scope, cursor, "error"))[1]


async def resumed(api: Api, scope: Mapping[str, object], cursor: str) -> list[Frame]:
    return (await answered(api, scope, cursor, "caught_up"))[0]


async def answered(api: Api, scope: Mapping[str, object], cursor: str, kind: str) -> tuple[list[Frame], Frame]:
    """What a subscription is sent up to a message of that type; again, while the server takes up a rewound log."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                async with connected(api) as socket:
                    await socket.send(json.dumps({"type": "subscribe", **scope, "after": cursor}))
                    return await until(socket, kind)
            except (ConnectionClosedError, KeyError):
                continue


def test_subscribers_in_and_behind_the_ring_hear_the_same_on_redis(redis_url: str) -> None:
    async def main() -> None:
        async with (
            redis_store(redis_url) as store,
            running(store, ring_frames_max=3) as api,
            connected(api) as quick,
            connected(api) as late,
        ):
            await subscribed(quick, scope="all")
            await until(quick, "caught_up")
            order_ids = [await api.place(clientId=f"client-{number}") for number in range(6)]
            await asyncio.gather(*(live(api.streams, order_id) for order_id in order_ids))
            await check_all(store, await hear_many(quick, 36))
            await subscribed(late, scope="all", batch=10, **{"from": "start"})
            frames, _ = await until(late, "caught_up")
            await check_all(store, frames)

    asyncio.run(main())


class OneAtATime(MemoryEventStore):
    """Returns commits of one partition at a time to whoever does not wait, as a store with an archive does."""

    async def read_log(
        self, after: Mapping[int, Cursor], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        for number, cursor in after.items() if wait_seconds == 0 else ():
            if found := await super().read_log({number: cursor}, limit):
                return found
        return await super().read_log(after, limit, wait_seconds)


def test_a_replay_ends_when_every_partition_was_told() -> None:
    async def main() -> None:
        store = OneAtATime(partitions=4, store_id="memory", now_us=SystemClock().now_us)
        async with running(store, ring_frames_max=1) as api, connected(api) as socket:
            for number in range(6):
                await live(api.streams, await api.place(clientId=f"client-{number}"))
            await subscribed(socket, scope="all", until="caught_up", **{"from": "start"})
            frames, _ = await until(socket, "unsubscribed")
            await check_all(store, frames)

    asyncio.run(main())


class ProjectedBetween:
    """A database whose projection moves between the first and the second connection."""

    def __init__(self, engine: AsyncEngine, project: Callable[[], Awaitable[object]]) -> None:
        self._engine = engine
        self._project = project
        self._connections = 0

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        self._connections += 1
        if self._connections == 2:
            await self._project()
        async with self._engine.connect() as connection:
            yield connection


def test_a_projection_that_moves_while_a_snapshot_is_taken_hides_no_event(redis_url: str, database_url: str) -> None:
    async def main() -> None:
        async with rewindable(redis_url, database_url) as on:
            store = await on.open()
            async with running(store, database_url) as api:
                order_id = await api.place()
                await on.project(store)
                await live(api.streams, order_id, LIFE[:2])
                database = cast(AsyncEngine, ProjectedBetween(on.engine, lambda: on.project(store)))
                beginnings = {partition_of("user01", 4): LOG_START}
                snapshot, place = await Snapshots(store, database).of_orders(ClientScope("user01"), beginnings)
                [order] = snapshot.orders
                [cursor] = place.cursors.values()
                assert (order.seq, cursor.position) == (4, 1)

    asyncio.run(main())


def test_what_has_left_the_log_for_the_archive_is_told_from_there(redis_url: str, database_url: str) -> None:
    async def main() -> None:
        async with rewindable(redis_url, database_url) as on:
            store = await on.open()
            async with running(store, database_url) as api:
                for number in range(5):
                    await live(api.streams, await api.place(clientId=f"client-{number}"))
                async with connected(api) as socket:
                    await subscribed(socket, scope="all", until="caught_up", **{"from": "start"})
                    whole, _ = await until(socket, "unsubscribed")
                await on.project(store)
                for number, end in (await store.log_ends()).items():
                    if end != LOG_START:
                        await store.hot.trim_log(number, end)
                late = await api.place(clientId="client-2")
            # Another process, whose ring begins where the log has only its end.
            async with running(store, database_url) as api, connected(api) as socket:
                starts: list[tuple[dict[str, object], int]] = [
                    ({"from": "start"}, 0),
                    ({"since": "2000-01-01T00:00:00Z"}, 0),
                    ({"after": whole[11]["cursor"]}, 12),
                    ({"last": 31}, 0),
                ]
                for number, (start, skipped) in enumerate(starts):
                    await subscribed(socket, sub=f"s{number}", scope="all", until="caught_up", **start)
                    frames, _ = await until(socket, "unsubscribed")
                    told = [*whole[:skipped], *frames]
                    assert sorted(seen(told)) == sorted([*seen(whole), (late, 1)]), start
                    for order_id in {frame["orderId"] for frame in whole}:
                        assert [seq for one, seq in seen(told) if one == order_id] == [1, 2, 3, 4, 5, 6]

    asyncio.run(main())
