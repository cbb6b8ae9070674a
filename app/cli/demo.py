"""`demo`: the main job, start to end, on embedded servers, as seven clients and an auditor would see it."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any, Final

import typer
from msgspec.structs import replace
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncEngine
from websockets.asyncio.client import ClientConnection, connect

from app.audit.replay import replay
from app.cli.audit import show_replay
from app.cli.connections import settings_here
from app.cli.orders.lines import event_line
from app.cli.roles import run_until_signal
from app.cli.up import address, engine
from app.client import TERMINAL, Client
from app.embedded import Servers
from app.main import opened
from app.settings import Settings
from app.telemetry import set_up_logging
from eventstore.ids import partition_in
from eventstore.store import EventStore
from projections.checkpoints import wait_for
from projections.diff import diff
from projections.models.orders import PROJECTION as ORDERS_MODEL
from projections.rebuild.rebuilding import rebuild

EXIT_FINDINGS: Final = 1
LIFE_SECONDS_MAX: Final = 40
CUT_AFTER_SEQ: Final = 3
PROJECTED_SECONDS_MAX: Final = 10

ORDERS: Final[tuple[dict[str, Any], ...]] = (
    {"clientId": "alice", "side": "buy", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": 10},
    {"clientId": "bob", "side": "sell", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": "2.5"},
    {"clientId": "carol", "side": "buy", "baseAsset": "JUP", "quoteAsset": "USDC", "amount": "1500"},
    {"clientId": "dave", "side": "sell", "baseAsset": "BONK", "quoteAsset": "SOL", "amount": "25000000"},
    {"clientId": "erin", "tokenIn": "ETH", "tokenOut": "USDC", "amount": "0.75"},
    {
        **{"clientId": "frank", "side": "sell", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": "1"},
        **{"orderType": "limit", "limitPrice": "400", "timeInForce": "IOC"},
    },
    {
        **{"clientId": "grace", "side": "buy", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": "1"},
        **{"orderType": "limit", "limitPrice": "50", "timeInForce": "GTC"},
    },
)
COLOURS: Final = ("cyan", "magenta", "yellow", "blue", "green", "white", "bright_black")


class DemoError(Exception):
    """Something that the demo shows did not hold; the message says what."""


def demo() -> None:
    """Run seven orders, cut and resume a client, compare both copies, rebuild, replay for an auditor, and end."""
    console = Console(soft_wrap=True, highlight=False)
    # Always embedded, and on a free port: a demonstration must not trade on somebody's servers.
    settings = replace(
        settings_here(),
        redis_url=None,
        database_url=None,
        chain_redis_url=None,
        host="127.0.0.1",
        port=free_port(),
        auth="open",
        log_level="warning",
    )
    set_up_logging(settings.log_level)

    async def run(_: asyncio.Event) -> None:
        started = monotonic()
        console.print(f"Starting Valkey and PostgreSQL in {settings.data_dir}, then API, worker and projector ...")
        async with engine(settings) as servers:
            console.print(f"Ready after {monotonic() - started:.1f} s. Venues and chain are simulated.\n")
            order_ids = await lives(console, settings)
            await proofs(console, settings, servers, order_ids)
        console.print(f"\nEverything is stopped. The demo took {monotonic() - started:.1f} s.")

    try:
        run_until_signal(run)
    except DemoError as error:
        sys.stderr.write(f"ordertape: {error}\n")
        raise typer.Exit(EXIT_FINDINGS) from None


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(demo)


def free_port() -> int:
    """Return a loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def lives(console: Console, settings: Settings) -> list[str]:
    """Submit all orders at once over one socket, show each life as it happens, and cut a second client on the way."""
    url = Client(address(settings)).socket_url
    console.print(f"[bold]Five market and two limit orders at once over one WebSocket, {url}[/]")
    labels: dict[str, str] = {}
    ended: set[str] = set()
    cut: asyncio.Task[None] | None = None
    async with asyncio.timeout(LIFE_SECONDS_MAX), connect(url, compression=None) as client:
        for number, order in enumerate(ORDERS):
            await client.send(json.dumps({**order, "id": str(number)}))
        async for frame in frames(client):
            if frame.get("type") == "accepted":
                number = int(frame["id"])
                name = ORDERS[number]["clientId"]
                labels[frame["orderId"]] = f"[{COLOURS[number]}]{name:<6}[/]"
            elif "event" in frame:
                console.print(f"{labels[frame['orderId']]}{event_line(frame)}")
                if frame["event"] == "resting":
                    # Nobody will sell that cheaply while the demo runs: its client gives up.
                    await client.send(json.dumps({"type": "cancel", "orderId": frame["orderId"]}))
                if frame["status"] in TERMINAL:
                    ended.add(frame["orderId"])
            elif frame.get("type") not in ("cancelled", "cancel_pending"):
                raise DemoError(f"an order was refused: {frame}")
            if cut is None and len(labels) == len(ORDERS):
                cut = asyncio.create_task(cut_and_resume(console, url, next(iter(labels))))
            if len(ended) == len(ORDERS) and cut is not None:
                await cut
                return list(labels)
    raise DemoError("the socket was closed before every order had ended")


