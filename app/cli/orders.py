"""Commands of a trader: `submit` and `watch`."""

import asyncio
import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from app.cli.connections import settings_here
from app.cli.up import address
from app.client import Client, HistoryForkedError

EXIT_FAILED = 1

Url = Annotated[str | None, typer.Option("--url", help="Address of the API; by default the one in the settings.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line, for programs.")]


def submit(  # noqa: PLR0913 - each parameter is an option of the command
    side: Annotated[str, typer.Argument(help="buy or sell")],
    amount: Annotated[str, typer.Argument(help="in the base asset, e.g. 1.5")],
    base: Annotated[str, typer.Argument(help="base asset, e.g. SOL")],
    quote: Annotated[str, typer.Argument(help="quote asset, e.g. USDC")],
    client: Annotated[str | None, typer.Option(help="Who the order belongs to.")] = None,
    slippage_bps: Annotated[int | None, typer.Option(help="Worst accepted price, in 1/100 %, 0 to 10000.")] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key: repeating it never makes a second order.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Print the order id and return at once.")] = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Submit a market order and show its life until it ends. Exit 0: confirmed (or detached), 1: failed, 2: refused."""
    order: dict[str, Any] = {"side": side, "baseAsset": base, "quoteAsset": quote, "amount": amount}
    optional = {"clientId": client, "slippageBps": slippage_bps}
    order.update({name: value for name, value in optional.items() if value is not None})

    async def run() -> bool:
        async with Client(url or address(settings_here())) as api:
            accepted = await api.submit(order, idempotency_key=key)
            if detach:
                sys.stdout.write((json.dumps(accepted) if as_json else accepted["orderId"]) + "\n")
                return True
            if not as_json:
                Console().print(f"order {accepted['orderId']}", highlight=False)
            return await _show(api, accepted["orderId"], None, as_json)

    raise typer.Exit(0 if asyncio.run(run()) else EXIT_FAILED)


def watch(
    order: Annotated[str, typer.Argument(help="order id")],
    after: Annotated[str | None, typer.Option(help="Resume after this seq, event id or cursor.")] = None,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Show an order's events, past and coming, until it ends; survives lost connections. Exit codes as `submit`."""

    async def run() -> bool:
        async with Client(url or address(settings_here())) as api:
            return await _show(api, order, after, as_json)

    raise typer.Exit(0 if asyncio.run(run()) else EXIT_FAILED)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (submit, watch):
        app.command()(command)


async def _show(api: Client, order_id: str, after: str | None, as_json: bool) -> bool:
    console = Console(soft_wrap=True)
    status, following = "", True
    while following:
        following = False
        try:
            async for frame in api.events(order_id, after=after):
                status = frame["status"]
                if as_json:
                    _write(frame)
                else:
                    console.print(event_line(frame), highlight=False)
        except HistoryForkedError as fork:
            # What was shown last did not last either.
            status, following = "", True
            after = fork.last_common.cursor if fork.last_common else None
            if as_json:
                _write({**fork.problem, "type": "fork"})
            else:
                console.print(fork_line(fork), highlight=False)
    if not status:
        status = (await api.order(order_id))["status"]
    return status == "confirmed"


def _write(frame: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(frame) + "\n")
    sys.stdout.flush()


def fork_line(fork: HistoryForkedError) -> str:
    """Return what a fork takes back as a line for people, with rich markup."""
    gone = f"the events after seq {fork.last_common.seq} are" if fork.last_common else "all events are"
    return f"[red]  !  taken back[/]: {gone} void, because the event log lost them; what follows is what lasted"


_COLOURS = {"confirmed": "green", "failed": "red", "retrying": "yellow", "submitted:unknown": "yellow"}


def event_line(frame: dict[str, Any]) -> str:
    """Return one event as a line for people, with rich markup."""
    colour = _COLOURS.get(frame["event"], "cyan")
    return f"{frame['seq']:>3}  {frame['at'][11:23]}  [{colour}]{escape(frame['event']):<18}[/]{escape(_facts(frame))}"


def _facts(frame: dict[str, Any]) -> str:
    match frame["event"]:
        case "pending":
            return f"{frame['side']} {frame['amount']} {frame['baseAsset']}/{frame['quoteAsset']}"
        case "routing":
            return f"attempt {frame['attempt']}"
        case "routing:quotes":
            return "   ".join(
                f"{q['venue']} {q.get('amount') or q.get('reason') or q['status']}" for q in frame["quotes"]
            )
        case "building":
            limit = f"min out {frame['minOut']}" if "minOut" in frame else f"max in {frame['maxIn']}"
            edge = f", {frame['edgeBps']} bps better than {frame['runnerUp']}" if "runnerUp" in frame else ""
            return f"{frame['chosen']['venue']} {frame['chosen']['amount']}{edge}; {limit}"
        case "submitted":
            return f"tx {frame['txId']}"
        case "submitted:unknown":
            return f"look {frame['checks']}, next at {frame['nextCheckAt'][11:23]}"
        case "confirmed":
            receipt = frame["receipt"]
            return f"in {receipt['amountIn']}, out {receipt['amountOut']}, slot {receipt['slot']}"
        case "retrying":
            return f"{frame['error']['message']}; attempt {frame['retry']['attempt']} in {frame['retry']['delayMs']} ms"
        case "attempt_failed" | "failed":
            return str(frame["error"]["message"])
        case "price_protected":
            return f"{frame['observed']} is past the limit {frame['limit']}"
        case _:
            return ""
