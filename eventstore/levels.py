"""Acknowledgement levels: what an answer is worth, from the weakest to the strongest."""

import re
from typing import Final, Self

from msgspec import Struct

from eventstore.errors import BadLevelError

_MEMORY, _FSYNC, _REPLICATED, _WITNESSED = range(4)
_NAMES: Final = ("memory", "fsync", "replicated", "witnessed")
_TEXT: Final = re.compile(r"(memory|fsync|witnessed)|replicated:([1-9])", re.ASCII)


class Level(Struct, frozen=True, order=True):
    """What an acknowledged append survives; a greater level survives all that a lesser one does, and more.

    ``memory``: nothing but the death of the writer. ``fsync``: a crash of the server or its machine; the append-only
    file was flushed. ``replicated:k``: the loss of the server for good, if one of the ``k`` replicas that had
    received the append is promoted. ``witnessed``: the loss of every Redis server; PostgreSQL had committed it.
    """

    rank: int
    replicas: int = 0
    """1 to 9 for ``replicated``, else 0."""

    def __str__(self) -> str:
        name = _NAMES[self.rank]
        return f"{name}:{self.replicas}" if self.replicas else name

    @property
    def is_flushed(self) -> bool:
        """Whether the server that took the append must have flushed it to its disk."""
        return self.rank in (_FSYNC, _REPLICATED)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the level that ``text`` names.

        Raises:
            BadLevelError: not ``memory``, ``fsync``, ``replicated:1`` to ``replicated:9`` or ``witnessed``.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise BadLevelError(f"must be memory, fsync, replicated:1 to replicated:9 or witnessed, not {text[:64]!r}")
        return cls(_NAMES.index(match[1])) if match[1] else cls(_REPLICATED, int(match[2]))


MEMORY: Final = Level(_MEMORY)
FSYNC: Final = Level(_FSYNC)
WITNESSED: Final = Level(_WITNESSED)


def replicated(replicas: int) -> Level:
    """Return the level at which ``replicas`` replicas, 1 to 9, have received an append."""
    return Level(_REPLICATED, replicas)
