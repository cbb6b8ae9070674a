"""The description over HTTP: both documents, and the page."""

import asyncio
import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.api.description.documents.asyncapi import asyncapi_document
from app.api.description.documents.openapi import openapi_document
from app.api.description.operations import JSON
from app.api.description.page.document import page_of, policy
from app.api.description.table import ASYNCAPI_PATH, DOCS_PATH, OPENAPI_PATH
from app.api.requests import is_known

HTML: Final = "text/html; charset=utf-8"
_DIGITS: Final = 16


class Document(Struct, frozen=True):
    """An answer that is the same as long as the process lives."""

    body: bytes
    headers: dict[str, str]


class DescriptionRoutes:
    """``/api/openapi.json``, ``/api/asyncapi.json`` and ``/docs``; each is made when it is asked for first."""

    def __init__(self, version: str) -> None:
        self._version = version

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route(OPENAPI_PATH, self.openapi, methods=["GET"]),
            Route(ASYNCAPI_PATH, self.asyncapi, methods=["GET"]),
            Route(DOCS_PATH, self.page, methods=["GET"]),
        ]

    async def openapi(self, request: Request) -> Response:
        """Answer with the OpenAPI document."""
        return await self._answer(request, _openapi)

    async def asyncapi(self, request: Request) -> Response:
        """Answer with the AsyncAPI document."""
        return await self._answer(request, _asyncapi)

    async def page(self, request: Request) -> Response:
        """Answer with both as a page."""
        return await self._answer(request, _page)

    async def _answer(self, request: Request, make: Callable[[str], Document]) -> Response:
        # Made in a thread the first time: that takes longer than an event loop should be held up.
        found = await asyncio.to_thread(make, self._version)
        if is_known(request, found.headers["ETag"]):
            return Response(status_code=304, headers=found.headers)
        return Response(found.body, headers=found.headers)


@lru_cache(maxsize=1)
def _openapi(version: str) -> Document:
    return _document(msgspec.json.encode(openapi_document(version)), JSON)


@lru_cache(maxsize=1)
def _asyncapi(version: str) -> Document:
    return _document(msgspec.json.encode(asyncapi_document(version)), JSON)


@lru_cache(maxsize=1)
def _page(version: str) -> Document:
    text = page_of(openapi_document(version), asyncapi_document(version))
    return _document(text.encode(), HTML, {"Content-Security-Policy": policy()})


def _document(body: bytes, media_type: str, more: dict[str, str] | None = None) -> Document:
    tag = f'"{hashlib.sha256(body).hexdigest()[:_DIGITS]}"'
    return Document(body, {"Content-Type": media_type, "ETag": tag, "Cache-Control": "no-cache", **(more or {})})
