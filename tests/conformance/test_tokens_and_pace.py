"""Tokens go into hello, from both clients; the Python client's pace is bounded."""

import asyncio

import pytest

from app.client import Pace
from tests.conformance.followers import CLIENTS, Follower, Node, Task, follower
from tests.conformance.scenarios import ONE, events, goaway, subscribed
from tests.conformance.scripts import Abort, Close, Connection, Frame, scripted


async def hellos(follow: Follower, token: str | None) -> list[Frame]:
    """What is said first on each of two connections."""
    script = [
        Connection({}, [subscribed(0), *events(1), Abort()]),
        Connection({}, [subscribed(1), *events(2, 3, 4, 5, 6)]),
    ]
    async with scripted(script) as (url, server):
        await follow(url, Task(wanted=ONE, token=token))
    return server.hellos


@pytest.mark.parametrize("client", CLIENTS)
def test_each_connection_begins_with_the_token(client: str, node: Node) -> None:
    assert asyncio.run(hellos(follower(client, node), "secret")) == [{"type": "hello", "token": "secret"}] * 2


@pytest.mark.parametrize("client", CLIENTS)
def test_without_a_token_none_is_said(client: str, node: Node) -> None:
    assert asyncio.run(hellos(follower(client, node), None)) == [{"type": "hello"}] * 2


async def pause_seconds(follow: Follower) -> float:
    """The time between two connections, the first of which is told to come back after 300 ms."""
    script = [
        Connection({}, [subscribed(0), goaway(4503, 300), Close(4503)]),
        Connection({}, [subscribed(0), *events(1, 2, 3, 4, 5, 6)]),
    ]
    async with scripted(script) as (url, server):
        await follow(url, Task(wanted=ONE))
    return server.times[1] - server.times[0]


@pytest.mark.parametrize("client", CLIENTS)
def test_nobody_comes_back_sooner_than_the_server_says(client: str, node: Node) -> None:
    assert asyncio.run(pause_seconds(follower(client, node))) >= 0.29


def test_the_wait_doubles_up_to_its_bound_and_is_spread_by_chance() -> None:
    assert [Pace(chance=lambda: 1.0).delay_seconds(count) for count in (1, 2, 3, 6, 7, 60)] == [0.5, 1, 2, 16, 20, 20]
    assert Pace(chance=lambda: 0.0).delay_seconds(60) == 0
