"""A page for every type of problem, at the address that its ``type`` names: HTML for browsers, JSON for programs."""

from html import escape
from typing import Final, cast

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.api.problems.catalogue import PROBLEMS, type_of
from app.api.problems.errors import ProblemError
from app.api.problems.kinds import Code, ProblemType, Repeat

HEADERS: Final = {"Cache-Control": "public, max-age=3600", "Vary": "Accept"}
REPEATS: Final[dict[Repeat, str]] = {
    "unchanged": "yes, unchanged",
    "corrected": "once it is corrected",
    "no": "no: the answer stays the same",
}
_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


class ProblemPage(Struct, frozen=True, kw_only=True):
    """What is known of a type of problem."""

    type: str
    code: str
    title: str
    status: int
    repeat: Repeat
    meaning: str
    cause: str
    remedy: str


class ProblemPages(Struct, frozen=True):
    """Every type of problem, by code."""

    problems: list[ProblemPage]


def page_of(code: Code) -> ProblemPage:
    """Return the page of a type of problem."""
    known = PROBLEMS[code]
    return ProblemPage(
        type=type_of(code),
        code=code,
        title=known.title,
        status=known.status.value,
        repeat=known.repeat,
        meaning=known.meaning,
        cause=known.cause,
        remedy=known.remedy,
    )


def routes() -> list[BaseRoute]:
    """Return the routes of the pages."""
    return [Route("/problems", show_all, methods=["GET"]), Route("/problems/{code}", show, methods=["GET"])]


async def show_all(request: Request) -> Response:
    """List every type of problem."""
    if _wants_html(request):
        return _html("Problems", _list())
    return _json(ProblemPages([page_of(code) for code in PROBLEMS]))


async def show(request: Request) -> Response:
    """Show one type of problem."""
    code = cast(Code, request.path_params["code"])
    if code not in PROBLEMS:
        raise ProblemError("route_not_found", "there is no such type of problem: /problems lists all of them")
    if _wants_html(request):
        return _html(PROBLEMS[code].title, _article(code, PROBLEMS[code]))
    return _json(page_of(code))


def _wants_html(request: Request) -> bool:
    ranges = request.headers.get("accept", "").lower().split(",")
    return any(one.partition(";")[0].strip() in ("text/html", "application/xhtml+xml") for one in ranges)


def _list() -> str:
    rows = "\n".join(
        f'<tr><td><a href="{type_of(code)}"><code>{code}</code></a></td><td>{known.status.value}</td>'
        f"<td>{escape(known.title)}</td><td>{escape(REPEATS[known.repeat])}</td></tr>"
        for code, known in PROBLEMS.items()
    )
    head = "<tr><th>code</th><th>status</th><th>title</th><th>send it again?</th></tr>"
    return f"<h1>Problems</h1>\n<table>\n{head}\n{rows}\n</table>"


def _article(code: Code, known: ProblemType) -> str:
    terms = {
        "Code": f"<code>{code}</code>",
        "HTTP status": f"{known.status.value} {escape(known.status.phrase)}",
        "Meaning": escape(known.meaning),
        "Likely cause": escape(known.cause),
        "What to do": escape(known.remedy),
        "May the request be sent again?": escape(REPEATS[known.repeat]),
    }
    listed = "\n".join(f"<dt>{term}</dt>\n<dd>{text}</dd>" for term, text in terms.items())
    return f'<h1>{escape(known.title)}</h1>\n<dl>\n{listed}\n</dl>\n<p><a href="/problems">All problems</a></p>'


def _html(title: str, body: str) -> Response:
    page = _PAGE.format(title=f"{escape(title)} · OrderTape", body=body)
    return Response(page, headers=HEADERS, media_type="text/html")


def _json(page: ProblemPage | ProblemPages) -> Response:
    return Response(msgspec.json.encode(page), headers=HEADERS, media_type="application/json")
