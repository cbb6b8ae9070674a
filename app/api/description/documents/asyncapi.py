"""The AsyncAPI 3.0 document: the WebSocket, with every message in both directions, and the event streams."""

import re
from collections.abc import Iterable
from typing import Any, Final, cast

from msgspec import Struct

from app.api.description.answers import Refusal
from app.api.description.commands import COMMANDS
from app.api.description.documents.events import FRAME, frame_schemas
from app.api.description.documents.openapi import shown_path
from app.api.description.documents.schemas import Schema, components_of, ref
from app.api.description.examples import CLIENT_EXAMPLES, SERVER_EXAMPLES
from app.api.description.messages import SERVER_MESSAGES, StreamBegun, StreamCaughtUp
from app.api.description.operations import EVENT_STREAM, JSON, Operation
from app.api.description.order import ORDER, order_schemas
from app.api.description.parameters import ORDER_ID_IN_PATH, PATH, QUERY
from app.api.description.table import OPERATIONS
from app.api.families.dialects import FAMILIES, OWN_PATH
from app.api.problems import (
    DRAINING,
    FOREIGN_KEY,
    LOG_LOST,
    LOG_REWOUND,
    SLOW,
    TOO_MANY_MESSAGES,
    TOO_MANY_SOCKETS,
    UNAUTHENTICATED,
)
from app.api.requests import BODY_BYTES_MAX
from app.api.streaming.messages import NAME_CHARACTERS_MAX
from app.api.streaming.websocket import FOREIGN_VERSION, SECOND_HELLO

ORDER_COMMAND: Final = "order"
EVENT: Final = "event"
CLOSINGS: Final = (
    *(UNAUTHENTICATED, FOREIGN_KEY, FOREIGN_VERSION, SECOND_HELLO, TOO_MANY_SOCKETS),
    *(DRAINING, SLOW, LOG_LOST, LOG_REWOUND, TOO_MANY_MESSAGES),
)

_ABOUT: Final = (
    "Orders and their events over one WebSocket, and events over Server-Sent Events. Every event carries, as `cursor`, "
    "what to resume by: either everything after it comes, once per connection and in order, or an error says why not. "
    "REST is in `/api/openapi.json`."
)
_REPLIES: Final[dict[str, tuple[str, ...]]] = {
    "hello": ("welcome",),
    "subscribe": ("subscribed", EVENT, "events", "error"),
    "unsubscribe": ("unsubscribed", "error"),
    "ack": ("error",),
    "cancel": ("cancelled", "cancel_pending", "error"),
    "ping": ("pong", "error"),
    ORDER_COMMAND: ("accepted", EVENT, "error"),
}
_UNASKED: Final = (
    *(EVENT, "events", "caught_up", "bookmark", "lagging", "unsubscribed"),
    *("heartbeat", "error", "goaway"),
)
_STREAMED: Final = ("stream_subscribed", EVENT, "stream_caught_up", "goaway")
_QUERY: Final[Schema] = {
    "type": "object",
    "properties": {
        name: {**schema, "description": meaning}
        for name, schema, meaning in (
            ("orderId", ORDER_ID_IN_PATH.schema, "Begin with a plain subscription to this order."),
            ("clientId", QUERY["clientId"].schema, "Begin with a subscription to this client's orders."),
            ("scope", {"enum": ["all"]}, "Begin with a subscription to all orders."),
            ("ticket", {"type": "string"}, "A ticket of `POST /api/tickets`, where keys are asked for."),
            ("after", QUERY["after"].schema, "Where it begins."),
            ("lastEventId", QUERY["after"].schema, "The same as `after`."),
        )
    },
}


def asyncapi_document(version: str) -> dict[str, Any]:
    """Return the document; ``version`` is the server's."""
    messages = _messages()
    streams = [one for one in OPERATIONS if any(EVENT_STREAM in answer.media_types for answer in one.answers)]
    sockets = {_key(path): _socket(path, messages) for path in FAMILIES}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "OrderTape", "version": version, "description": _ABOUT},
        "servers": {
            "socket": {"host": "127.0.0.1:3000", "protocol": "ws"},
            "http": {"host": "127.0.0.1:3000", "protocol": "http"},
        },
        "defaultContentType": JSON,
        "channels": {**sockets, **{one.id: _stream(one) for one in streams}},
        "operations": {**_operations(), **{f"send_{one.id}": _sending(one) for one in streams}},
        "components": {"messages": messages, "schemas": cast(dict[str, Any], _draft_7(_schemas()))},
    }


def _key(path: str) -> str:
    return re.sub(r"[^\w]+", "_", shown_path(path)).strip("_")


