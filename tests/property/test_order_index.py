"""What the store holds beside an order's events: after every step exactly what its state obliges it to hold."""

import asyncio
import random

from hypothesis import given
from hypothesis import strategies as st

from app.execution.streams import CLOSED, OrderHead, OrderStreams, duties
from app.orders.commands import CancelOrder, FireTrigger
from app.orders.obligations import Obligation, Watching, obligations
from app.orders.state import State, Terminal
from eventstore.ids import partition_in
from eventstore.memory import MemoryEventStore
from eventstore.partition import Partition
from tests.clocks import StepClock
from tests.moves import move, placement

Entries = dict[tuple[str, str], int]

chances = st.randoms(use_true_random=False)


def owed_entries(order_id: str, state: State) -> Entries:
    """The index entries that an order in ``state`` owes, as the contract names them."""
    entries: Entries = {}
    for owed in obligations(state):
        match owed:
            case Watching(trigger=trigger):
                launched = trigger.when == "launched"
                index = "resting:launches" if launched else f"resting:{trigger.pair}:{trigger.when}"
                entries[index, order_id] = trigger.score if launched else trigger.level
            case Obligation(kind=kind, due_ms=int(due_ms)):
                entries["due", f"{kind} {order_id}"] = due_ms
    return entries


def owed_task(state: State) -> str | None:
    return next((one.kind for one in obligations(state) if isinstance(one, Obligation) and one.due_ms is None), None)


def held_entries(part: Partition) -> Entries:
    return {
        (index, member): score
        for index, scores in part.indexes.items()
        for member, score in scores.items()
        if index != CLOSED
    }


class Office:
    """One order on a store in memory, worked on under its task and moved by others."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        clock = StepClock()
        self.store = MemoryEventStore(partitions=1, store_id="memory", now_us=clock.now_us)
        self.streams = OrderStreams(self.store, clock, chance.randbytes, "test")
        self.order_id = self.streams.new_order_id("client", None)
        self.part = self.store._parts[partition_in(self.order_id)]

    async def step(self) -> OrderHead:
        """Let something happen to the order, by a worker that holds its task or by anybody else."""
        order = await self.streams.load(self.order_id)
        command = move(order.state, self.chance)
        tasks = [*await self.store.take_tasks("w", 10), *self.part.tasks.values()]
        from_outside = isinstance(command, CancelOrder | FireTrigger) or not tasks
        recorded = await self.streams.record(order, command, None if from_outside else tasks[0])
        return recorded.order


@given(chances, st.integers(1, 40))
def test_indexes_and_tasks_are_what_the_state_obliges_to_after_every_step(chance: random.Random, steps: int) -> None:
    async def scenario() -> None:
        office = Office(chance)
        await office.streams.place(office.order_id, "client", placement(chance))
        for _ in range(steps):
            order = await office.step()
            assert held_entries(office.part) == owed_entries(office.order_id, order.state)
            ended = isinstance(order.state, Terminal)
            assert (office.order_id in office.part.indexes.get(CLOSED, {})) == ended
            assert owed_task(order.state) is None or office.part.tasks

    asyncio.run(scenario())


@given(chances, st.integers(1, 40))
def test_what_a_stream_alone_says_of_its_duties_is_what_the_appends_left(chance: random.Random, steps: int) -> None:
    async def scenario() -> None:
        office = Office(chance)
        await office.streams.place(office.order_id, "client", placement(chance))
        ever: set[tuple[str, str]] = set()
        for _ in range(steps):
            order = await office.step()
            ever |= set(held_entries(office.part))
            said = duties(office.order_id, office.part.streams[office.order_id])
            entries = {(entry.index, entry.member): entry.score for entry in said.set_entries if entry.index != CLOSED}
            assert entries == owed_entries(office.order_id, order.state)
            assert said.add_task == owed_task(order.state)
            assert ever <= set(said.clear_entries) | set(entries)
            assert not set(said.clear_entries) & set(entries)

    asyncio.run(scenario())
