"""Both clients follow the real server through a proxy that cuts, and over its restart, and see what the log has."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore.ids import partition_in
from tests.conformance.cutting import CuttingProxy
from tests.conformance.followers import CLIENTS, Follower, Node, Outcome, Task, follower
from tests.integration.api import LIFE, Api, live, memory_store, running

CUTS = st.lists(st.integers(0, 5_000), min_size=1, max_size=8)
LIFE_EVENTS = 6
TRIES = 50
"""A cut within the handshake brings nothing new."""


async def check(api: Api, outcome: Outcome, order_ids: Sequence[str]) -> None:
    """What was seen of each order is its stream, and nothing else was seen."""
    assert outcome.error is None
    for order_id in order_ids:
        stored = [str(event.cursor) for event in await api.store.read_stream(order_id)]
        seen = [item["cursor"] for item in outcome.items if item["orderId"] == order_id]
        # The cursor of all orders has an entry for each partition.
        own = [place.split(f"{partition_in(order_id)}.")[-1].split("~")[0] for place in seen]
        assert own == stored
    assert len(outcome.items) == len(order_ids) * LIFE_EVENTS


async def followed(follow: Follower, cuts: Sequence[int]) -> int:
    """Follow everything while three orders live, over a proxy with ``cuts``; return the number of connections."""
    async with running(memory_store()) as api:
        proxy = CuttingProxy(api.url, cuts)
        async with proxy.running() as url, asyncio.TaskGroup() as group:
            task = Task(wanted={"scope": "all", "from": "start"}, count=3 * LIFE_EVENTS, tries=TRIES)
            following = group.create_task(follow(url, task))
            order_ids = await three_lives(api)
            await check(api, await following, order_ids)
        return proxy.connections


async def three_lives(api: Api) -> Sequence[str]:
    """One order has ended, one is under way, one comes later."""
    ended, moving = await api.place(), await api.place(clientId="other")
    await live(api.streams, ended)
    await live(api.streams, moving)
    later = await api.place(clientId="third")
    await live(api.streams, later)
    return [ended, moving, later]


@pytest.mark.parametrize("client", CLIENTS)
def test_cuts_in_handshake_answers_and_events_cost_nothing(client: str, node: Node) -> None:
    cuts = [0, 60, 200, 700, 900, 1_500, 2_222, 3_000]
    assert asyncio.run(followed(follower(client, node), cuts)) > len(cuts)


@pytest.mark.parametrize("client", CLIENTS)
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=CUTS)
def test_random_cuts_cost_nothing(client: str, node: Node, cuts: list[int]) -> None:
    asyncio.run(followed(follower(client, node), cuts))


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=CUTS)
def test_many_random_cuts_cost_nothing(client: str, node: Node, cuts: list[int]) -> None:
    asyncio.run(followed(follower(client, node), cuts))


async def restarted(follow: Follower) -> int:
    """Follow everything over a restart of the server in the middle of an order's life."""
    store = memory_store()
    async with AsyncExitStack() as first:
        api = await first.enter_async_context(running(store))
        proxy = CuttingProxy(api.url, ())
        async with proxy.running() as url, asyncio.TaskGroup() as group:
            order_id = await api.place()
            await live(api.streams, order_id, LIFE[:2])
            task = Task(wanted={"scope": "all", "from": "start"}, count=LIFE_EVENTS, tries=TRIES)
            following = group.create_task(follow(url, task))
            while not api.sessions:
                await api.http.get("/livez")
            await first.aclose()
            async with running(store) as again:
                proxy.target = again.url
                await live(again.streams, order_id, LIFE[2:])
                await check(again, await following, [order_id])
        return proxy.connections


@pytest.mark.parametrize("client", CLIENTS)
def test_a_restart_of_the_server_costs_nothing(client: str, node: Node) -> None:
    assert asyncio.run(restarted(follower(client, node))) >= 2
