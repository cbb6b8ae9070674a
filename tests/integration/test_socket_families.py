"""Clients as they were written for other engines of this kind: each connects, says and reads what its family does."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection

from app.api.families.dialects import FAMILIES
from tests.integration.api import (
    LIFE,
    WAIT_SECONDS,
    Api,
    connected,
    hear,
    hear_many,
    hear_nothing_more,
    live,
    on_memory,
)

STATUSES = ["pending", "routing", "routing", "building", "submitted", "confirmed"]
WITH_ID = [path for path in FAMILIES if "{order_id}" in path]
WITHOUT_ID = [path for path in FAMILIES if "{order_id}" not in path]
SWAP = {"tokenIn": "SOL", "tokenOut": "USDC", "amount": 1.5, "orderType": "market"}


async def watch(socket: ClientConnection) -> list[str]:
    """What all families do: parse each message and show its status, until the order has ended."""
    seen: list[str] = []
    async with asyncio.timeout(WAIT_SECONDS):
        while not seen or seen[-1] not in ("confirmed", "failed"):
            message: dict[str, Any] = json.loads(await socket.recv())
            if message.get("status"):
                seen.append(message["status"])
    return seen


@pytest.mark.parametrize("path", [*WITH_ID, *(f"{path}?orderId={{order_id}}" for path in WITHOUT_ID)])
def test_an_order_in_the_url_is_watched_from_its_beginning_on_every_path(path: str) -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        await live(api.streams, order_id, LIFE[:2])
        async with connected(api, path=path.format(order_id=order_id)) as socket:
            watching = asyncio.create_task(watch(socket))
            await live(api.streams, order_id, LIFE[2:])
            assert await watching == STATUSES

    on_memory(scenario)


@pytest.mark.parametrize("path", WITHOUT_ID)
def test_a_client_or_everything_in_the_url_is_watched_from_now_on_or_after_a_cursor(path: str) -> None:
    async def scenario(api: Api) -> None:
        mine, other = await api.place(), await api.place(clientId="other")
        async with (
            connected(api, "?clientId=user01", path=path) as socket,
            connected(api, "?scope=all", path=path) as everything,
        ):
            for one in (socket, everything):
                await hear_nothing_more(one)
            await live(api.streams, other, LIFE[:1])
            await live(api.streams, mine, LIFE[:2])
            own, frames = await hear_many(socket, 3), await hear_many(everything, 4)
        assert [(frame["orderId"], frame["seq"]) for frame in own] == [(mine, 2), (mine, 3), (mine, 4)]
        assert sorted((frame["orderId"], frame["seq"]) for frame in frames) == sorted(
            [(mine, 2), (mine, 3), (mine, 4), (other, 2)]
        )
        assert not any("sub" in frame for frame in (*own, *frames))
        async with connected(api, f"?clientId=user01&after={own[0]['cursor']}", path=path) as socket:
            assert await hear_many(socket, 2) == own[1:]
        async with connected(api, "?clientId=user01&after=start", path=path) as socket:
            assert (await hear_many(socket, 4))[1:] == own
        async with connected(api, f"?scope=all&lastEventId={frames[-2]['cursor']}", path=path) as everything:
            assert await hear(everything) == frames[-1]
            await hear_nothing_more(everything)

    on_memory(scenario)


FIRST_MESSAGES: list[Callable[[str], str]] = [
    lambda order_id: json.dumps({"orderId": order_id}),
    lambda order_id: json.dumps({"type": "subscribe", "orderId": order_id}),
    lambda order_id: json.dumps({"type": "subscribe", "payload": {"orderId": order_id}}),
    lambda order_id: order_id,
    lambda order_id: f" {order_id}\n",
]


@pytest.mark.parametrize("first", FIRST_MESSAGES)
def test_an_order_in_the_first_message_is_watched_however_it_is_written(first: Callable[[str], str]) -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        async with connected(api, path="/ws") as socket:
            await socket.send(first(order_id))
            watching = asyncio.create_task(watch(socket))
            await live(api.streams, order_id)
            assert await watching == STATUSES

    on_memory(scenario)


@pytest.mark.parametrize("wrapped", [{"action": "execute", "order": SWAP}, {**SWAP, "orderType": "MARKET"}])
@pytest.mark.parametrize("path", WITHOUT_ID)
def test_an_order_is_submitted_on_every_path_without_one(path: str, wrapped: dict[str, object]) -> None:
    async def scenario(api: Api) -> None:
        async with connected(api, path=path) as socket:
            await socket.send(json.dumps(wrapped))
            pending = await hear(socket)
            assert (pending["event"], pending["side"]) == ("pending", "sell")
            await live(api.streams, pending["orderId"])
            assert await watch(socket) == STATUSES[1:]

    on_memory(scenario)


def test_a_bad_order_id_in_a_path_is_answered() -> None:
    async def scenario(api: Api) -> None:
        async with connected(api, path="/ws/orders/nonsense") as socket:
            assert (await hear(socket))["code"] == "order_id_malformed"

    on_memory(scenario)
