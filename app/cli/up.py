"""`up`: the whole engine in one process tree, on embedded servers unless the settings name others."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import httpx
import msgspec
import typer
from rich.console import Console

from app.api.access.start import require_guarded, require_keys
from app.audit.doctor.checkup import require_fit
from app.cli.connections import announced, settings_here
from app.cli.roles import Launch, run_until_signal
from app.embedded import Servers
from app.main import open_database, servers
from app.settings import Settings
from app.telemetry import set_up_logging
from projections.schema.migrations import upgrade_schema

log = logging.getLogger(__name__)

RESTARTS_MAX: Final = 5
RESTART_SECONDS: Final = 1.0
READY_SECONDS: Final = 30
DRAIN_SECONDS: Final = 20
ORDER: Final = ("project", "worker", "serve")
"""Started in this order; stopped in the reverse one, so that nothing is accepted that nobody would execute."""


class StartError(Exception):
    """The engine did not start; the message says which part and why."""


def up() -> None:
    """Run the whole engine until Ctrl-C: servers, API, worker and projector."""
    settings = settings_here()
    set_up_logging(settings.log_level)
    console = Console(stderr=True)

    async def run(stopping: asyncio.Event) -> None:
        async with engine(settings, stopping.set):
            console.print(usage(settings), highlight=False, soft_wrap=True)
            await stopping.wait()
            console.print("Draining, then stopping the servers.")

    run_until_signal(run)


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(up)


def address(settings: Settings) -> str:
    """Return where the API of an engine with these settings answers."""
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def usage(settings: Settings) -> str:
    """Return what a newcomer can type next."""
    url = address(settings)
    order = '{"side":"buy","baseAsset":"SOL","quoteAsset":"USDC","amount":"10"}'
    socket = "ws" + url.removeprefix("http") + "/api/orders/ws"
    return f"""
OrderTape is running on {url}. Ctrl-C stops it. In another terminal:

  ordertape:  ordertape submit buy 10 SOL USDC
              ordertape submit sell 2 SOL USDC --limit 170 --detach
              ordertape watch ORDER_ID --after SEQ
              ordertape cancel ORDER_ID
  curl:       curl -s {url}/api/orders -H 'Content-Type: application/json' -d '{order}'
              curl -s {url}/api/orders/ORDER_ID/events
  websocat:   echo '{order}' | websocat -n {socket}
              websocat '{socket}?orderId=ORDER_ID&after=SEQ'
"""


@asynccontextmanager
async def engine(settings: Settings, on_end: Callable[[], None] = lambda: None) -> AsyncIterator[Servers]:
    """Run every part of the engine while the context is open; it is ready when the context opens.

    ``on_end`` is called when embedded servers end before that: close the context then, which tells why.

    Raises:
        EmbeddedError, EventStoreError, ProjectionError: a server cannot be used.
        UnfitError: a server would break what the engine promises.
        AccessError: everybody could use the API, or nobody.
        StartError: a part did not become ready.
    """
    require_guarded(settings.auth, settings.host)
    async with servers(settings, on_end) as found, announced(settings, found):
        await require_fit(settings, found)
        database = open_database(found, "up")
        try:
            await upgrade_schema(database)
            await require_keys(settings.auth, database)
        finally:
            await database.dispose()
        supervisors = {name: Supervisor(name, Launch(settings, found)) for name in ORDER}
        try:
            async with asyncio.TaskGroup() as group:
                for supervisor in supervisors.values():
                    group.create_task(supervisor.run())
                await _ready(settings, supervisors["serve"])
                yield found
                for name in reversed(ORDER):
                    await supervisors[name].stop()
        except* StartError as failures:
            raise StartError("; ".join(str(failure) for failure in failures.exceptions)) from None


class Supervisor:
    """Keeps one role's process running; its end of the process's standard input is the leash."""

    def __init__(self, name: str, launch: Launch) -> None:
        self._name = name
        self._launch = launch
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        return self._process.pid if self._process is not None else None

    async def run(self) -> None:
        """Start the process, and again whenever it ends by itself, a bounded number of times.

        Raises:
            StartError: it ended too often.
        """
        for _ in range(RESTARTS_MAX + 1):
            self._process = await self._start()
            try:
                status = await self._process.wait()
            except asyncio.CancelledError:
                await self._release(self._process)
                raise
            if self._stopping:
                return
            log.error("process_ended", extra={"role": self._name, "status": status})
            await asyncio.sleep(RESTART_SECONDS)
        raise StartError(f"`{self._name}` ended {RESTARTS_MAX + 1} times; the log above says why")

    async def stop(self) -> None:
        """Let the process drain and wait for its end; kill it when it takes too long."""
        self._stopping = True
        if self._process is not None:
            await self._release(self._process)

    async def _start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "app.cli.roles",
            self._name,
            stdin=asyncio.subprocess.PIPE,
            # Ctrl-C reaches every process of the terminal's group; the parts stop in order instead.
            start_new_session=True,
        )
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(self._launch) + b"\n")
        return process

    async def _release(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), DRAIN_SECONDS)
        except TimeoutError:
            log.error("process_killed", extra={"role": self._name, "seconds": DRAIN_SECONDS})
            process.kill()
            await process.wait()


async def _ready(settings: Settings, serve: Supervisor) -> None:
    async with httpx.AsyncClient(base_url=address(settings), timeout=5) as http:

        async def answers() -> bool:
            try:
                return serve.pid is not None and (await http.get("/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        if not await within(READY_SECONDS, answers):
            raise StartError(f"the API did not become ready on {address(settings)} within {READY_SECONDS} s")


async def within(seconds: float, condition: Callable[[], Awaitable[bool]]) -> bool:
    """Return whether ``condition`` came true within ``seconds``."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await condition():
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(0.05)
    return True
