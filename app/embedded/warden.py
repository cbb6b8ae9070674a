"""The warden: starts the servers of one data directory, says where they answer, and stops them when its caller goes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from app.embedded.children import Children, children_in, stop_leftovers
from app.embedded.datadir import DataDirectory, owned
from app.embedded.errors import EmbeddedError
from app.embedded.postgres import start_postgres
from app.embedded.valkey import start_valkey


class Launch(msgspec.Struct, frozen=True):
    """What to start, and where."""

    data_dir: Path
    start_timeout_seconds: int
    postgres: bool


async def keep(launch: Launch) -> int:
    """Keep the servers until standard input ends, or SIGTERM or SIGINT arrives; return the exit status.

    Standard output gets one JSON line when the servers answer, and one with ``error`` if they fail, before or after.
    """
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    _at_end_of_input(stopping.set)
    service = asyncio.create_task(_serve(launch))
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({service, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    # Once only: another request to stop must not cut short the stopping.
    service.cancel()
    try:
        await service
    except asyncio.CancelledError:
        return 0
    except (EmbeddedError, OSError) as error:
        _say({"error": str(error)})
    return 1


async def _serve(launch: Launch) -> None:
    async with owned(launch.data_dir) as directory:
        await stop_leftovers(directory)
        async with children_in(directory) as children:
            redis_url, database_url = await _started(launch, directory, children)
            _say({"redisUrl": redis_url, "databaseUrl": database_url})
            ended = await children.first_end()
            failure = ended.failure(f"ended by itself with status {ended.process.returncode}")
            # At once: the caller hears of it when it lets go, and until then wonders why nothing answers.
            sys.stderr.write(f"ordertape: embedded servers: {failure}\n")
            raise failure


async def _started(launch: Launch, directory: DataDirectory, children: Children) -> tuple[str, str | None]:
    deadline = asyncio.get_running_loop().time() + launch.start_timeout_seconds
    reasons: list[str] = []
    try:
        async with asyncio.TaskGroup() as starts:
            valkey = starts.create_task(start_valkey(directory, children, deadline))
            postgres = starts.create_task(start_postgres(directory, children, deadline)) if launch.postgres else None
    except* (EmbeddedError, OSError) as failures:
        reasons = [str(failure) for failure in failures.exceptions]
    if reasons:
        raise EmbeddedError("\n".join(reasons))
    return valkey.result(), postgres.result() if postgres else None


def _at_end_of_input(act: Callable[[], None]) -> None:
    """Call ``act`` when standard input ends: the caller closed its end of the pipe, or is gone."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            act()

    try:
        loop.add_reader(0, read)
    except OSError:
        act()  # Closed, a file or /dev/null: nobody holds the other end.


def _say(announcement: dict[str, str | None]) -> None:
    # Without a caller nobody reads it; standard input has ended, too.
    with suppress(BrokenPipeError):
        os.write(1, msgspec.json.encode(announcement) + b"\n")
