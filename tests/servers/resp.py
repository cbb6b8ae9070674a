"""Where requests and replies of the Redis protocol end."""

from __future__ import annotations

_BULK = b"$=!"
_AGGREGATES = {ord("*"): 1, ord("~"): 1, ord(">"): 1, ord("%"): 2}


class Frames:
    """Cuts a stream of bytes into whole requests or replies."""

    def __init__(self) -> None:
        self._rest = b""

    def fed(self, data: bytes) -> list[bytes]:
        """The frames that ``data`` completes, oldest first; what is left waits for more."""
        self._rest += data
        found: list[bytes] = []
        start = 0
        while (end := frame_end(self._rest, start)) is not None:
            found.append(self._rest[start:end])
            start = end
        self._rest = self._rest[start:]
        return found


def frame_end(data: bytes, start: int) -> int | None:
    """Where the value that begins at ``start`` ends, or None when it is not whole."""
    open_values = 1
    while open_values:
        newline = data.find(b"\r\n", start)
        if newline < 0:
            return None
        kind, line, start = data[start], data[start + 1 : newline], newline + 2
        open_values -= 1
        if kind in _BULK and int(line) >= 0:
            start += int(line) + 2
        elif kind in _AGGREGATES:
            open_values += max(int(line), 0) * _AGGREGATES[kind]
        if start > len(data):
            return None
    return start
