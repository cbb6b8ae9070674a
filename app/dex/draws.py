"""Random numbers addressed by name: the same seed and names give the same number, whoever asks and whenever."""

from hashlib import blake2b

Name = str | bytes | int


def draw_bytes(size: int, seed: str | bytes, *names: Name) -> bytes:
    """Return ``size`` bytes, 1 to 64, that depend on nothing but the arguments.

    Names are encoded with their type and length, so ``("a", "bc")``, ``("ab", "c")`` and ``(1,)``, ``("1",)`` differ.
    """
    return blake2b(b"".join(map(_encoded, (seed, *names))), digest_size=size).digest()


def draw(seed: str | bytes, *names: Name) -> int:
    """Return an integer from 0 to 2^64 − 1, uniformly."""
    return int.from_bytes(draw_bytes(8, seed, *names), "big")


def draw_below(bound: int, seed: str | bytes, *names: Name) -> int:
    """Return an integer from 0 to ``bound`` − 1; ``bound`` is 1 to 2^32.

    Multiply and shift: no value is more likely than another by more than 1 part in 2^32.
    """
    return draw(seed, *names) * bound >> 64


def _encoded(name: Name) -> bytes:
    if isinstance(name, bytes):
        tag, data = b"b", name
    elif isinstance(name, str):
        tag, data = b"s", name.encode()
    else:
        tag, data = b"i", b"%d" % name
    return tag + len(data).to_bytes(4, "big") + data
