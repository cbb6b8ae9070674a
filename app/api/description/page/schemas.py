"""The schemas of the page: a table of members for each, linked to those that they contain."""

from collections.abc import Mapping
from typing import Any

from app.api.description.page.markup import Html, element, joined, limits_of, prose, table, type_of


def schema_article(name: str, schema: Mapping[str, Any]) -> Html:
    """Return one schema, under the anchor of its name."""
    described = schema.get("description")
    parts = [element("h3", element("code", name))]
    if described is not None:
        parts.append(element("p", prose(described)))
    if schema.get("properties"):
        parts.append(property_table(schema))
    elif "oneOf" in schema:
        parts.append(element("p", "One of ", type_of(schema), "."))
    return element("article", *parts, id=f"schema-{name}")


def property_table(schema: Mapping[str, Any]) -> Html:
    """Return the members of an object."""
    needed = schema.get("required", ())
    rows = [
        (
            element("code", name),
            joined([type_of(one), " ", limits_of(one) or ""]),
            "yes" if name in needed else "",
            prose(one.get("description", "")),
        )
        for name, one in schema["properties"].items()
    ]
    return table(("member", "type", "always", "meaning"), rows)
