"""How a recorded fact is compared with what it must be, and what a rule may know of the events before."""

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from app.audit.findings import Fault, Rule
from app.orders.events import Event
from app.orders.state import State

NOTHING: Final = "none"


class Moment(Struct, frozen=True, kw_only=True):
    """Where in an order's life an event stands."""

    at_us: int | None
    """When it happened by its writer's clock, microseconds since 1970; None where that cannot be read."""
    last: Event | None = None
    """The event before it."""
    before: State | None = None
    """The state before that one."""


def same(rule: Rule, field: str, expected: object, found: object) -> Iterator[Fault]:
    """Yield a fault of ``rule`` unless ``field`` is as expected."""
    if expected != found:
        yield Fault(rule, f"{field} {shown(expected)}", f"{field} {shown(found)}")


def shown(value: object) -> str:
    """Return a value as a fault shows it."""
    return NOTHING if value is None else str(value)