async def frames(client: ClientConnection) -> AsyncIterator[dict[str, Any]]:
    """Yield what the server sends."""
    async for text in client:
        yield json.loads(text)


async def cut_and_resume(console: Console, url: str, order_id: str) -> None:
    """Follow an order, lose the connection in the middle of its life, and resume after the last event that was seen."""
    seen: list[int] = []
    cursor = ""
    async with connect(f"{url}?orderId={order_id}", compression=None) as client:
        async for frame in frames(client):
            seen.append(frame["seq"])
            cursor = frame["cursor"]
            if frame["seq"] == CUT_AFTER_SEQ:
                # No closing handshake: as if the cable had been pulled.
                client.transport.abort()
                break
    console.print(f"       [red]cut the second client of {order_id} after seq {seen[-1]}, cursor {cursor}[/]")
    async with connect(f"{url}?orderId={order_id}&after={cursor}", compression=None) as client:
        async for frame in frames(client):
            if frame["seq"] == CUT_AFTER_SEQ + 1:
                console.print(f"       [green]resumed; the next event is seq {frame['seq']}, {frame['event']}[/]")
            seen.append(frame["seq"])
            if frame["status"] in TERMINAL:
                break
    if seen != list(range(1, len(seen) + 1)):
        raise DemoError(f"the resumed client saw {seen}: an event is missing or repeated")
    console.print(f"       [green]the second client saw {seen}: nothing lost, nothing repeated[/]")


async def proofs(console: Console, settings: Settings, servers: Servers, order_ids: list[str]) -> None:
    """Compare PostgreSQL with the streams, rebuild the read model, compare again, and replay one order."""
    async with opened(settings, servers, "demo") as (store, database):
        for order_id in order_ids:
            last = (await store.read_stream(order_id))[-1]
            await wait_for(database, partition_in(order_id), last.position, PROJECTED_SECONDS_MAX)
        console.print("\n[bold]PostgreSQL equals the streams, field by field[/]")
        await compare(console, store, database, order_ids)
        rebuilt = await rebuild(database, ORDERS_MODEL)
        console.print(
            f"\n[bold]Rebuilt the read model[/]: {rebuilt.orders} orders from {rebuilt.events} events "
            f"in {rebuilt.seconds:.2f} s, equal to the live one, swapped in one transaction"
        )
        await compare(console, store, database, order_ids)
        console.print("\n[bold]One order, replayed for the auditor[/] (ordertape audit replay ORDER)")
        show_replay(console, await replay(store, order_ids[0]))


async def compare(console: Console, store: EventStore, database: AsyncEngine, order_ids: list[str]) -> None:
    """Show that both copies agree.

    Raises:
        DemoError: they do not.
    """
    findings = await diff(store, database, order_ids)
    table = Table("order", "events in the stream", "differences")
    for order_id in order_ids:
        differences = sum(finding.order_id == order_id for finding in findings)
        table.add_row(order_id, str(len(await store.read_stream(order_id))), str(differences))
    console.print(table)
    if findings:
        raise DemoError(f"PostgreSQL differs from the streams: {escape(str(findings[0]))}")
