"""Events of orders as lines for people."""

from decimal import Context, Decimal
from typing import Any, Final

from rich.markup import escape

from app.client import HistoryForkedError
from app.dex.errors import UnknownTokenError
from app.dex.market import grid_price
from app.dex.tokens import token

_ABOUT: Final = Context(prec=6)
_COLOURS: Final = {
    "confirmed": "green",
    **dict.fromkeys(("failed", "rejected"), "red"),
    **dict.fromkeys(
        ("retrying", "submitted:unknown", "price_protected", "cancel_pending", "cancelled", "expired"), "yellow"
    ),
}


def fork_line(fork: HistoryForkedError) -> str:
    """Return what a fork takes back as a line for people, with rich markup."""
    gone = f"the events after seq {fork.last_common.seq} are" if fork.last_common else "all events are"
    return f"[red]  !  taken back[/]: {gone} void, because the event log lost them; what follows is what lasted"


def event_line(frame: dict[str, Any]) -> str:
    """Return one event as a line for people, with rich markup."""
    colour = _COLOURS.get(frame["event"], "cyan")
    return f"{frame['seq']:>3}  {frame['at'][11:23]}  [{colour}]{escape(frame['event']):<18}[/]{escape(_facts(frame))}"


def _facts(frame: dict[str, Any]) -> str:
    match frame["event"]:
        case "pending":
            return _order_text(frame)
        case "resting":
            return f"waits for {_trigger_text(frame['trigger'])}"
        case "triggered":
            return _evidence_text(frame)
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
        case "price_protected":
            unit = frame["unit"]
            return (
                f"the guard {frame['guard']} refuses {frame['observed']} {unit}; its limit is {frame['limit']} {unit}"
            )
        case "submitted":
            return f"tx {frame['txId']}"
        case "submitted:unknown":
            return f"look {frame['checks']}, next at {frame['nextCheckAt'][11:23]}"
        case "confirmed":
            receipt = frame["receipt"]
            return f"in {receipt['amountIn']}, out {receipt['amountOut']}, slot {receipt['slot']}"
        case _:
            return _end_text(frame)


def _end_text(frame: dict[str, Any]) -> str:
    match frame["event"]:
        case "retrying":
            return f"{frame['error']['message']}; attempt {frame['retry']['attempt']} in {frame['retry']['delayMs']} ms"
        case "cancel_pending":
            return f"asked for by {frame['by']}; the outcome of the swap decides"
        case "cancel_rejected":
            return f"too late: {frame['reason']}"
        case "cancelled":
            return f"by {frame['by']}: {frame['message']}"
        case "expired":
            return f"its time ended at {frame['expireAt']}"
        case "attempt_failed" | "rejected" | "failed":
            return str(frame["error"]["message"])
        case _:
            return ""


def _order_text(frame: dict[str, Any]) -> str:
    terms = [f"{frame['side']} {frame['amount']} {frame['baseAsset']}/{frame['quoteAsset']}"]
    if "limitPrice" in frame:
        bound = "at most" if frame["side"] == "buy" else "at least"
        terms.append(f"{bound} {frame['limitPrice']}, {frame.get('timeInForce', 'GTC')}")
    if frame["orderType"] == "sniper":
        terms.append("sniper")
    if "maxFeeBps" in frame:
        terms.append(f"fee at most {frame['maxFeeBps']} bps")
    if "expireAt" in frame:
        terms.append(f"until {frame['expireAt']}")
    return ", ".join(terms)


def _trigger_text(trigger: dict[str, Any]) -> str:
    if trigger["when"] == "launched":
        later = f", {trigger['level']} slots after it" if trigger["level"] else ""
        return f"the launch of {trigger['pair']}{later}"
    moves = "rise" if trigger["when"] == "rises_to" else "fall"
    return f"{trigger['pair']} to {moves} to {_price_text(trigger['pair'], trigger['level'])}"


def _evidence_text(frame: dict[str, Any]) -> str:
    trigger = frame["trigger"]
    if trigger["when"] == "launched":
        return f"{trigger['pair']} launched at slot {frame['launchSlot']}; it is slot {frame['slot']}"
    price = _price_text(trigger["pair"], frame["observed"])
    return f"{trigger['pair']} is at {price} on {frame.get('venue', 'a venue')}, slot {frame['slot']}"


def _price_text(pair: str, tick: int) -> str:
    """Return a power of 1.0001 of base units as a price in whole units, to six digits."""
    try:
        base, quote = map(token, pair.split("/"))
    except (UnknownTokenError, ValueError):
        return f"1.0001^{tick}"
    price = Decimal(grid_price(1, tick)).scaleb(base.decimals - quote.decimals) / (1 << 64)
    return f"about {_ABOUT.create_decimal(price):f}"
