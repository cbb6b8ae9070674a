"""Conditional requests: entity tags, and what ``If-Match`` and ``If-None-Match`` say about them (RFC 9110, 13)."""

import re
from collections.abc import Collection
from typing import Final

from starlette.requests import Request

_TAGS: Final = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_VERSION: Final = re.compile(r"[1-9][0-9]{0,14}", re.ASCII)


def tag_of(version: int) -> str:
    """Return the strong entity tag of an order's version."""
    return f'"{version}"'


def is_known(request: Request, tag: str) -> bool:
    """Return whether ``If-None-Match`` says that the client has the representation with this tag.

    The comparison is the weak one; ``*`` is any tag.
    """
    text = ",".join(request.headers.getlist("if-none-match")).strip()
    return text == "*" or tag.removeprefix("W/") in (f'"{opaque}"' for _, opaque in _TAGS.findall(text))


def read_versions(request: Request) -> Collection[int] | None:
    """Return the versions of an order that ``If-Match`` names; None where it is absent or ``*``: any.

    The comparison is the strong one, so a weak tag names none; nor does what is no tag of ours.
    """
    values = request.headers.getlist("if-match")
    text = ",".join(values).strip()
    if not values or text == "*":
        return None
    return {int(opaque) for weak, opaque in _TAGS.findall(text) if not weak and _VERSION.fullmatch(opaque)}
