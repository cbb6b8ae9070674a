"""What clients say on a WebSocket, from JSON members to values."""

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

from msgspec import Struct

from app.api.orders.request import OrderRequest, read_order
from app.api.problems import FieldError, ProblemError
from app.api.requests import INTEGER, Form, Number, is_printable, pointer_to
from app.api.resume import After, parse_after, parse_order_id
from app.orders.events import OrderType

ID_CHARACTERS_MAX: Final = 64


class Submit(Struct, frozen=True):
    """Place an order and send its events."""

    request: OrderRequest


class Subscribe(Struct, frozen=True):
    """Send the events of an order after ``after``."""

    order_id: str
    after: After


class Unsubscribe(Struct, frozen=True):
    """Send no more events of an order."""

    order_id: str


class Cancel(Struct, frozen=True):
    """End an order if it can still be ended."""

    order_id: str


class Ping(Struct, frozen=True):
    """Answer."""


Message = Submit | Subscribe | Unsubscribe | Cancel | Ping
MessageId = str | int | None


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


def read_message(members: Mapping[str, Any], *, now_us: int) -> Message:
    """Return what a WebSocket message asks for; its ``id`` is read by :func:`message_id`.

    Args:
        now_us: the server's time, for orders.

    Raises:
        ProblemError: naming each field that is wrong.
    """
    form = Form({name: value for name, value in members.items() if name != "id"})
    kind = members.get("type", "subscribe" if "orderId" in members else "market")
    match kind:
        case "subscribe" | "unsubscribe" | "cancel":
            return _read_about_order(form, kind)
        case "ping":
            form.take(("type",))
            form.refuse_unknown(("type", "id"))
            form.finish("invalid_message")
            return Ping()
        case str() if kind.lower() in get_args(OrderType):
            order = {name: value for name, value in members.items() if name != "id"}
            return Submit(read_order(order, now_us=now_us))
        case _:
            known = '"subscribe", "unsubscribe", "cancel", "ping", or, in an order, "market", "limit" or "sniper"'
            raise _invalid_message("type", f"must be {known}")


def _read_about_order(
    form: Form, kind: Literal["subscribe", "unsubscribe", "cancel"]
) -> Subscribe | Unsubscribe | Cancel:
    form.take(("type",))
    order_id = form.text(("orderId",), ID_CHARACTERS_MAX, needed=True)
    accepted: tuple[str, ...] = ("type", "orderId", "id")
    after = None
    if kind == "subscribe":
        after = form.take(("after", "lastEventId"))
        accepted += ("after", "lastEventId")
        if after is not None and not isinstance(after, str):
            form.refuse("after", "must be a seq, an event id or a cursor")
    form.refuse_unknown(accepted)
    form.finish("invalid_message")
    assert order_id is not None
    parse_order_id(order_id)
    if kind != "subscribe":
        return Unsubscribe(order_id) if kind == "unsubscribe" else Cancel(order_id)
    return Subscribe(order_id, 0 if after is None else parse_after(after, order_id))


def _invalid_message(name: str, message: str) -> ProblemError:
    return ProblemError("invalid_message", f"{name} {message}", [FieldError(pointer_to(name), message)])
