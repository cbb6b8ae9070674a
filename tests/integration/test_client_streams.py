"""The client's streams of many orders: connections that end again and again cost no event and repeat none."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

import pytest
from websockets.asyncio.server import ServerConnection, serve

from app.api.problems import Closing
from app.client import Client, HistoryForkedError, LastCommon, OrderRefusedError
from tests.integration.api import LIFE, WAIT_SECONDS, Api, live, memory_store, on_memory, running
from tests.integration.rewinding import rewindable
from tests.integration.test_subscription_flow import lives
from tests.integration.test_subscriptions import check_all, seen

Frame = dict[str, Any]
KICKED = Closing(4508, "for this test", 10)


async def take(frames: AsyncGenerator[Frame], count: int) -> list[Frame]:
    async with asyncio.timeout(WAIT_SECONDS):
        return [await anext(frames) for _ in range(count)]


def streamed(by: Client, /, **options: Any) -> AsyncGenerator[Frame]:
    return cast("AsyncGenerator[Frame]", by.stream(**options))


def kick(api: Api) -> None:
    """End every connection."""
    api.sessions.refuse(KICKED)
    api.sessions.welcome()


@pytest.mark.parametrize("ring_frames_max", [1, 1000])
def test_streams_survive_their_connections(ring_frames_max: int) -> None:
    async def main() -> None:
        async with running(memory_store(), ring_frames_max=ring_frames_max) as api, Client(api.url) as client:
            await lives(api, 1)
            async with (
                aclosing(streamed(client, start="start")) as everything,
                aclosing(streamed(client, client="other", start="start", events=["confirmed"])) as others,
            ):
                frames = await take(everything, 6)
                for _ in range(3):
                    kick(api)
                    await lives(api, 1, clientId="other")
                    frames += await take(everything, 3)
                    kick(api)
                    frames += await take(everything, 3)
                await check_all(api.store, frames)
                mine = await take(others, 3)
                assert seen(mine) == [place for place in seen(frames) if place in seen(mine)]
            async with aclosing(streamed(client, after=frames[10]["cursor"])) as rest:
                await check_all(api.store, [*frames[:11], *await take(rest, 13)])

    asyncio.run(main())


def test_a_stream_that_cannot_resume_says_so() -> None:
    async def scenario(api: Api) -> None:
        async with Client(api.url) as client:
            with pytest.raises(OrderRefusedError, match="must be the cursor"):
                await take(streamed(client, after="nonsense"), 1)

    on_memory(scenario)


def test_a_stream_of_a_rewound_log_says_what_to_forget_and_goes_on_from_there(
    redis_url: str, database_url: str
) -> None:
    async def main() -> None:
        async with rewindable(redis_url, database_url) as on:
            store = await on.open()
            async with running(store, database_url) as api, Client(api.url) as client:
                order_id = await api.place()
                await on.project(store)
                await live(api.streams, order_id, LIFE[:1])
                frames = streamed(client, client="user01", start="start")
                pending, _ = await take(frames, 2)
                await on.flush()
                await live(api.streams, order_id, LIFE[:1])
                with pytest.raises(HistoryForkedError) as forked:
                    await take(frames, 1)
                common = forked.value.last_common
                assert common == LastCommon(None, pending["cursor"])
                async with aclosing(streamed(client, client="user01", after=common.cursor)) as again:
                    assert seen(await take(again, 1)) == [(order_id, 2)]

    asyncio.run(main())


def test_a_stream_from_now_resumes_where_it_began_or_at_its_last_bookmark() -> None:
    asked: list[object] = []

    async def bookmarking(socket: ServerConnection) -> None:
        assert json.loads(await socket.recv()) == {"type": "hello"}
        subscribe = json.loads(await socket.recv())
        asked.append(subscribe.get("after", subscribe.get("from")))
        number = len(asked)
        if number == 1:
            await socket.send(json.dumps({"type": "subscribed", "sub": "stream", "after": "1-1-aaaaaaaa"}))
        elif number == 2:
            await socket.send(json.dumps({"type": "bookmark", "sub": "stream", "cursor": "1-9-bbbbbbbb"}))
        else:
            await socket.send(json.dumps({"event": "pending", "orderId": "o", "seq": 1, "cursor": "1-10-cccccccc"}))

    async def scenario() -> None:
        async with serve(bookmarking, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            async with Client(f"http://127.0.0.1:{port}") as client, aclosing(streamed(client)) as frames:
                assert (await take(frames, 1))[0]["event"] == "pending"

    asyncio.run(scenario())
    assert asked == ["now", "1-1-aaaaaaaa", "1-9-bbbbbbbb"]
