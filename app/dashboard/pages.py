"""The dashboard's routes: one page, and what it loads; nothing comes from elsewhere, and nothing inline runs."""

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC: Final = Path(__file__).parent / "static"
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def pages() -> list[BaseRoute]:
    """Return the routes; they read nothing but files."""
    return [
        Route("/", _page),
        Route("/dashboard", _page),
        Mount("/dashboard", _Files(directory=STATIC)),
    ]


async def _page(_: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers=HEADERS)
