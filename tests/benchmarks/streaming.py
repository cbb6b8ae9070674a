"""How many messages per second does one API process deliver, how late, and how fast is a resume, beside a bare server?

Workload: an embedded Valkey and PostgreSQL; market orders of six events in five commits each, appended straight to the
store by a process of its own; the API a process of its own with its default limits. The client is one more process: raw
sockets and epoll, which looks at the first bytes of each frame (``counting.py``; what it used is in each line, to show
whether it was the bottleneck). Lines:

- ``deliver``: 1, 100 and 1,000 sockets subscribe to all orders from an event on that the ring still has, so that each
  gets the same ``messages`` events. ``node`` is a Node process with nothing but ``ws``, without deflate, that sends the
  same bytes to as many sockets, a page at a time as the API does. The two take turns; medians of ``--runs``. ``batch``
  is the API once more with events in batches of 100. Unit: messages (events) per second, and CPU seconds of the server
  per 100,000 messages: on few cores the first depends on the client, the second hardly.
- ``latency``: ``--rate`` orders per second for ``--seconds``; 100 sockets follow one client each, one more all orders.
  Unit: milliseconds from just before the append until the client has the frame; two frames for each event.
- ``resume``: one socket resumes ``--missed`` events: from the ring, from the log after the API was restarted, and from
  the archive after the log was trimmed. Unit: events per second.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import uvloop

from app.main import open_database, opened, retention
from app.telemetry import set_up_logging
from eventstore.ids import Cursor
from projections.archive.archiver import Archiver
from projections.projector.runner import Projector
from tests.benchmarks.appending import EVENTS, client
from tests.benchmarks.orders import commit, machine
from tests.benchmarks.stands import Running, Stand, append, counting, serving, stand, started

SPARE: Final = 100
"""Orders before those that are measured, so that each partition has some."""
WS_VERSION: Final = "8.23.0"
SIZES: Final = ((1, 20_000), (100, 3_000), (1_000, 500))
"""Sockets, and events that each of them gets."""
RING: Final[dict[str, Any]] = {"ring_frames_max": 200_000, "ring_characters_max": 512 * 1024 * 1024}
ALL: Final = '{{"type":"subscribe","sub":"s","scope":"all","after":"{after}"}}'
BATCHED: Final = '{{"type":"subscribe","sub":"s","scope":"all","after":"{after}","batch":100}}'


def show(kind: str, facts: dict[str, Any], bench: str = "streaming") -> None:
    """Print one JSON line."""
    load = [round(one, 2) for one in os.getloadavg()]
    line = {"bench": bench, "kind": kind, "commit": commit(), "machine": machine(), "load_average": load, **facts}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def timed(server: Running, counter: Running, messages: int) -> dict[str, float]:
    """Let a counter go; return the rate, and the CPU that both sides took for it."""
    before = server.cpu
    counter.go()
    found = await counter.line()
    if found["events"] != messages:
        raise RuntimeError(f"{found['events']} of {messages} events came: {found}")
    per = 100_000 / messages
    return {
        "messages_per_second": messages / found["seconds"],
        "server_cpu_per_100k": (server.cpu - before) * per,
        "client_cpu_per_100k": found["client_cpu"] * per,
        "bytes_per_message": found["bytes"] / messages,
    }


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure."""
    return {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}


