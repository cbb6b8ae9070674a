"""The Postman collection, v2.1: REST alone, as that format holds no WebSocket requests."""

import json
from typing import Any, Final

from tests.collections.examples import FOLDERS, KEY, VARIABLES, Example
from tests.collections.scripts import ROUTING, checks_of, member_of

SCHEMA: Final = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
_VARIABLE: Final = 'pm.collectionVariables.get("%s")'
_DESCRIPTION: Final = (
    "The REST API of OrderTape. Run it from top to bottom: later requests use what earlier answers saved. "
    "Made from a table of examples by `make collections`; WebSocket requests are in the Bruno collection."
)


def postman() -> str:
    """Return the file's content."""
    items = [{"name": folder, "item": [_item(example) for example in examples]} for folder, examples in FOLDERS.items()]
    collection = {
        "info": {"name": "OrderTape", "description": _DESCRIPTION, "schema": SCHEMA},
        "item": items,
        "variable": [{"key": "baseUrl", "value": VARIABLES["baseUrl"]}],
    }
    return json.dumps(collection, indent=2) + "\n"


def _item(example: Example) -> dict[str, Any]:
    headers = dict(example.headers)
    request: dict[str, Any] = {"method": example.method, "description": example.says}
    if example.body is not None:
        headers = {"Content-Type": "application/json", **headers}
        request["body"] = {"mode": "raw", "raw": json.dumps(example.body, indent=2)}
    request["header"] = [{"key": name, "value": value} for name, value in headers.items()]
    request["url"] = "{{baseUrl}}" + example.path
    events = [_event("test", _test(example))]
    if example.draws_key:
        line = f'pm.collectionVariables.set("{KEY}", pm.variables.replaceIn("{{{{$guid}}}}"));'
        events.insert(0, _event("prerequest", [line]))
    return {"name": example.name, "event": events, "request": request, "response": []}


def _event(listen: str, lines: list[str]) -> dict[str, Any]:
    return {"listen": listen, "script": {"type": "text/javascript", "exec": lines}}


def _test(example: Example) -> list[str]:
    lines = [
        f'pm.test("{example.status}", () => pm.response.to.have.status({example.status}));',
        "const body = pm.response.json();",
    ]
    if example.proves_routing:
        lines += ROUTING.splitlines()
    for title, expression, expected in checks_of(example, _VARIABLE):
        holds = f"eql({expected})" if expected else "not.equal(undefined)"
        lines.append(f"pm.test({json.dumps(title)}, () => pm.expect({expression}).to.{holds});")
    lines += [f'pm.collectionVariables.set("{name}", {member_of(path)});' for name, path in example.saves.items()]
    return lines
