"""Resuming where history was lost: every cursor leads on exactly, or is told what to forget."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, cast

import httpx
import pytest
from msgspec.structs import replace
from websockets.exceptions import ConnectionClosedError

from app.client import Client, HistoryForkedError, LastCommon
from app.clock import SystemClock
from eventstore.ids import Cursor
from eventstore.memory import MemoryEventStore
from eventstore.store import StoredCommit
from tests.integration.api import (
    LIFE,
    WAIT_SECONDS,
    Api,
    advance,
    connected,
    hear,
    hear_close,
    hear_many,
    live,
    memory_store,
    problem,
    ready,
    running,
    say,
)
from tests.integration.rewinding import Rewindable, rewindable

NEXT = {1: LIFE[0], 2: LIFE[1], 4: LIFE[2], 5: LIFE[3]}
"""What a worker does to an order of this version."""
PAGE = 100

Frame = dict[str, Any]
Lossy = Callable[[Api, Rewindable], Awaitable[None]]


def on_both(redis_url: str, database_url: str, scenario: Lossy) -> None:
    """Run ``scenario`` on a served store with both copies."""

    async def main() -> None:
        async with rewindable(redis_url, database_url) as on:
            store = await on.open()
            async with running(store, database_url) as api:
                await scenario(api, on)

    asyncio.run(main())


async def step(api: Api, *order_ids: str) -> None:
    """Let a worker take the next step of each order."""
    for order_id in order_ids:
        order = await api.streams.load(order_id)
        await advance(api.streams, order, NEXT[order.version])


async def told(api: Api, order_id: str, after: object = 0) -> httpx.Response:
    return await api.http.get(f"/api/orders/{order_id}/events", params={"after": str(after)})


async def events(api: Api, order_id: str, after: object = 0) -> list[Frame]:
    response = await told(api, order_id, after)
    assert response.status_code == 200, response.text
    found: list[Frame] = response.json()["events"]
    return found


async def over_sockets(api: Api, order_id: str, cursor: str) -> tuple[Frame, Frame]:
    """What a subscription and a socket's URL are answered.

    The server closes its sockets while it takes up a rewound log: then again, as a client does.
    """
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            with suppress(ConnectionClosedError):
                async with connected(api) as socket, connected(api, f"?orderId={order_id}&after={cursor}") as other:
                    await say(socket, orderId=order_id, after=cursor, id="r")
                    return await hear(socket), await hear(other)


async def refused(api: Api, order_id: str, cursor: str, code: str) -> Frame:
    """Resume over HTTP, by a subscription and in a socket's URL; all must be refused alike. Return the problem."""
    body = problem(await told(api, order_id, cursor), 410, code)
    asked, in_url = await over_sockets(api, order_id, cursor)
    assert (asked.pop("id"), asked) == ("r", in_url)
    assert (in_url["type"], in_url["orderId"], in_url["code"]) == ("error", order_id, code)
    assert in_url["message"] == body["detail"]
    assert in_url["cursor"] == body["cursor"] == cursor
    assert in_url.get("lastCommon") == body.get("lastCommon")
    assert ("lastCommon" in in_url) == ("lastCommon" in body) == (code == "fork")
    for path in (f"/api/orders/{order_id}/stream", f"/api/orders/{order_id}/stream?wait=1"):
        streamed = problem(await api.http.get(path, headers={"Last-Event-ID": cursor}), 410, code)
        assert {**streamed, "instance": body["instance"]} == body
    if code != "fork":
        own = await events(api, order_id)
        extent = {"earliest": own[0]["cursor"], "head": own[-1]["cursor"], "snapshot": f"/api/orders/{order_id}"}
        for told_so in (in_url, body):
            assert {name: told_so[name] for name in extent} == extent
        assert (await api.http.get(extent["snapshot"])).json()["seq"] == own[-1]["seq"]
    return body


