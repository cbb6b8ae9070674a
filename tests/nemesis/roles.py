"""The engine's processes, as a supervisor keeps them: started again when they end, killed and frozen by a test."""

import asyncio
import math
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from app.cli.roles import Launch
from app.embedded.processes import within
from tests.servers.single import guard

RESTART_SECONDS = 0.3
STOP_SECONDS_MAX = 15
DEATHS_MAX = 60


class Role:
    """One process of the engine and its log. Started again by :meth:`keep`, however it ended."""

    def __init__(self, name: str, number: int, launch: Launch, logs: Path) -> None:
        self.name = name
        self.log_path = logs / f"{name}-{number}.log"
        self.own_deaths = 0
        """Ends that no test caused."""
        self._launch = launch
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._killed = False

    def start(self) -> None:
        """Start the process; it tells its news in the log."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app.cli.roles", self.name],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._killed = False
        # A frozen process does not see the end of its leash.
        self._guard = guard(self._process.pid)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(msgspec.json.encode(self._launch) + b"\n")
            self._process.stdin.flush()

    async def keep(self, ended: Callable[[], Awaitable[None]]) -> None:
        """Start the process whenever it has ended, until cancelled; ``ended`` is told first.

        Raises:
            RuntimeError: it ended by itself too often.
        """
        while True:
            await within(math.inf, lambda: not self.runs())
            if not self._killed:
                self.own_deaths += 1
                if self.own_deaths > DEATHS_MAX:
                    raise RuntimeError(f"{self.name} ended by itself {DEATHS_MAX} times; see {self.log_path}")
            self._reap()
            await asyncio.sleep(RESTART_SECONDS)
            await ended()
            self.start()

    def runs(self) -> bool:
        """Whether the process lives, frozen or not."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End the process by SIGKILL."""
        self._killed = True
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop the process by SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process go on. Idempotent."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the process for good; by SIGKILL when it does not end by itself."""
        process = self._process
        if process is None:
            return
        self.thaw()
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
        self._reap()

    def log(self) -> str:
        """What the process, and those before it, told."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)

    def _reap(self) -> None:
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
        if self._process is not None:
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.wait()
        self._process, self._guard = None, None
