"""Documents that follow from the code: ``python -m tests.architecture.pages failures`` prints one; see the end."""

import sys
from collections.abc import Callable, Iterator
from typing import Final

from msgspec.structs import replace

from app.api.problems import PROBLEMS
from app.api.problems.pages import REPEATS
from app.orders.errors import UndefinedTransitionError
from app.orders.events import OrderConfirmed, OrderFailed, OrderRested, Quote
from app.orders.evolve import evolve
from app.orders.guards import FAILURES_OF, ORDER, WAITS
from app.orders.lifecycle import CANCELLATIONS, FAILURES, public_names
from app.orders.state import (
    Absent,
    Accepted,
    Building,
    Cancelled,
    CancelPending,
    Confirmed,
    Exhausted,
    Expired,
    Failed,
    Quoted,
    Rejected,
    Resting,
    Routing,
    State,
    Submitted,
    Terms,
    Triggered,
    Waiting,
)
from tests.builders import EVERY_EVENT

Transition = tuple[str, str, str]
"""State, public event, state after it."""

_START: Final = "[*]"
_MARKET: Final = Terms(
    side="sell",
    base_asset="SOL",
    quote_asset="USDC",
    base_decimals=9,
    quote_decimals=6,
    amount=1,
    slippage_bps=50,
)
_PAGE: Final = """# Failures

Why an attempt, or an order, ended without a swap. This page follows from `app/orders/lifecycle.py` and
`app/orders/guards.py`: `python -m tests.architecture.pages failures` prints it.

## Codes

An attempt that failed for a passing reason is followed by another, up to three. The last one's code is the order's, in
`failed`, or is followed by `cancelled` (IOC, FOK) or `expired`. `rejected` carries a code before any attempt.

| code | meaning | further attempt | what to do |
|---|---|---|---|
{failures}

## Guards

Between the quotes and a route stand the guards, in this order; the first that trips is published as `price_protected`,
with its limit, what was observed, and those that passed before it. Orders that rest (limit GTC and sniper) wait again
after some of them, with no attempt used up; after the others, and for all other orders, the attempt ends with the
guard's code.

| | guard | code | an order that rests |
|---|---|---|---|
{guards}

## Cancellations

| code | meaning | what to do |
|---|---|---|
{cancellations}
"""


_PROBLEMS: Final = """# Problems

Every type of error that a client may meet, over HTTP and on a WebSocket. A running server shows each at
`/problems/<code>`, which is its `type`. This page follows from `app/api/problems/catalogue.py`:
`python -m tests.architecture.pages problems` prints it.

| code | status | title | send it again? | meaning | likely cause | what to do |
|---|---|---|---|---|---|---|
{rows}
"""


def sample_states() -> Iterator[State]:
    """Every state, of an order that begins at once and of one that waits for its trigger."""
    yield Absent()
    for terms in (_MARKET, replace(_MARKET, order_type="sniper")):
        yield from _states_of(terms)


def _states_of(terms: Terms) -> Iterator[State]:
    trigger = next(event.trigger for event in EVERY_EVENT if isinstance(event, OrderRested))
    receipt = next(event.receipt for event in EVERY_EVENT if isinstance(event, OrderConfirmed))
    error = next(event.error for event in EVERY_EVENT if isinstance(event, OrderFailed))
    submitted = Submitted(terms=terms, attempt=1, limit=1, venue="raydium", tx_id="t", message="", last_valid_height=1)
    yield Accepted(terms=terms)
    yield Resting(terms=terms, attempt=1, limit=None, trigger=trigger, slot=1)
    yield Triggered(terms=terms, attempt=1, limit=None)
    yield Waiting(terms=terms, attempt=2, due_at="2026-11-21T00:00:00.000000Z", limit=None)
    yield Routing(terms=terms, attempt=1, limit=None)
    yield Quoted(terms=terms, attempt=1, limit=None, slot=1, quotes=(Quote(venue="raydium"),))
    yield Building(terms=terms, attempt=1, limit=1, venue="raydium")
    yield submitted
    yield CancelPending(submitted=submitted, by="client")
    yield Exhausted(terms=terms, attempt=1, error=error)
    yield Confirmed(terms=terms, tx_id="t", receipt=receipt)
    yield Cancelled(terms=terms, code="requested")
    yield Expired(terms=terms)
    yield Rejected(terms=terms, error=error)
    yield Failed(terms=terms, error=error)


def transitions() -> set[Transition]:
    """Every transition of the lifecycle, found by trying every event in every state."""
    found: set[Transition] = set()
    for state in sample_states():
        for event in EVERY_EVENT:
            try:
                after = evolve(state, event)
            except UndefinedTransitionError:
                continue
            found.add((_name(state), public_names(event)[0], _name(after)))
    return found


def _name(state: State) -> str:
    return _START if isinstance(state, Absent) else type(state).__name__


def diagram() -> str:
    """The state diagram in Mermaid, one line for each transition."""
    names = [_START, *(type(state).__name__ for state in _states_of(_MARKET))]
    lines = sorted(transitions(), key=lambda line: (names.index(line[0]), names.index(line[2]), line[1]))
    body = "\n".join(f"    {before} --> {after} : {label(event)}" for before, event, after in lines)
    return f"stateDiagram-v2\n{body}\n"


def label(event: str) -> str:
    """A public event as Mermaid takes it, whose labels hold no colon."""
    return event.replace(":", "#colon;")


def failures_page() -> str:
    """The page ``docs/failures.md``."""
    guards = "\n".join(
        f"| {number} | `{guard}` | `{FAILURES_OF[guard]}` | {'waits again' if guard in WAITS else 'the attempt ends'} |"
        for number, guard in enumerate(ORDER, 1)
    )
    failures = "\n".join(
        f"| `{code}` | {reason.message} | {'yes' if reason.passing else 'no'} | {reason.remedy} |"
        for code, reason in FAILURES.items()
    )
    cancellations = "\n".join(
        f"| `{code}` | {reason.message} | {reason.remedy} |" for code, reason in CANCELLATIONS.items()
    )
    return _PAGE.format(failures=failures, guards=guards, cancellations=cancellations)


def problems_page() -> str:
    """The page ``docs/problems.md``."""
    rows = "\n".join(
        f"| `{code}` | {known.status.value} | {known.title} | {REPEATS[known.repeat]} | {known.meaning} "
        f"| {known.cause} | {known.remedy} |"
        for code, known in PROBLEMS.items()
    )
    return _PROBLEMS.format(rows=rows)


_PAGES: Final[dict[str, Callable[[], str]]] = {"failures": failures_page, "diagram": diagram, "problems": problems_page}

if __name__ == "__main__":
    sys.stdout.write(_PAGES[sys.argv[1]]())
