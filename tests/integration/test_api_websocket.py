"""Orders and their events over WebSocket: a real server, real sockets, a scripted writer in the worker's place."""

import asyncio
import json
from collections.abc import Sequence

import pytest
import redis.asyncio

from app.clock import SystemClock
from app.orders.commands import (
    PostponeResolve,
)
from eventstore.ids import event_id
from eventstore.memory import MemoryEventStore
from eventstore.store import Append, AppendResult, StoredEvent
from tests.builders import stream_id
from tests.clocks import START_US
from tests.conftest import appends, market_life
from tests.integration.api import (
    EVENTS,
    LIFE,
    ORDER,
    WAIT_SECONDS,
    Api,
    advance,
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


def test_websocket_lifecycle_of_an_order_submitted_on_the_socket(redis_url: str) -> None:
    async def main() -> None:
        async with redis_store(redis_url) as store, running(store) as api, connected(api) as socket:
            await say(socket, **ORDER)
            pending = await hear(socket)
            assert (pending["event"], pending["seq"], pending["phase"]) == ("pending", 1, "PENDING")
            await live(api.streams, pending["orderId"])
            frames = [pending, *await hear_many(socket, 5)]
            assert [frame["event"] for frame in frames] == EVENTS
            assert [frame["seq"] for frame in frames] == [1, 2, 3, 4, 5, 6]
            assert {frame["orderId"] for frame in frames} == {pending["orderId"]}
            assert [quote["venue"] for quote in frames[2]["quotes"]] == ["raydium", "meteora"]
            assert frames[3]["chosen"] == {"venue": "raydium", "amount": "1502.25"}
            assert frames[4]["txId"] == "5xSignature"
            assert frames[5]["receipt"]["amountOut"] == "10"
            assert [frame["phase"] for frame in frames] == ["PENDING", *["PROCESSING"] * 4, "COMPLETED"]
            stored = await store.read_stream(pending["orderId"])
            assert [frame["cursor"] for frame in frames] == [str(event.cursor) for event in stored]
            await hear_nothing_more(socket)

    asyncio.run(main())


def test_websocket_lifecycle_on_the_path_that_also_takes_posts() -> None:
    async def scenario(api: Api) -> None:
        async with connected(api, path="/api/orders/execute") as socket:
            await say(socket, tokenIn="SOL", tokenOut="USDC", amount=0.5)
            assert (await hear(socket))["side"] == "sell"

    on_memory(scenario)


def test_a_message_with_an_id_is_answered_before_the_first_event() -> None:
    async def scenario(api: Api) -> None:
        async with connected(api) as socket:
            await say(socket, **ORDER, id="m1", idempotencyKey="k")
            accepted, pending = await hear_many(socket, 2)
            order_id = pending["orderId"]
            placed = {"orderId": order_id, "cursor": pending["cursor"]}
            assert accepted == {"type": "accepted", "id": "m1", "duplicate": False, **placed}
            assert pending["event"] == "pending"
            await say(socket, **ORDER, idempotencyKey="k")
            assert await hear(socket) == {"type": "accepted", "duplicate": True, **placed}
        async with connected(api) as socket:
            await say(socket, **ORDER, id=2, idempotencyKey="k")
            accepted, pending = await hear_many(socket, 2)
            assert accepted == {"type": "accepted", "id": 2, "duplicate": True, **placed}
            assert (pending["event"], pending["orderId"]) == ("pending", order_id)
            await say(socket, **{**ORDER, "amount": 11}, id=3, idempotencyKey="k")
            conflict = await hear(socket)
            assert (conflict["type"], conflict["id"], conflict["code"]) == ("error", 3, "idempotency_conflict")
            await hear_nothing_more(socket)

    on_memory(scenario)


def test_several_orders_share_a_socket_and_several_sockets_an_order() -> None:
    async def scenario(api: Api) -> None:
        async with connected(api) as first, connected(api) as second:
            for number in range(3):
                await say(first, **ORDER, id=number)
            order_ids = [frame["orderId"] for frame in await hear_many(first, 6) if frame.get("type") == "accepted"]
            await say(second, orderId=order_ids[0])
            assert (await hear(second))["event"] == "pending"
            for order_id in order_ids:
                await live(api.streams, order_id)
            frames = await hear_many(first, 15)
            for order_id in order_ids:
                assert [frame["seq"] for frame in frames if frame["orderId"] == order_id] == [2, 3, 4, 5, 6]
            assert [frame["seq"] for frame in await hear_many(second, 5)] == [2, 3, 4, 5, 6]

    on_memory(scenario)


def test_reconnect_resumes_after_a_seq_an_event_id_or_a_cursor(redis_url: str) -> None:
    async def main() -> None:
        async with redis_store(redis_url) as store, running(store) as api:
            async with connected(api) as socket:
                await say(socket, **ORDER)
                order_id = (await hear(socket))["orderId"]
                await live(api.streams, order_id)
                frames = await hear_many(socket, 2)
            for after in (3, "3", event_id(order_id, 3), frames[1]["cursor"]):
                async with connected(api) as socket:
                    await say(socket, type="subscribe", orderId=order_id, after=after, id="r")
                    subscribed, *rest = await hear_many(socket, 4)
                    assert subscribed == {
                        "type": "subscribed",
                        "id": "r",
                        "orderId": order_id,
                        "after": 3,
                        "ended": False,
                    }
                    assert [frame["seq"] for frame in rest] == [4, 5, 6]
                    await hear_nothing_more(socket)
            for query in (f"?orderId={order_id}&after=4", f"?orderId={order_id}&lastEventId={order_id}/4"):
                async with connected(api, query) as socket:
                    assert [frame["seq"] for frame in await hear_many(socket, 2)] == [5, 6]

    asyncio.run(main())


def test_reconnect_at_the_end_of_a_finished_order_is_told_so() -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        await live(api.streams, order_id)
        async with connected(api, f"?orderId={order_id}&after=6") as socket:
            assert await hear(socket) == {"type": "subscribed", "orderId": order_id, "after": 6, "ended": True}
            await say(socket, orderId=order_id, after=5)
            assert (await hear(socket))["event"] == "confirmed"

    on_memory(scenario)


def test_reconnect_to_another_process_that_never_saw_the_events(redis_url: str) -> None:
    async def main() -> None:
        async with redis_store(redis_url) as store:
            async with running(store) as api, connected(api) as socket:
                await say(socket, **ORDER)
                order_id = (await hear(socket))["orderId"]
                await live(api.streams, order_id, LIFE[:2])
                cursor = (await hear_many(socket, 2))[1]["cursor"]
            async with running(store) as api, connected(api, f"?orderId={order_id}&after={cursor}") as socket:
                assert (await hear(socket))["seq"] == 4
                await live(api.streams, order_id, LIFE[2:])
                assert [frame["seq"] for frame in await hear_many(socket, 2)] == [5, 6]

    asyncio.run(main())


def test_pub_sub_flow_carries_each_event_on_the_orders_channel(redis_url: str) -> None:
    async def main() -> None:
        async with redis_store(redis_url) as store, running(store) as api, connected(api) as socket:
            await say(socket, **ORDER)
            order_id = (await hear(socket))["orderId"]
            client = redis.asyncio.Redis.from_url(redis_url)
            async with client, client.pubsub() as subscriber:
                await subscriber.subscribe(f"order-events-{order_id}")
                heard = subscriber.listen()
                assert (await anext(heard))["type"] == "subscribe"
                await live(api.streams, order_id)
                async with asyncio.timeout(WAIT_SECONDS):
                    published = [(await anext(heard))["data"] for _ in range(5)]
            assert published == [event.data for event in await store.read_stream(order_id, 1)]
            frames = await hear_many(socket, 5)
            assert [json.loads(data)["event"] for data in published] == [frame["event"] for frame in frames]

    asyncio.run(main())


def test_bad_messages_are_answered_and_leave_the_socket_open() -> None:
    unknown = "01ARZ3NDEKTSV4RRFFQ69G5FAV-03"

    async def scenario(api: Api) -> None:
        order_id = await api.place()
        cases: list[tuple[str | bytes, str]] = [
            ("{", "json_malformed"),
            ("[]", "json_malformed"),
            ('{"a":"\\ud800"}', "json_malformed"),
            ("[" * 60_000, "json_too_deep"),
            (b"\x00\x01", "binary_frame"),
            ('{"type":"dance"}', "invalid_message"),
            ('{"id":[]}', "invalid_message"),
            (json.dumps({**ORDER, "amount": 0}), "invalid_order"),
            (json.dumps({**ORDER, "type": "limit"}), "invalid_order"),
            ('{"orderId":"x"}', "order_id_malformed"),
            (json.dumps({"orderId": unknown}), "not_found"),
            (json.dumps({"orderId": unknown, "after": 3}), "not_found"),
            (json.dumps({"orderId": unknown, "after": "1-1-00000000"}), "fork"),
            (json.dumps({"orderId": unknown[:-2] + "77", "after": "1-1-00000000"}), "not_found"),
            (json.dumps({"orderId": unknown[:-2] + "77"}), "not_found"),
            (json.dumps({"orderId": order_id, "after": 2}), "after_beyond_end"),
            (json.dumps({"orderId": order_id, "after": "x"}), "after_malformed"),
            (json.dumps({"orderId": order_id, "after": f"{unknown}/1"}), "after_malformed"),
            (json.dumps({"orderId": order_id, "after": "1-1-00000000"}), "fork"),
            (json.dumps({"type": "unsubscribe", "orderId": order_id}), "not_subscribed"),
        ]
        async with connected(api) as socket:
            for message, code in cases:
                await socket.send(message)
                error = await hear(socket)
                assert (error["type"], error["code"]) == ("error", code), message
                assert error["message"]
            await say(socket, orderId=order_id, after=9, id="x")
            error = await hear(socket)
            assert (error["id"], error["orderId"], error["last"]) == ("x", order_id, 1)
            assert error["errors"] == [{"pointer": "/after", "message": "must be at most 1"}]
            await say(socket, orderId=order_id)
            assert (await hear(socket))["event"] == "pending"
            await say(socket, orderId=order_id, id="y")
            error = await hear(socket)
            assert (error["code"], error["id"], error["orderId"]) == ("already_subscribed", "y", order_id)
        assert sum(status.position for status in await api.store.status()) == 1

    on_memory(scenario)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("?orderId=01ARZ3NDEKTSV4RRFFQ69G5FAV-03", "not_found"),
        ("?orderId=x", "order_id_malformed"),
        ("?orderId=01ARZ3NDEKTSV4RRFFQ69G5FAV-03&after=x", "after_malformed"),
        ("?orderId=01ARZ3NDEKTSV4RRFFQ69G5FAV-03&after=1&lastEventId=1", "invalid_query"),
        ("?orderId=a&orderId=b", "invalid_query"),
        ("?after=1", "invalid_query"),
        ("?clientId=", "invalid_query"),
        ("?clientId=a&orderId=01ARZ3NDEKTSV4RRFFQ69G5FAV-03", "invalid_query"),
        ("?clientId=a&clientId=b", "invalid_query"),
        ("?clientId=a&after=3", "after_malformed"),
        ("?scope=everything", "invalid_query"),
        ("?scope=all&after=1-1-00000000", "after_malformed"),
    ],
)
def test_a_bad_query_is_answered_and_leaves_the_socket_open(query: str, code: str) -> None:
    async def scenario(api: Api) -> None:
        async with connected(api, query) as socket:
            assert (await hear(socket))["code"] == code
            await say(socket, **ORDER)
            assert (await hear(socket))["event"] == "pending"

    on_memory(scenario)


