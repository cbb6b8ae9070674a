"""The command `launch`, of the simulator: which tokens launch next, and letting one launch sooner or later."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, TypeVar

import typer

from app.cli.connections import joined_servers, settings_here
from app.cli.orders.commands import EXIT_FAILED, Json
from app.dex.chain import SimulatedChain
from app.dex.market import SLOT_MS
from app.dex.pools.launches import GENESIS_SLOT, LAUNCH_SLOTS
from app.dex.tokens import LAUNCHED_MAX, Token, launch_token, token
from app.main import open_chain
from app.settings import Settings

LISTED: Final = 5
MARGIN_MS: Final = 200
"""A slot that is announced lies so far ahead that it is not over when the announcement arrives."""
_MILLION: Final = 1_000_000
_T = TypeVar("_T")


def launch(
    name: Annotated[str | None, typer.Argument(metavar="[TOKEN]", help="e.g. NEW7; without it the next ones.")] = None,
    in_seconds: Annotated[
        int | None, typer.Option("--in", min=0, help="Launch in so many seconds; at once by default.")
    ] = None,
    slot: Annotated[int | None, typer.Option("--slot", min=0, help="Launch at this slot of the chain.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="Show when, and change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Let a token launch on the simulated chain, or list the next launches of its schedule.

    A launch never changes once it was announced or is over. Exit 0: done, 1: it launches at another slot, 2: refused.
    """
    if in_seconds is not None and slot is not None:
        raise typer.BadParameter("give --in or --slot, not both")
    if name is None and (in_seconds is not None or slot is not None):
        raise typer.BadParameter("name the token that is to launch then, e.g. NEW7")
    settings = settings_here()
    if name is None or listing:
        tokens = None if name is None else [token(name)]
        found = asyncio.run(_on_chain(settings, lambda chain: _launches(chain, tokens)))
        _show(found, settings, as_json)
        return
    chosen = token(name)

    async def announce(chain: SimulatedChain) -> tuple[int, int, int]:
        now = await chain.slot()
        wanted = now + slots_in(settings, in_seconds or 0) if slot is None else slot
        return now, wanted, await chain.launch(chosen, wanted)

    now, wanted, held = asyncio.run(_on_chain(settings, announce))
    _show((now, {chosen.symbol: held}), settings, as_json)
    if held != wanted:
        sys.stderr.write(f"ordertape: that was settled before, and is not changed to slot {wanted}\n")
        raise typer.Exit(EXIT_FAILED)


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(launch)


def slots_in(settings: Settings, seconds: int) -> int:
    """Return how many slots ahead a launch in ``seconds`` is; where no time runs, as many as at normal speed."""
    slot_us = _slot_us(settings)
    return max(1, -(-(seconds * 1_000 + MARGIN_MS) * 1_000 // slot_us))


def _slot_us(settings: Settings) -> int:
    return max(1, SLOT_MS * 1_000 * _MILLION // (settings.speed_ppm or _MILLION))


async def _on_chain(settings: Settings, use: Callable[[SimulatedChain], Awaitable[_T]]) -> _T:
    async with joined_servers(settings) as found:
        chain, connection = open_chain(settings, found.redis_url)
        try:
            return await use(chain)
        finally:
            await connection.close()


async def _launches(chain: SimulatedChain, tokens: list[Token] | None) -> tuple[int, dict[str, int]]:
    """Return the current slot, and when ``tokens`` launch; None: the next ones of the schedule."""
    now = await chain.slot()
    if tokens is not None:
        return now, await chain.launch_slots(tokens)
    first = max(1, (now - GENESIS_SLOT) // LAUNCH_SLOTS - 1)
    numbers = range(first, min(LAUNCHED_MAX, first + 2 * LISTED) + 1)
    slots = await chain.launch_slots([launch_token(number) for number in numbers])
    coming = sorted((slot, symbol) for symbol, slot in slots.items() if slot > now)
    return now, {symbol: slot for slot, symbol in coming[:LISTED]}


def _show(found: tuple[int, dict[str, int]], settings: Settings, as_json: bool) -> None:
    now, slots = found
    if as_json:
        launches: list[dict[str, Any]] = [{"token": symbol, "slot": slot} for symbol, slot in slots.items()]
        sys.stdout.write(json.dumps({"simulated": True, "slot": now, "launches": launches}) + "\n")
        return
    sys.stdout.write(f"simulated chain at slot {now}\n")
    for symbol, slot in slots.items():
        seconds = (slot - now) * _slot_us(settings) // _MILLION
        when = f"in about {seconds} s" if slot > now else "it has launched"
        sys.stdout.write(f"{symbol:<9} launches at slot {slot}, {when}\n")
