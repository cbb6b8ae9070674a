"""Whose events are whose over WebSocket, event stream and long-poll; hello, tickets, and keys that end."""

import asyncio
import json
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from app.api.streaming import websocket
from tests.builders import stream_id
from tests.integration.api import (
    WAIT_SECONDS,
    connected,
    hear,
    hear_close,
    hear_nothing_more,
    live,
    memory_store,
    problem,
    running,
    say,
)
from tests.integration.guarded import ANN, SAM, Guarded, closed, made_key, on_guarded
from tests.integration.test_access_orders import NAMELESS
from tests.integration.test_event_streams import subscribers


def test_a_trader_follows_its_own_orders_over_a_socket_and_nobody_else_s(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        mine, foreign = await on.ann.place(), await on.sam.place()
        await live(on.api.streams, mine)
        async with on.socket(on.ann) as socket:
            for order_id in (foreign, stream_id(SAM)):
                for members in ({}, {"sub": "s"}, {"sub": "s", "snapshot": True}, {"after": "1-1-00000000"}):
                    await say(socket, type="subscribe", orderId=order_id, **members)
                    error = await hear(socket)
                    assert (error["type"], error["code"]) == ("error", "not_found"), error
                    assert error["message"] == f"there is no order {order_id}"
                await say(socket, type="cancel", orderId=order_id, id="c")
                assert (await hear(socket))["code"] == "not_found"
            for scope in ({"clientId": SAM}, {"clientId": "nobody"}, {"scope": "all"}):
                await say(socket, type="subscribe", sub="s", **scope)
                assert (await hear(socket))["code"] == "forbidden"
            await say(socket, type="subscribe", sub="own", clientId=ANN, **{"from": "start"}, until="caught_up")
            frames = [await hear(socket) for _ in range(9)]
            assert [frame.get("type", frame.get("orderId")) for frame in frames] == [
                *("subscribed", *[mine] * 6),
                *("caught_up", "unsubscribed"),
            ]
            await say(socket, orderId=mine)
            assert [(await hear(socket))["seq"] for _ in range(6)] == [1, 2, 3, 4, 5, 6]
            await live(on.api.streams, foreign)
            await hear_nothing_more(socket)
        async with on.socket(on.ann, f"?orderId={foreign}") as socket:
            assert (await hear(socket))["code"] == "not_found"

    on_guarded(keys_url, scenario)


def test_orders_of_a_socket_belong_to_the_client_of_its_key(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        async with on.socket(on.ann) as socket:
            await say(socket, **NAMELESS, id="1")
            accepted = await hear(socket)
            assert (await hear(socket))["event"] == "pending"
            order = (await on.ann.http.get(f"/api/orders/{accepted['orderId']}")).json()
            assert order["clientId"] == ANN
            await say(socket, **{**NAMELESS, "clientId": SAM}, id="2")
            refused = await hear(socket)
            assert (refused["code"], refused["id"]) == ("forbidden", "2")
        async with on.socket(on.auditor) as socket:
            await say(socket, **NAMELESS, id="1")
            assert (await hear(socket))["code"] == "forbidden"
            await say(socket, type="cancel", orderId=accepted["orderId"], id="2")
            assert (await hear(socket))["code"] == "forbidden"
            await say(socket, type="subscribe", scope="all", **{"from": "start"}, sub="all")
            assert (await hear(socket))["type"] == "subscribed"
            assert (await hear(socket))["orderId"] == accepted["orderId"]

    on_guarded(keys_url, scenario)


def test_a_trader_is_told_the_end_of_its_own_partition_s_log_alone(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        mine = await on.ann.place()
        await on.admin.place(clientId="bob")
        own = str(int(mine[-2:]))
        async with on.socket(on.ann) as trader, on.socket(on.auditor) as auditor:
            for socket in (trader, auditor):
                await say(socket, type="hello")
            told, everything = [(await hear(socket)) for socket in (trader, auditor)]
            assert list(told["log"]["epochs"]) == [own]
            assert re.fullmatch(rf"{own}\.1-1-[0-9a-f]{{8}}", told["log"]["head"])
            assert len(everything["log"]["epochs"]) == 2 and "~" in everything["log"]["head"]
            assert told["principal"] == {"key": on.ann.key_id, "clientId": ANN, "roles": ["trader"]}
        async with on.ann.http.stream("GET", f"/api/clients/{ANN}/stream") as response:
            lines = [line async for line in _some(response, 4)]
            assert json.loads(lines[3].removeprefix("data: "))["head"] == told["log"]["head"]

    on_guarded(keys_url, scenario)


async def _some(response: httpx.Response, count: int) -> AsyncIterator[str]:
    lines = response.aiter_lines()
    for _ in range(count):
        yield await anext(lines)


def test_streams_and_polls_of_others_are_refused(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        await on.sam.place()
        for path in (f"/api/clients/{SAM}/stream", "/api/clients/nobody/stream", "/api/stream"):
            for query in ("?wait=0", "", "?snapshot=true"):
                problem(await on.ann.http.get(path + query), 403, "forbidden")
        for holder in (on.auditor, on.admin):
            polled = await holder.http.get("/api/stream?wait=0&from=start")
            assert len(polled.json()["events"]) == 1

    on_guarded(keys_url, scenario)


def test_a_socket_says_who_it_is_in_its_first_message(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        mine = await on.ann.place()
        for hello in ({"token": on.ann.key}, {"auth": {"token": on.ann.key}}):
            async with on.socket(query=f"?orderId={mine}") as socket:
                # What is sent together with hello is obeyed after it.
                await say(socket, type="hello", id="1", **hello)
                await say(socket, type="ping", id="2")
                heard = [await hear(socket) for _ in range(3)]
                assert {frame.get("type") or frame["event"] for frame in heard} == {"welcome", "pending", "pong"}
                assert heard[0]["id"] == "1" and heard[0]["principal"]["clientId"] == ANN

    on_guarded(keys_url, scenario)


NO_HELLO: tuple[dict[str, object] | str | bytes, ...] = (
    {"type": "ping"},
    {"type": "hello"},
    {"type": "hello", "token": "otk_0"},
    {"type": "hello", "token": 7},
    {"type": "hello", "token": None},
    {"type": "hello", "auth": {"token": "nonsense"}},
    {"type": "subscribe", "scope": "all"},
    {"type": "subscribe", "scope": "all", "token": "<key>"},
    {**NAMELESS, "token": "<key>"},
    b"\0",
    "nonsense",
    "[]",
)


def test_a_socket_that_says_anything_else_first_is_closed(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        for first in NO_HELLO:
            async with on.socket() as socket:
                sent = first if isinstance(first, str | bytes) else json.dumps(first).replace("<key>", on.admin.key)
                await socket.send(sent)
                code, frames = await hear_close(socket)
                assert (code, [frame["type"] for frame in frames]) == (4401, ["goaway"]), first

    on_guarded(keys_url, scenario)


def test_a_socket_that_says_nothing_is_closed_in_time(keys_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "HELLO_SECONDS", 0.05)

    async def scenario(on: Guarded) -> None:
        async with on.socket() as silent, on.socket(on.ann) as known:
            assert await closed(silent) == 4401
            await hear_nothing_more(known)

    on_guarded(keys_url, scenario)


def test_a_second_key_on_one_socket_is_refused(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        async with on.socket(on.ann) as same, on.socket(on.ann) as other, on.socket(on.ann) as wrong:
            await say(same, type="hello", token=on.ann.key)
            assert (await hear(same))["type"] == "welcome"
            await say(other, type="hello", token=on.admin.key)
            assert await closed(other) == 4403
            await say(wrong, type="hello", token="nonsense")
            assert await closed(wrong) == 4401

    on_guarded(keys_url, scenario)


def test_a_wrong_key_on_the_handshake_is_refused_before_there_is_a_socket(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with on.socket(Authorization="Bearer nonsense"):
                raise AssertionError("the socket must not open")
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body)["code"] == "unauthenticated"

    on_guarded(keys_url, scenario)


def test_without_keys_a_token_is_of_no_consequence() -> None:
    async def main() -> None:
        async with running(memory_store()) as api, connected(api) as socket:
            await say(socket, type="hello", token="anything", id="1")
            welcome = await hear(socket)
            assert welcome["type"] == "welcome" and "principal" not in welcome
            assert (await api.http.post("/api/tickets")).status_code == 404

    asyncio.run(main())


def test_revoking_a_key_ends_its_sockets_streams_and_polls_and_no_others(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        await on.ann.place()
        async with on.socket(on.ann) as socket, on.socket() as introduced, on.socket(on.sam) as other:
            await say(introduced, type="hello", token=on.ann.key)
            assert (await hear(introduced))["type"] == "welcome"
            path = f"/api/clients/{ANN}/stream"
            async with on.ann.http.stream("GET", path) as stream, asyncio.timeout(WAIT_SECONDS):
                polling = asyncio.create_task(on.ann.http.get(f"{path}?wait=60"))
                await subscribers(on.api, 5)
                await on.revoke(on.ann)
                assert [await closed(one) for one in (socket, introduced)] == [4401, 4401]
                assert '"code":4401' in (await stream.aread()).decode()
                assert (await polling).json()["events"] == []
            await hear_nothing_more(other)
            problem(await on.ann.http.get("/api/orders"), 401, "unauthenticated")

    on_guarded(keys_url, scenario)


def test_a_new_key_opens_at_once(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        _, key = await made_key(keys_url, "carol", "trader")
        async with on.socket() as socket:
            await say(socket, type="hello", token=key)
            assert (await hear(socket))["principal"]["clientId"] == "carol"

    on_guarded(keys_url, scenario)
