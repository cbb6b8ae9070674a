"""The Python client and the commands of a trader show their key; `ordertape keys` makes, lists and revokes keys."""

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.api.access.keys import digest_of
from app.cli.main import app
from app.client import Client, OrderRefusedError, SentAwayError
from tests.conftest import execute
from tests.integration.api import ORDER, live
from tests.integration.guarded import ANN, Guarded, on_guarded
from tests.integration.projected import Engine, engine_here
from tests.integration.test_access_orders import NAMELESS
from tests.integration.test_event_streams import subscribers

KEY = re.compile(r"otk_[0-9a-f]{12}_[0-9a-f]{64}\n")


@pytest.fixture
def engine(
    redis_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Engine]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield engine_here(redis_url, database_url, monkeypatch, tmp_path, capsys)
    # Roles send the log of their process to what this test takes for standard error.
    logging.root.handlers[:], logging.root.level = handlers, level


def test_the_client_shows_its_key_and_sees_its_own_orders(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        async with Client(on.api.url, key=on.ann.key) as ann, Client(on.api.url, key=on.sam.key) as sam:
            order_id = (await ann.submit(NAMELESS))["orderId"]
            assert (await ann.order(order_id))["clientId"] == ANN
            await live(on.api.streams, order_id)
            assert [frame["seq"] async for frame in ann.events(order_id)] == [1, 2, 3, 4, 5, 6]
            for refused in (sam.order(order_id), sam.cancel(order_id), anext(sam.events(order_id))):
                with pytest.raises(OrderRefusedError, match="there is no order"):
                    await refused

    on_guarded(keys_url, scenario)


def test_the_client_does_not_come_back_with_a_key_that_is_none_or_ends(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        async with Client(on.api.url, key="otk_nonsense", tries=1_000) as stranger:
            with pytest.raises(SentAwayError, match="closed with 4401"):
                await anext(stranger.stream())
        async with Client(on.api.url, key=on.ann.key, tries=1_000) as ann:

            async def follow() -> None:
                async for frame in ann.stream(client=ANN):
                    raise AssertionError(f"no event was to come: {frame}")

            following = asyncio.create_task(follow())
            await subscribers(on.api, 1)
            await on.revoke(on.ann)
            with pytest.raises(SentAwayError, match="4401: this connection's key opens nothing any more"):
                await following

    on_guarded(keys_url, scenario)


@pytest.mark.slow
def test_the_commands_of_a_trader_take_the_key_from_the_environment(
    keys_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    async def scenario(on: Guarded) -> None:
        async def run(*command: str) -> Result:
            return await asyncio.to_thread(CliRunner().invoke, app, [*command, "--url", on.api.url])

        submit = ("submit", "buy", "1", "SOL", "USDC", "--detach")
        refused = await run(*submit)
        assert isinstance(refused.exception, OrderRefusedError) and "send an active key" in str(refused.exception)
        monkeypatch.setenv("ORDERTAPE_KEY", on.ann.key)
        order_id = (await run(*submit)).output.strip()
        assert (await on.ann.http.get(f"/api/orders/{order_id}")).json()["clientId"] == ANN
        assert (await run("cancel", order_id)).output == "cancelled: no swap was or will be executed\n"
        assert "by client" in (await run("watch", order_id)).output

    on_guarded(keys_url, scenario)


def test_keys_are_made_listed_and_revoked(engine: Engine, database_url: str) -> None:
    assert engine.run("keys", "list") == "there are no keys\n"
    key, warning = engine.both("keys", "create", "--client", "user01", "--role", "trader", "--name", "desk \x1b 7"[:5])
    assert KEY.fullmatch(key) and "shown once" in warning
    made = json.loads(engine.run("keys", "create", "--role", "auditor", "--role", "admin", "--json"))
    assert KEY.fullmatch(made["key"] + "\n") and (made["clientId"], made["roles"]) == (None, ["admin", "auditor"])
    rows = execute(database_url, "SELECT id, hash, client_id, roles FROM api_keys ORDER BY created_at")
    assert rows[0] == (key[4:16], digest_of(key.strip()), "user01", ["trader"])
    assert key[17:81] not in str(execute(database_url, "SELECT * FROM api_keys"))

    assert engine.run("keys", "revoke", made["id"]) == f"{made['id']} is revoked\n"
    assert engine.run("keys", "revoke", made["id"]) == f"{made['id']} was revoked before\n"
    assert json.loads(engine.run("keys", "revoke", made["id"], "--json")) == {"id": made["id"], "revokedNow": False}
    assert "there is no key nonsense" in engine.run("keys", "revoke", "nonsense", status=1)
    listed = json.loads(engine.run("keys", "list", "--json"))["keys"]
    assert [(one["id"], one["clientId"], one["roles"], one["name"], one["revokedAt"] is None) for one in listed] == [
        (key[4:16], "user01", ["trader"], "desk ", True),
        (made["id"], None, ["admin", "auditor"], "", False),
    ]
    table = engine.run("keys", "list")
    assert "user01" in table and key[4:16] in table and key[17:81] not in table


def test_a_key_that_makes_no_sense_is_not_made(engine: Engine) -> None:
    for options, told in (
        (("--role", "trader"), "name the client"),
        (("--role", "king", "--client", "c"), "must be trader, auditor or admin"),
        (("--role", "trader", "--client", "c" * 65), "must be 1 to 64 printable characters"),
        (("--role", "admin", "--name", "\n"), "must be at most 64 printable characters"),
        (("--client", "c"), "Missing option '--role'"),
    ):
        assert told in engine.run("keys", "create", *options, status=2)
    assert engine.run("keys", "list") == "there are no keys\n"


@pytest.mark.slow
def test_an_api_that_would_answer_everybody_or_nobody_does_not_start(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = json.loads(engine.run("keys", "create", "--role", "admin", "--json"))
    engine.run("keys", "revoke", made["id"])
    for command in ("serve", "up"):
        monkeypatch.setenv("HOST", "0.0.0.0")
        assert "set ORDERTAPE_AUTH=keys, or set HOST=127.0.0.1" in engine.run(command, status=2)
        monkeypatch.setenv("ORDERTAPE_AUTH", "keys")
        monkeypatch.setenv("INTENT_LEVEL", "fsync")
        told = engine.run(command, status=2)
        assert "there is no active key" in told and "ordertape keys create" in told
        monkeypatch.delenv("ORDERTAPE_AUTH")


def test_the_order_s_client_is_not_asked_for_twice(keys_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        async with Client(on.api.url, key=on.ann.key) as ann:
            with pytest.raises(OrderRefusedError, match="this key places orders of ann alone"):
                await ann.submit(ORDER)

    on_guarded(keys_url, scenario)
