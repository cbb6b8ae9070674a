"""The OpenAPI 3.1 document: the table of operations, with the schemas of the Structs that it names."""

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any, Final

from msgspec.structs import replace

from app.api.description.answers import Facts
from app.api.description.documents.events import FRAME, frame_schemas
from app.api.description.documents.schemas import Schema, components_of, ref
from app.api.description.examples import ORDERS, PLACED
from app.api.description.operations import EVENT_STREAM, GATE, JSON, KEY_GATE, TAGS, Answer, Operation
from app.api.description.order import ORDER, order_schemas
from app.api.description.parameters import PATH, Parameter
from app.api.description.table import OPERATIONS
from app.api.orders.answers import Accepted, OrderEvents
from app.api.problems import PROBLEMS, Code
from app.api.problems.answers import PROBLEM_JSON, Problem

_ABOUT: Final = (
    "Orders over REST, and their events over plain HTTP. Amounts are decimal text; times are UTC. Every error is a "
    "problem (RFC 9457) whose `code` and `detail` say what to do. An unforeseen error of the server is 500 `internal`. "
    "What is said on the WebSocket is in `/api/asyncapi.json`."
)
_HEADERS: Final[dict[str, Schema]] = {
    "Location": {"description": "Where the order is.", "schema": {"type": "string"}},
    "OrderTape-Position": {
        "description": "What the answer contains of each partition's log; good as `minPosition` of a later read.",
        "schema": {"type": "string", "pattern": "^([0-9]{2}:[0-9]+(,[0-9]{2}:[0-9]+)*)?$"},
        "example": "03:812",
    },
    "OrderTape-Lag-Ms": {
        "description": "Everything older than that is in the answer; absent where it is not known.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "Idempotent-Replayed": {"description": "The order was there before.", "schema": {"enum": ["true"]}},
    "Last-Event-ID": {"description": "The place that the answer begins at.", "schema": {"type": "string"}},
    "ETag": {"description": "Changes with the answer; of an order, its version.", "schema": {"type": "string"}},
    "Link": {"description": "Leads on, or to a page about the problem.", "schema": {"type": "string"}},
    "RateLimit": {"description": "What is left of each rate, where there are any.", "schema": {"type": "string"}},
    "RateLimit-Policy": {"description": "The rates, where there are any.", "schema": {"type": "string"}},
    "Retry-After": {
        "description": "Seconds until it is worth asking again.",
        "schema": {"type": "integer", "minimum": 1},
    },
}
_KEYS: Final[dict[str, Schema]] = {
    "key": {"type": "http", "scheme": "bearer", "description": "Where keys are asked for: `ordertape keys create`."},
    "ticket": {"type": "apiKey", "in": "query", "name": "ticket", "description": "Of `POST /api/tickets`, used once."},
}
_WITH_RETRY: Final = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS)
_NOTHING: Final[Schema] = {"description": "No body, or an empty object.", "type": "object", "maxProperties": 0}


def openapi_document(version: str) -> dict[str, Any]:
    """Return the document; ``version`` is the server's."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        for number, path in enumerate((operation.path, *operation.also)):
            paths.setdefault(shown_path(path), {})[operation.method.lower()] = _operation(operation, path, number)
    return {
        "openapi": "3.1.0",
        "info": {"title": "OrderTape", "version": version, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": meaning} for name, meaning in TAGS.items()],
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": _KEYS},
        "security": [{}, {"key": []}],
    }


def shown_path(path: str) -> str:
    """Return a route's path as the document has it."""
    for name, parameter in PATH.items():
        path = path.replace(f"{{{name}}}", f"{{{parameter.name}}}").replace(f"{{{name}:path}}", f"{{{parameter.name}}}")
    return path


def _schemas() -> dict[str, Schema]:
    kinds = {answer.kind for operation in OPERATIONS for answer in operation.answers if answer.kind is not None}
    kinds |= {operation.also_kind for operation in OPERATIONS if operation.also_kind is not None}
    found = components_of([Problem, Facts, *sorted(kinds, key=lambda kind: kind.__name__)])
    found[Problem.__name__]["properties"] |= found.pop(Facts.__name__)["properties"]
    found[OrderEvents.__name__]["properties"]["events"]["items"] = ref(FRAME)
    return {**order_schemas(), "Nothing": _NOTHING, **found, **frame_schemas(marked=False)}


