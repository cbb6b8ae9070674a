"""What one HTTP operation takes and answers, as a row of the table says it."""

from typing import Final, Literal

from msgspec import Struct

from app.api.description.parameters import QUERY, Parameter
from app.api.problems import Code

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"

GATE: Final[tuple[Code, ...]] = (
    *("headers_too_large", "host_refused", "origin_refused", "rate_limited", "too_many_connections"),
)
"""How any request may be refused before a route sees it."""
KEY_GATE: Final[tuple[Code, ...]] = ("unauthenticated", "forbidden", "key_in_url")
"""The same where keys are asked for."""

Tag = Literal["Orders", "Streams", "Market", "Health", "Access", "Description"]
TAGS: Final[dict[Tag, str]] = {
    "Orders": "Placed, cancelled, read and listed.",
    "Streams": "Events over plain HTTP: Server-Sent Events, or answers that wait. The WebSocket is described below.",
    "Market": "What can be traded, at what price, and what was.",
    "Health": "For whoever operates the server.",
    "Access": "Where the server asks for keys.",
    "Description": "This, for programs and for people.",
}


class Answer(Struct, frozen=True):
    """One answer that is not a problem."""

    status: int
    meaning: str
    kind: type[Struct] | None = None
    """Its JSON; None where it has none."""
    headers: tuple[str, ...] = ()
    media_types: tuple[str, ...] = ()
    """Others than JSON."""


class Operation(Struct, frozen=True, kw_only=True):
    """What one method of one path does."""

    id: str
    tag: Tag
    method: Literal["GET", "POST", "DELETE"]
    path: str
    """As the route has it."""
    also: tuple[str, ...] = ()
    """Other paths that do the same, which clients of engines like this one know."""
    also_kind: type[Struct] | None = None
    """What success is answered with there; None: the same."""
    summary: str
    notes: str = ""
    query: tuple[str, ...] = ()
    """What the handler reads, by name."""
    own: tuple[Parameter, ...] = ()
    """Parameters that are headers, or mean here something else than elsewhere."""
    body: str | None = None
    """The component that is its body."""
    body_needed: bool = True
    answers: tuple[Answer, ...] = ()
    problems: tuple[Code, ...] = ()
    """Beside those of the gate."""
    public: bool = False
    """Answered to everybody, also where keys are asked for."""
    links: tuple[str, ...] = ()
    """Operations that take the ``orderId`` of the answer."""

    def parameters(self) -> list[Parameter]:
        """Return the parameters beside those of the path."""
        own = {one.name: one for one in self.own}
        named = [own.pop(name) if name in own else QUERY[name] for name in self.query]
        return [*named, *own.values()]
