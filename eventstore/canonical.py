"""Canonical JSON and the hash chain: the frozen byte form of events.

The form is the subset of RFC 8785 that PostgreSQL's JSONB returns unchanged in value: ASCII keys, strings without
U+0000 and unpaired surrogates, integers below 2^53 in magnitude, booleans, null, arrays, objects; never floats.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from eventstore.errors import NotCanonicalError

HASH_DOMAIN: Final = b"ordertape/event/1\n"
MAX_INTEGER: Final = 2**53 - 1

_UNREADABLE: Final = (
    msgspec.DecodeError,
    UnicodeDecodeError,
    RecursionError,
    NotCanonicalError,
    KeyError,
    TypeError,
    AttributeError,
)
"""What decoding damaged bytes raises: not JSON, not UTF-8, nested without end, not an event."""

_encode: Final = msgspec.json.Encoder(order="sorted").encode


class _Meta(msgspec.Struct):
    prev: str | None


class _Link(msgspec.Struct):
    meta: _Meta


_decode_link: Final = msgspec.json.Decoder(_Link).decode


class SealedEvent(msgspec.Struct, frozen=True):
    """An event ready to append: its canonical bytes and the lower-case hex SHA-256 that chains the next one to it."""

    data: bytes
    hash: str


def canonical(value: object) -> bytes:
    """Return the canonical bytes of ``value``.

    Raises:
        NotCanonicalError: ``value`` holds something without a canonical form; the error's ``path`` says where.
    """
    _check(value, "")
    return _encode(value)


def seal(frame: Mapping[str, Any], prev: str) -> SealedEvent:
    """Return ``frame`` chained to the event before it.

    Args:
        frame: the event with a ``meta`` object that has neither ``prev`` nor ``hash``.
        prev: hash of the stream's last event; "" for its first, whose ``meta.prev`` is null.

    Raises:
        NotCanonicalError: see :func:`canonical`.
    """
    meta = {**frame["meta"], "prev": prev or None}
    sealed = {**frame, "meta": meta}
    digest = event_hash(canonical(sealed))
    meta["hash"] = digest
    return SealedEvent(_encode(sealed), digest)


def event_hash(hashless: bytes) -> str:
    """Return the chain hash of an event's canonical bytes without ``meta.hash``."""
    return hashlib.sha256(HASH_DOMAIN + hashless).hexdigest()


def chain_fault(data: bytes, prev: str) -> str | None:
    """Return what is wrong with a stored event that should follow the one with hash ``prev``; None when it is whole.

    Checked: JSON, canonical form, ``meta.prev``, ``meta.hash``.
    """
    try:
        frame = msgspec.json.decode(data)
        if canonical(frame) != data:
            return "is not in canonical form"
        recorded = frame["meta"].pop("hash")
        chained = frame["meta"]["prev"]
    except _UNREADABLE as error:
        return f"is not an event: {error}"
    if event_hash(_encode(frame)) != recorded:
        return "does not match its hash"
    if chained != (prev or None):
        return f"follows {chained}, not {prev or None}"
    return None


def is_chained(data: bytes, digest: str, prev: str) -> bool:
    """Return whether the event with these canonical bytes has the hash ``digest`` and follows the one with ``prev``.

    For bytes that are known to be canonical, as those that were appended are: what :func:`chain_fault` checks beside
    that, at a tenth of its cost.
    """
    # Members are sorted, so the hash is followed by meta.prev; within a string the quotes would be escaped.
    member = f'"hash":"{digest}",'.encode()
    hashless = data.replace(member, b"", 1)
    if len(hashless) == len(data) or event_hash(hashless) != digest:
        return False
    return _decode_link(data).meta.prev == (prev or None)


def _check(value: object, path: str) -> None:
    match value:
        case None | bool():
            return
        case str():
            _check_text(value, path)
        case int():
            if abs(value) > MAX_INTEGER:
                raise NotCanonicalError(path, "an integer must be below 2^53; write larger numbers as text")
        case list() | tuple():
            for index, item in enumerate(value):
                _check(item, f"{path}[{index}]")
        case dict():
            for key, item in value.items():
                if not (isinstance(key, str) and key.isascii() and "\0" not in key):
                    raise NotCanonicalError(path, f"key {key!r} must be ASCII text")
                _check(item, f"{path}.{key}" if path else key)
        case _:
            raise NotCanonicalError(path, f"{type(value).__name__} has no canonical form")


def _check_text(value: str, path: str) -> None:
    if value.isascii():
        if "\0" in value:
            raise NotCanonicalError(path, "text must not contain U+0000")
        return
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise NotCanonicalError(path, "text must not contain U+0000 or unpaired surrogates")
