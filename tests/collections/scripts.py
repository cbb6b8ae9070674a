"""What both collections check after a request, in JavaScript: status, members, variables, and the proof of routing."""

import json
from typing import Final

from tests.collections.examples import PRESENT, Example

ROUTING: Final = """const parts = (text) => [...text.split("."), ""];
const padded = (text) => parts(text)[0].padStart(30, "0") + parts(text)[1].padEnd(18, "0");
const quotes = body.events[0].quotes.filter((quote) => (quote.status || "ok") === "ok");
const best = quotes.reduce((one, other) => (padded(other.amount) > padded(one.amount) ? other : one));
const chosen = body.events[1].chosen;"""
"""Amounts are decimal text: compared digit by digit, as a number would round them."""


def member_of(path: str) -> str:
    """Return the expression for a member of the answer."""
    return "body" + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path.split("."))


def value_of(value: object, variable: str) -> str:
    """Return a value as JavaScript; ``variable`` is how one is read, with ``%s`` for its name."""
    if isinstance(value, str) and value.startswith("{{"):
        return variable % value[2:-2]
    return json.dumps(value)


def checks_of(example: Example, variable: str) -> list[tuple[str, str, str]]:
    """Return what must hold: a title, an expression, and what it must equal ("" if it must only be there)."""
    found = [
        (f"{path} is {'there' if value is PRESENT else value}", member_of(path), value)
        for path, value in example.members.items()
    ]
    checks = [
        (title.replace("{{", "").replace("}}", ""), name, "" if value is PRESENT else value_of(value, variable))
        for title, name, value in found
    ]
    if example.proves_routing:
        checks += [
            ("both venues quoted", "quotes.map((quote) => quote.venue).sort().join()", '"meteora,raydium"'),
            ("the better one was chosen", "chosen.venue", "best.venue"),
            ("for the amount that it quoted", "chosen.amount", "best.amount"),
        ]
    return checks
