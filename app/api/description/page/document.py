"""The page: navigation and sections, with its style inside, so that one answer is all that it needs. No script."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

from app.api.description.examples import ORDERS
from app.api.description.page.markup import Html, element, joined, link, prose, table
from app.api.description.page.messages import close_codes, message_article, messages_by_side, socket_sections
from app.api.description.page.operations import Found, badge, operation_article, operations_of
from app.api.description.page.schemas import schema_article
from app.api.problems import PROBLEMS

_STYLE: Final = "style.css"


@cache
def style() -> str:
    """Return the style sheet."""
    return files(__package__).joinpath(_STYLE).read_text(encoding="utf-8")


def policy() -> str:
    """Return the page's Content-Security-Policy: nothing is loaded, and nothing runs, but its own style."""
    digest = base64.b64encode(hashlib.sha256(style().encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def page_of(openapi: Mapping[str, Any], asyncapi: Mapping[str, Any]) -> str:
    """Return the page of the two documents."""
    operations = [*operations_of(openapi)]
    asked, said = messages_by_side(asyncapi)
    schemas = {**asyncapi["components"]["schemas"], **openapi["components"]["schemas"]}
    about = openapi["info"]
    head = element(
        "head",
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        element("title", f"{about['title']} API"),
        element("style", Html(style())),
    )
    main = element(
        "main",
        element(
            "header",
            element("h1", about["title"], " API ", element("small", about["version"])),
            element("p", prose(about["description"])),
            element("p", _documents()),
            id="top",
        ),
        *(_tag_section(tag, operations) for tag in openapi["tags"]),
        _section("socket", "WebSocket", socket_sections(asyncapi, ORDERS["market"])),
        _section("asked", "Messages of a client", (message_article(asyncapi, name) for name in asked)),
        _section("said", "Messages of the server", (message_article(asyncapi, name) for name in said)),
        _section("closing", "Close codes", [close_codes(asyncapi)]),
        _section("problems", "Problems", [_problems()]),
        _section("schemas", "Schemas", (schema_article(name, schemas[name]) for name in sorted(schemas))),
    )
    body = element("body", _navigation(openapi["tags"], operations, asked, said), main)
    return f'<!doctype html>\n<html lang="en">{head}{body}</html>\n'


def _documents() -> Html:
    documents = (element("a", path, href=path) for path in ("/api/openapi.json", "/api/asyncapi.json"))
    return joined(["For programs: ", joined(documents, ", "), "."])


def _section(anchor: str, title: str, parts: Iterable[str]) -> Html:
    return element("section", element("h2", title), *parts, id=anchor)


def _tag_section(tag: Mapping[str, str], operations: Iterable[Found]) -> Html:
    articles = (operation_article(found) for found in operations if tag["name"] in found[2]["tags"])
    return _section(f"tag-{tag['name']}", tag["name"], [element("p", prose(tag["description"])), *articles])


def _problems() -> Html:
    rows = [
        (
            element("code", code, id=f"problem-{code}"),
            str(known.status.value),
            prose(known.meaning),
            prose(known.remedy),
        )
        for code, known in sorted(PROBLEMS.items())
    ]
    return table(("code", "status", "meaning", "what to do"), rows)


def _navigation(
    tags: Iterable[Mapping[str, str]], operations: Iterable[Found], asked: Iterable[str], said: Iterable[str]
) -> Html:
    groups = [
        _group(f"tag-{tag['name']}", tag["name"], [_entry(found) for found in operations if _is_main(found, tag)])
        for tag in tags
    ]
    groups.append(_group("socket", "WebSocket", []))
    groups.append(_group("asked", "Messages of a client", [link(f"message-{name}", name) for name in asked]))
    groups.append(_group("said", "Messages of the server", [link(f"message-{name}", name) for name in said]))
    groups += [_group(anchor, title, []) for anchor, title in _REST]
    return element("nav", element("p", link("top", "OrderTape API"), class_="brand"), *groups, aria_label="Contents")


_REST: Final = (("closing", "Close codes"), ("problems", "Problems"), ("schemas", "Schemas"))


def _is_main(found: Found, tag: Mapping[str, str]) -> bool:
    return tag["name"] in found[2]["tags"] and not found[2].get("deprecated", False)


def _entry(found: Found) -> Html:
    method, _, operation = found
    return link(f"operation-{operation['operationId']}", badge(method), " ", operation["summary"])


def _group(anchor: str, title: str, entries: Iterable[Html]) -> Html:
    items = [element("li", entry) for entry in entries]
    return joined([element("h2", link(anchor, title)), element("ul", *items) if items else Html("")])
