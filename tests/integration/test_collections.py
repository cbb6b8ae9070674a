"""The requests of the collections, run against a real server, worker, projector and databases."""

import asyncio
import json
import os
import shutil
import uuid
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from app.clock import SystemClock
from app.main import build_quoting
from tests.collections.__main__ import FOLDER
from tests.collections.examples import CONVERSATIONS, FOLDERS, KEY, PRESENT, SWAP, Example
from tests.conftest import running as projecting
from tests.integration.api import WAIT_SECONDS, Api, connected, hear, ready, running
from tests.integration.test_guards_end_to_end import CALM
from tests.integration.trading import Trading, on_trading

NEWMAN = "newman@6.2.2"
BRUNO = "@usebruno/cli@4.1.0"
RUN_SECONDS = 240
EXAMPLES = [example for examples in FOLDERS.values() for example in examples]
CHECKS = sum(1 + len(example.members) + 3 * example.proves_routing for example in EXAMPLES)
"""What the scripts of all of them check: the status, the members, and routing."""
REQUIRE = "TESTS_REQUIRE"
"""Names a variable that lists, with commas, what must not be missing on this machine."""


def on_everything(redis_url: str, database_url: str, scenario: Callable[[Api], Awaitable[None]]) -> None:
    async def main(trading: Trading) -> None:
        quoting = build_quoting(trading.settings, trading.chain, SystemClock())
        async with (
            running(trading.store, database_url, quoting=quoting) as api,
            trading.at_work(seconds_max=RUN_SECONDS),
            projecting(database_url, trading.store),
        ):
            await ready(api)
            await scenario(api)

    on_trading(redis_url, main, CALM)


def filled(value: Any, variables: dict[str, str]) -> Any:
    """Put variables in the place of their names."""
    if isinstance(value, str):
        for name, text in variables.items():
            value = value.replace("{{" + name + "}}", text)
    return value


def member(answer: Any, path: str) -> Any:
    for part in path.split("."):
        answer = answer[int(part)] if part.isdigit() else answer[part]
    return answer


def check_routing(answer: Any) -> None:
    """Both venues quoted, and what was sold goes to the one that pays more."""
    quotes = {quote["venue"]: Decimal(quote["amount"]) for quote in answer["events"][0]["quotes"]}
    chosen = answer["events"][1]["chosen"]
    assert quotes.keys() == {"raydium", "meteora"}
    assert quotes[chosen["venue"]] == max(quotes.values()) == Decimal(chosen["amount"])
    assert len(set(quotes.values())) == 2


async def replay(api: Api, example: Example, variables: dict[str, str]) -> None:
    """Send one request, check its answer, and keep what later ones need."""
    if example.draws_key:
        variables[KEY] = str(uuid.uuid4())
    response = await api.http.request(
        example.method,
        filled(example.path, variables),
        json=example.body,
        headers={name: filled(value, variables) for name, value in example.headers.items()},
    )
    assert response.status_code == example.status, (example.name, response.text)
    answer = response.json()
    for path, expected in example.members.items():
        found = member(answer, path)
        assert expected is PRESENT or found == filled(expected, variables), (example.name, path, found)
    if example.proves_routing:
        check_routing(answer)
    variables |= {name: str(member(answer, path)) for name, path in example.saves.items()}


def test_every_example_is_answered_as_the_table_says(redis_url: str, database_url: str) -> None:
    async def scenario(api: Api) -> None:
        variables: dict[str, str] = {}
        for example in EXAMPLES:
            await replay(api, example, variables)
        placed = [variables[f"order{number}"] for number in range(1, 6)]
        assert len(set(placed)) == 5

    on_everything(redis_url, database_url, scenario)


def test_every_message_of_the_conversations_is_understood(redis_url: str, database_url: str) -> None:
    async def scenario(api: Api) -> None:
        for conversation in CONVERSATIONS:
            placed = (await api.http.post("/api/orders", json=SWAP)).json()
            variables = {"orderId": placed["orderId"], "cursor": placed["cursor"]}
            async with connected(api, path=conversation.path) as socket:
                for _, members in conversation.messages:
                    await socket.send(filled(json.dumps(members), variables))
                await socket.send('{"type":"ping"}')
                while (frame := await hear(socket)) != {"type": "pong"}:
                    # Whether the order can still be cancelled is a matter of time.
                    assert frame.get("type") != "error" or frame["code"] == "order_ended", (conversation.name, frame)

    on_everything(redis_url, database_url, scenario)


async def npx(program: str, *arguments: str, cwd: Path | None = None) -> None:
    """Run a program of npm, which must succeed."""
    process = await asyncio.create_subprocess_exec(
        *("npx", "--yes", program, *arguments),
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), RUN_SECONDS - WAIT_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, output.decode()


def required() -> set[str]:
    return set(os.environ.get(REQUIRE, "").split(","))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npx") is None and "node" not in required(), reason="no npx on PATH")
def test_newman_runs_the_postman_collection(redis_url: str, database_url: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"

    async def scenario(api: Api) -> None:
        file = str(FOLDER / "ordertape.postman_collection.json")
        reporting = ("--reporters", "cli,json", "--reporter-json-export", str(report), "--color", "off")
        await npx(NEWMAN, "run", file, "--env-var", f"baseUrl={api.url}", *reporting)

    on_everything(redis_url, database_url, scenario)
    run = json.loads(report.read_text(encoding="utf-8"))["run"]
    for kind, count in (("requests", len(EXAMPLES)), ("assertions", CHECKS)):
        assert (run["stats"][kind]["total"], run["stats"][kind]["failed"]) == (count, 0)


@pytest.mark.slow
@pytest.mark.skipif("bruno" not in required(), reason=f"takes a minute to install: {REQUIRE}=bruno runs it")
def test_brunos_own_program_runs_its_collection(redis_url: str, database_url: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"

    async def scenario(api: Api) -> None:
        where = ("--env", "local", "--env-var", f"baseUrl={api.url}")
        await npx(BRUNO, "run", *FOLDERS, *where, "--output", str(report), cwd=FOLDER / "bruno")

    on_everything(redis_url, database_url, scenario)
    summary = json.loads(report.read_text(encoding="utf-8"))[0]["summary"]
    assert (summary["totalRequests"], summary["failedRequests"]) == (len(EXAMPLES), 0)
    assert (summary["totalTests"], summary["failedTests"]) == (CHECKS, 0)
