"""An engine in this process, whose API can be stopped and started, and a page of Chromium that looks at it."""

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
from msgspec.structs import replace
from playwright.async_api import Browser as Chromium
from playwright.async_api import Page, async_playwright

from app.cli.up import within
from app.embedded import Servers
from app.main import run_api, run_projector, run_worker
from app.settings import Settings
from eventstore.levels import FSYNC
from tests.integration.guarded import made_key
from tests.servers.single import unused_port

WAIT_SECONDS = 20
SCENARIO_SECONDS = 40
SPEED_PPM = 5_000_000
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ORDER = {"side": "buy", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": "10", "clientId": "user01"}


class Api:
    """One API process's work, in this one."""

    def __init__(self, settings: Settings, servers: Servers) -> None:
        self._settings = replace(settings, port=unused_port())
        self._servers = servers
        self._stopping = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self.url = f"http://127.0.0.1:{self._settings.port}"
        self.http = httpx.AsyncClient(base_url=self.url, timeout=WAIT_SECONDS)

    async def start(self) -> None:
        """Serve, at the same address as before."""
        self._stopping.clear()
        self._serving = asyncio.create_task(run_api(self._settings, self._servers, self._stopping))

        async def is_ready() -> bool:
            try:
                return (await self.http.get("/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        await until(is_ready)

    async def stop(self) -> None:
        """Drain and end."""
        self._stopping.set()
        if self._serving is not None:
            await self._serving

    async def place(self, **fields: object) -> str:
        """Place an order and return its id."""
        response = await self.http.post("/api/orders", json={**ORDER, **fields})
        assert response.status_code == 202, response.text
        order_id: str = response.json()["orderId"]
        return order_id

    async def events(self, order_id: str) -> list[str]:
        """The names of an order's events."""
        return [event["event"] for event in (await self.http.get(f"/api/orders/{order_id}/events")).json()["events"]]

    async def ended(self, order_id: str) -> list[str]:
        """Wait for an order's end; return the names of its events."""

        async def is_over() -> bool:
            return (await self.events(order_id))[-1] in {"confirmed", "failed"}

        await until(is_over)
        return await self.events(order_id)


class Engine:
    """Worker, projector, and two APIs, the first of which the page is served by."""

    def __init__(self, servers: Servers) -> None:
        settings = Settings(
            redis_url=servers.redis_url,
            database_url=servers.database_url,
            namespace=f"b{uuid.uuid4().hex[:12]}",
            intent_level=FSYNC,
            speed_ppm=SPEED_PPM,
        )
        self.api, self.other = Api(settings, servers), Api(settings, servers)
        self._settings = settings
        self._servers = servers

    @asynccontextmanager
    async def guarded(self) -> AsyncIterator[Api]:
        """A third API, which asks for keys, until the context closes; somebody must have one before."""
        api = Api(replace(self._settings, auth="keys"), self._servers)
        await api.start()
        try:
            yield api
        finally:
            await api.stop()
            await api.http.aclose()

    async def key_of(self, client: str) -> str:
        """Make a trader's key."""
        assert self._servers.database_url is not None
        return (await made_key(self._servers.database_url, client, "trader"))[1]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run everything until the context closes."""
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(run_projector(self._settings, self._servers, stopping))
            await self.api.start()
            await self.other.start()
            group.create_task(run_worker(self._settings, self._servers, stopping))
            try:
                yield
            finally:
                for one in (self.api, self.other):
                    await one.stop()
                    await one.http.aclose()
                stopping.set()


Scenario = Callable[[Engine, Page], Coroutine[Any, Any, None]]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition that requests tell of."""
    assert await within(WAIT_SECONDS, condition)


def chromium() -> str:
    """The system's Chromium; its absence is a failure, as these tests run only where they are asked for."""
    found = [path for path in map(shutil.which, PROGRAMS) if path is not None]
    assert found, "no Chromium on PATH: apt-get install chromium"
    return found[0]


class Browser:
    """Chromium and an engine, kept for all tests: both work while a scenario runs."""

    def __init__(self, servers: Servers) -> None:
        self._engine = Engine(servers)
        self._runner = asyncio.Runner()
        self._ending = asyncio.Event()
        self._ready: asyncio.Future[Chromium] | None = None
        self._task: asyncio.Task[None] | None = None

    def close(self) -> None:
        """End both."""

        async def end() -> None:
            self._ending.set()
            if self._task is not None:
                await self._task

        with self._runner:
            self._runner.run(end())

    def visit(self, scenario: Scenario) -> list[str]:
        """Run ``scenario`` on a new page that is live; return what went to its console."""
        return self._runner.run(self._visit(scenario))

    async def _visit(self, scenario: Scenario) -> list[str]:
        if self._ready is None:
            self._ready = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._run(self._ready))
        browser = await self._ready
        complaints: list[str] = []
        context = await browser.new_context()
        context.set_default_timeout(WAIT_SECONDS * 1_000)
        page = await context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(self._engine.api.url)
        await page.locator("#connection", has_text="live").wait_for()
        async with asyncio.timeout(SCENARIO_SECONDS):
            await scenario(self._engine, page)
        await context.close()
        # What the browser says by itself of requests that were refused, or cut, on purpose.
        return [text for text in complaints if "Failed to load resource" not in text and "WebSocket" not in text]

    async def _run(self, ready: asyncio.Future[Chromium]) -> None:
        try:
            async with self._engine.running(), async_playwright() as playwright:
                # Chromium's own sandbox refuses to run as root, as continuous integration does.
                ready.set_result(await playwright.chromium.launch(executable_path=chromium(), chromium_sandbox=False))
                await self._ending.wait()
                await ready.result().close()
        finally:
            # Whoever waits for it is not left waiting.
            ready.cancel()
