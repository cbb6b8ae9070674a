"""WebSocket frames on raw sockets, for load that must not cost more than the server: no masks to undo, no objects made.

A server's frames are not masked, so that a reader finds their ends from two to ten bytes each.
"""

import base64
import os
import socket
from collections.abc import Iterator
from typing import Final

RECEIVE_BYTES: Final = 256 * 1024
CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
_HANDSHAKE: Final = (
    "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class HandshakeError(Exception):
    """The server did not take the connection as a WebSocket; the message is what it answered."""


def open_socket(host: str, port: int, path: str, receive_bytes: int | None = None) -> tuple[socket.socket, bytes]:
    """Return a connected WebSocket, blocking, and what came behind the handshake.

    Args:
        receive_bytes: what the kernel may hold for a reader that does not read; None: as the system likes.

    Raises:
        HandshakeError, OSError.
    """
    created = socket.socket()
    if receive_bytes is not None:
        created.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    created.settimeout(30)
    created.connect((host, port))
    created.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    key = base64.b64encode(os.urandom(16)).decode()
    created.sendall(_HANDSHAKE.format(path=path, host=host, port=port, key=key).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        received = created.recv(4096)
        if not received:
            raise HandshakeError(answer[:200].decode("latin-1") or "the connection was closed")
        answer += received
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b" 101 " not in head.partition(b"\r\n")[0]:
        raise HandshakeError(head[:200].decode("latin-1"))
    return created, rest


def frame(payload: bytes, opcode: int = TEXT, *, final: bool = True, mask: bytes = b"\x00\x00\x00\x00") -> bytes:
    """Return one masked frame; the mask of zeros leaves the payload as it is."""
    size = len(payload)
    first = (0x80 if final else 0) | opcode
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65_536:
        head = bytes((first, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + size.to_bytes(8, "big")
    if mask != b"\x00\x00\x00\x00":
        payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return head + mask + payload


class FrameReader:
    """Cuts what a server sends into frames."""

    def __init__(self, rest: bytes = b"") -> None:
        self._rest = rest

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield opcode and payload of each frame that is complete."""
        buffer = self._rest + data if self._rest else data
        at, size = 0, len(buffer)
        while size - at >= 2:
            length, head = buffer[at + 1], 2
            if length == 126:
                head = 4
                length = int.from_bytes(buffer[at + 2 : at + 4], "big")
            elif length == 127:
                head = 10
                length = int.from_bytes(buffer[at + 2 : at + 10], "big")
            end = at + head + length
            if size - at < head or end > size:
                break
            yield buffer[at] & 0xF, buffer[at + head : end]
            at = end
        self._rest = buffer[at:]
