"""Does a server stand ``--frames`` hostile frames and ``--requests`` hostile requests, by ``--seed``?

A process of the API on embedded servers is sent what ``tests/fuzz/frames.py`` and ``requests.py`` draw, while a
well-behaved subscriber follows all orders, of which the hostile input places some. One JSON line with what the answers
were. Exit status 1, and a line for each, if an answer was a 5xx other than a documented 503, or had the server's own
text about itself; if a socket was closed for a mistake of the server; if the subscriber lacks an event; if the server
logged an unforeseen error; or if its memory grew by more than 64 MB after a fifth of the input, which is what its ring
of the newest events and its buffers may take.
"""

import argparse
import asyncio
import json
import random
import secrets
import sys
import tempfile
from collections import Counter
from typing import Any, Final

import uvloop

from app.main import opened
from app.telemetry import set_up_logging
from tests.benchmarks.orders import commit, machine
from tests.benchmarks.stands import Running, Stand, serving, stand
from tests.fuzz.attack import Found, attack
from tests.fuzz.witness import Witness, require_all, written

PARTS: Final = 20
GROWTH_BYTES_MAX: Final = 64 * 1024 * 1024
UNFORESEEN: Final = ("request_failed", "tailer_failed", "Traceback", "Exception in ASGI")


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Attack a server of its own, and return what came of it."""
    with tempfile.TemporaryFile("w+") as log:
        async with stand() as on, serving(on, stderr=log) as (api, port):
            result = await hold(on, api, port, options)
        log.seek(0)
        result["faults"] += [line[:500] for line in log if any(word in line for word in UNFORESEEN)]
    return result


async def hold(on: Stand, api: Running, port: int, options: argparse.Namespace) -> dict[str, Any]:
    """Send the input in parts, and take the server's memory after each."""
    chance = random.Random(options.seed)
    total, sizes = Found(), [api.rss]
    with await asyncio.to_thread(Witness, port) as witness:
        for part in range(PARTS):
            found = await asyncio.to_thread(
                attack,
                port,
                frame_count=share(options.frames, part),
                request_count=share(options.requests, part),
                seed=chance.getrandbits(64),
            )
            total = merged(total, found)
            sizes.append(api.rss)
        async with opened(on.settings, on.servers, "fuzz") as (store, _):
            logs = await written(store)
        await asyncio.to_thread(require_all, witness, logs)
    grown = max(sizes) - sizes[PARTS // 5]
    if grown > GROWTH_BYTES_MAX:
        total.faults.append(f"memory grew by {grown} bytes: {sizes}")
    return {
        "fuzz": "sockets and requests",
        "commit": commit(),
        "machine": machine(),
        "seed": options.seed,
        "frames": total.frames,
        "requests": total.requests,
        "events_of_the_subscriber": len(witness.events),
        "rss_grown_by": grown,
        "answers": dict(total.answers.most_common()),
        "faults": total.faults,
    }


def share(count: int, part: int) -> int:
    """Return how much of ``count`` a part has."""
    return count * (part + 1) // PARTS - count * part // PARTS


def merged(one: Found, other: Found) -> Found:
    """Return both together."""
    return Found(
        frames=one.frames + other.frames,
        requests=one.requests + other.requests,
        answers=Counter(one.answers) + Counter(other.answers),
        faults=one.faults + other.faults,
    )


def main() -> None:
    """Run once; exit with 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    options = parser.parse_args()
    set_up_logging("error")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(run(options))
    for fault in result["faults"]:
        sys.stderr.write(f"{fault}\n")
    sys.stdout.write(json.dumps({**result, "faults": len(result["faults"])}) + "\n")
    sys.exit(1 if result["faults"] else 0)


if __name__ == "__main__":
    main()
