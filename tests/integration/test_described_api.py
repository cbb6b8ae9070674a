"""The description as it is served, and what a server says beside it: every message that it sends is as described."""

import asyncio
import base64
import hashlib
import json
import re
from typing import Any

from app.api.description.page.document import style
from app.api.description.table import ASYNCAPI_PATH, DOCS_PATH, OPENAPI_PATH, OPERATIONS
from app.api.streaming.sessions import SocketLimits
from tests.descriptions import ASYNCAPI, OPENAPI, faults, faults_of_all, name_of
from tests.integration.api import (
    LIFE,
    ORDER,
    Api,
    connected,
    hear,
    hear_close,
    live,
    memory_store,
    on_memory,
    problem,
    ready,
    running,
    say,
)

RESTLESS = SocketLimits(heartbeat_seconds=0.2, bookmark_seconds=0.2, lag_seconds_max=0.2)


def test_the_documents_are_served_until_they_are_known() -> None:
    async def scenario(api: Api) -> None:
        for path, document in ((OPENAPI_PATH, OPENAPI), (ASYNCAPI_PATH, ASYNCAPI)):
            answer = await api.http.get(path)
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
            assert answer.json() == document
            again = await api.http.get(path, headers={"If-None-Match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            other = await api.http.get(path, headers={"If-None-Match": '"other"'})
            assert (other.status_code, other.headers["etag"]) == (200, answer.headers["etag"])

    on_memory(scenario)


def test_the_page_is_one_answer_and_lets_its_own_style_in() -> None:
    async def scenario(api: Api) -> None:
        answer = await api.http.get(DOCS_PATH)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        policy = answer.headers["content-security-policy"]
        digests = re.findall(r"'sha256-([^']+)'", policy)
        [written] = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
        assert written == style()
        assert [hashlib.sha256(written.encode()).digest()] == [base64.b64decode(one) for one in digests]
        assert policy.startswith("default-src 'none'; ")

    on_memory(scenario)


def test_queries_take_exactly_the_parameters_that_are_described() -> None:
    async def scenario(api: Api) -> None:
        await ready(api)
        examples = {"{order_id}": "01ARZ3NDEKTSV4RRFFQ69G5FAV-03", "{client:path}": "user01", "{code}": "internal"}
        for operation in OPERATIONS:
            if operation.method != "GET" or "invalid_query" not in operation.problems:
                assert operation.query == ()
                continue
            for path in (operation.path, *operation.also):
                for name, example in examples.items():
                    path = path.replace(name, example)
                answer = await api.http.get(path, params={"XXXXXXXX": "1"})
                detail = str(problem(answer, 400, "invalid_query")["detail"])
                accepted = detail.partition("accepted are ")[2]
                assert [name for name in accepted.split(", ") if name] == list(operation.query), path

    on_memory(scenario)


def test_every_message_of_a_socket_is_as_described() -> None:
    async def main() -> None:
        frames: list[dict[str, Any]] = []
        async with running(memory_store(), sockets=RESTLESS) as api, connected(api) as socket:
            reading = asyncio.create_task(hear_close(socket))
            await say(socket, type="hello", id=1, v=1)
            await say(socket, type="subscribe", id=2, sub="all", scope="all", **{"from": "start"})
            await say(socket, type="subscribe", sub="none", scope="all", events=["expired"])
            await say(socket, type="subscribe", sub="slow", scope="all", window=1)
            await say(
                socket, type="subscribe", sub="batch", scope="all", batch=10, until="caught_up", **{"from": "start"}
            )
            await say(socket, **ORDER, id=3, follow="mine")
            done = await api.place()
            await live(api.streams, done)
            await say(socket, type="subscribe", sub="one", id=4, orderId=done, snapshot=True)
            await say(socket, type="subscribe", sub="again", id=5, orderId=done, batch=3)
            unsent, sent = await api.place(), await api.place()
            await live(api.streams, sent, LIFE[:3])
            for order_id in (unsent, sent):
                await say(socket, type="cancel", orderId=order_id, id=order_id)
            await say(socket, type="nonsense", id=6)
            await say(socket, type="unsubscribe", sub="mine", id=7)
            await say(socket, type="ping", t=1)
            async with connected(api) as other:
                await say(other, type="subscribe", sub="s", clientId=ORDER["clientId"], **{"from": "start"})
                while (frame := await hear(other)).get("type") != "caught_up":
                    frames.append(frame)
            await _lagging(api)
            api.stopping.set()
            code, heard = await reading
            assert code == 4503
            frames += heard
        assert faults_of_all(frames) == []
        asked = {operation.removeprefix("receive_") for operation in ASYNCAPI["operations"]}
        said = {name for name in ASYNCAPI["components"]["messages"] if not name.startswith("stream_")} - asked
        assert {name_of(frame) for frame in frames} == said

    asyncio.run(main())


async def _lagging(api: Api) -> None:
    """Wait until a subscriber of the same kind has been told that it lags: so have the others."""
    async with connected(api) as socket:
        await say(socket, type="hello")
        await say(socket, type="subscribe", sub="slow", scope="all", window=1)
        while (await hear(socket)).get("type") != "caught_up":
            pass
        await live(api.streams, await api.place(), LIFE[:1])
        seen: set[str] = set()
        while not {"lagging", "heartbeat"} <= seen:
            seen.add(name_of(await hear(socket)))


def test_an_event_stream_is_as_described() -> None:
    async def scenario(api: Api) -> None:
        done = await api.place()
        await live(api.streams, done)
        names = {"subscribed": "stream_subscribed", "caught_up": "stream_caught_up", "goaway": "goaway"}
        async with api.http.stream("GET", "/api/stream", params={"from": "start"}) as answer:
            seen: dict[str, int] = {}
            name = ""
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                if line.startswith("data: "):
                    seen[name] = seen.get(name, 0) + 1
                    assert faults(names.get(name, "event"), json.loads(line.removeprefix("data: "))) == []
                    if name == "caught_up":
                        api.stopping.set()
        assert {"subscribed", "pending", "confirmed", "caught_up", "goaway"} <= seen.keys()

    on_memory(scenario)
