"""Hostile frames and requests get an answer that says nothing of the server, and take nothing from anybody else."""

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.problems import ProblemError
from app.api.resume import parse_after
from app.api.streaming.messages import message_id, read_members, read_message
from app.api.streaming.scopes import AllScope, ClientScope, parse_cursors
from eventstore.ids import LOG_START
from tests.benchmarks.frames import frame
from tests.fuzz.attack import Found, attack, drawn, send_frames, send_requests
from tests.fuzz.frames import NAMES, ORDER_ID, VALID, VALUES, texts
from tests.fuzz.witness import Witness, require_all, written
from tests.integration.api import Api, redis_store, running

SEED: Final = 20_261_126
JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=8,
)
MESSAGES: Final = st.builds(
    lambda valid, more: json.dumps({**valid, **more}),
    st.sampled_from(VALID),
    st.dictionaries(st.sampled_from(NAMES), JSON),
) | JSON.map(json.dumps)


def on_server(
    redis_url: str, database_url: str, caplog: pytest.LogCaptureFixture, scenario: Callable[[Api, int], Awaitable[None]]
) -> None:
    """Run a scenario on a server with a well-behaved subscriber, which must get everything."""

    async def main() -> None:
        async with redis_store(redis_url) as store, running(store, database_url) as api:
            port = int(api.url.rpartition(":")[2])
            with await asyncio.to_thread(Witness, port) as witness:
                await api.place()
                await scenario(api, port)
                await api.place()
                logs = await written(store)
                await asyncio.to_thread(require_all, witness, logs)

    caplog.set_level(logging.WARNING)
    asyncio.run(main())
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.slow
def test_hostile_frames_and_requests_are_answered_and_harm_nobody(
    redis_url: str, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(_: Api, port: int) -> None:
        found = await asyncio.to_thread(attack, port, frame_count=4_500, request_count=500, seed=SEED)
        assert found.faults == []
        # What a socket still had to send when it was closed is not counted.
        assert (found.frames > 4_450, found.requests) == (True, 500)
        for kind in (
            "message pong",
            "message json_malformed",
            "message invalid_message",
            "close 1002",
            "close 1007",
            "close 1009",
        ):
            assert found.answers[kind] > 0
        for kind in ("status 200", "status 202", "status 400", "status 404", "status 405"):
            assert found.answers[kind] > 0

    on_server(redis_url, database_url, caplog, scenario)


@pytest.mark.slow
def test_messages_that_hypothesis_makes_are_answered(
    redis_url: str, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(_: Api, port: int) -> None:
        found = Found()

        @settings(max_examples=6, deadline=None, database=None)
        @given(st.lists(MESSAGES, min_size=20, max_size=40))
        def send(messages: list[str]) -> None:
            send_frames(port, [[frame(text.encode()) for text in messages]], found)
            assert found.faults == []

        await asyncio.to_thread(send)
        assert found.frames >= 120

    on_server(redis_url, database_url, caplog, scenario)


def parse(text: str) -> None:
    """Everything between a text frame and a message's values."""
    members, _ = read_members(text)
    message_id(members)
    read_message(members, now_us=1_800_000_000_000_000)


def refused(parser: Callable[[Any], object], text: Any) -> bool:
    """Whether a parser refuses a text as it is to; any other error is a fault."""
    try:
        parser(text)
    except ProblemError as problem:
        assert problem.detail and len(problem.detail) < 8_000
        return True
    return False


PLACES: Final = (
    lambda text: parse_after(text, ORDER_ID),
    lambda text: parse_cursors(AllScope(), dict.fromkeys(range(4), LOG_START), text),
    lambda text: parse_cursors(ClientScope("fuzz"), {2: LOG_START}, text),
)


def test_parsers_refuse_what_they_do_not_take_and_do_nothing_else() -> None:
    outcomes = [refused(parse, made.decode("utf-8", "replace")) for made in drawn(texts, 1_000, SEED)]
    assert 0.05 < sum(outcomes) / len(outcomes) < 0.99
    for parser in PLACES:
        assert any(not refused(parser, value.strip('"')) for value in (*VALUES, "1-7-9f86d081", "2.1-7-9f86d081"))


@pytest.mark.slow
@settings(max_examples=800, deadline=None)
@given(st.text(max_size=60) | st.text("0123456789abcdef.-~/", max_size=60) | MESSAGES)
def test_parsers_refuse_whatever_hypothesis_makes(text: str) -> None:
    for parser in (parse, *PLACES):
        refused(parser, text)


def test_requests_are_judged() -> None:
    """The judge finds what it is there for."""
    answers = [
        b"HTTP/1.1 500 Internal Server Error\r\n\r\n",
        b'HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\r\n{"code":"internal"}',
        b"HTTP/1.1 200 OK\r\nX-Injected: yes\r\n\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\nTraceback (most recent call last)",
        b'HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\r\n{"code":"unavailable"}',
    ]
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(100)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        found = Found()
        send_requests(listener.getsockname()[1], [b"GET / HTTP/1.1\r\n\r\n"] * len(answers), found)
        thread.join()
    kinds = [fault.partition(":")[0] for fault in found.faults]
    assert kinds == ["status 500", "status 503", "an injected header", "a leak of Traceback"]
