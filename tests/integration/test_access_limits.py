"""How much one key, one address and one socket may ask for."""

import asyncio
from typing import Any

import pytest

from app.api.access import entry, limits
from tests.integration.api import (
    hear,
    hear_close,
    hear_nothing_more,
    problem,
    say,
)
from tests.integration.guarded import ANN, Guarded, closed, guarded_by, on_guarded


def test_messages_of_a_socket_are_limited_and_acknowledgements_hardly(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        async with on.socket(on.ann) as socket:
            await say(socket, type="subscribe", sub="s", clientId=ANN)
            assert (await hear(socket))["type"] == "subscribed"
            for count, refused in ((9, False), (100, True)):
                for _ in range(count):
                    await say(socket, type="ack", sub="s", cursor="start")
                await say(socket, type="ping", id="last")
                told: list[dict[str, Any]] = []
                while not told or told[-1].get("id") != "last":
                    told.append(await hear(socket))
                codes = {frame["code"] for frame in told[:-1] if frame["type"] == "error"}
                assert codes == ({"rate_limited"} if refused else set())

    on_guarded(keys_url, scenario, guarded_by(messages_per_second=1))


def test_whoever_goes_on_after_being_limited_is_closed(keys_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "REFUSED_MESSAGES_MAX", 3)

    async def scenario(on: Guarded) -> None:
        async with on.socket(on.ann) as socket:
            for number in range(6):
                await say(socket, type="ping", id=number)
            code, frames = await hear_close(socket)
            assert code == 4429
            assert [frame.get("code", frame["type"]) for frame in frames] == [
                *["pong"] * 2,
                *["rate_limited"] * 3,
                4429,
            ]

    on_guarded(keys_url, scenario, guarded_by(messages_per_second=1))


def test_connections_of_a_key_and_of_an_address_are_limited(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        async with on.socket(on.ann), on.socket(on.ann):
            async with on.socket(on.ann) as third:
                assert await closed(third) == 4429
            problem(await on.ann.http.get(f"/api/clients/{ANN}/stream"), 429, "too_many_connections")
            async with on.socket() as fourth:
                await say(fourth, type="hello", token=on.ann.key)
                assert await closed(fourth) == 4429
            async with on.socket(on.sam), on.socket(on.sam) as last:
                await hear_nothing_more(last)
                async with on.socket(on.auditor) as fifth:
                    assert await closed(fifth) == 4429
        async with on.socket(on.ann) as again:
            await hear_nothing_more(again)

    on_guarded(keys_url, scenario, guarded_by(key_connections=2, address_connections=4))


def test_sockets_that_do_not_say_who_they_are_are_few(keys_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.access.connections.UNKNOWN_SOCKETS_MAX", 1)

    async def scenario(on: Guarded) -> None:
        async with on.socket() as first, on.socket() as second:
            assert await closed(second) == 4429
            await say(first, type="hello", token=on.ann.key)
            assert (await hear(first))["type"] == "welcome"
            async with on.socket() as third:
                await say(third, type="hello", token=on.ann.key)
                assert (await hear(third))["type"] == "welcome"

    on_guarded(keys_url, scenario)


def test_attempts_without_a_key_are_limited_and_keys_are_not_kept_out_by_them(
    keys_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.access.doors.FAILURES_BURST", 3)

    async def scenario(on: Guarded) -> None:
        told = [(await on.api.http.get("/api/orders")).status_code for _ in range(4)]
        assert told == [401, 401, 401, 429]
        refused = await on.api.http.get("/api/orders", headers={"Authorization": "Bearer nonsense"})
        problem(refused, 429, "rate_limited")
        assert refused.headers["retry-after"] == "1"
        async with on.socket() as socket:
            await say(socket, type="hello", token="nonsense")
            assert await closed(socket) == 4429
        assert (await on.ann.http.get(f"/api/orders/{await on.ann.place()}")).status_code == 200

    on_guarded(keys_url, scenario)


def test_requests_of_one_key_are_limited(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        path = f"/api/orders/{await on.ann.place()}"
        answers = await asyncio.gather(*(on.ann.http.get(path) for _ in range(8)))
        refused = [answer for answer in answers if answer.status_code != 200]
        assert len(refused) >= 4
        for answer in refused:
            wait_ms = int(str(problem(answer, 429, "rate_limited")["retryAfterMs"]))
            assert 0 < wait_ms <= 1_001 and answer.headers["retry-after"] == str(-(-wait_ms // 1_000))
        assert (await on.auditor.http.get(path)).status_code == 200

    on_guarded(keys_url, scenario, guarded_by(requests_per_second=1))


def test_the_bounds_are_those_of_the_documentation() -> None:
    assert (limits.BURST_SECONDS, limits.FAILURES_BURST, limits.FAILURES_PER_SECOND) == (2, 20, 1)
    assert (limits.HELLO_SECONDS, limits.UNKNOWN_SOCKETS_MAX, limits.REFUSED_MESSAGES_MAX) == (10, 64, 100)