def test_unsubscribing_ends_the_frames_until_the_next_subscription() -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        async with connected(api) as socket:
            await say(socket, orderId=order_id)
            assert (await hear(socket))["seq"] == 1
            await say(socket, type="unsubscribe", orderId=order_id, id=1)
            assert await hear(socket) == {"type": "unsubscribed", "id": 1, "orderId": order_id}
            await live(api.streams, order_id)
            await hear_nothing_more(socket)
            await say(socket, orderId=order_id, after=1)
            assert [frame["seq"] for frame in await hear_many(socket, 5)] == [2, 3, 4, 5, 6]

    on_memory(scenario)


class AppendsDuringRead(MemoryEventStore):
    """A read returns what the stream held before ``next_commit``, which is appended before the answer is there."""

    def __init__(self) -> None:
        super().__init__(partitions=4, store_id="memory", now_us=SystemClock().now_us)
        self.next_commit: Append | None = None
        self.tailed = asyncio.Event()

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> Sequence[StoredEvent]:
        events = await super().read_stream(stream, after, limit)
        if self.next_commit is not None:
            commit, self.next_commit = self.next_commit, None
            await self.append(commit)
            await self.tailed.wait()
        return events


def test_an_event_that_comes_while_a_subscription_reads_is_not_lost() -> None:
    async def main() -> None:
        store = AppendsDuringRead()
        order_id = stream_id()
        commits = appends(order_id, market_life())
        await store.append(commits[0])
        async with running(store) as api, connected(api) as witness, connected(api) as socket:
            await say(witness, orderId=order_id)
            assert (await hear(witness))["seq"] == 1
            store.next_commit = commits[1]
            await say(socket, orderId=order_id, id="s")
            # The witness hears of the new event, so the ring has told its watchers, before the read returns.
            assert (await hear(witness))["seq"] == 2
            store.tailed.set()
            assert [frame.get("seq") for frame in await hear_many(socket, 3)] == [None, 1, 2]

    asyncio.run(main())


