"""The WebSocket of the page: what either side says, with examples, and how a socket ends."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from app.api.description.page.markup import (
    Html,
    code_block,
    component_in,
    element,
    joined,
    json_block,
    link,
    prose,
    table,
)
from app.api.description.page.schemas import property_table

LINE_CHARACTERS_MAX: Final = 100
"""Of an example; longer ones are indented."""
_RECEIVING: Final = "receive_"
_PYTHON: Final = """import asyncio, json
from websockets.asyncio.client import connect

ORDER = {order}

async def main():
    async with connect("ws://127.0.0.1:3000/api/orders/ws") as socket:
        await socket.send(json.dumps(ORDER))
        async for frame in socket:
            print(frame)

asyncio.run(main())"""
_BROWSER: Final = """const socket = new WebSocket("ws://127.0.0.1:3000/api/orders/ws");
socket.onopen = () => socket.send(JSON.stringify({
  type: "subscribe", sub: "mine", clientId: "user01", from: "start",
}));
socket.onmessage = ({ data }) => console.log(JSON.parse(data));"""


def socket_sections(asyncapi: Mapping[str, Any], order: Mapping[str, Any]) -> Iterable[Html]:
    """Yield what is to be said about the WebSocket; ``order`` is one to show."""
    first, *others = [channel for channel in asyncapi["channels"].values() if _is_socket(channel)]
    yield element("h3", element("span", "WS", class_="method ws"), " ", element("code", first["address"]))
    yield element("p", prose(first["description"]), " Ignore members and messages that you do not know.")
    yield element("p", "The same socket: ", joined((element("code", one["address"]) for one in others), ", "), ".")
    yield element("h4", "From Python")
    yield code_block(_PYTHON.replace("{order}", msgspec.json.format(msgspec.json.encode(order), indent=4).decode()))
    yield element("h4", "From a browser")
    yield code_block(_BROWSER)


def messages_by_side(asyncapi: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the names of the messages of a client, and of those of the server."""
    asked = [name.removeprefix(_RECEIVING) for name in asyncapi["operations"] if name.startswith(_RECEIVING)]
    return asked, [name for name in asyncapi["components"]["messages"] if name not in asked]


def message_article(asyncapi: Mapping[str, Any], name: str) -> Html:
    """Return one message, under the anchor of its name."""
    message = asyncapi["components"]["messages"][name]
    component = component_in(message["payload"])
    schema = asyncapi["components"]["schemas"][component]
    replies = asyncapi["operations"].get(f"{_RECEIVING}{name}", {}).get("reply", {}).get("messages", ())
    answered = [reply["$ref"].rsplit("/", 1)[1] for reply in replies]
    parts = [
        element("h3", element("code", message["name"]), " ", element("span", _where(name), class_="limits")),
        element("p", prose(message.get("summary") or schema.get("description", ""))),
        property_table(schema) if "properties" in schema else element("p", link(f"schema-{component}", component)),
        element("p", "Answered by ", joined((link(f"message-{one}", one) for one in answered), ", "), ".")
        if answered
        else None,
        *(_example(one["payload"]) for one in message.get("examples", ())),
    ]
    return element("article", *parts, id=f"message-{name}")


def _example(payload: Mapping[str, Any]) -> Html:
    line = msgspec.json.encode(payload).decode()
    return code_block(line) if len(line) <= LINE_CHARACTERS_MAX else json_block(payload)


def close_codes(asyncapi: Mapping[str, Any]) -> Html:
    """Return the table of the server's close codes."""
    first = next(channel for channel in asyncapi["channels"].values() if _is_socket(channel))
    rows = [
        (
            element("code", str(one["code"])),
            one["reason"],
            "reconnect, resume" if one["reconnect"] else "do not come back unchanged",
        )
        for one in first["x-close-codes"]
    ]
    return table(("code", "reason", "do"), rows)


def _is_socket(channel: Mapping[str, Any]) -> bool:
    return "bindings" in channel


def _where(name: str) -> str:
    return "in event streams" if name.startswith("stream_") else ""
