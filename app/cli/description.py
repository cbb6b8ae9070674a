"""`openapi`, `asyncapi`: the API as documents, for code generators, gateways and whoever compares two versions."""

import json
import sys
from importlib.metadata import version
from typing import Any

import typer

from app.api.description.documents.asyncapi import asyncapi_document
from app.api.description.documents.openapi import openapi_document


def openapi() -> None:
    """Print the OpenAPI 3.1 document of the REST API; a server has it at /api/openapi.json."""
    _print(openapi_document(version("ordertape")))


def asyncapi() -> None:
    """Print the AsyncAPI 3.0 document of WebSocket and event streams; a server has it at /api/asyncapi.json."""
    _print(asyncapi_document(version("ordertape")))


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (openapi, asyncapi):
        app.command()(command)


def _print(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
