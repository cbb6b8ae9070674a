"""The private data directory: its one owner, its password, and the proof that no server is left in it."""

from __future__ import annotations

import fcntl
import io
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from app.embedded.errors import EmbeddedError
from app.embedded.processes import command_line, within

RELEASE_SECONDS_MAX = 60


class DataDirectory:
    """A data directory that this process owns.

    It has two locks. ``engine.lock`` is held by the warden alone, so it is free as soon as the warden is gone. The open
    ``servers.lock`` is inherited by every process the warden starts and by their children, so it is free only when
    all of them are gone, recorded in a pid file or not.
    """

    def __init__(self, path: Path, servers_lock: int) -> None:
        self.path = path
        self.servers_lock = servers_lock

    def is_deserted(self) -> bool:
        """Whether every process started by an earlier warden is gone; once true, the lock is ours to hand on."""
        return _locked(self.servers_lock)

    def password(self) -> str:
        """The password of both servers for connections over loopback; made once, kept with the data."""
        path = self.path / "password"
        if not path.exists():
            draft = self.path / "password.new"
            draft.unlink(missing_ok=True)
            with open_private(draft) as file:
                file.write(secrets.token_hex(32).encode())
                os.fsync(file.fileno())
            draft.rename(path)
        return path.read_text()


@asynccontextmanager
async def owned(path: Path) -> AsyncIterator[DataDirectory]:
    """Own ``path``, created with mode 0700 if missing, while the context is open.

    Raises:
        EmbeddedError: another engine owns it, or it holds something else. Stop that engine, or choose another one.
    """
    path = _prepared(path)
    with open_private(path / "engine.lock") as engine_lock, open_private(path / "servers.lock") as servers_lock:
        await _lock(engine_lock.fileno(), path)
        os.ftruncate(engine_lock.fileno(), 0)
        os.pwrite(engine_lock.fileno(), b"%d %d" % (os.getppid(), os.getpid()), 0)
        yield DataDirectory(path, servers_lock.fileno())


def open_private(path: Path) -> io.FileIO:
    """Open a file for reading and writing, created with mode 0600.

    Never through a symbolic link: as root, the directory may belong to another user.
    """
    return io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+")


def _prepared(path: Path) -> Path:
    path = path.resolve()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The mode and perhaps the owner are about to change: not those of somebody's home directory.
    names = {entry.name for entry in path.iterdir()}
    if names and "engine.lock" not in names:
        raise EmbeddedError(
            f"{path} holds files and is not a data directory of OrderTape. Choose a new or an empty directory."
        )
    path.chmod(0o700)
    return path


async def _lock(engine_lock: int, path: Path) -> None:
    """Take the engine's lock; wait for it only while its owner is stopping because its engine is gone."""
    await within(RELEASE_SECONDS_MAX, lambda: _locked(engine_lock) or command_line(_owner(engine_lock)[0]) != "")
    if not _locked(engine_lock):
        engine, warden = _owner(engine_lock)
        raise EmbeddedError(
            f"The data directory {path} is in use by another engine, process {engine} (its servers are kept by "
            f"process {warden}). Stop that engine, or choose another data directory."
        )


def _owner(engine_lock: int) -> tuple[int, int]:
    """The pids of the engine and of its warden; zeros while a new owner has not written them yet."""
    engine, _, warden = os.pread(engine_lock, 64, 0).partition(b" ")
    return int(engine or 0), int(warden or 0)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
