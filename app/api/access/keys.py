"""Keys and tickets as texts: made from randomness, recognized by their form, stored as hashes."""

import hashlib
import re
from collections.abc import Callable
from typing import Final

from msgspec import Struct

ENTROPY_BYTES: Final = 32
ID_BYTES: Final = 6
KEY: Final = re.compile(r"otk_([0-9a-f]{12})_[0-9a-f]{64}", re.ASCII)
TICKET: Final = re.compile(r"ott_[0-9a-f]{64}", re.ASCII)
KEY_LIKE: Final = re.compile(r"otk_[0-9a-f]{12}_", re.ASCII)
"""How every key begins, by which one in the wrong place is recognized."""

TRADER: Final = "trader"
AUDITOR: Final = "auditor"
ADMIN: Final = "admin"
ROLES: Final = (TRADER, AUDITOR, ADMIN)


class NewKey(Struct, frozen=True):
    """A key that was just made: ``text`` is shown once, ``digest`` is stored."""

    id: str
    text: str
    digest: bytes


def new_key(entropy: Callable[[int], bytes]) -> NewKey:
    """Return a key: ``otk_<id>_<secret>``, 256 bits of it secret.

    Args:
        entropy: returns so many random bytes, such as :func:`secrets.token_bytes`.
    """
    key_id = entropy(ID_BYTES).hex()
    text = f"otk_{key_id}_{entropy(ENTROPY_BYTES).hex()}"
    return NewKey(key_id, text, digest_of(text))


def new_ticket(entropy: Callable[[int], bytes]) -> str:
    """Return the text of a ticket, 256 bits of it secret."""
    return f"ott_{entropy(ENTROPY_BYTES).hex()}"


def digest_of(text: str) -> bytes:
    """Return what is stored of a key or a ticket: its SHA-256.

    A slow, salted hash protects passwords because people choose them from few. Of 256 random bits nobody can try any
    part worth mentioning, however fast the hash, and no two keys are alike. A fast one lets every request be checked.
    """
    return hashlib.sha256(text.encode()).digest()


def id_of(text: str) -> str | None:
    """Return the id that a key names; None for what has not the form of a key."""
    match = KEY.fullmatch(text)
    return match[1] if match else None
