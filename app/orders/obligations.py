"""What an order in a given state still needs done: the one source of tasks and timers beside its events."""

from typing import Final, Literal, assert_never, get_args

from msgspec import Struct

from app.orders.state import (
    Absent,
    Accepted,
    Building,
    Confirmed,
    Exhausted,
    Failed,
    Quoted,
    Routing,
    State,
    Submitted,
    Waiting,
)
from app.orders.times import parse_time

Kind = Literal["attempt", "resolve"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


class Obligation(Struct, frozen=True):
    """One step that a worker owes the order: a task now, or, with ``due_ms``, a timer that becomes that task."""

    kind: Kind
    due_ms: int | None = None
    """Milliseconds since 1970; ``None``: at once."""


def obligations(state: State) -> tuple[Obligation, ...]:
    """Return what must exist in the store for an order in ``state``; empty before its first event and at its end."""
    match state:
        case Absent() | Confirmed() | Failed():
            return ()
        case Accepted() | Routing() | Quoted() | Building() | Exhausted():
            return (Obligation("attempt"),)
        case Waiting(due_at=due_at):
            return (Obligation("attempt", parse_time(due_at) // 1000),)
        case Submitted(next_check_at=due):
            return (Obligation("resolve", None if due is None else parse_time(due) // 1000),)
        case _:
            assert_never(state)
