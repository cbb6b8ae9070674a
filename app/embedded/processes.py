"""Other processes, seen from outside: which command a pid runs, and waiting until something is true of them."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

POLL_SECONDS = 0.02


def command_line(pid: int) -> str:
    """The arguments of a running process, joined by spaces; empty when it has ended, reaped or not."""
    if Path("/proc/self/cmdline").exists():
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return arguments.rstrip(b"\0").replace(b"\0", b" ").decode(errors="surrogateescape")
    command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()


async def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Wait until ``condition`` is true, and return whether it became so within ``seconds``."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True
