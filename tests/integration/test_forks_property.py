"""A property of lossy histories: every event ever heard leads on exactly, or to the last common one."""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct, field

from app.api.orders.request import read_order
from app.api.problems import ProblemError
from app.api.resume import resume
from app.clock import SystemClock
from app.execution.streams import OrderStreams
from eventstore.ids import Cursor
from eventstore.store import EventStore, StoredEvent
from projections.archive.store import ArchivedEventStore
from tests.conftest import execute
from tests.integration.api import (
    LIFE,
    ORDER,
    Api,
    advance,
)
from tests.integration.rewinding import TABLES, Rewindable, Snapshot, rewindable

NEXT = {1: LIFE[0], 2: LIFE[1], 4: LIFE[2], 5: LIFE[3]}
"""What a worker does to an order of this version."""
PAGE = 100

Frame = dict[str, Any]
Lossy = Callable[[Api, Rewindable], Awaitable[None]]


class Heard(Struct):
    """An event as some client heard it, after these others of its order."""

    order_id: str
    event: StoredEvent
    before: Sequence[StoredEvent]


class History(Struct):
    """Three orders on servers that lose data, and everything that was ever heard of them."""

    on: Rewindable
    store: ArchivedEventStore
    orders: dict[int, str] = field(default_factory=dict)
    heard: list[Heard] = field(default_factory=list)
    snapshot: Snapshot = field(default_factory=dict)
    losses: int = 0

    @property
    def streams(self) -> OrderStreams:
        return OrderStreams(self.store, SystemClock(), secrets.token_bytes, "test")

    async def take(self, what: str, number: int) -> None:
        match what:
            case "append":
                await self.append(number)
            case "project":
                # As the projector's process does when it starts.
                for partition in range(self.store.partitions):
                    await self.store.open_partition(partition)
                await self.on.project(self.store)
            case "snapshot":
                self.snapshot = await self.on.snapshot()
            case "set back" if self.snapshot:
                self.losses += 1
                await self.on.set_back(self.snapshot)
                self.store = await self.on.open(f"after {self.losses}")
                self.snapshot = {}
            case "flush":
                await self.on.flush()
                self.snapshot = {}

    async def append(self, number: int) -> None:
        """Take the next step of an order; begin another one where it has ended, or vanished."""
        streams = self.streams
        order = await streams.load(self.orders[number]) if number in self.orders else None
        if order is not None and order.version in NEXT:
            order_id = order.order_id
            await advance(streams, order, NEXT[order.version])
        else:
            request = read_order({**ORDER, "amount": "1", "clientId": f"client-{number // 2}"}, now_us=0)
            order_id = streams.new_order_id(request.client, None)
            await streams.place(order_id, request.client, request.command)
        self.orders[number] = order_id
        found = await self.store.read_stream(order_id)
        self.heard += [Heard(order_id, event, found[:index]) for index, event in enumerate(found)]


async def answer(store: EventStore, order_id: str, cursor: Cursor) -> object:
    """The cursors that follow, or the problem's code with the last common event."""
    try:
        resumed = await resume(store, order_id, cursor, PAGE)
    except ProblemError as refusal:
        return refusal.code, refusal.facts.get("lastCommon")
    assert not resumed.more
    return [json.loads(frame.text)["cursor"] for frame in resumed.frames]


def expected(heard: Heard, final: Sequence[StoredEvent]) -> object:
    if heard.event in final:
        return [str(event.cursor) for event in final[heard.event.version :]]
    common = [ours for ours, lasting in zip(heard.before, final, strict=False) if ours == lasting]
    return "fork", {"seq": len(common), "cursor": str(common[-1].cursor)} if common else None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 2)),
        st.tuples(st.just("append"), st.integers(0, 2)),
        st.tuples(st.sampled_from(["project", "snapshot", "set back", "flush"]), st.just(0)),
    ),
    min_size=4,
    max_size=30,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_every_event_ever_heard_leads_on_exactly_or_to_the_last_common_one(
    redis_url: str, database_url: str, steps: Sequence[tuple[str, int]]
) -> None:
    async def main() -> None:
        async with rewindable(redis_url, database_url, partitions=2) as on:
            history = History(on, await on.open())
            for what, number in steps:
                await history.take(what, number)
            store = history.store
            for heard in history.heard:
                found = await answer(store, heard.order_id, heard.event.cursor)
                assert found == expected(heard, await store.read_stream(heard.order_id)), heard
            for heard in history.heard[:10]:
                for other_id in history.orders.values():
                    final = await store.read_stream(heard.order_id)
                    if other_id != heard.order_id and heard.event in final and await store.read_stream(other_id):
                        assert await answer(store, other_id, heard.event.cursor) == ("cursor_unavailable", None)

    execute(database_url, f"TRUNCATE {TABLES}")
    asyncio.run(main())
