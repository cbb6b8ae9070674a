"""The clients under test: one in this process, the other in a process of Node."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import playwright

from app.client import (
    Client,
    ClientError,
    EventMissingError,
    HistoryForkedError,
    OrderRefusedError,
    Pace,
    PlaceLostError,
    SentAwayError,
    UnreachableError,
)

WAIT_SECONDS = 15
# Playwright brings the Node that drives the browser tests, so no machine lacks one.
NODE: Final = Path(playwright.__file__).parent / "driver" / ("node.exe" if sys.platform == "win32" else "node")
RUNNER: Final = Path(__file__).with_name("runner.mjs")

Frame = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to follow, and how."""

    wanted: Mapping[str, Any]
    obey: bool = False
    """Do once what an error advises."""
    count: int | None = None
    """Stop after so many items; None: follow to the end."""
    tries: int = 10
    silence_ms: int | None = 20_000
    """None: what the server's heartbeat says."""
    token: str | None = None


@dataclass
class Outcome:
    """What the application has seen."""

    items: list[Frame] = field(default_factory=list)
    error: dict[str, Any] | None = None
    """Of the first time, where the advice was followed."""

    @property
    def seen(self) -> list[str]:
        """The events as ``order/seq``, and snapshots."""
        return [f"{item['orderId']}/{item['seq']}" if "event" in item else item["type"] for item in self.items]


Follower = Callable[[str, Task], Coroutine[Any, Any, Outcome]]
"""Follows at a server's ``http://`` address."""


async def follow_in_python(url: str, task: Task) -> Outcome:
    """Follow by ``app.client``."""
    outcome = Outcome()
    silence_seconds = None if task.silence_ms is None else task.silence_ms / 1_000
    pace = Pace(reconnect_seconds=0.001, reconnect_seconds_max=0.01, silence_seconds=silence_seconds)
    async with asyncio.timeout(WAIT_SECONDS), Client(url, tries=task.tries, key=task.token, pace=pace) as client:
        advice: Mapping[str, Any] = {}
        try:
            await _take(_items(client, task.wanted), task.count, outcome.items)
        except ClientError as error:
            outcome.error, advice = _told(error)
        if outcome.error is not None and task.obey:
            starts = ("after", "from", "snapshot")
            kept = {name: value for name, value in task.wanted.items() if name not in starts}
            await _take(_items(client, {**kept, **advice}), task.count, outcome.items)
    return outcome


async def _take(items: AsyncIterator[Frame], count: int | None, into: list[Frame]) -> None:
    left = count
    async with aclosing(cast("Any", items)):
        async for item in items:
            into.append(item)
            left = None if left is None else left - 1
            if left == 0:
                return


def _items(client: Client, wanted: Mapping[str, Any]) -> AsyncIterator[Frame]:
    after = wanted.get("after")
    if "orderId" in wanted:
        return client.events(wanted["orderId"], after=after)
    start, snapshot = wanted.get("from", "now"), wanted.get("snapshot", False)
    events = wanted.get("events", ())
    return client.stream(client=wanted.get("clientId"), after=after, start=start, events=events, snapshot=snapshot)


def _told(error: ClientError) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an error says, and what its documentation says to follow with."""
    match error:
        case HistoryForkedError(last_common=common):
            return {"code": "fork"}, {"after": common.cursor} if common else {"from": "start"}
        case PlaceLostError(problem=problem):
            return {"code": problem["code"]}, {} if "orderId" in problem else {"snapshot": True}
        case OrderRefusedError(problem=problem):
            return {"code": problem["code"]}, {}
        case SentAwayError(code=code):
            return {"code": "sent_away", "closeCode": code}, {}
        case EventMissingError(expected=expected, seq=seq, order_id=order_id):
            return {"code": "gap", "expected": expected, "seq": seq, "orderId": order_id}, {}
        case UnreachableError():
            return {"code": "unreachable"}, {}
        case _:
            raise error


class Node:
    """A process of Node that follows by ``resume.js``, one task after the other."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([NODE, RUNNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def close(self) -> None:
        """End the process."""
        with self._process as process:
            process.kill()

    async def follow(self, url: str, task: Task) -> Outcome:
        """See :data:`Follower`."""
        outcome = Outcome()
        for line in await self.lines(url, task):
            if "item" in line:
                outcome.items.append(line["item"])
            elif "error" in line:
                told = line["error"]
                outcome.error = {name: told[name] for name in told.keys() - {"message", "advice"}}
        return outcome

    async def lines(self, url: str, task: Task, **options: Any) -> list[Frame]:
        """Follow, and return everything that is told: items, states, cursors saved, an error, the end."""
        chosen = {
            "tries": task.tries,
            "chance": 0.5,
            "backOffMs": 1,
            "backOffMsMax": 10,
            "connectMs": 60_000,
            **options,
        }
        if task.silence_ms is not None:
            chosen["silenceMs"] = task.silence_ms
        if task.token is not None:
            chosen["token"] = task.token
        told = {
            "url": "ws" + url.removeprefix("http") + "/api/orders/ws",
            "wanted": dict(task.wanted),
            "options": chosen,
            "obey": task.obey,
            "count": task.count,
        }
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                return await asyncio.to_thread(self._run, json.dumps(told))
        except TimeoutError:
            # Whoever reads its output ends with it.
            self._process.kill()
            raise

    def _run(self, told: str) -> list[Frame]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(told + "\n")
        self._process.stdin.flush()
        lines: list[Frame] = []
        for text in self._process.stdout:
            lines.append(json.loads(text))
            if lines[-1] == {"end": True}:
                return lines
        raise AssertionError(f"Node ended: {lines}")


CLIENTS: Final = ("python", "javascript")


def follower(client: str, node: Node) -> Follower:
    """The client of that name."""
    return follow_in_python if client == "python" else node.follow
