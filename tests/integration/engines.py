"""Engines on embedded servers for the tests of those: held open, crashed, written to and read from."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psycopg
import redis

from app.embedded import Servers, embedded_servers
from app.embedded.processes import within

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 30
T = TypeVar("T")

# A suite that a shell runs in the background hands an ignored SIGINT down to every process it starts.
ENGINE = """
import asyncio, signal, sys
from pathlib import Path
from app.embedded import embedded_servers

async def main():
    async with embedded_servers(Path(sys.argv[1]), postgres=sys.argv[2] == "both"):
        print("ready", flush=True)
        await asyncio.Event().wait()

signal.signal(signal.SIGINT, signal.default_int_handler)
asyncio.run(main())
"""


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory with a path short enough for sockets; no process may be left in it at the end."""
    path = Path(tempfile.mkdtemp(prefix="ot-")).resolve()
    try:
        yield path
        wait_until(lambda: processes_in(path) == {})
    finally:
        for pid in processes_in(path):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(path)


def processes_in(path: Path) -> dict[int, str]:
    """The living processes that name ``path`` in their command, by pid."""
    listing = subprocess.run(["ps", "-axww", "-o", "pid=,stat=,command="], capture_output=True, text=True, check=True)
    lines = [line.split(maxsplit=2) for line in listing.stdout.splitlines()]
    return {int(pid): command for pid, state, command in lines if state[0] != "Z" and str(path) in command}


def wait_until(condition: Callable[[], bool]) -> None:
    assert asyncio.run(within(WAIT_SECONDS, condition))


def deserted(data_dir: Path) -> bool:
    """Whether no warden, no server and no child of a server is left: each of them holds one of the locks."""
    for name in ("engine.lock", "servers.lock"):
        with (data_dir / name).open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
    return True


def pids(data_dir: Path) -> dict[str, int]:
    """The recorded pids: ``warden``, and each server by name."""
    found = {path.stem: int(json.loads(path.read_bytes())["pid"]) for path in data_dir.glob("*.pid")}
    return found | {"warden": int((data_dir / "engine.lock").read_text().split()[1])}


@contextmanager
def engine(data_dir: Path, servers: str = "both") -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the embedded servers open, in a process group of its own."""
    command = [sys.executable, "-c", ENGINE, str(data_dir), servers]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def crash_warden(data_dir: Path, servers: str = "both") -> dict[str, int]:
    """Kill a warden and its engine with SIGKILL; return the pids of the servers that are left running."""
    with engine(data_dir, servers) as process:
        ready(process)
        left = pids(data_dir)
        os.kill(left.pop("warden"), signal.SIGKILL)
        process.kill()
    assert not deserted(data_dir)
    return left


def using(data_dir: Path, use: Callable[[Servers], T], *, postgres: bool = True) -> T:
    """Start the servers, use them, stop them."""

    async def session() -> T:
        async with embedded_servers(data_dir, postgres=postgres) as servers:
            return await asyncio.to_thread(use, servers)

    return asyncio.run(session())


def valkey(servers: Servers) -> redis.Redis:
    return redis.Redis.from_url(servers.redis_url, decode_responses=True)


def postgres(servers: Servers) -> psycopg.Connection[tuple[object, ...]]:
    assert servers.database_url is not None
    return psycopg.connect(servers.database_url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True)


def write_both(servers: Servers) -> None:
    with valkey(servers) as client, postgres(servers) as connection:
        client.set("kept", "in valkey")
        connection.execute("CREATE TABLE kept (place text)")
        connection.execute("INSERT INTO kept VALUES ('in postgres')")


def read_both(servers: Servers) -> tuple[object, object]:
    with valkey(servers) as client, postgres(servers) as connection:
        row = connection.execute("SELECT place FROM kept").fetchone()
        return client.get("kept"), row and row[0]


BOTH = ("in valkey", "in postgres")
