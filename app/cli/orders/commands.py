"""Commands of a trader: `submit`, `cancel` and `watch`."""

import asyncio
import json
import sys
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from app.cli.connections import settings_here
from app.cli.orders.lines import event_line, fork_line
from app.cli.up import address
from app.client import Client, HistoryForkedError, OrderEndedError

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
    limit: Annotated[str | None, typer.Option(help="Limit order: worst price, quote per base, fees included.")] = None,
    tif: Annotated[str | None, typer.Option(help="Limit order: GTC (the default), IOC or FOK.")] = None,
    expire_at: Annotated[
        str | None, typer.Option(help="When an order that waits ends, e.g. 2027-01-31T12:00:00Z.")
    ] = None,
    sniper: Annotated[bool, typer.Option("--sniper", help="Buy a launched token as soon as its fee allows.")] = False,
    max_fee_bps: Annotated[int | None, typer.Option(help="Greatest pool fee, in 1/100 %; a sniper waits.")] = None,
    max_impact_bps: Annotated[int | None, typer.Option(help="Greatest price impact, in 1/100 %.")] = None,
    min_venues: Annotated[int | None, typer.Option(help="So many venues must give a price, 1 or 2.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Print the order id and return at once.")] = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Submit an order, at market unless --limit or --sniper is given, and show its life until it ends.

    Exit 0: confirmed (or detached), 1: any other end, 2: refused.
    """
    kind = "sniper" if sniper else "market" if limit is None else "limit"
    fields = {
        "orderType": kind,
        "side": side,
        "baseAsset": base,
        "quoteAsset": quote,
        "amount": amount,
        "clientId": client,
        "slippageBps": slippage_bps,
        "limitPrice": limit,
        "timeInForce": tif,
        "expireAt": expire_at,
        "maxFeeBps": max_fee_bps,
        "maxImpactBps": max_impact_bps,
        "minVenues": min_venues,
    }
    order = {name: value for name, value in fields.items() if value is not None}

    async def run() -> bool:
        async with _client(url) as api:
            accepted = await api.submit(order, idempotency_key=key)
            if detach:
                sys.stdout.write((json.dumps(accepted) if as_json else accepted["orderId"]) + "\n")
                return True
            if not as_json:
                Console().print(f"order {accepted['orderId']}", highlight=False)
            return await _show(api, accepted["orderId"], None, as_json) == "confirmed"

    raise typer.Exit(0 if asyncio.run(run()) else EXIT_FAILED)


def cancel(
    order: Annotated[str, typer.Argument(help="order id")],
    wait: Annotated[bool, typer.Option("--wait", help="Follow the order to its end where a swap decides.")] = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Cancel an order. Exit 0: cancelled, or pending while a swap may be on its way, 1: too late, 2: refused."""

    async def run() -> bool:
        async with _client(url) as api:
            try:
                answer = await api.cancel(order)
            except OrderEndedError as ended:
                already = ended.status == "cancelled"
                text = "cancelled already" if already else f"too late: the order has ended as {ended.status}"
                _tell(ended.problem, text, as_json)
                return already
            _tell(answer, _CANCELLING[answer["status"]], as_json)
            if answer["status"] == "cancelled" or not wait:
                return True
            return await _show(api, order, str(answer["seq"]), as_json) == "cancelled"

    raise typer.Exit(0 if asyncio.run(run()) else EXIT_FAILED)


def watch(
    order: Annotated[str, typer.Argument(help="order id")],
    after: Annotated[str | None, typer.Option(help="Resume after this seq, event id or cursor.")] = None,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Show an order's events, past and coming, until it ends; survives lost connections. Exit codes as `submit`."""

    async def run() -> bool:
        async with _client(url) as api:
            return await _show(api, order, after, as_json) == "confirmed"

    raise typer.Exit(0 if asyncio.run(run()) else EXIT_FAILED)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (submit, cancel, watch):
        app.command()(command)


def _client(url: str | None) -> Client:
    """Return a client of the API at ``url``, by default of the one in the settings, with their key."""
    settings = settings_here()
    return Client(url or address(settings), key=settings.key)


async def _show(api: Client, order_id: str, after: str | None, as_json: bool) -> str:
    """Show the events until the order ends; return its last status."""
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
    return status


def _write(frame: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(frame) + "\n")
    sys.stdout.flush()


_CANCELLING: Final = {
    "cancelled": "cancelled: no swap was or will be executed",
    "cancel_pending": "cancel_pending: a swap may be on its way, and its outcome decides",
}


def _tell(answer: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        _write(answer)
    else:
        sys.stdout.write(text + "\n")
