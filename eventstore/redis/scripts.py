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


def _load(*names: str) -> Script:
    folder = resources.files("eventstore.redis").joinpath("lua")
    return script_of("".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names))


ADMIT: Final = _load("permission.lua", "unheld.lua", "admission.lua", "admit.lua")
APPEND: Final = _load("incarnation.lua", "permission.lua", "unheld.lua", "append.lua")
COUNT: Final = _load("count.lua")
DELIVERIES: Final = _load("deliveries.lua")
DROP_CONSUMERS: Final = _load("drop_consumers.lua")
CONFIRM: Final = _load("incarnation.lua", "confirm.lua")
FINISH: Final = _load("finish.lua")
FIRE: Final = _load("permission.lua", "unheld.lua", "admission.lua", "fire.lua")
MARK: Final = _load("incarnation.lua", "mark.lua")
RATE: Final = _load("rate.lua")
RECORD: Final = _load("incarnation.lua", "record.lua")
PARK: Final = _load("park.lua")
RETRY: Final = _load("retry.lua")
SKIP: Final = _load("skip.lua")
OPEN_EPOCH: Final = _load("incarnation.lua", "open_epoch.lua")
REMOVE: Final = _load("remove.lua")
RESTORE: Final = _load("incarnation.lua", "restore.lua")
