"""Does one API process's memory stay flat with 1,000 sockets of which 100 never read, and what do 5,000 sockets cost?

Workload: embedded Valkey and PostgreSQL, the API and the loads as processes of their own, as in ``streaming.py``.

- ``slow``: ``--sockets`` sockets while ``--rate`` orders per second of six events each are appended for ``--seconds``.
  Most follow one of 100 clients and read; a tenth asked for all orders, half of which never reads, half of which reads
  and never acknowledges. The first are let go when they have taken nothing for 10 s, the others, here, when they have
  lagged for 15 s: they are told 4508 and their cursor. Unit: bytes; one line per sample of the API's resident memory,
  one with the verdict: of the samples after the slow sockets have left, the median of the last quarter may be at most
  1.15 times that of the second.
- ``many``: ``--many`` sockets that follow all orders; then 120 events. Unit: resident bytes per idle socket, CPU
  seconds of the API per 100,000 messages, seconds until the last socket has the last event.

Exit status 1 if memory is not flat, if a slow socket stayed, was not told, or if a socket that reads lacks an event.
"""

import argparse
import asyncio
import sys
import time
from typing import Any, Final

import psutil
import uvloop

from app.api.streaming.sessions import SocketLimits
from app.telemetry import set_up_logging
from tests.benchmarks.appending import EVENTS, client
from tests.benchmarks.soak import GROWTH_MAX, SAMPLES_MIN, growth
from tests.benchmarks.stands import Running, append, counting, serving, stand
from tests.benchmarks.streaming import show

SAMPLE_SECONDS: Final = 2.0
EVERYTHING: Final = '{"type":"subscribe","sub":"s","scope":"all"}'
UNACKNOWLEDGED: Final = '{"type":"subscribe","sub":"s","scope":"all","window":100}'
LIMITS: Final = SocketLimits(lag_seconds_max=10, lag_close_seconds=5)
SLOW_SECONDS: Final = 30
"""After so long no slow socket is left."""
CLIENTS: Final = 100
ORDERS: Final = 20


def connections(api: Running) -> int:
    """Return how many connections from clients a process has."""
    found = psutil.Process(api.process.pid).net_connections(kind="tcp4")
    listening = {one.laddr for one in found if one.status == psutil.CONN_LISTEN}
    return sum(one.laddr in listening and one.status != psutil.CONN_LISTEN for one in found)


async def slow(options: argparse.Namespace) -> bool:
    """Watch memory under load; return whether all was as it should be."""
    tenth = options.sockets // 10
    unread, silent, orders = tenth // 2, tenth - tenth // 2, options.rate * options.seconds
    names = [f'{{"type":"subscribe","sub":"s","clientId":"{client(number)}"}}' for number in range(CLIENTS)]
    readers = options.sockets - tenth
    expected = sum(orders_of(number % CLIENTS, orders) * EVENTS for number in range(unread, unread + readers))
    async with (
        stand() as on,
        serving(on, sockets=LIMITS) as (api, port),
        counting(
            port, unread + readers, names, expected=expected, unread=unread, unread_subscribe=EVERYTHING
        ) as reading,
        counting(port, silent, [UNACKNOWLEDGED], expected=10**9, idle=SLOW_SECONDS) as lagging,
    ):
        samples: list[dict[str, Any]] = []
        for load in (reading, lagging):
            load.go()
        before, started = api.cpu, time.perf_counter()
        appending = asyncio.create_task(append(on, orders, options.rate, CLIENTS))
        while not appending.done():
            await asyncio.wait({appending}, timeout=SAMPLE_SECONDS)
            seconds = round(time.perf_counter() - started, 1)
            samples.append({"seconds": seconds, "rss": api.rss, "connections": connections(api)})
            show("sample", samples[-1], bench="sockets")
        appended, heard, left = await appending, await reading.line(), await lagging.line()
        warm = [sample["rss"] for sample in samples if sample["seconds"] > SLOW_SECONDS]
        grown = growth(warm) if len(warm) >= SAMPLES_MIN else None
        verdict = {
            "sockets": options.sockets,
            "never_read": unread,
            "never_acknowledge": silent,
            "orders_per_second": appended["orders_per_second"],
            "messages": heard["events"],
            "missing": expected - heard["events"],
            "api_cpu_per_100k_messages": round((api.cpu - before) * 100_000 / max(1, heard["events"]), 3),
            "rss_max": max(sample["rss"] for sample in samples),
            "growth": grown,
            "slow_sockets_left": samples[-1]["connections"] - readers,
            "closes": left["closes"],
            "closed_with_cursor": left["closed_with_cursor"],
        }
        ok = (
            grown is not None
            and grown <= GROWTH_MAX
            and (verdict["missing"], verdict["slow_sockets_left"]) == (0, 0)
            and (left["closes"], left["closed_with_cursor"]) == ({"4508": silent}, silent)
        )
        show("slow", {**verdict, "ok": ok}, bench="sockets")
        return ok


def orders_of(number: int, orders: int) -> int:
    """Return how many of the orders one of the clients has."""
    return orders // CLIENTS + (number < orders % CLIENTS)


async def many(sockets: int) -> bool:
    """Measure what idle sockets cost, and how long an event takes to all of them."""
    expected = sockets * ORDERS * EVENTS
    async with stand() as on, serving(on) as (api, port):
        before = api.rss
        async with counting(port, sockets, [EVERYTHING], expected=expected, idle=60) as load:
            idle = api.rss
            load.go()
            # A quiet moment, so that what subscribing costs is over.
            used = await settled(api)
            subscribed = api.rss
            started = time.perf_counter()
            await append(on, ORDERS)
            heard = await load.line()
            seconds = time.perf_counter() - started
            facts = {
                "sockets": sockets,
                "rss_per_socket": round((idle - before) / sockets),
                "rss_per_subscribed_socket": round((subscribed - before) / sockets),
                "messages": heard["events"],
                "missing": expected - heard["events"],
                "seconds_with_start_of_the_appender": round(seconds, 2),
                "messages_per_second": round(heard["events"] / seconds),
                "api_cpu_per_100k_messages": round((api.cpu - used) * 100_000 / max(1, heard["events"]), 3),
                "rss_after_per_socket": round((api.rss - before) / sockets),
            }
        show("many", facts, bench="sockets")
        return bool(heard["events"] == expected)


async def settled(api: Running) -> float:
    """Return the CPU seconds that a process has used once it uses next to none."""
    used = api.cpu
    while True:
        await asyncio.sleep(1)
        if api.cpu - used < 0.1:
            return api.cpu
        used = api.cpu


async def measure(options: argparse.Namespace) -> bool:
    """Run both; return whether all was as it should be."""
    fine = [await slow(options)] if options.seconds else []
    if options.many:
        fine.append(await many(options.many))
    return all(fine)


def main() -> None:
    """Run once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sockets", type=int, default=1_000)
    parser.add_argument("--rate", type=int, default=150, help="orders per second")
    parser.add_argument("--seconds", type=int, default=90, help="0 leaves the first part out")
    parser.add_argument("--many", type=int, default=5_000, help="0 leaves the second part out")
    options = parser.parse_args()
    set_up_logging("error")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(0 if runner.run(measure(options)) else 1)


if __name__ == "__main__":
    main()
