"""What resume.js alone does: it tells its states, bounds what waits, saves cursors, and spreads its returns."""

import asyncio
from typing import Any

from tests.conformance.followers import Frame, Node, Task
from tests.conformance.scenarios import ALL, COMPLETED, ONE, WELCOME, batch, cursor, event, events, goaway, subscribed
from tests.conformance.scripts import Abort, Ack, Close, Connection, ScriptedServer, Step, scripted

CAUGHT_UP: Frame = {"type": "caught_up", "sub": "follow", "cursor": cursor(3)}


def told(node: Node, task: Task, *script: Connection, **options: Any) -> tuple[list[Frame], ScriptedServer]:
    """Everything that the client tells while the script is served."""

    async def scenario() -> tuple[list[Frame], ScriptedServer]:
        async with scripted(script) as (url, server):
            return await node.lines(url, task, **options), server

    lines, server = asyncio.run(scenario())
    assert server.wrong == []
    return lines, server


def states(lines: list[Frame]) -> list[Frame]:
    return [line["state"] for line in lines if "state" in line]


def test_it_tells_when_it_is_live_again_and_what_it_has_recovered(node: Node) -> None:
    lines, _ = told(
        node,
        Task(wanted=ONE),
        Connection({}, [WELCOME, subscribed(0), *events(1), {**CAUGHT_UP, "cursor": cursor(1)}, Abort()]),
        Connection({}, [WELCOME, subscribed(1), *events(1, 2, 3), CAUGHT_UP, *events(4, 5, 6)]),
    )
    assert states(lines) == [
        {"state": "connecting"},
        {"state": "replaying"},
        {"state": "live", "resumed": False, "recovered": 1},
        {"state": "waiting", "reason": "the connection was lost", "retryInMs": 1},
        {"state": "connecting"},
        {"state": "replaying"},
        {"state": "live", "resumed": True, "recovered": 2},
        {"state": "closed"},
    ]


def test_it_waits_longer_and_longer_and_gives_up(node: Node) -> None:
    lines, server = told(node, Task(wanted=ONE, tries=7), Connection({}, [Abort()]), backOffMs=2, backOffMsMax=20)
    waits = [state["retryInMs"] for state in states(lines) if state["state"] == "waiting"]
    assert waits == [2, 4, 8, 10, 10, 10]
    assert len(server.hellos) == 7
    [error] = [line["error"] for line in lines if "error" in line]
    assert error["code"] == "unreachable"


def test_it_comes_back_no_sooner_than_the_server_says(node: Node) -> None:
    lines, _ = told(
        node,
        Task(wanted=ONE),
        Connection({}, [WELCOME, subscribed(0), *events(1, 2, 3), goaway(4503, 30), Close(4503, "stopping")]),
        Connection({}, [WELCOME, subscribed(3), *events(4, 5, 6)]),
    )
    waiting = [state for state in states(lines) if state["state"] == "waiting"]
    assert waiting == [{"state": "waiting", "reason": "stopping", "retryInMs": 31}]


def test_events_are_acknowledged_as_they_are_taken(node: Node) -> None:
    steps: list[Step] = [*events(1, 2), Ack(cursor(2)), batch(event(3), event(4)), Ack(cursor(4)), *events(5, 6)]
    lines, _ = told(node, Task(wanted=ONE), Connection({"window": 8, "batch": 8}, [subscribed(0), *steps]), window=8)
    assert [line["item"]["seq"] for line in lines if "item" in line] == [1, 2, 3, 4, 5, 6]


def test_a_server_that_sends_more_than_there_is_room_for_is_left_and_resumed(node: Node) -> None:
    orders = [f"{number:026}-00" for number in range(30)]
    flood = [event(1, order, position=number) for number, order in enumerate(orders, 1)]
    lines, server = told(
        node,
        Task(wanted=ALL),
        Connection({"from": "start"}, [subscribed("start"), batch(*flood)]),
        Connection({}, [subscribed("start"), *flood, COMPLETED]),
        window=4,
    )
    assert [line["item"]["orderId"] for line in lines if "item" in line] == orders
    assert len(server.hellos) == 2
    reasons = [state["reason"] for state in states(lines) if state["state"] == "waiting"]
    assert reasons == ["the server sent more than there was room for"]


def test_what_waits_for_a_busy_application_when_the_connection_is_lost_comes_again(node: Node) -> None:
    lines, _ = told(
        node,
        Task(wanted=ONE),
        Connection({}, [subscribed(0), batch(event(1), event(2), event(3)), Abort()]),
        Connection({"after": cursor(1)}, [subscribed(1), *(event(seq, epoch=2) for seq in (2, 3, 4, 5, 6))]),
        busy=True,
    )
    cursors = [line["item"]["cursor"] for line in lines if "item" in line]
    assert cursors == [cursor(1), *(cursor(seq, epoch=2) for seq in (2, 3, 4, 5, 6))]


def test_cursors_are_saved_once_their_events_are_processed(node: Node) -> None:
    script = Connection({"after": cursor(3)}, [subscribed(3), *events(4, 5, 6)])
    lines, _ = told(node, Task(wanted=ONE), script, stored=cursor(3))
    order = [line.get("saved", line.get("item", {}).get("seq")) for line in lines if "saved" in line or "item" in line]
    assert order == [4, cursor(4), 5, cursor(5), 6, cursor(6)]


def test_a_cursor_that_is_asked_for_is_preferred_to_the_saved_one(node: Node) -> None:
    script = Connection({"after": cursor(5)}, [subscribed(5), *events(6)])
    lines, _ = told(node, Task(wanted={**ONE, "after": cursor(5)}), script, stored=cursor(3))
    assert [line["item"]["seq"] for line in lines if "item" in line] == [6]


def test_a_saved_cursor_that_is_unavailable_is_forgotten_before_the_snapshot(node: Node) -> None:
    refused: Frame = {"type": "error", "code": "cursor_unavailable", "sub": "follow", "message": "gone"}
    lines, _ = told(node, Task(wanted=ALL), Connection({"after": cursor(3)}, [refused]), stored=cursor(3))
    assert [line["saved"] for line in lines if "saved" in line] == [None]


def test_a_stored_cursor_makes_no_gap_of_what_was_taken_before(node: Node) -> None:
    script = Connection({"after": cursor(3)}, [subscribed(cursor(3)), *events(4), COMPLETED])
    lines, _ = told(node, Task(wanted=ALL), script, stored=cursor(3))
    assert [line["item"]["seq"] for line in lines if "item" in line] == [4]
