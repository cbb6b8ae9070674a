"""The Bruno collection: the same requests as the Postman one, and WebSocket requests with their messages."""

import json
from collections.abc import Iterator
from typing import Final

from tests.collections.examples import CONVERSATIONS, FOLDERS, KEY, VARIABLES, Conversation, Example
from tests.collections.scripts import ROUTING, checks_of, member_of

_VARIABLE: Final = 'bru.getVar("%s")'


def bruno() -> dict[str, str]:
    """Return the files' content by their path in the collection."""
    files = {
        "bruno.json": json.dumps({"version": "1", "name": "OrderTape", "type": "collection"}, indent=2) + "\n",
        "environments/local.bru": _block("vars", [f"{name}: {value}" for name, value in VARIABLES.items()]),
    }
    sequence = 0
    for number, (folder, examples) in enumerate(FOLDERS.items(), 1):
        files[f"{folder}/folder.bru"] = _block("meta", [f"name: {folder}", f"seq: {number}"])
        for example in examples:
            sequence += 1
            files[f"{folder}/{example.name}.bru"] = _request(example, sequence)
    files["WebSocket/folder.bru"] = _block("meta", ["name: WebSocket", f"seq: {len(FOLDERS) + 1}"])
    for number, conversation in enumerate(CONVERSATIONS, sequence + 1):
        files[f"WebSocket/{conversation.name}.bru"] = _conversation(conversation, number)
    return files


def _block(name: str, lines: list[str]) -> str:
    inside = "".join(f"  {line}\n" if line else "\n" for line in lines)
    return f"{name} {{\n{inside}}}\n"


def _request(example: Example, sequence: int) -> str:
    mode = "none" if example.body is None else "json"
    blocks = [
        _block("meta", [f"name: {example.name}", "type: http", f"seq: {sequence}"]),
        _block(example.method.lower(), ["url: {{baseUrl}}" + example.path, f"body: {mode}", "auth: none"]),
    ]
    if "?" in example.path:
        query = example.path.partition("?")[2]
        blocks.append(_block("params:query", [item.replace("=", ": ", 1) for item in query.split("&")]))
    if example.headers:
        blocks.append(_block("headers", [f"{name}: {value}" for name, value in example.headers.items()]))
    if example.body is not None:
        blocks.append(_block("body:json", json.dumps(example.body, indent=2).splitlines()))
    if example.draws_key:
        blocks.append(_block("script:pre-request", [f'bru.setVar("{KEY}", bru.interpolate("{{{{$guid}}}}"));']))
    if example.saves:
        saved = [
            f'bru.setVar("{name}", {member_of(path).replace("body", "res.body", 1)});'
            for name, path in example.saves.items()
        ]
        blocks.append(_block("script:post-response", saved))
    blocks.append(_block("tests", list(_tests(example))))
    blocks.append(_block("docs", [example.says]))
    return "\n".join(blocks)


def _tests(example: Example) -> Iterator[str]:
    yield f'test("{example.status}", () => expect(res.status).to.equal({example.status}));'
    yield "const body = res.body;"
    if example.proves_routing:
        yield from ROUTING.splitlines()
    for title, expression, expected in checks_of(example, _VARIABLE):
        holds = f"eql({expected})" if expected else "not.equal(undefined)"
        yield f"test({json.dumps(title)}, () => expect({expression}).to.{holds});"


def _conversation(conversation: Conversation, sequence: int) -> str:
    blocks = [
        _block("meta", [f"name: {conversation.name}", "type: ws", f"seq: {sequence}"]),
        _block("ws", ["url: {{wsUrl}}" + conversation.path, "body: ws", "auth: none"]),
    ]
    for name, members in conversation.messages:
        content = [f"  {line}" for line in json.dumps(members, indent=2).splitlines()]
        blocks.append(_block("body:ws", [f"name: {name}", "type: json", "content: '''", *content, "'''"]))
    blocks.append(_block("docs", [conversation.says]))
    return "\n".join(blocks)
