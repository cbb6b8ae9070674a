"""The HTTP operations of the page: parameters, bodies, answers, and a command that tries each."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec

from app.api.description.operations import JSON
from app.api.description.page.markup import (
    Html,
    code_block,
    element,
    joined,
    json_block,
    limits_of,
    link,
    prose,
    table,
    type_of,
)
from app.api.problems.answers import PROBLEM_JSON

SERVER: Final = "http://127.0.0.1:3000"

Found = tuple[str, str, Mapping[str, Any]]
"""Method, path and description of an operation."""


def operations_of(openapi: Mapping[str, Any]) -> Iterator[Found]:
    """Yield the operations of a document."""
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def operation_article(found: Found) -> Html:
    """Return one operation, under the anchor of its id."""
    method, path, operation = found
    name = operation["operationId"]
    described = operation.get("description")
    parts = [
        element("h3", badge(method), " ", element("code", path), " ", _permalink(f"operation-{name}")),
        element("p", operation["summary"] + ".", class_="summary"),
        None if described is None else element("p", prose(described)),
        _parameters(operation),
        _body(operation),
        element("h4", "Answers"),
        _answers(operation),
        element("h4", "Try it"),
        code_block(curl_of(found)),
    ]
    return element("article", *parts, id=f"operation-{name}")


def badge(method: str) -> Html:
    """Return a method as a label."""
    return element("span", method, class_=f"method {method.lower()}")


def curl_of(found: Found) -> str:
    """Return a command that asks a server on this machine."""
    method, path, operation = found
    query: dict[str, str] = {}
    headers: list[str] = []
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", quote(str(parameter["example"]), safe=""))
    if "text/event-stream" in operation["responses"].get("200", {}).get("content", {}):
        query = {"from": "start"}
    words = ["curl", "-N"] if query else ["curl"]
    if method not in ("GET", "POST"):
        words += ["-X", method]
    target = shlex.quote(f"{SERVER}{path}" + (f"?{urlencode(query)}" if query else ""))
    lines = [" ".join([*words, target])]
    examples = operation.get("requestBody", {}).get("content", {}).get(JSON, {}).get("examples", {})
    if examples:
        headers.append("Content-Type: application/json")
        if any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", ())):
            headers.append("Idempotency-Key: bot7-000123")
    elif method == "POST":
        lines[0] = " ".join([*words, "-X", "POST", target])
    lines += [f"-H {shlex.quote(header)}" for header in headers]
    lines += [f"-d {shlex.quote(_compact(example['value']))}" for example in [*examples.values()][:1]]
    return " \\\n  ".join(lines)


def _compact(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _permalink(anchor: str) -> Html:
    return element("a", "#", href=f"#{anchor}", class_="permalink", aria_label="Link to this")


def _parameters(operation: Mapping[str, Any]) -> Html | None:
    rows = [
        (
            element("code", one["name"]),
            one["in"],
            joined([type_of(one["schema"]), " ", limits_of(one["schema"]) or ""]),
            prose(one["description"]),
        )
        for one in operation.get("parameters", ())
    ]
    if not rows:
        return None
    return joined([element("h4", "Parameters"), table(("name", "in", "type", "meaning"), rows)])


def _body(operation: Mapping[str, Any]) -> Html | None:
    if "requestBody" not in operation:
        return None
    content = operation["requestBody"]["content"][JSON]
    needed = "" if operation["requestBody"]["required"] else ", if any"
    shown = [
        element("details", element("summary", f"Example: {name}"), json_block(example["value"]))
        for name, example in content.get("examples", {}).items()
    ]
    return joined([element("h4", "Body"), element("p", type_of(content["schema"]), f", as JSON{needed}."), *shown])


def _answers(operation: Mapping[str, Any]) -> Html:
    rows = []
    for status, answer in operation["responses"].items():
        headers = [element("code", name) for name in answer.get("headers", {})]
        kinds = [_content(media, given["schema"]) for media, given in answer.get("content", {}).items()]
        rows.append(
            (
                element("code", status, class_=f"status s{status[0]}"),
                joined(kinds, ", "),
                _meaning(answer),
                joined(headers, ", "),
            )
        )
    return table(("status", "content", "meaning", "headers"), rows)


def _content(media: str, schema: Mapping[str, Any]) -> Html:
    if media in (JSON, PROBLEM_JSON) and ("$ref" in schema or "allOf" in schema):
        return type_of(schema)
    return element("code", media)


def _meaning(answer: Mapping[str, Any]) -> Html:
    problem = answer.get("content", {}).get(PROBLEM_JSON)
    if problem is None:
        return prose(answer["description"])
    codes = problem["schema"]["allOf"][1]["properties"]["code"]["enum"]
    return joined([link(f"problem-{code}", element("code", code)) for code in codes], " ")
