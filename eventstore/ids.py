"""Ids: stream ids that carry their partition, event ids, positions in a log, and the cursors that clients keep."""

import hashlib
import re
from typing import Final, Self

from msgspec import Struct

from eventstore.errors import BadIdError

MAX_PARTITIONS: Final = 100
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_STREAM_ID: Final = re.compile(r"([0-7][0-9A-HJKMNP-TV-Z]{25})-([0-9]{2})", re.ASCII)
_CURSOR: Final = re.compile(r"([1-9][0-9]{0,15})-([1-9][0-9]{0,15})-([0-9a-f]{8})", re.ASCII)
ENTROPY_BYTES: Final = 10


def partition_of(owner: str, partitions: int) -> int:
    """Return the partition of everything that ``owner`` owns: 0 to ``partitions`` − 1, the same in every process."""
    digest = hashlib.blake2b(owner.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % partitions


def new_ulid(now_ms: int, entropy: bytes) -> str:
    """Return a ULID: 26 characters that sort by ``now_ms``, then by the 10 bytes of ``entropy``."""
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"entropy must have {ENTROPY_BYTES} bytes")
    number = (now_ms << 80) | int.from_bytes(entropy, "big")
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def new_stream_id(ulid: str, owner: str | None, partitions: int) -> str:
    """Return ``<ULID>-<pp>``; without an owner the stream owns itself, through its ULID."""
    return f"{ulid}-{partition_of(owner or ulid, partitions):02d}"


def partition_in(stream: str) -> int:
    """Return the partition that a stream id carries.

    Raises:
        BadIdError: not a stream id. It is 26 characters, a hyphen and two digits.
    """
    match = _STREAM_ID.fullmatch(stream)
    if match is None:
        raise BadIdError(f"{stream[:64]!r} is not an order id: expected 26 characters, a hyphen and two digits")
    return int(match[2])


def created_ms(stream: str) -> int:
    """Return when a stream id was made, in milliseconds since 1970, by the clock of whoever made it.

    Raises:
        BadIdError: not a stream id.
    """
    partition_in(stream)
    number = 0
    for character in stream[:10]:
        number = number << 5 | _CROCKFORD.index(character)
    return number


def event_id(stream: str, version: int) -> str:
    """Return ``<stream>/<version>``, the id of one event."""
    return f"{stream}/{version}"


def split_event_id(text: str) -> tuple[str, int]:
    """Return the stream and version of an event id.

    Raises:
        BadIdError: not ``<order id>/<version>``.
    """
    stream, slash, version = text.partition("/")
    if not slash or not re.fullmatch(r"[1-9][0-9]{0,15}", version, re.ASCII):
        raise BadIdError(f"{text[:80]!r} is not an event id: expected <order id>/<version>")
    partition_in(stream)
    return stream, int(version)


class Cursor(Struct, frozen=True, order=True):
    """A reader's place in a partition's log, and the resume token that clients keep: the event it has read last.

    Positions are dense, 1, 2, 3…; position 0 is before the first.
    """

    epoch: int
    position: int
    anchor: str = ""
    """First 8 hex digits of that event's hash; "" leaves out the check that the log still holds it."""

    def __str__(self) -> str:
        return f"{self.epoch}-{self.position}-{self.anchor}"

    @property
    def entry_id(self) -> str:
        """The Redis Stream entry id of the commit that ends at this position."""
        return f"{self.epoch}-{self.position}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the cursor that ``text`` spells.

        Raises:
            BadIdError: not a cursor.
        """
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise BadIdError(f"{text[:64]!r} is not a cursor: take it from the `cursor` of an event")
        return cls(int(match[1]), int(match[2]), match[3])


LOG_START: Final = Cursor(0, 0)


def numbers_of(entry_id: bytes) -> tuple[int, int]:
    """Return the two numbers of a Redis Stream entry id: the epoch, and the version or position."""
    epoch, _, number = entry_id.partition(b"-")
    return int(epoch), int(number)
