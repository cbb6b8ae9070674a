"""What a subscriber asks for, as messages and queries say it: which events (scope, filter) and from where (start)."""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, assert_never, cast, get_args

from msgspec import Struct

from app.api.problems import FieldError, ProblemError
from app.api.requests import CLIENT_CHARACTERS_MAX, TIME_ACCEPTED, Form, is_printable, time_us
from app.api.resume import After, parse_after
from app.api.streaming.ring import EVERYTHING, Frame, client_topic
from app.dex.errors import UnknownTokenError
from app.dex.tokens import token
from app.orders.lifecycle import Status
from eventstore.errors import BadIdError
from eventstore.ids import LOG_START, Cursor

LAST_MAX: Final = 1_000
FILTER_VALUES_MAX: Final = 32
BEGINNING: Final = "start"
"""The cursor of a place before every event."""

START_FIELDS: Final = ("after", "lastEventId", "from", "since", "last")
FILTER_FIELDS: Final = ("events", "statuses", "assets")

EventName = Literal[
    "pending",
    "resting",
    "triggered",
    "routing",
    "routing:quotes",
    "building",
    "price_protected",
    "submitted",
    "submitted:unknown",
    "retrying",
    "attempt_failed",
    "cancel_pending",
    "cancel_rejected",
    "confirmed",
    "cancelled",
    "expired",
    "rejected",
    "failed",
]
"""Keep in step with :func:`app.orders.lifecycle.public_names`."""

_ENTRY: Final = re.compile(r"([0-9]{1,2})\.(.+)", re.ASCII)


class OrderScope(Struct, frozen=True):
    """One order."""

    order_id: str


class ClientScope(Struct, frozen=True):
    """All orders of one client, which are all in one partition."""

    client: str


class AllScope(Struct, frozen=True):
    """Every order."""


Scope = OrderScope | ClientScope | AllScope
LogScope = ClientScope | AllScope


class FromStart(Struct, frozen=True):
    """From the first event on."""


class FromNow(Struct, frozen=True):
    """What comes from now on."""


class Since(Struct, frozen=True):
    """Events recorded then or later, microseconds since 1970."""

    at_us: int


class Last(Struct, frozen=True):
    """The newest so many events that the subscription covers, and what comes after them."""

    count: int


class AfterCursors(Struct, frozen=True):
    """After the places in the logs that ``text`` spells; see :func:`parse_cursors`."""

    text: str


class Snapshot(Struct, frozen=True):
    """The orders as they are, and what comes after that."""


Start = After | AfterCursors | FromStart | FromNow | Since | Last | Snapshot
"""For one order ``After``, for the other scopes ``AfterCursors``."""


class Filter(Struct, frozen=True):
    """Which events of the scope are sent; None: any."""

    events: frozenset[str] | None = None
    statuses: frozenset[str] | None = None
    assets: frozenset[str] | None = None
    """Symbols; an order's base or quote asset is among them."""

    @property
    def is_open(self) -> bool:
        """Whether everything passes."""
        return self.events is None and self.statuses is None and self.assets is None

    def admits(self, frame: Frame, assets: tuple[str, str] | None) -> bool:
        """Whether an event passes; ``assets`` are its order's, needed only where the filter asks for them."""
        if self.events is not None and frame.event not in self.events:
            return False
        if self.statuses is not None and frame.status not in self.statuses:
            return False
        return self.assets is None or (assets is not None and not self.assets.isdisjoint(assets))


def topic_of(scope: Scope) -> str:
    """Return what the ring calls the scope's events."""
    match scope:
        case OrderScope(order_id):
            return order_id
        case ClientScope(client):
            return client_topic(client)
        case AllScope():
            return EVERYTHING
        case _:
            assert_never(scope)


def covers(scope: Scope, frame: Frame) -> bool:
    """Whether an event is one of the scope's."""
    return not isinstance(scope, ClientScope) or frame.client == scope.client


def facts_of(scope: Scope) -> dict[str, str]:
    """Return the members that name the scope in answers."""
    match scope:
        case OrderScope(order_id):
            return {"orderId": order_id}
        case ClientScope(client):
            return {"clientId": client}
        case AllScope():
            return {"scope": "all"}
        case _:
            assert_never(scope)


def fields_of(scope: Scope) -> dict[str, Any]:
    """Return the same for the Structs of messages."""
    match scope:
        case OrderScope(order_id):
            return {"order_id": order_id}
        case ClientScope(client):
            return {"client_id": client}
        case AllScope():
            return {"scope": "all"}
        case _:
            assert_never(scope)


def format_cursors(scope: LogScope, cursors: Mapping[int, Cursor]) -> str:
    """Return the one text that a client resumes such a place by: :data:`BEGINNING` before every event."""
    return join_cursors(scope, texts_of(cursors))


