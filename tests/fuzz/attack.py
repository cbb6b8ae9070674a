"""Sends hostile input to a server over real sockets, and judges every answer."""

import json
import random
import socket as sockets
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import Final

from msgspec import Struct, field

from app.api.problems import PROBLEMS
from tests.benchmarks.frames import CLOSE, PING, PONG, TEXT, FrameReader, frame, open_socket
from tests.fuzz import frames, requests

SOCKET_PATH: Final = "/api/orders/ws"
ANSWER_SECONDS: Final = 10
REQUEST_SECONDS: Final = 0.5
"""A request that is not whole gets no answer, and one that waits for events a late one."""
STREAM_SECONDS: Final = 0.02
"""An answer that goes on for ever is read for so long."""
ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
LEAKS: Final = (b"Traceback", b'File "', b".py", b"asyncio", b"psycopg", b"sqlalchemy", b"redis", b"msgspec", b"Error(")
"""What no answer may have: the server's own text about itself."""
CLOSES: Final = {None, 1000, 1002, 1003, 1007, 1009, 4406, 4409, 4508, 4513}
"""Codes that a socket may be closed with for what it sent; None: the connection was broken off."""
OURS: Final = range(4400, 4600)
"""Codes that the server thinks of; any other may be the client's own, said back."""
UNAVAILABLE: Final = {code for code, kind in PROBLEMS.items() if kind.status == HTTPStatus.SERVICE_UNAVAILABLE}


class Found(Struct, kw_only=True):
    """What the answers were, and what was wrong with them."""

    frames: int = 0
    requests: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    private: tuple[bytes, ...] = ()
    """What else no answer may have."""

    def fault(self, what: str, sent: bytes, answer: bytes) -> None:
        self.faults.append(f"{what}: {sent[-300:]!r} was answered by {answer[:300]!r}")


def send_frames(port: int, batches: Iterable[list[bytes]], found: Found) -> None:
    """Send frames, a batch on each socket, which must answer a last ping, or be closed for a reason."""
    for batch in batches:
        _one_socket(port, batch, found)


def _one_socket(port: int, batch: list[bytes], found: Found) -> None:
    socket, rest = open_socket("127.0.0.1", port, SOCKET_PATH)
    with socket:
        socket.settimeout(ANSWER_SECONDS)
        try:
            for one in batch:
                found.frames += 1
                socket.sendall(one)
            socket.sendall(frame(b'{"type":"ping","id":"the last"}'))
            if _takes_in_what_follows(batch[-1]):
                # Nobody would answer, so the connection ends here.
                socket.shutdown(sockets.SHUT_WR)
        except OSError:
            found.answers["broken off"] += 1
        _hear(socket, FrameReader(rest), b"".join(batch), found)


def _takes_in_what_follows(one: bytes) -> bool:
    """Whether a frame may be part of a message, or of a frame, that is not ended."""
    return one[:1] != b"\x81" or one[1:2] == b"\xff"


def _hear(socket: sockets.socket, reader: FrameReader, sent: bytes, found: Found) -> None:
    code: int | None = None
    with suppress(ConnectionError):
        # Whoever is told to go need not wait until the server is sure that it went.
        while code is None and (data := socket.recv(65_536)):
            for opcode, payload in reader.feed(data):
                if opcode == CLOSE:
                    code = int.from_bytes(payload[:2], "big")
                    _judge_text(payload, sent, found)
                elif opcode == TEXT:
                    _judge_message(payload, sent, found)
                    if b'"id":"the last"' in payload:
                        return
                elif opcode == PING:
                    socket.sendall(frame(payload, PONG))
    found.answers[f"close {code}"] += 1
    asked_for = code is not None and code not in OURS and code.to_bytes(2, "big") in sent
    if code not in CLOSES and not asked_for:
        found.fault(f"close {code}", sent, b"")


def _judge_message(payload: bytes, sent: bytes, found: Found) -> None:
    _judge_text(payload, sent, found)
    message = json.loads(payload)
    kind = message.get("code", message.get("type", "event"))
    found.answers[f"message {kind}"] += 1
    if kind == "internal":
        found.fault("internal", sent, payload)


def _judge_text(answer: bytes, sent: bytes, found: Found) -> None:
    for leak in (*LEAKS, *found.private):
        if leak in answer and leak not in sent:
            found.fault(f"a leak of {leak.decode()}", sent, answer)


def send_requests(port: int, made: Iterable[bytes], found: Found) -> None:
    """Send requests, each over a connection of its own."""
    for one in made:
        found.requests += 1
        with sockets.create_connection(("127.0.0.1", port), timeout=REQUEST_SECONDS) as socket:
            answer = _exchange(socket, one)
        _judge_answer(answer, one, found)


def _exchange(socket: sockets.socket, request: bytes) -> bytes:
    answer = b""
    with suppress(OSError):
        socket.sendall(request)
        while len(answer) < ANSWER_BYTES_MAX and (data := socket.recv(65_536)):
            answer += data
            if b"text/event-stream" in answer:
                socket.settimeout(STREAM_SECONDS)
    return answer


def _judge_answer(answer: bytes, sent: bytes, found: Found) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ")[1].decode("latin-1") if head.startswith(b"HTTP/") else "none"
    found.answers[f"status {status}"] += 1
    _judge_text(answer, sent, found)
    if b"x-injected" in head.lower():
        found.fault("an injected header", sent, answer)
    if status.startswith("5"):
        code = json.loads(body).get("code") if b"application/problem+json" in head else None
        found.answers[f"problem {code}"] += 1
        if status != "503" or code not in UNAVAILABLE:
            found.fault(f"status {status}", sent, answer)


def drawn(make: Callable[[random.Random], bytes], count: int, seed: int) -> Iterable[bytes]:
    """Yield so much hostile input, the same for the same seed."""
    chance = random.Random(seed)
    for _ in range(count):
        yield make(chance)


def attack(port: int, *, frame_count: int, request_count: int, seed: int) -> Found:
    """Send so many frames and requests, and return what came of it."""
    found = Found()
    send_frames(port, frames.sockets_of(random.Random(seed), frame_count), found)
    send_requests(port, drawn(requests.hostile, request_count, seed), found)
    return found
