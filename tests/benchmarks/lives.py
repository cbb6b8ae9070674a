"""Orders' lives of every kind, as the engine writes them, for benchmarks that need a million events."""

import asyncio
import random
import secrets
import time
from collections.abc import Iterator
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from app.orders.decide import decide
from app.orders.events import Event, OrderAccepted, OrderConfirmed, SubmitIntentRecorded
from app.orders.evolve import evolve
from app.orders.state import Absent, State
from eventstore.ids import new_stream_id, new_ulid
from eventstore.store import Append, EventStore
from tests.conftest import Life, appends, failed_life, market_life, random_life
from tests.moves import move

PARTITIONS: Final = 4
CLIENTS: Final = 50
CALLERS: Final = 128
TEMPLATES: Final = 500
SEED: Final = 7
MOVES_MAX: Final = 12
MESSAGE_CHARACTERS: Final = 640
"""Of an encoded transaction in an intent."""
SIGNATURE_CHARACTERS: Final = 88


class Filled(Struct, frozen=True):
    """What a log was filled with."""

    orders: int
    events: int
    size: int
    """Bytes of the events in canonical form."""


def played_life(chance: random.Random) -> Life:
    """A life of any type of order, by random commands: it rests, fires, is cancelled, expires, fails, is confirmed."""
    commits: list[list[Event]] = []
    state: State = Absent()
    for _ in range(MOVES_MAX):
        events = decide(state, move(state, chance))
        for event in events:
            state = evolve(state, event)
        if events:
            commits.append(list(events))
    return commits


def template(chance: random.Random) -> Life:
    """A life, most often of a market order that is confirmed at once."""
    kind = chance.random()
    if kind < 0.6:
        return market_life(chance.choice(["buy", "sell"]))
    if kind < 0.65:
        return failed_life()
    return random_life(chance) if kind < 0.8 else played_life(chance)


def lives(orders: int, seed: int = SEED) -> Iterator[list[Append]]:
    """Yield the appends of each of ``orders`` orders of several clients, one order after another."""
    chance = random.Random(seed)
    templates = [life for life in (template(chance) for _ in range(TEMPLATES)) if life]
    for number in range(orders):
        client = f"client-{chance.randrange(CLIENTS)}"
        now_us = time.time_ns() // 1000
        stream = new_stream_id(new_ulid(now_us // 1000, secrets.token_bytes(10)), client, PARTITIONS)
        life = [[_own(event, f"{seed}-{number}") for event in events] for events in templates[number % len(templates)]]
        yield appends(stream, life, client=client, start_us=now_us)


def _own(event: Event, name: str) -> Event:
    """Return ``event`` with what no two orders share, as long as it really is."""
    signature = name.rjust(SIGNATURE_CHARACTERS, "5")
    match event:
        case OrderAccepted():
            return replace(event, idempotency_key=f"request-{name}", fingerprint="f" * 32)
        case SubmitIntentRecorded():
            return replace(event, tx_id=signature, message=name.rjust(MESSAGE_CHARACTERS, "A"))
        case OrderConfirmed():
            return replace(event, tx_id=signature)
        case _:
            return event


async def fill(store: EventStore, events: int, seed: int = SEED) -> Filled:
    """Append lives until the log has ``events`` events or a few more; the commits of many orders are interleaved."""
    counted = {"orders": 0, "events": 0, "size": 0}
    waiting = lives(events, seed)

    async def call() -> None:
        while counted["events"] < events:
            life = next(waiting)
            counted["orders"] += 1
            counted["events"] += sum(len(commit.events) for commit in life)
            counted["size"] += sum(len(event.data) for commit in life for event in commit.events)
            for commit in life:
                await store.append(commit)

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(call())
    return Filled(**counted)
