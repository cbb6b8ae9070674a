"""What benchmarks of sockets stand on: embedded servers, an API process on them, and processes that load it."""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any, Final

import httpx
import msgspec
import psutil
from msgspec import Struct
from msgspec.structs import replace

from app.cli.demo import free_port
from app.embedded import Servers
from app.main import open_database, opened, servers
from app.settings import Settings
from projections.schema.migrations import upgrade_schema
from tests.benchmarks.appending import Load
from tests.benchmarks.counting import Orders
from tests.benchmarks.serving import Serve

ROOT: Final = Path(__file__).parents[2]
START_SECONDS_MAX: Final = 30
STREAM_BYTES_MAX: Final = 1024 * 1024


class Stand(Struct, frozen=True):
    """Servers with an empty store of the present schema."""

    settings: Settings
    servers: Servers


@asynccontextmanager
async def stand() -> AsyncIterator[Stand]:
    """Yield servers of the benchmark's own, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="ot-") as directory:
        settings = replace(Settings(), data_dir=f"{directory}/data", log_level="error", log_window=1)
        async with servers(settings) as found:
            database = open_database(found, "bench")
            try:
                await upgrade_schema(database)
            finally:
                await database.dispose()
            async with opened(settings, found, "bench"):
                yield Stand(settings, found)


class Running(Struct, frozen=True):
    """A process that talks over its standard input and output."""

    process: asyncio.subprocess.Process

    async def line(self) -> Any:
        """Return the next line that it says, decoded."""
        assert self.process.stdout is not None
        text = await self.process.stdout.readline()
        if not text:
            raise RuntimeError(f"a process ended before its answer, with status {await self.process.wait()}")
        return json.loads(text)

    def go(self) -> None:
        """Let it begin."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    @property
    def cpu(self) -> float:
        """CPU seconds that it has used."""
        return float(sum(psutil.Process(self.process.pid).cpu_times()[:2]))

    @property
    def rss(self) -> int:
        """Its resident bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)


@asynccontextmanager
async def started(*command: str, stderr: IO[str] | None = None) -> AsyncIterator[Running]:
    """Run a command until the context closes; then its standard input ends, and it with that."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        cwd=ROOT,
        limit=STREAM_BYTES_MAX,
    )
    try:
        yield Running(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), START_SECONDS_MAX)
        except TimeoutError:
            process.kill()
            await process.wait()


def module(name: str, told: Struct) -> tuple[str, ...]:
    """Return the command of a module that is told a value on its command line."""
    return (sys.executable, "-m", f"tests.benchmarks.{name}", msgspec.json.encode(told).decode())


@asynccontextmanager
async def serving(on: Stand, stderr: IO[str] | None = None, **options: Any) -> AsyncIterator[tuple[Running, int]]:
    """Run the API until the context closes; yield it and its port. Its log goes to ``stderr``, by default to ours."""
    settings = replace(on.settings, port=free_port())
    async with (
        started(*module("serving", Serve(settings=settings, servers=on.servers, **options)), stderr=stderr) as api,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.port}") as http,
        asyncio.timeout(None) as deadline,
    ):
        deadline.reschedule(asyncio.get_running_loop().time() + START_SECONDS_MAX)
        while not await _is_ready(http):  # noqa: ASYNC110 - the process tells nobody
            await asyncio.sleep(0.05)
        deadline.reschedule(None)
        yield api, settings.port


async def _is_ready(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/readyz")).status_code == 200
    except httpx.TransportError:
        return False


@asynccontextmanager
async def counting(port: int, sockets: int, subscribe: list[str], **options: Any) -> AsyncIterator[Running]:
    """Connect sockets in a process of their own; they subscribe when it is told to go."""
    orders = Orders(host="127.0.0.1", port=port, path="/api/orders/ws", sockets=sockets, subscribe=subscribe, **options)
    async with started(*module("counting", orders)) as counter:
        assert await counter.line() == {"connected": sockets}
        yield counter


async def append(on: Stand, orders: int, per_second: int = 0, clients: int = 100) -> Any:
    """Append lives in a process of its own; return what it says."""
    told = Load(settings=on.settings, servers=on.servers, orders=orders, per_second=per_second, clients=clients)
    async with started(*module("appending", told)) as appender:
        return await appender.line()
