"""The long-running parts of the engine as processes: `serve`, `worker`, `project`."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import typer
import uvloop

from app.api.access.start import require_guarded
from app.audit.doctor.checkup import require_fit
from app.cli.connections import joined_servers, settings_here
from app.embedded import Servers
from app.main import Role, run_api, run_projector, run_worker
from app.settings import Settings
from app.telemetry import set_up_logging

ROLES: Final[dict[str, Role]] = {"serve": run_api, "worker": run_worker, "project": run_projector}


class Launch(msgspec.Struct, frozen=True):
    """What a supervised process is told on the first line of its standard input."""

    settings: Settings
    servers: Servers


def serve() -> None:
    """Answer HTTP and WebSocket clients until stopped."""
    _run_configured("serve")


def worker() -> None:
    """Execute orders until stopped; start as many as you like."""
    _run_configured("worker")


def project() -> None:
    """Keep PostgreSQL's read model and archive up to date until stopped."""
    _run_configured("project")


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (serve, worker, project):
        app.command()(command)


def _run_configured(name: str) -> None:
    settings = settings_here()
    set_up_logging(settings.log_level)

    async def run(stopping: asyncio.Event) -> None:
        if name == "serve":
            require_guarded(settings.auth, settings.host)
        async with joined_servers(settings) as found:
            await require_fit(settings, found)
            await ROLES[name](settings, found, stopping)

    run_until_signal(run)


def run_until_signal(role: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run ``role`` in a new event loop; SIGTERM and SIGINT set the event that it is given."""

    async def main() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        await role(stopping)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def _supervised(name: str) -> None:
    """Run a role for a supervisor: until standard input ends, which is also how its death is noticed."""
    launch = msgspec.json.decode(sys.stdin.buffer.readline(), type=Launch)
    set_up_logging(launch.settings.log_level)

    async def run(stopping: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()

        def look() -> None:
            if not os.read(0, 4096):
                loop.remove_reader(0)
                stopping.set()

        loop.add_reader(0, look)
        await ROLES[name](launch.settings, launch.servers, stopping)

    run_until_signal(run)


if __name__ == "__main__":
    _supervised(sys.argv[1])
