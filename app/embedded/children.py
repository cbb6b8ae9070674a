"""The server processes of a data directory: started on record, stopped within bounds, recognised after a crash."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from app.embedded.datadir import DataDirectory, open_private
from app.embedded.errors import EmbeddedError
from app.embedded.processes import POLL_SECONDS, command_line, within

LOG_TAIL_BYTES = 2_000
STOP_SECONDS_MAX = 15


class Credentials(msgspec.Struct, frozen=True):
    """Under which identity a program runs: the caller's own, that of ``user``, or one that ``prefix`` maps it to."""

    prefix: tuple[str, ...] = ()
    user: int | None = None
    group: int | None = None


class Program(msgspec.Struct, frozen=True):
    """What to run, and the signals that stop it, from gentle to harsh; SIGKILL always comes last.

    ``name`` names its pid file and its log. ``command`` names the data directory, so that it tells this process from
    every other one.
    """

    name: str
    command: tuple[str, ...]
    stop_signals: tuple[int, ...] = (signal.SIGTERM,)
    credentials: Credentials = Credentials()


class _Record(msgspec.Struct, frozen=True):
    pid: int
    command: tuple[str, ...]
    stop_signals: tuple[int, ...]


class Child:
    """A running program of ours."""

    def __init__(self, program: Program, process: asyncio.subprocess.Process, directory: Path) -> None:
        self.program = program
        self.process = process
        self._record = _record_path(directory, program.name)
        self._log = _log_path(directory, program.name)

    def record(self) -> None:
        """Write the pid file by which a later warden finds this process if this one is killed."""
        self._record.unlink(missing_ok=True)
        with open_private(self._record) as file:
            file.write(msgspec.json.encode(_Record(self.process.pid, self.program.command, self.program.stop_signals)))

    def failure(self, event: str) -> EmbeddedError:
        """An error that says what happened to the program and shows the end of its log."""
        with self._log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            tail = log.read().decode(errors="replace").strip()
        return EmbeddedError(f"{self.program.name} {event}. The end of {self._log}:\n{tail or '(empty)'}")

    async def answering(self, answers: Callable[[], Awaitable[bool]], deadline: float) -> None:
        """Return once ``answers`` says so; ``deadline`` is in the event loop's time."""
        try:
            async with asyncio.timeout_at(deadline):
                while not await answers():
                    if self.process.returncode is not None:
                        raise self.failure(f"ended with status {self.process.returncode} instead of starting")
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise self.failure("did not answer in time; if it was still reading its data, allow it longer") from None

    async def ended(self, text: str, deadline: float) -> None:
        """Return once the program, given ``text`` on its standard input, has ended well."""
        try:
            async with asyncio.timeout_at(deadline):
                await self.process.communicate(text.encode())
        except TimeoutError:
            raise self.failure("did not end in time") from None
        if self.process.returncode:
            raise self.failure(f"ended with status {self.process.returncode}")

    async def stop(self) -> None:
        """Stop the program and wait for its end, at most ``STOP_SECONDS_MAX`` after each of its signals."""
        for number in (*self.program.stop_signals, signal.SIGKILL):
            with suppress(ProcessLookupError):
                self.process.send_signal(number)
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS_MAX):
                    await self.process.wait()
                    break
        self._record.unlink(missing_ok=True)


class Children:
    """The programs that run in one data directory."""

    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory
        self._running: list[Child] = []

    async def start(self, program: Program, *, stdin: int = asyncio.subprocess.DEVNULL) -> Child:
        """Start a program, recorded in its pid file, with its output in its log; the log of its last run is kept."""
        log = _log_path(self._directory.path, program.name)
        with suppress(FileNotFoundError):
            log.replace(log.with_suffix(".log.old"))
        credentials = program.credentials
        with open_private(log) as output:
            process = await asyncio.create_subprocess_exec(
                *credentials.prefix,
                *program.command,
                stdin=stdin,
                stdout=output,
                stderr=output,
                cwd="/",
                # Not the caller's: its variables may hold secrets, or settings (PG…) meant for other servers.
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                umask=0o077,
                user=credentials.user,
                group=credentials.group,
                extra_groups=None if credentials.user is None else [],
                pass_fds=[self._directory.servers_lock],
            )
        child = Child(program, process, self._directory.path)
        self._running.append(child)
        child.record()
        return child

    async def run(self, program: Program, deadline: float, text: str = "") -> None:
        """Run a program that ends by itself, with ``text`` on its standard input."""
        child = await self.start(program, stdin=asyncio.subprocess.PIPE)
        await child.ended(text, deadline)
        await child.stop()
        self._running.remove(child)

    async def first_end(self) -> Child:
        """Wait until one of the programs ends by itself, and return it."""
        waits = {asyncio.create_task(child.process.wait()): child for child in self._running}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return waits[done.pop()]

    async def stop(self) -> None:
        await asyncio.gather(*(child.stop() for child in self._running))


@asynccontextmanager
async def children_in(directory: DataDirectory) -> AsyncIterator[Children]:
    """Start programs in ``directory``; none of them is left when the context closes."""
    children = Children(directory)
    try:
        yield children
    finally:
        await children.stop()


async def stop_leftovers(directory: DataDirectory) -> None:
    """Stop what a crashed warden left running in ``directory``; nothing else, whatever the pid files say.

    Raises:
        EmbeddedError: something of an earlier run survived. Stop it by hand.
    """
    paths = list(directory.path.glob("*.pid"))
    await asyncio.gather(*(_stop_recorded(record) for path in paths if (record := _recorded(path))))
    if not await within(STOP_SECONDS_MAX, directory.is_deserted):
        raise EmbeddedError(
            f"A process of an earlier run still uses {directory.path}, and no pid file there names it. "
            f"Find it with `lsof {directory.path / 'servers.lock'}` and stop it."
        )
    for path in paths:
        path.unlink()


async def _stop_recorded(record: _Record) -> None:
    for number in (*record.stop_signals, signal.SIGKILL):
        if not _is_running(record):
            return
        with suppress(ProcessLookupError):
            os.kill(record.pid, number)
        await within(STOP_SECONDS_MAX, lambda: not _is_running(record))


def _recorded(path: Path) -> _Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record)
    except msgspec.DecodeError:
        return None  # Cut off by a crash while it was written. The directory's lock tells whether its process lives.


def _is_running(record: _Record) -> bool:
    """Whether the recorded pid still is the recorded program, rather than another one that got its number."""
    return command_line(record.pid).endswith(" ".join(record.command))


def _record_path(directory: Path, name: str) -> Path:
    return directory / f"{name}.pid"


def _log_path(directory: Path, name: str) -> Path:
    return directory / f"{name}.log"
