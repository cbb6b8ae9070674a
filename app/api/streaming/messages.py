"""What clients say on a WebSocket, from JSON members to values."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, Literal, get_args

from msgspec import Struct
from starlette.datastructures import QueryParams

from app.api.families.dialects import Asked
from app.api.orders.request import OrderRequest, read_order
from app.api.problems import FieldError, ProblemError
from app.api.requests import CLIENT_CHARACTERS_MAX, INTEGER, Form, Number, is_printable, parse_object, pointer_to
from app.api.resume import parse_order_id
from app.api.streaming.scopes import (
    FILTER_FIELDS,
    START_FIELDS,
    AllScope,
    ClientScope,
    OrderScope,
    Scope,
    read_filter,
    read_start,
)
from app.api.streaming.subscriptions import Wanted
from app.orders.events import OrderType
from eventstore.errors import BadIdError
from eventstore.ids import partition_in

ID_CHARACTERS_MAX: Final = 64
NAME_CHARACTERS_MAX: Final = 80
"""Of a subscription; room for the name that one of a client is given."""
VERSION: Final = 1
"""Of the protocol."""
WINDOW_MAX: Final = 4_096
BATCH_MAX: Final = 500
CURSOR_CHARACTERS_MAX: Final = 4_096

_PLAIN_FIELDS: Final = ("type", "orderId", "after", "lastEventId", "id")
_URL_FIELDS: Final = ("orderId", "clientId", "scope", "after", "lastEventId")
_SUBSCRIBE_FIELDS: Final = (
    *("type", "id", "sub", "scope", "orderId", "clientId", "snapshot", "until", "window", "batch"),
    *START_FIELDS,
    *FILTER_FIELDS,
)


class Hello(Struct, frozen=True):
    """Answer with what this server is, and send heartbeats from now on."""

    version: int
    token: str | None = None
    """The key of whoever says it."""


class Submit(Struct, frozen=True):
    """Place an order and send its events; ``follow`` names that subscription."""

    request: OrderRequest
    follow: str | None = None


class Subscribe(Struct, frozen=True):
    """Send events."""

    wanted: Wanted


class Unsubscribe(Struct, frozen=True):
    """Send no more events of the subscription with that name; without one, its order's id."""

    name: str


class Ack(Struct, frozen=True):
    """The events of the subscription up to that cursor are processed."""

    name: str
    cursor: str


class Cancel(Struct, frozen=True):
    """End an order if it can still be ended."""

    order_id: str


class Ping(Struct, frozen=True):
    """Answer, repeating ``t``."""

    t: int | None = None


TOKEN_CHARACTERS_MAX: Final = 256
Claim = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Returns an order's members with the client that it is placed for; see :meth:`Principal.claimed`."""

Message = Hello | Submit | Subscribe | Unsubscribe | Ack | Cancel | Ping
MessageId = str | int | None


def read_members(text: str | None) -> tuple[dict[str, Any], Asked]:
    """Return the members of a message, taken out of what clients of engines like this one wrap them in, and which.

    Such are a bare order id, ``{"action":"execute","order":{…}}`` and ``{"type":"subscribe","payload":{…}}``.

    Args:
        text: None stands for a frame that is not text.

    Raises:
        ProblemError: ``binary_frame``; see :func:`parse_object`.
    """
    if text is None:
        raise ProblemError("binary_frame", "send JSON in text frames")
    bare = text.strip()
    with suppress(BadIdError):
        partition_in(bare)
        return {"orderId": bare}, "id"
    members = parse_object(text)
    outer = {name: members[name] for name in ("type", "id") if name in members}
    match members:
        case {"action": "execute", "order": dict() as order}:
            return {**outer, **order}, "action"
        case {"type": "subscribe" | "unsubscribe", "payload": dict() as payload}:
            return {**payload, **outer}, "payload"
        case {"type": "subscribe"}:
            return members, "subscribe"
        case _:
            return members, "members"


