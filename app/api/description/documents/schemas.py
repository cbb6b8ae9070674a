"""JSON Schemas of Structs: what msgspec says of them, with their docstrings, and what a member's name means."""

import ast
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import Struct

from app.api.description.documents.members import MEMBERS

Schema = dict[str, Any]

REF: Final = "#/components/schemas/{name}"

_ROLE: Final = re.compile(r":\w+:`(?:[\w.]*\.)?(\w+)`")
_SNAKE: Final = re.compile(r"`[a-z]+(?:_[a-z]+)+`")
_TEXT: Final[Schema] = {"type": "string"}


def ref(name: str) -> Schema:
    """Return a reference to a component."""
    return {"$ref": REF.format(name=name)}


def components_of(kinds: Iterable[type[Struct]]) -> dict[str, Schema]:
    """Return the schemas of ``kinds`` and of every Struct in them, by name.

    A member that is left out where it has no value is described as absent, never as null.
    """
    wanted = list(dict.fromkeys(kinds))
    _, made = msgspec.json.schema_components(wanted, ref_template=REF)
    # Defaults may be tuples, which only JSON makes lists of.
    found = msgspec.json.decode(msgspec.json.encode(made), type=dict[str, Schema])
    structs = {kind.__name__: kind for kind in _structs_in(wanted)}
    assert structs.keys() == found.keys(), f"two Structs share a name, or are hidden: {structs.keys() ^ found.keys()}"
    return {name: _polished(structs[name], schema) for name, schema in found.items()}


def plain(docstring: str) -> str:
    """Return a docstring as one line, with code marked as Markdown does it."""
    text = " ".join(docstring.split())
    return _ROLE.sub(r"`\1`", text).replace("``", "`")


def member(name: str, schema: Schema) -> Schema:
    """Return a member's schema with what its name means, unless the schema says more than that it is text."""
    meaning = MEMBERS.get(name, {})
    if schema == _TEXT:
        return {**schema, **meaning}
    if "anyOf" in schema and _TEXT in schema["anyOf"]:
        others = [one for one in schema["anyOf"] if one != _TEXT]
        return {**schema, "anyOf": [{**_TEXT, **meaning}, *others]}
    return schema


def _polished(kind: type[Struct], schema: Schema) -> Schema:
    said = _comments(kind)
    spelled = {f"`{field.name}`": f"`{field.encode_name}`" for field in msgspec.structs.fields(kind)}
    properties = {}
    for name, given in schema["properties"].items():
        shown = _without_null(given) if kind.__struct_config__.omit_defaults else given
        shown = member(name, shown)
        properties[name] = {**shown, **({"description": said[name]} if name in said else {})}
    polished = {"type": "object", "properties": properties, "required": schema.get("required", [])}
    if kind.__struct_config__.tag is not None:
        polished["title"] = str(kind.__struct_config__.tag)
    if "description" in schema:
        polished["description"] = _SNAKE.sub(
            lambda found: spelled.get(found[0], found[0]), plain(schema["description"])
        )
    return polished


def _without_null(schema: Schema) -> Schema:
    if schema.get("default", ...) is not None:
        return schema
    [*kept] = [one for one in schema["anyOf"] if one != {"type": "null"}]
    return kept[0] if len(kept) == 1 else {"anyOf": kept}


def _comments(kind: type[Struct]) -> dict[str, str]:
    """Return the docstrings that stand below a Struct's fields, by the fields' JSON names."""
    names = {field.name: field.encode_name for field in msgspec.structs.fields(kind)}
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, Struct) and base is not Struct:
            found |= {names[name]: plain(text) for name, text in _field_docstrings(base)}
    return found


def _field_docstrings(kind: type[Struct]) -> Iterator[tuple[str, str]]:
    definition = _classes(kind.__module__)[kind.__name__]
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, text


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    body = ast.parse(inspect.getsource(sys.modules[module])).body
    return {statement.name: statement for statement in body if isinstance(statement, ast.ClassDef)}


def _structs_in(kinds: Iterable[type[Struct]]) -> list[type[Struct]]:
    found: dict[type[Struct], None] = {}
    waiting: list[Any] = [msgspec.inspect.type_info(kind) for kind in kinds]
    while waiting:
        info = waiting.pop()
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls in found:
                continue
            found[info.cls] = None
            waiting += [field.type for field in info.fields]
        elif isinstance(info, msgspec.inspect.Type):
            waiting += [part for value in _parts(info) for part in value]
    return list(found)


def _parts(info: Any) -> Iterator[tuple[Any, ...]]:
    for name in info.__struct_fields__:
        value = getattr(info, name)
        yield value if isinstance(value, tuple) else (value,)


def closed(schema: Mapping[str, Any]) -> Schema:
    """Return ``schema`` without room for members that it does not name."""
    return {**schema, "additionalProperties": False}
