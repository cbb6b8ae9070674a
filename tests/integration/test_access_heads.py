"""Heads of requests are bounded in size, number and time, whoever sends them."""

import asyncio
import json

import pytest

from app.api import server
from tests.integration.api import WAIT_SECONDS, Api, on_memory


async def answer_to(api: Api, *pieces: bytes) -> bytes:
    """Everything that the server answers until it closes the connection."""
    host, port = api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            return await reader.read()
    finally:
        writer.close()


def head(*lines: bytes) -> bytes:
    return b"\r\n".join([b"GET /livez HTTP/1.1", b"Host: 127.0.0.1", b"Connection: close", *lines, b"", b""])


def is_too_large(answer: bytes) -> bool:
    if not answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n"):
        return False
    text, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in text and json.loads(body)["code"] == "headers_too_large"
    return True


def test_a_head_is_answered_up_to_its_bounds_and_refused_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_BYTES_MAX", 4_096)

    async def scenario(api: Api) -> None:
        for fitting in (head(b"X: " + b"x" * 3_900), head(*[b"X: x"] * 98)):
            assert (await answer_to(api, fitting)).startswith(b"HTTP/1.1 200 OK\r\n")
        assert is_too_large(await answer_to(api, head(b"X: " + b"x" * 4_100)))
        assert is_too_large(await answer_to(api, head(*[b"X: x"] * 99)))
        assert is_too_large(await answer_to(api, b"GET /" + b"x" * 4_200 + b" HTTP/1.1\r\n\r\n"))
        # Neither the name nor the value of a header ends, so that nothing of it is parsed.
        assert is_too_large(await answer_to(api, b"GET / HTTP/1.1\r\n", b"x" * 3_000, b"x" * 3_000))
        assert is_too_large(await answer_to(api, b"GET / HTTP/1.1\r\nX: ", b"x" * 3_000, b"x" * 3_000))
        assert (await api.http.get("/livez")).status_code == 200

    on_memory(scenario)


def test_each_request_of_a_connection_has_the_whole_room() -> None:
    async def scenario(api: Api) -> None:
        lines = head(b"X: " + b"x" * 20_000).replace(b"Connection: close\r\n", b"")
        answer = await answer_to(api, lines * 3, head())
        assert answer.count(b"HTTP/1.1 200 OK\r\n") == 4

    on_memory(scenario)


def test_a_body_is_no_part_of_the_head() -> None:
    async def scenario(api: Api) -> None:
        body = b" " * 50_000
        lines = f"POST /api/orders HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n".encode()
        for pieces in ((lines + b"\r\n" + body,), (lines, b"\r\n", body)):
            assert (await answer_to(api, *pieces, head())).startswith(b"HTTP/1.1 400 Bad Request\r\n")

    on_memory(scenario)


@pytest.mark.parametrize(
    "begun", [b"", b"GET /livez HTTP/1.1\r\nX: x", head().replace(b"close", b"keep-alive") + b"GET "]
)
def test_a_connection_that_does_not_finish_its_head_is_closed(monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)

    async def scenario(api: Api) -> None:
        answer = await answer_to(api, begun)
        assert answer.count(b"HTTP/1.1") == begun.count(b"\r\n\r\n")

    on_memory(scenario)
