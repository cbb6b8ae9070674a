"""What the description says, as a strict judge of what a server sends: no member, code or message may be missing."""

import json
from collections.abc import Iterable
from typing import Any

import jsonschema_rs

from app.api.description.documents.asyncapi import asyncapi_document
from app.api.description.documents.openapi import openapi_document

OPENAPI = json.loads(json.dumps(openapi_document("0.0.test")))
ASYNCAPI = json.loads(json.dumps(asyncapi_document("0.0.test")))


def closed(document: dict[str, Any]) -> dict[str, Any]:
    """A document whose schemas have no room for members that they do not name."""
    components = document["components"]
    schemas = {
        name: {**schema, "additionalProperties": False} if "properties" in schema else schema
        for name, schema in components["schemas"].items()
    }
    return {**document, "components": {**components, "schemas": schemas}}


CLOSED_OPENAPI = closed(OPENAPI)
_CLOSED_ASYNCAPI = closed(ASYNCAPI)


def judge_of(component: str) -> jsonschema_rs.Draft7Validator:
    """A validator of one component of the AsyncAPI document."""
    schema = {"$ref": f"#/components/schemas/{component}", "components": _CLOSED_ASYNCAPI["components"]}
    return jsonschema_rs.Draft7Validator(schema, validate_formats=True)


_JUDGES = {
    name: judge_of(message["payload"]["$ref"].rsplit("/", 1)[1])
    for name, message in _CLOSED_ASYNCAPI["components"]["messages"].items()
}


def name_of(frame: dict[str, Any]) -> str:
    """The message that a frame of the server is."""
    return str(frame.get("type", "event"))


def faults(name: str, message: dict[str, Any]) -> list[str]:
    """What is wrong with a message, as the description has it."""
    return [f"{name}: {error.message} at {list(error.instance_path)}" for error in _JUDGES[name].iter_errors(message)]


def faults_of_all(frames: Iterable[dict[str, Any]]) -> list[str]:
    """What is wrong with what a server has sent, events in batches included."""
    found: list[str] = []
    for frame in frames:
        found += faults(name_of(frame), frame)
        found += faults_of_all(frame.get("items", ()))
    return found