def _schemas() -> dict[str, Schema]:
    found = components_of([*COMMANDS.values(), *SERVER_MESSAGES, Refusal, StreamBegun, StreamCaughtUp])
    orders = order_schemas()
    members: dict[str, Schema] = {
        "id": found["Hello"]["properties"]["id"],
        "follow": {
            **{"type": "string", "minLength": 1, "maxLength": NAME_CHARACTERS_MAX},
            "description": "Names the subscription to its events; without it they come plain.",
        },
    }
    for name, schema in orders.items():
        if name != ORDER:
            schema["properties"] |= members
    return {**found, **orders, **frame_schemas(marked=True)}


def _messages() -> dict[str, Any]:
    found = {name: _message(name, kind.__name__) for name, kind in COMMANDS.items()}
    found[ORDER_COMMAND] = _message(ORDER_COMMAND, ORDER, "An order to place; its events follow.")
    found[EVENT] = _message(EVENT, FRAME, "One event.")
    said_by_server: tuple[type[Struct], ...] = (*SERVER_MESSAGES, Refusal)
    for said in said_by_server:
        tag = str(said.__struct_config__.tag)
        found[tag] = _message(tag, said.__name__)
    found["stream_subscribed"] = {"name": "subscribed", "payload": ref(StreamBegun.__name__)}
    found["stream_caught_up"] = {"name": "caught_up", "payload": ref(StreamCaughtUp.__name__)}
    return found


def _message(name: str, component: str, summary: str | None = None) -> dict[str, Any]:
    described: dict[str, Any] = {"name": name, "payload": ref(component)}
    if summary is not None:
        described["summary"] = summary
    examples = [example for example in (*CLIENT_EXAMPLES, *SERVER_EXAMPLES) if _name_of(example) == name]
    if examples:
        described["examples"] = [{"payload": example} for example in examples]
    return described


def _name_of(example: dict[str, Any]) -> str:
    return str(example.get("type", EVENT if "event" in example else ORDER_COMMAND))


def _socket(path: str, messages: Iterable[str]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "address": shown_path(path),
        "servers": [{"$ref": "#/servers/socket"}],
        "messages": {
            name: {"$ref": f"#/components/messages/{name}"} for name in messages if not name.startswith("stream_")
        },
        "bindings": {"ws": {"method": "GET", "query": _QUERY, "bindingVersion": "0.1.0"}},
    }
    if path == OWN_PATH:
        described["description"] = (
            f"Text frames, one JSON object each, of at most {BODY_BYTES_MAX} bytes to the server."
        )
        described["x-close-codes"] = _close_codes()
    else:
        described["description"] = (
            f"The same as `{OWN_PATH}`, for clients of engines like this one: plain events are written in their words "
            "(docs/compatibility.md)."
        )
    return {**described, **_parameters(path)}


def _parameters(path: str) -> dict[str, Any]:
    named = [parameter for name, parameter in PATH.items() if f"{{{name}" in path]
    shown = {one.name: {"description": one.meaning, "examples": [str(one.example)]} for one in named}
    return {"parameters": shown} if shown else {}


def _close_codes() -> list[dict[str, Any]]:
    return [
        {"code": one.code, "reason": one.reason, "reconnect": one.reconnect_after_ms is not None}
        for one in sorted(CLOSINGS, key=lambda closing: closing.code)
    ]


def _operations() -> dict[str, Any]:
    channel = _key(OWN_PATH)
    found: dict[str, Any] = {}
    for name, replies in _REPLIES.items():
        found[f"receive_{name}"] = {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{channel}"},
            "messages": [_in(channel, name)],
            "reply": {
                "channel": {"$ref": f"#/channels/{channel}"},
                "messages": [_in(channel, reply) for reply in replies],
            },
        }
    found["send_events"] = {
        "action": "send",
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [_in(channel, name) for name in _UNASKED],
    }
    return found


def _stream(operation: Operation) -> dict[str, Any]:
    return {
        "address": shown_path(operation.path),
        "description": "Server-Sent Events: `data` is the message, `event` its name, or that of the order's event.",
        "servers": [{"$ref": "#/servers/http"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _STREAMED},
        **_parameters(operation.path),
    }


def _sending(operation: Operation) -> dict[str, Any]:
    return {
        "action": "send",
        "summary": operation.summary,
        "channel": {"$ref": f"#/channels/{operation.id}"},
        "messages": [_in(operation.id, name) for name in _STREAMED],
    }


def _in(channel: str, message: str) -> dict[str, str]:
    return {"$ref": f"#/channels/{channel}/messages/{message}"}


def _draft_7(schema: Any) -> Any:
    """Return a schema as AsyncAPI takes it, whose schemas are those of draft 7: it spells tuples another way."""
    if isinstance(schema, list):
        return [_draft_7(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _draft_7(value) for name, value in schema.items()}
    if "prefixItems" in found:
        found["items"], found["additionalItems"] = found.pop("prefixItems"), False
    return found
