"""Embedded servers: Valkey and PostgreSQL in a private data directory, for as long as a caller needs them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from app.embedded.errors import EmbeddedError

__all__ = ["EmbeddedError", "Servers", "embedded_servers"]


class Servers(msgspec.Struct, frozen=True, rename="camel"):
    """Where the embedded servers answer.

    Attributes:
        redis_url: ``unix:///path`` or ``redis://:password@127.0.0.1:port/0``.
        database_url: ``postgresql+psycopg://…``, as SQLAlchemy reads it; None when PostgreSQL was not asked for.
    """

    redis_url: str
    database_url: str | None


class _Announcement(msgspec.Struct, frozen=True, rename="camel"):
    redis_url: str = ""
    database_url: str | None = None
    error: str = ""


@asynccontextmanager
async def embedded_servers(
    data_dir: Path,
    *,
    postgres: bool = True,
    start_timeout_seconds: int = 60,
    on_end: Callable[[], None] = lambda: None,
) -> AsyncIterator[Servers]:
    """Run the embedded servers on ``data_dir`` while the context is open; both answer when it opens.

    The data outlives the context. The servers do not: they stop when the context closes and when this process ends,
    however it ends.

    Args:
        data_dir: created with mode 0700 if missing; one engine at a time.
        start_timeout_seconds: how long each server may take to answer; a long log to replay may need more.
        on_end: called when the servers end before the context closes; close it then, which tells why.

    Raises:
        EmbeddedError: the servers did not start, or one of them ended before the context closed.
    """
    warden = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app.embedded",
        *_options(data_dir, start_timeout_seconds, postgres),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # Where this package is importable from, whatever the caller's own directory holds under the name ``app``.
        cwd=Path(__file__).parents[2],
        # Ctrl-C reaches every process of the terminal's group; only the engine decides when the servers stop.
        start_new_session=True,
    )
    try:
        servers = await _announced(warden)
        watching = asyncio.create_task(warden.wait())
        watching.add_done_callback(lambda _: None if watching.cancelled() else on_end())
        try:
            yield servers
        finally:
            watching.cancel()
    finally:
        failure = await _released(warden)
    if failure:
        raise EmbeddedError(failure)


def _options(data_dir: Path, start_timeout_seconds: int, postgres: bool) -> list[str]:
    options = ["--data-dir", str(data_dir.absolute()), "--start-timeout-seconds", str(start_timeout_seconds)]
    return options if postgres else [*options, "--without-postgres"]


async def _announced(warden: asyncio.subprocess.Process) -> Servers:
    assert warden.stdout is not None
    line = await warden.stdout.readline()
    if not line:
        raise EmbeddedError(f"The warden of the embedded servers ended with status {await warden.wait()}.")
    announcement = msgspec.json.decode(line, type=_Announcement)
    if announcement.error:
        raise EmbeddedError(announcement.error)
    return Servers(announcement.redis_url, announcement.database_url)


async def _released(warden: asyncio.subprocess.Process) -> str:
    """Let go of the warden, wait for its end, and return why it ended early, if it did. Its own waits are bounded."""
    assert warden.stdin is not None and warden.stdout is not None
    warden.stdin.close()
    rest = await warden.stdout.read()
    await warden.wait()
    return msgspec.json.decode(rest, type=_Announcement).error if rest else ""