def texts_of(cursors: Mapping[int, Cursor]) -> dict[int, str]:
    """Return the cursors as texts, by ascending partition; a partition at its beginning has none."""
    return {number: str(cursor) for number, cursor in sorted(cursors.items()) if cursor != LOG_START}


def join_cursors(scope: LogScope, texts: Mapping[int, str]) -> str:
    """Return what :func:`format_cursors` makes of :func:`texts_of` the cursors."""
    if isinstance(scope, ClientScope):
        return next(iter(texts.values()), BEGINNING)
    return "~".join([f"{number}.{text}" for number, text in texts.items()]) or BEGINNING


def parse_cursors(scope: LogScope, partitions: Mapping[int, Cursor], text: str) -> dict[int, Cursor]:
    """Return the places that ``text`` names; a partition that it does not name had no event.

    Args:
        partitions: those that the scope covers, at their beginnings.

    Raises:
        ProblemError: ``after_malformed``, also for the cursor of another scope.
    """
    cursors = dict(partitions)
    if text != BEGINNING:
        entries = [f"{next(iter(cursors))}.{text}"] if isinstance(scope, ClientScope) else text.split("~")
        for entry in entries:
            match = _ENTRY.fullmatch(entry)
            number = int(match[1]) if match else -1
            # A partition that is named twice is not at its beginning any more.
            if match is None or cursors.get(number) != LOG_START:
                raise _malformed(scope)
            try:
                cursors[number] = Cursor.parse(match[2])
            except BadIdError:
                raise _malformed(scope) from None
    return cursors


def _malformed(scope: LogScope) -> ProblemError:
    whose = "one client's" if isinstance(scope, ClientScope) else "all"
    message = f'must be the cursor of an event or a bookmark of {whose} events, or "{BEGINNING}"'
    return ProblemError("after_malformed", f"after {message}", [FieldError("/after", message)])


def read_start(form: Form, scope: Scope, *, snapshot: bool = False) -> Start:
    """Take the fields that say where to begin; one at most.

    Raises:
        ProblemError: ``after_malformed``.
    """
    given: list[Start] = []
    after = form.take(("after", "lastEventId"))
    if after is not None:
        if isinstance(after, str):
            given.append(parse_after(after, scope.order_id) if isinstance(scope, OrderScope) else AfterCursors(after))
        else:
            form.refuse("after", "must be a seq, an event id or a cursor")
    place = form.take(("from",))
    if place is not None:
        if place in ("start", "now"):
            given.append(FromStart() if place == "start" else FromNow())
        else:
            form.refuse("from", 'must be "start" or "now"')
    since = form.take(("since",))
    if since is not None:
        at_us = time_us(since)
        if at_us is None:
            form.refuse("since", TIME_ACCEPTED)
        else:
            given.append(Since(at_us))
    last = form.whole("last", 1, LAST_MAX)
    if last is not None:
        given.append(Last(last))
    if snapshot:
        given.append(Snapshot())
    if len(given) > 1:
        form.refuse("after", "must be the only one of after, from, since, last and snapshot: each says where to begin")
    if given:
        return given[0]
    return FromStart() if isinstance(scope, OrderScope) else FromNow()


def read_filter(form: Form) -> Filter:
    """Take the fields that narrow a scope: lists of texts, or one text with commas."""
    return Filter(
        events=_choices(form, "events", get_args(EventName)),
        statuses=_choices(form, "statuses", get_args(Status)),
        assets=_assets(form),
    )


def _choices(form: Form, name: str, known: tuple[str, ...]) -> frozenset[str] | None:
    values = _texts(form, name)
    if values is not None and not values <= set(known):
        form.refuse(name, f"must be among {', '.join(known)}")
        return None
    return values


def _assets(form: Form) -> frozenset[str] | None:
    values = _texts(form, "assets")
    if values is None:
        return None
    try:
        return frozenset(token(value).symbol for value in values)
    except UnknownTokenError:
        form.refuse("assets", "must be symbols or mints of assets, such as SOL")
        return None


def _texts(form: Form, name: str) -> frozenset[str] | None:
    value = form.take((name,))
    if value is None:
        return None
    values = value.split(",") if isinstance(value, str) else value
    if not isinstance(values, list) or not 1 <= len(values) <= FILTER_VALUES_MAX:
        form.refuse(name, f"must be a list of 1 to {FILTER_VALUES_MAX} texts")
        return None
    if not all(isinstance(one, str) and is_printable(one, CLIENT_CHARACTERS_MAX) for one in values):
        form.refuse(name, "must have texts only")
        return None
    return frozenset(cast("list[str]", values))