def test_lost_events_are_told_with_the_last_one_that_lasted(redis_url: str, database_url: str) -> None:
    async def scenario(api: Api, on: Rewindable) -> None:
        order_id, other_id = await api.place(), await api.place()
        await step(api, order_id, other_id)
        await on.project(api.store)
        await step(api, order_id)
        vanished_id = await api.place()
        seen, other = await events(api, order_id), await events(api, other_id)
        [vanished] = await events(api, vanished_id)
        await on.flush()
        await step(api, order_id, order_id)
        final = await events(api, order_id)
        assert [frame["seq"] for frame in final] == [1, 2, 3, 4, 5]
        assert final[:2] == seen[:2] and final[2:4] != seen[2:4]

        for frame in seen[:2]:
            assert await events(api, order_id, frame["cursor"]) == final[frame["seq"] :]
        assert await events(api, other_id, other[-1]["cursor"]) == []
        common = {"seq": 2, "cursor": seen[1]["cursor"]}
        for frame in seen[2:]:
            body = await refused(api, order_id, frame["cursor"], "fork")
            assert body["lastCommon"] == common
            assert "forget the order's events after seq 2, and resume after lastCommon.cursor" in body["detail"]
        body = await refused(api, vanished_id, vanished["cursor"], "fork")
        assert body["lastCommon"] is None
        problem(await told(api, vanished_id, 1), 404, "not_found")
        # A bare seq cannot tell one history from another.
        assert await events(api, order_id, 3) == final[3:]

    on_both(redis_url, database_url, scenario)


def test_a_cursor_of_something_else_is_not_taken_for_a_lost_event(redis_url: str, database_url: str) -> None:
    async def scenario(api: Api, on: Rewindable) -> None:
        order_id, other_id = await api.place(), await api.place()
        elsewhere_id = next(
            found for found in [await api.place(clientId=f"c{n}") for n in range(20)] if found[-2:] != order_id[-2:]
        )
        # Beyond the end of the first order's partition, where a lost event could have been.
        for _ in range(4):
            await step(api, elsewhere_id)
        await on.project(api.store)
        last = (await events(api, elsewhere_id))[-1]["cursor"]
        [own], [other] = await events(api, order_id), await events(api, other_id)
        for _ in range(2):
            for cursor in (other["cursor"], last):
                await refused(api, order_id, cursor, "cursor_unavailable")
            place = Cursor.parse(own["cursor"])
            end = (await api.store.log_ends())[int(order_id[-2:])]
            beyond = Cursor(end.epoch, end.position + 50, "00000000")
            assert (await refused(api, order_id, str(beyond), "fork"))["lastCommon"]["seq"] == 1
            replaced = Cursor(place.epoch, place.position, "00000000")
            assert (await refused(api, order_id, str(replaced), "fork"))["lastCommon"] is None
            unknown = f"01ARZ3NDEKTSV4RRFFQ69G5FAV-{order_id[-2:]}"
            for cursor in (own["cursor"], str(replaced), last):
                problem(await told(api, unknown, cursor), 404, "not_found")
            # The same again when all of that is read from the archive.
            await on.flush()

    on_both(redis_url, database_url, scenario)


def test_a_resume_before_anybody_noticed_the_loss_heals_first(redis_url: str, database_url: str) -> None:
    async def scenario(api: Api, on: Rewindable) -> None:
        order_id = await api.place()
        await step(api, order_id)
        await on.project(api.store)
        await step(api, order_id)
        seen = await events(api, order_id)
        await on.flush()
        body = await refused(api, order_id, seen[2]["cursor"], "fork")
        assert body["lastCommon"] == {"seq": 2, "cursor": seen[1]["cursor"]}
        assert [epoch for epoch, *_ in await on.epochs(int(order_id[-2:]))] == [1, 2]

    on_both(redis_url, database_url, scenario)