class LateStore(MemoryEventStore):
    """Answers an append when its events have long been read from the log."""

    async def append(self, commit: Append) -> AppendResult:
        result = await super().append(commit)
        for _ in range(100):
            await asyncio.sleep(0)
        return result


def test_the_answer_precedes_the_first_event_even_if_that_is_there_earlier() -> None:
    async def main() -> None:
        store = LateStore(partitions=4, store_id="late", now_us=SystemClock().now_us)
        async with running(store) as api, connected(api) as socket:
            await say(socket, **ORDER, id=1)
            assert [frame.get("event") for frame in await hear_many(socket, 2)] == [None, "pending"]

    asyncio.run(main())


def test_a_history_of_many_pages_is_told_whole() -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        order = await api.streams.load(order_id)
        for command in (*LIFE[:3], *[PostponeResolve(now_us=START_US, speed_ppm=0)] * 1_100, LIFE[3]):
            order = await advance(api.streams, order, command)
        stored = await api.store.read_stream(order_id, limit=2_000)
        async with connected(api) as socket:
            for after, first in ((0, 1), (str(stored[1_050].cursor), 1_052), (str(stored[4].cursor), 6)):
                await say(socket, orderId=order_id, after=after)
                frames = await hear_many(socket, order.version - first + 1)
                assert [frame["seq"] for frame in frames] == list(range(first, order.version + 1))
                await hear_nothing_more(socket)
            await say(socket, orderId=order_id, after=5_000)
            assert (await hear(socket))["last"] == order.version
        shown = (await api.http.get(f"/api/orders/{order_id}")).json()
        assert (shown["seq"], shown["status"]) == (order.version, "confirmed")
        page = (await api.http.get(f"/api/orders/{order_id}/events?after={stored[4].cursor}")).json()
        assert (page["last"], page["more"], len(page["events"])) == (1_005, True, 1_000)

    async def main() -> None:
        async with running(memory_store(), ring_frames_max=1) as api:
            await scenario(api)

    asyncio.run(main())


def test_readers_behind_the_ring_are_served_from_the_store(redis_url: str) -> None:
    async def main() -> None:
        async with redis_store(redis_url) as store, running(store, ring_frames_max=1) as api:
            order_ids = [await api.place() for _ in range(3)]
            async with connected(api) as socket:
                for order_id in order_ids:
                    await say(socket, orderId=order_id)
                await hear_many(socket, 3)
                await asyncio.gather(*(live(api.streams, order_id) for order_id in order_ids))
                frames = await hear_many(socket, 15)
                for order_id in order_ids:
                    assert [frame["seq"] for frame in frames if frame["orderId"] == order_id] == [2, 3, 4, 5, 6]

    asyncio.run(main())