def _operation(operation: Operation, path: str, number: int) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.id if number == 0 else f"{operation.id}{number + 1}",
        "tags": [operation.tag],
        "summary": operation.summary,
    }
    notes = [operation.notes] if operation.notes else []
    if number:
        notes.append(f"The same as `{operation.method} {operation.path}`.")
        described["deprecated"] = True
    if notes:
        described["description"] = " ".join(notes)
    parameters = [PATH[name] for name in PATH if f"{{{name}" in path] + operation.parameters()
    if parameters:
        described["parameters"] = [_parameter(one) for one in parameters]
    if operation.body is not None:
        described["requestBody"] = _body(operation.body, needed=operation.body_needed)
    described["responses"] = _responses(operation, alias=number > 0)
    if operation.public:
        described["security"] = []
    elif any(EVENT_STREAM in answer.media_types for answer in operation.answers):
        described["security"] = [{}, {"key": []}, {"ticket": []}]
    return described


def _parameter(one: Parameter) -> dict[str, Any]:
    described: dict[str, Any] = {"name": one.name, "in": one.place, "description": one.meaning, "schema": one.schema}
    if one.place == "path":
        described["required"] = True
    if one.schema.get("type") == "array":
        described |= {"style": "form", "explode": False}
    if one.example is not None:
        described["example"] = one.example
    return described


def _body(name: str, *, needed: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": ref(name)}
    if name == ORDER:
        content["examples"] = {title: {"value": value} for title, value in ORDERS.items()}
    return {"required": needed, "content": {JSON: content}}


def _responses(operation: Operation, *, alias: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for answer in operation.answers:
        if alias and operation.also_kind is not None and answer.kind is not None:
            answer = replace(answer, kind=operation.also_kind)
        found[str(answer.status)] = _answer(answer, operation.links)
    gate = GATE if operation.public else (*GATE, *KEY_GATE)
    for status, codes in _by_status(dict.fromkeys((*operation.problems, *gate))):
        problem = _problem(status, codes)
        given = found.get(str(status.value))
        if given is not None:
            problem["content"] |= given["content"]
        found[str(status.value)] = problem
    return dict(sorted(found.items()))


def _answer(answer: Answer, links: Iterable[str]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.meaning}
    if answer.headers:
        described["headers"] = {name: _HEADERS[name] for name in answer.headers}
    content: dict[str, Any] = {}
    if answer.kind is not None:
        content[JSON] = {"schema": ref(answer.kind.__name__)}
        if answer.kind is Accepted and answer.status == HTTPStatus.ACCEPTED:
            content[JSON]["examples"] = {"accepted": {"value": PLACED}}
    content.update({media: {"schema": _of_media(media)} for media in answer.media_types})
    if content:
        described["content"] = content
    if answer.status == HTTPStatus.ACCEPTED and links:
        described["links"] = {
            name: {"operationId": name, "parameters": {"orderId": "$response.body#/orderId"}} for name in links
        }
    return described


def _of_media(media: str) -> Schema:
    """Return the schema of a document, of one Server-Sent Event, or of a page."""
    if media == EVENT_STREAM:
        fields: dict[str, Schema] = {name: {"type": "string"} for name in ("id", "event", "data")}
        return {"type": "object", "properties": {**fields, "retry": {"type": "integer"}}}
    return {"type": "object"} if media == JSON else {"type": "string"}


def _by_status(codes: Iterable[Code]) -> Iterator[tuple[HTTPStatus, list[Code]]]:
    found: dict[HTTPStatus, list[Code]] = {}
    for code in codes:
        found.setdefault(PROBLEMS[code].status, []).append(code)
    yield from sorted(found.items())


def _problem(status: HTTPStatus, codes: list[Code]) -> dict[str, Any]:
    meanings = "; ".join(f"`{code}`: {PROBLEMS[code].title}" for code in codes)
    schema = {"allOf": [ref(Problem.__name__), {"properties": {"code": {"enum": codes}, "status": {"const": status}}}]}
    names = ("Link", "Retry-After") if status in _WITH_RETRY else ("Link",)
    headers = {name: _HEADERS[name] for name in names}
    return {"description": f"{meanings}.", "headers": headers, "content": {PROBLEM_JSON: {"schema": schema}}}