def asked_by_url(scope: Scope) -> Asked:
    """Return how a URL asks for the events of a scope."""
    match scope:
        case OrderScope():
            return "order"
        case ClientScope():
            return "client"
        case AllScope():
            return "all"


def message_id(members: Mapping[str, Any]) -> MessageId:
    """Return the id that the answers to a WebSocket message repeat; None without one.

    Raises:
        ProblemError: ``invalid_message``.
    """
    value = members.get("id")
    if "id" not in members:
        return None
    if isinstance(value, Number) and INTEGER.fullmatch(value):
        return int(value)
    if isinstance(value, str) and not isinstance(value, Number) and is_printable(value, ID_CHARACTERS_MAX):
        return value
    message = f"must be text of 1 to {ID_CHARACTERS_MAX} printable characters, or a whole number"
    raise _invalid_message("id", message)


def read_message(members: Mapping[str, Any], *, now_us: int, claim: Claim = dict) -> Message:
    """Return what a WebSocket message asks for; its ``id`` is read by :func:`message_id`.

    Args:
        now_us: the server's time, for orders.
        claim: names the client of an order.

    Raises:
        ProblemError: naming each field that is wrong.
    """
    form = Form({name: value for name, value in members.items() if name != "id"})
    kind = members.get("type", "subscribe" if "orderId" in members else "market")
    match kind:
        case "subscribe":
            return Subscribe(_read_wanted(form, plain=members.keys() <= set(_PLAIN_FIELDS)))
        case "unsubscribe" | "cancel":
            return _read_about_order(form, kind)
        case "ack" | "hello" | "ping":
            return _read_about_socket(form, kind)
        case str() if kind.lower() in get_args(OrderType):
            order = {name: value for name, value in members.items() if name not in ("id", "follow")}
            follow = Form({"follow": members["follow"]} if "follow" in members else {})
            name = follow.text(("follow",), NAME_CHARACTERS_MAX)
            follow.finish("invalid_order")
            return Submit(read_order(claim(order), now_us=now_us), name)
        case _:
            known = (
                '"hello", "subscribe", "unsubscribe", "ack", "cancel", "ping", or, in an order, "market", "limit" or '
            )
            raise _invalid_message("type", f'must be {known}"sniper"')


def read_url(order_id: str | None, query: QueryParams) -> Wanted | None:
    """Return what the URL of a socket asks for; None if that is nothing yet. What it has beside that is not read.

    Args:
        order_id: the one in the path, if there is one.

    Raises:
        ProblemError: ``invalid_query``, ``order_id_malformed``, ``after_malformed``.
    """
    members = {name: query[name] for name in _URL_FIELDS if name in query}
    form = Form(members if order_id is None else {**members, "orderId": order_id})
    if order_id is None and not members:
        return None
    for name in members:
        if len(query.getlist(name)) > 1:
            form.refuse(name, "must be given once")
    scope = _scope(form)
    form.finish("invalid_query")
    if isinstance(scope, OrderScope):
        parse_order_id(scope.order_id)
    wanted = Wanted(scope=scope, start=read_start(form, scope))
    form.finish("invalid_query")
    return wanted


def _read_wanted(form: Form, *, plain: bool) -> Wanted:
    form.take(("type",))
    scope = _scope(form)
    name = form.text(("sub",), NAME_CHARACTERS_MAX)
    start = read_start(form, scope, snapshot=_flag(form, "snapshot"))
    until = form.take(("until",))
    if until not in (None, "caught_up") and not (until == "terminal" and isinstance(scope, OrderScope)):
        form.refuse("until", 'must be "caught_up", or, of one order, "terminal"')
    wanted = Wanted(
        scope=scope,
        start=start,
        name=None if plain else name or _name_of(scope),
        filter=read_filter(form),
        until_caught_up=until == "caught_up",
        window=form.whole("window", 1, WINDOW_MAX),
        batch=form.whole("batch", 1, BATCH_MAX),
    )
    form.refuse_unknown(_PLAIN_FIELDS if plain else _SUBSCRIBE_FIELDS)
    form.finish("invalid_message")
    if isinstance(scope, OrderScope):
        parse_order_id(scope.order_id)
    return wanted


