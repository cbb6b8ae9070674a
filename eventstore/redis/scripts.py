"""Lua scripts, with the digests by which the server knows them."""

import hashlib
from importlib import resources
from typing import Final

from msgspec import Struct


class Script(Struct, frozen=True):
    """A script's text and its SHA-1, as EVALSHA takes it."""

    text: str
    sha: str


def script_of(text: str) -> Script:
    """Return ``text`` as a script."""
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _load(name: str) -> Script:
    return script_of(resources.files("eventstore.redis").joinpath("lua", name).read_text(encoding="utf-8"))


APPEND: Final = _load("append.lua")
FIRE: Final = _load("fire.lua")
OPEN: Final = _load("open.lua")
