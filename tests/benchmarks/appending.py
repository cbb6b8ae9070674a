"""A process that appends orders' lives to a store's log at a given rate, each event stamped just before its append.

Six events in five commits, as a market order has them that is confirmed at once, from ``clients`` clients in turn. A
rate of 0 is as fast as it goes. Prints one JSON line when the last append was answered.
"""

import asyncio
import json
import secrets
import sys
import time

import msgspec
import uvloop
from msgspec import Struct

from app.embedded import Servers
from app.main import open_hot_store
from app.orders.codec import Origin, to_frame
from app.orders.times import format_time
from app.settings import Settings
from eventstore.canonical import SealedEvent, seal
from eventstore.ids import new_stream_id, new_ulid
from eventstore.store import Append, EventStore
from tests.conftest import market_life

IN_FLIGHT_MAX = 512
LIFE = market_life()
EVENTS = sum(map(len, LIFE))


class Load(Struct, frozen=True, kw_only=True):
    """What the process is told on its command line."""

    settings: Settings
    servers: Servers
    orders: int
    per_second: int = 0
    clients: int = 100


def client(number: int) -> str:
    """Return the name of one of the clients."""
    return f"client-{number}"


async def live(store: EventStore, owner: str) -> None:
    """Append one order's life."""
    now_us = time.time_ns() // 1000
    order_id = new_stream_id(new_ulid(now_us // 1000, secrets.token_bytes(10)), owner, store.partitions)
    version, head = 0, ""
    for number, events in enumerate(LIFE, 1):
        origin = Origin(actor="bench", client=owner, command=f"c{number}")
        at = format_time(time.time_ns() // 1000)
        sealed: list[SealedEvent] = []
        expected = (version, head)
        for event in events:
            version += 1
            sealed.append(seal(to_frame(event, order_id=order_id, seq=version, at=at, origin=origin), head))
            head = sealed[-1].hash
        await store.append(
            Append(
                stream=order_id,
                expected_version=expected[0],
                expected_hash=expected[1],
                commit_id=f"{order_id}:{number}",
                events=tuple(sealed),
            )
        )


async def load(told: Load) -> dict[str, object]:
    """Append all lives; return how long that took."""
    store = await open_hot_store(told.settings, told.servers.redis_url)
    room = asyncio.Semaphore(IN_FLIGHT_MAX)

    async def one(number: int) -> None:
        async with room:
            await live(store, client(number % told.clients))

    started = time.perf_counter()
    used = time.process_time()
    async with asyncio.TaskGroup() as group:
        for number in range(told.orders):
            if told.per_second:
                early = started + number / told.per_second - time.perf_counter()
                if early > 0:
                    await asyncio.sleep(early)
            elif number % IN_FLIGHT_MAX == 0:
                await asyncio.sleep(0)
            group.create_task(one(number))
    seconds = time.perf_counter() - started
    await store.close()
    return {
        "orders": told.orders,
        "seconds": round(seconds, 3),
        "orders_per_second": round(told.orders / seconds, 1),
        "cpu": round(time.process_time() - used, 3),
    }


def main() -> None:
    """Do as the command line says."""
    told = msgspec.json.decode(sys.argv[1], type=Load)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(load(told))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