def _scope(form: Form) -> Scope:
    kind = form.take(("scope",))
    order_id = form.text(("orderId",), ID_CHARACTERS_MAX)
    client = form.text(("clientId",), CLIENT_CHARACTERS_MAX)
    found: list[Scope] = []
    if order_id is not None:
        found.append(OrderScope(order_id))
    if client is not None:
        found.append(ClientScope(client))
    if kind == "all":
        found.append(AllScope())
    elif kind is not None:
        form.refuse("scope", 'must be "all", or left out beside orderId or clientId')
    if len(found) > 1:
        form.refuse("scope", "must be one: give orderId, or clientId, or scope")
    if not found:
        form.refuse("orderId", 'is missing: give it, or clientId, or scope "all"')
        return AllScope()
    return found[0]


def _name_of(scope: Scope) -> str:
    match scope:
        case OrderScope(order_id):
            return order_id
        case ClientScope(client):
            return f"client:{client}"
        case AllScope():
            return "all"


def _flag(form: Form, name: str) -> bool:
    value = form.take((name,))
    if value not in (None, True, False):
        form.refuse(name, "must be true or false")
    return value is True


def _read_about_order(form: Form, kind: Literal["unsubscribe", "cancel"]) -> Unsubscribe | Cancel:
    form.take(("type",))
    name = form.text(("sub",), NAME_CHARACTERS_MAX) if kind == "unsubscribe" else None
    order_id = form.text(("orderId",), ID_CHARACTERS_MAX, needed=name is None)
    if name is not None and order_id is not None:
        form.refuse("orderId", "must not be given beside sub")
    form.refuse_unknown(("type", "orderId", "id", *(("sub",) if kind == "unsubscribe" else ())))
    form.finish("invalid_message")
    if name is not None:
        return Unsubscribe(name)
    assert order_id is not None
    parse_order_id(order_id)
    return Unsubscribe(order_id) if kind == "unsubscribe" else Cancel(order_id)


def _read_about_socket(form: Form, kind: Literal["ack", "hello", "ping"]) -> Ack | Hello | Ping:
    form.take(("type",))
    if kind == "ping":
        t = form.whole("t", 0, 10**15 - 1)
        form.refuse_unknown(("type", "t", "id"))
        form.finish("invalid_message")
        return Ping(t)
    if kind == "hello":
        version = form.whole("v", 1, 1_000)
        client = form.take(("client",))
        if client is not None and not isinstance(client, dict):
            form.refuse("client", 'must be an object such as {"name":"bot","version":"1.0"}')
        token = _token(form)
        form.refuse_unknown(("type", "v", "client", "token", "auth", "id"))
        form.finish("invalid_message")
        return Hello(VERSION if version is None else version, token)
    name = form.text(("sub",), NAME_CHARACTERS_MAX, needed=True)
    cursor = form.text(("cursor",), CURSOR_CHARACTERS_MAX, needed=True)
    form.refuse_unknown(("type", "sub", "cursor", "id"))
    form.finish("invalid_message")
    assert name is not None and cursor is not None
    return Ack(name, cursor)


def _token(form: Form) -> str | None:
    """Take the key, given as ``token``, or as ``token`` in ``auth``."""
    auth = form.take(("auth",))
    token = form.text(("token",), TOKEN_CHARACTERS_MAX)
    if auth is None:
        return token
    if not isinstance(auth, dict) or not isinstance(auth.get("token"), str) or isinstance(auth["token"], Number):
        form.refuse("auth", 'must be an object such as {"token":"otk_…"}')
    elif token is not None:
        form.refuse("auth", "must not be given beside token: both mean the same")
    else:
        return str(auth["token"])
    return None


def _invalid_message(name: str, message: str) -> ProblemError:
    return ProblemError("invalid_message", f"{name} {message}", [FieldError(pointer_to(name), message)])
