"""The snippets of docs/clients.md do what the page says."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from app.client import Client
from tests.conformance.followers import NODE
from tests.integration.api import EVENTS, LIFE, WAIT_SECONDS, Api, live, on_memory

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")


def snippet(language: str) -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def test_the_python_snippet_shows_an_orders_life() -> None:
    names: dict[str, Any] = {"Client": Client}
    exec(compile(snippet("python"), "docs/clients.md", "exec"), names)
    follow: Callable[[str], Awaitable[list[str]]] = names["follow"]

    async def scenario(api: Api) -> None:
        async with asyncio.TaskGroup() as group:
            seen = group.create_task(_seen(follow, api.url))
            # The same key names the same order.
            order_id = await api.place(idempotencyKey="docs-1", clientId=None)
            await live(api.streams, order_id)
        assert seen.result() == EVENTS

    on_memory(scenario)


async def _seen(follow: Callable[[str], Awaitable[list[str]]], url: str) -> list[str]:
    return await follow(url)


def test_the_javascript_snippet_shows_an_orders_life(tmp_path: Path) -> None:
    for name in ("resume.js", "progress.js"):
        (tmp_path / name).write_bytes((ROOT / "app/dashboard/static" / name).read_bytes())
    (tmp_path / "package.json").write_text('{"type":"module"}')
    call = "\nconsole.log((await names(process.argv[2], process.argv[3])).join());\n"
    (tmp_path / "snippet.js").write_text(snippet("js") + call)

    async def scenario(api: Api) -> None:
        order_id = await api.place()
        await live(api.streams, order_id, LIFE)
        arguments = (NODE, tmp_path / "snippet.js", api.socket_url, order_id)
        process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
        output, _ = await asyncio.wait_for(process.communicate(), WAIT_SECONDS)
        assert (process.returncode, output.decode().strip()) == (0, ",".join(EVENTS))

    on_memory(scenario)
