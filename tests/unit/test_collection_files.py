"""The collections in docs/ are those of the table of examples, and well-formed in their formats."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.collections.__main__ import FOLDER, files
from tests.collections.examples import CONVERSATIONS, FOLDERS, Example

EXAMPLES = [(folder, example) for folder, examples in FOLDERS.items() for example in examples]
BLOCK = re.compile(r"^(?P<name>[a-z:-]+) \{\n(?P<inside>(?:  .*\n|\n)*)\}\n", re.MULTILINE)


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """The blocks of a .bru file, which has nothing else; each line inside is indented."""
    end = 0
    for match in BLOCK.finditer(text):
        assert text[end : match.start()].strip() == "", text
        end = match.end()
        yield match["name"], "".join(line.removeprefix("  ") for line in match["inside"].splitlines(keepends=True))
    assert end == len(text) > 0


def fields(inside: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in inside.splitlines() if not line.startswith(("  ", "'''")))


def test_the_files_are_those_of_the_table() -> None:
    made = files()
    found = {
        str(path.relative_to(FOLDER)): path.read_text(encoding="utf-8")
        for path in FOLDER.rglob("*")
        if path.is_file() and path.name != "README.md"
    }
    assert found == made, "run `make collections`"


def test_the_postman_file_has_every_example_and_what_it_needs() -> None:
    collection = json.loads((FOLDER / "ordertape.postman_collection.json").read_text(encoding="utf-8"))
    assert collection["info"]["schema"] == "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
    assert [one["key"] for one in collection["variable"]] == ["baseUrl"]
    items = [(folder["name"], item) for folder in collection["item"] for item in folder["item"]]
    assert [(folder, item["name"]) for folder, item in items] == [(folder, one.name) for folder, one in EXAMPLES]
    for (_, item), (_, example) in zip(items, EXAMPLES, strict=True):
        request = item["request"]
        assert (request["method"], request["url"]) == (example.method, "{{baseUrl}}" + example.path)
        assert (json.loads(request["body"]["raw"]) if "body" in request else None) == example.body
        scripts = {event["listen"]: "\n".join(event["script"]["exec"]) for event in item["event"]}
        assert f"have.status({example.status})" in scripts["test"]
        assert scripts["test"].count("pm.test(") == 1 + len(example.members) + 3 * example.proves_routing
        assert ("prerequest" in scripts) == example.draws_key


@pytest.mark.parametrize(("folder", "example"), EXAMPLES, ids=lambda one: getattr(one, "name", one))
def test_each_bruno_request_is_its_example(folder: str, example: Example) -> None:
    text = (FOLDER / "bruno" / folder / f"{example.name}.bru").read_text(encoding="utf-8")
    parts = dict(blocks(text))
    assert fields(parts["meta"])["type"] == "http"
    assert fields(parts[example.method.lower()])["url"] == "{{baseUrl}}" + example.path
    assert (json.loads(parts["body:json"]) if "body:json" in parts else None) == example.body
    assert fields(parts.get("headers", "")) == example.headers
    assert parts["tests"].count("test(") == 1 + len(example.members) + 3 * example.proves_routing


def test_each_bruno_conversation_has_its_messages() -> None:
    for conversation in CONVERSATIONS:
        text = (FOLDER / "bruno" / "WebSocket" / f"{conversation.name}.bru").read_text(encoding="utf-8")
        found = list(blocks(text))
        assert fields(dict(found)["meta"])["type"] == "ws"
        assert fields(dict(found)["ws"])["url"] == "{{wsUrl}}" + conversation.path
        messages = [inside for name, inside in found if name == "body:ws"]
        told: list[tuple[str, Any]] = [
            (fields(inside)["name"], json.loads(inside.split("'''")[1])) for inside in messages
        ]
        assert told == [(name, dict(members)) for name, members in conversation.messages]


def test_variables_are_saved_before_they_are_used() -> None:
    known = {"baseUrl"}
    for _, example in EXAMPLES:
        known |= {"idempotencyKey"} if example.draws_key else set()
        used = set(re.findall(r"\{\{(\w+)\}\}", json.dumps([example.path, example.body, dict(example.headers)])))
        used |= {value[2:-2] for value in example.members.values() if isinstance(value, str) and value[:2] == "{{"}
        assert used <= known, example.name
        known |= example.saves.keys()