def test_sockets_are_sent_away_once_and_clients_go_on(
    redis_url: str, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(api: Api, on: Rewindable) -> None:
        forked_id, kept_id = await api.place(), await api.place(clientId="other")
        await step(api, forked_id, kept_id)
        await on.project(api.store)
        await step(api, forked_id)
        seen = await events(api, forked_id)
        async with Client(api.url) as client, connected(api, f"?orderId={forked_id}") as socket:
            assert await hear_many(socket, 4) == seen
            async with aclosing(follow(client, kept_id)) as kept, aclosing(follow(client, forked_id)) as forked:
                assert [(await anext(kept))["seq"] for _ in range(2)] == [1, 2]
                assert [await anext(forked) for _ in range(4)] == seen
                await on.flush()
                await step(api, forked_id, kept_id)
                code, frames = await hear_close(socket)
                assert (code, [frame["type"] for frame in frames]) == (4510, ["goaway"])
                assert frames[0]["reason"] == "the event log was rewound: reconnect and resume by cursor"
                assert [(await anext(kept))["seq"] for _ in range(2)] == [3, 4]
                with pytest.raises(HistoryForkedError) as fork:
                    await anext(forked)
            common = fork.value.last_common
            assert common == LastCommon(2, seen[1]["cursor"])
            await ready(api)
            async with aclosing(follow(client, forked_id, common.cursor)) as forked:
                assert [await anext(forked), await anext(forked)] == (await events(api, forked_id))[2:]
                await step(api, forked_id, forked_id)
                assert [frame["seq"] async for frame in forked] == [5, 6]

    on_both(redis_url, database_url, scenario)
    found = [vars(record) for record in caplog.records if record.getMessage() == "log_forked"]
    assert len({record["partition"] for record in found}) == len(found) >= 1
    assert all(Cursor.parse(record["cursor"]).epoch == 1 for record in found)


async def follow(client: Client, order_id: str, after: str | None = None) -> AsyncGenerator[Frame]:
    frames = cast("AsyncGenerator[Frame]", client.events(order_id, after=after))
    async with asyncio.timeout(WAIT_SECONDS), aclosing(frames):
        async for frame in frames:
            yield frame


class Forgetful(MemoryEventStore):
    """Forgets an order's last event, as a failover does; the log can be read only while ``open`` is set."""

    def __init__(self) -> None:
        super().__init__(partitions=4, store_id="memory", now_us=SystemClock().now_us)
        self.open = asyncio.Event()
        self.open.set()

    def forget_last(self, order_id: str) -> None:
        part = self._parts[int(order_id[-2:])]
        part.streams[order_id].pop()
        part.log.pop()
        part.position -= 1
        part.epoch += 1

    def leave_out(self, order_id: str) -> None:
        """Let the log tell the order's last commit as if it came later than it does."""
        log = self._parts[int(order_id[-2:])].log
        log[-1] = replace(log[-1], version=log[-1].version + 1)

    async def read_log(
        self, after: Mapping[int, Cursor], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        await self.open.wait()
        found = await super().read_log(after, limit, min(wait_seconds, 0.05))
        await self.open.wait()
        return found


@pytest.mark.parametrize("ring_frames_max", [1, 1000])
def test_a_subscriber_ahead_of_the_log_never_hears_two_histories(ring_frames_max: int) -> None:
    async def main() -> None:
        store = Forgetful()
        async with running(store, ring_frames_max=ring_frames_max) as api:
            order_id, other_id = await api.place(), await api.place(clientId="other")
            async with connected(api) as watching:
                # Both are in the ring's past now.
                await say(watching, orderId=order_id)
                await say(watching, orderId=other_id)
                await hear_many(watching, 2)
            store.open.clear()
            await step(api, order_id)
            async with connected(api, f"?orderId={order_id}&after=0") as socket:
                lost = (await events(api, order_id))[1]
                async with connected(api) as reader:
                    # By cursor, so from the stream, which is ahead of the log's reader.
                    await say(reader, orderId=order_id, after=(await events(api, order_id))[0]["cursor"])
                    assert await hear(reader) == lost
                    store.forget_last(order_id)
                    await step(api, order_id)
                    if ring_frames_max == 1:
                        await step(api, other_id)
                    store.open.set()
                    code, frames = await hear_close(reader)
                    assert code == 4510 and [frame["type"] for frame in frames] == ["goaway"]
                assert [(await hear(socket))["seq"] for _ in range(2)] == [1, 2]
            await ready(api)
            body = await refused(api, order_id, lost["cursor"], "fork")
            assert body["lastCommon"]["seq"] == 1

    asyncio.run(main())


def test_a_log_that_does_not_continue_the_ring_is_a_fork() -> None:
    async def main() -> None:
        store = Forgetful()
        async with running(store) as api:
            order_id = await api.place()
            await step(api, order_id)
            async with connected(api, f"?orderId={order_id}") as socket:
                assert [(await hear(socket))["seq"] for _ in range(2)] == [1, 2]
                store.open.clear()
                await step(api, order_id)
                store.leave_out(order_id)
                store.open.set()
                assert (await hear_close(socket))[0] == 4510

    asyncio.run(main())


def test_a_log_whose_past_is_gone_is_told_as_truncated() -> None:
    async def main() -> None:
        store = memory_store()
        async with running(store) as api:
            order_id, other_id = await api.place(), await api.place()
            await live(api.streams, order_id)
            [other] = await events(api, other_id)
            number = int(order_id[-2:])
            await store.trim_log(number, (await store.log_ends())[number])
            body = await refused(api, order_id, other["cursor"], "truncated")
            assert "read the order again from its first event" in body["detail"]
            assert body["earliest"] != body["head"]
            nowhere = f"01ARZ3NDEKTSV4RRFFQ69G5FAV-{order_id[-2:]}"
            body = problem(await told(api, nowhere, other["cursor"]), 410, "truncated")
            assert (body["earliest"], body["head"]) == (None, None)

    asyncio.run(main())
