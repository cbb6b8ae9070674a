"""Both clients live through the same scripted scenarios and show their applications the same."""

import asyncio

import pytest

from tests.conformance.followers import CLIENTS, Follower, Node, Outcome, follower
from tests.conformance.scenarios import SCENARIOS, Scenario
from tests.conformance.scripts import ScriptedServer, scripted


async def played(scenario: Scenario, follow: Follower) -> tuple[Outcome, ScriptedServer]:
    async with scripted(scenario.script) as (url, server):
        return await follow(url, scenario.task), server


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_application_sees_every_event_once_in_order_or_the_error(
    scenario: Scenario, client: str, node: Node
) -> None:
    outcome, server = asyncio.run(played(scenario, follower(client, node)))
    assert server.wrong == []
    assert (outcome.seen, outcome.error) == (list(scenario.seen), scenario.error)
    assert len(server.hellos) == len(scenario.script)
    assert all("sub" not in item for item in outcome.items)