async def cursor_before_last(on: Stand, events: int) -> str:
    """Return the cursor of all orders that so many events come after, from each partition in proportion."""
    async with opened(on.settings, on.servers, "bench") as (store, _):
        ends = await store.log_ends()
        total = sum(end.position for end in ends.values())
        shares = {number: end.position * events // total for number, end in ends.items()}
        shares[max(shares)] += events - sum(shares.values())
        texts: list[str] = []
        for number, end in sorted(ends.items()):
            position = end.position - shares[number]
            if position:
                [commit] = await store.read_log({number: Cursor(end.epoch, position - 1)}, 1)
                anchor = commit.anchors[position - commit.position - 1]
                texts.append(f"{number}.{commit.epoch}-{position}-{anchor}")
    return "~".join(texts) or "start"


@asynccontextmanager
async def bare_server(directory: str, lines: Path) -> AsyncIterator[tuple[Running, int]]:
    """Run the Node server; yield it and its port."""
    async with started("node", f"{directory}/fanout.js", str(lines)) as server:
        yield server, await server.line()


def install(directory: str) -> None:
    """Put the Node server and its one dependency into a folder."""
    source = Path(__file__).with_name("fanout.js")
    Path(directory, "fanout.js").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", f"ws@{WS_VERSION}"]
    subprocess.run(command, cwd=directory, check=True)


async def deliver(on: Stand, runs: int) -> None:
    """Compare both servers for each number of sockets."""
    with tempfile.TemporaryDirectory(prefix="ot-") as directory:
        install(directory)
        captured = Path(directory, "frames")
        async with serving(on, **RING) as (api, port):
            await append(on, SIZES[0][1] // EVENTS + SPARE)
            after = await cursor_before_last(on, SIZES[0][1])
            async with counting(
                port, 1, [ALL.format(after=after)], expected=SIZES[0][1], capture=str(captured)
            ) as counter:
                await timed(api, counter, SIZES[0][1])
            async with bare_server(directory, captured) as (node, node_port):
                for sockets, events in SIZES:
                    after = await cursor_before_last(on, events)
                    found: dict[str, list[dict[str, float]]] = {"api": [], "node": [], "batch": []}
                    for _ in range(runs):
                        for name, server, at, message in (
                            ("api", api, port, ALL.format(after=after)),
                            ("node", node, node_port, str(events)),
                            ("batch", api, port, BATCHED.format(after=after)),
                        ):
                            messages = sockets * events
                            async with counting(at, sockets, [message], expected=messages) as counter:
                                found[name].append(await timed(server, counter, messages))
                    lines = {name: medians(each) for name, each in found.items()}
                    show("deliver", {"sockets": sockets, "messages": events, "runs": runs, **lines, **ratios(lines)})


def ratios(lines: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return each of ours by the bare server's."""
    return {
        f"{name}_by_node": {
            figure: round(lines[name][figure] / lines["node"][figure], 3)
            for figure in ("messages_per_second", "server_cpu_per_100k")
        }
        for name in ("api", "batch")
    }


async def latency(on: Stand, rate: int, seconds: int) -> None:
    """Measure how late events are at a steady rate."""
    orders = rate * seconds
    names = [f'{{"type":"subscribe","sub":"s","clientId":"{client(number)}"}}' for number in range(100)]
    everything = '{"type":"subscribe","sub":"s","scope":"all"}'
    async with (
        serving(on) as (api, port),
        counting(port, 100, names, expected=orders * EVENTS, latencies=True) as mine,
        counting(port, 1, [everything], expected=orders * EVENTS, latencies=True) as whole,
    ):
        before = api.cpu
        mine.go()
        whole.go()
        # The first order comes when both have subscribed: an interpreter takes longer to start.
        appended = await append(on, orders, rate)
        found = {"one_client_each": await mine.line(), "all": await whole.line()}
        used = api.cpu - before
    for name, each in found.items():
        if each["events"] != orders * EVENTS:
            raise RuntimeError(f"{name}: {each['events']} of {orders * EVENTS} events came")
    show(
        "latency",
        {
            "asked_orders_per_second": rate,
            "orders_per_second": appended["orders_per_second"],
            "appender_cpu": appended["cpu"],
            "api_cpu_per_second": round(used / appended["seconds"], 3),
            "api_cpu_per_100k_messages": round(used * 100_000 / (2 * orders * EVENTS), 3),
            **{
                f"{name}_ms": {part: us / 1000 for part, us in zip(("p50", "p99", "p99.9"), each, strict=True)}
                for name, each in ((name, found[name]["latency_us"].values()) for name in found)
            },
        },
    )


async def resume(on: Stand, missed: int, runs: int) -> None:
    """Measure a resume from each place that events are in."""
    async with serving(on, **RING) as (api, port):
        await append(on, missed // EVENTS + SPARE)
        after = await cursor_before_last(on, missed)
        await show_resume(api, port, "ring", after, missed, runs)
    async with serving(on) as (api, port):
        await show_resume(api, port, "log", after, missed, runs)
        await archive(on)
        await show_resume(api, port, "archive", after, missed, runs)


async def show_resume(api: Running, port: int, source: str, after: str, missed: int, runs: int) -> None:
    """Let one socket resume, with events one by one and in batches."""
    found: dict[str, list[dict[str, float]]] = {"single": [], "batch": []}
    for _ in range(runs):
        for name, text in (("single", ALL), ("batch", BATCHED)):
            async with counting(port, 1, [text.format(after=after)], expected=missed) as counter:
                found[name].append(await timed(api, counter, missed))
    show("resume", {"from": source, "missed": missed, "runs": runs, **{name: medians(found[name]) for name in found}})


async def archive(on: Stand) -> None:
    """Project everything, and trim the logs to their ends."""
    async with opened(on.settings, on.servers, "bench") as (store, _):
        database = open_database(on.servers, "bench")
        try:
            await Projector(store, database).project_available()
            await Archiver(store, database, retention(on.settings)).sweep()
        finally:
            await database.dispose()
        for number, end in (await store.log_ends()).items():
            if await store.hot.log_start(number) < end.position - 2 * EVENTS:
                raise RuntimeError(f"the log of partition {number} was not trimmed")


async def measure(options: argparse.Namespace) -> None:
    """Run what was asked for, each on servers of its own."""
    if "deliver" in options.only:
        async with stand() as on:
            await deliver(on, options.runs)
    if "latency" in options.only:
        async with stand() as on:
            await latency(on, options.rate, options.seconds)
    if "resume" in options.only:
        async with stand() as on:
            await resume(on, options.missed, options.runs)


def main() -> None:
    """Run once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=["deliver", "latency", "resume"])
    parser.add_argument("--runs", type=int, default=3, help="of which the medians are printed")
    parser.add_argument("--rate", type=int, default=1_000)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--missed", type=int, default=100_000)
    options = parser.parse_args()
    set_up_logging("error")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(options))


if __name__ == "__main__":
    main()
