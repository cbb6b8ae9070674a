"""HTML from parts: whatever is not :class:`Html` is text, and is escaped."""

import html
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

_CODE: Final = re.compile(r"`([^`]+)`")
_REF: Final = re.compile(r"#/components/(?:schemas|messages)/([\w.-]+)")
_CONSTRAINTS: Final = (
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("minLength", "maxLength", "minItems", "maxItems"),
)


class Html(str):
    """Text that is markup already."""


def element(name: str, *parts: str | None, **attributes: str) -> Html:
    """Return an element; ``None`` among its parts is nothing, and ``class_`` stands for the attribute ``class``."""
    given = "".join(f' {key.rstrip("_")}="{html.escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{given}>{''.join(_escaped(part) for part in parts if part is not None)}</{name}>")


def joined(parts: Iterable[str], between: str = "") -> Html:
    """Return parts, one after the other."""
    return Html(_escaped(between).join(_escaped(part) for part in parts))


def prose(text: str) -> Html:
    """Return a description: text with code in backticks."""
    return Html(_CODE.sub(r"<code>\1</code>", html.escape(text, quote=False)))


def link(target: str, *parts: str) -> Html:
    """Return a link to an anchor of the page."""
    return element("a", *parts, href=f"#{target}")


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Html:
    """Return a table, which may be scrolled sideways where the screen is narrow."""
    head = element("tr", *(element("th", one, scope="col") for one in heads))
    body = (element("tr", *(element("td", cell) for cell in row)) for row in rows)
    return element("div", element("table", element("thead", head), element("tbody", *body)), class_="table")


def code_block(text: str) -> Html:
    """Return a block of code, which the keyboard can scroll."""
    return element("pre", element("code", text), tabindex="0")


def json_block(value: Any) -> Html:
    """Return a value as indented JSON."""
    return code_block(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def type_of(schema: Mapping[str, Any]) -> Html:
    """Return what values a schema takes, in few words, with links to the schemas that it names."""
    if "$ref" in schema:
        name = component_in(schema)
        return link(f"schema-{name}", name)
    for word in ("oneOf", "anyOf"):
        if word in schema and "properties" not in schema:
            return joined([type_of(one) for one in schema[word]], " or ")
    if "allOf" in schema:
        return type_of(schema["allOf"][0])
    if "enum" in schema:
        values = (element("code", msgspec.json.encode(value).decode()) for value in schema["enum"])
        return joined(values, " | ")
    kind = schema.get("type", "any")
    if kind == "array":
        items = schema.get("items")
        return joined(["list of ", type_of(items)]) if isinstance(items, dict) else Html("list")
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return joined(["object of ", type_of(schema["additionalProperties"])])
    return element("span", kind + (f" ({schema['format']})" if "format" in schema else ""), class_="type")


def limits_of(schema: Mapping[str, Any]) -> Html | None:
    """Return the bounds of a schema, its pattern and its default; None where it has none."""
    found = [f"{name} {schema[name]}" for name in _CONSTRAINTS if name in schema]
    if schema.get("default") is not None:
        found.append(f"default {msgspec.json.encode(schema['default']).decode()}")
    return element("span", ", ".join(found), class_="limits") if found else None


def component_in(schema: Mapping[str, Any]) -> str:
    """Return the name of the component that a reference names."""
    match = _REF.fullmatch(schema["$ref"])
    assert match is not None, schema
    return match[1]


def _escaped(part: str) -> str:
    return part if isinstance(part, Html) else html.escape(part, quote=False)
