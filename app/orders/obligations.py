"""What an order in a given state still needs done: the one source of tasks, timers and triggers beside its events."""

from typing import Final, Literal, assert_never, get_args

from msgspec import Struct

from app.orders.events import Trigger
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
from app.orders.times import parse_time

Kind = Literal["attempt", "resolve", "expire"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


class Obligation(Struct, frozen=True):
    """One step that a worker owes the order: a task now, or, with ``due_ms``, a timer that becomes that task."""

    kind: Kind
    due_ms: int | None = None
    """Milliseconds since 1970; ``None``: at once."""


_ATTEMPT: Final = Obligation("attempt")


class Watching(Struct, frozen=True):
    """The order's place in the index of its trigger, where the scanner of slots finds it."""

    trigger: Trigger


Owed = Obligation | Watching


def obligations(state: State) -> tuple[Owed, ...]:
    """Return what must exist in the store for an order in ``state``; empty before its first event and at its end.

    An order with an end of its own owes a timer for it, except while a swap may be on its way: then it ends, if its
    time has come, with that swap's proof.
    """
    match state:
        case Routing() | Building() | Accepted() | Triggered() | Quoted():
            return (_ATTEMPT,) if state.terms.expire_at is None else (_ATTEMPT, *_expiry(state.terms))
        case Exhausted():
            return (_ATTEMPT,)
        case Resting(trigger=trigger):
            return (Watching(trigger), *_expiry(state.terms))
        case Waiting(due_at=due_at):
            return (Obligation("attempt", parse_time(due_at) // 1000), *_expiry(state.terms))
        case Submitted(next_check_at=due) | CancelPending(submitted=Submitted(next_check_at=due)):
            return (Obligation("resolve", None if due is None else parse_time(due) // 1000),)
        case Absent() | Confirmed() | Cancelled() | Expired() | Rejected() | Failed():
            return ()
        case _:
            assert_never(state)


def _expiry(terms: Terms) -> tuple[Obligation, ...]:
    return () if terms.expire_at is None else (Obligation("expire", parse_time(terms.expire_at) // 1000),)
