"""A process that holds many WebSockets and counts the events that each gets; some of them it never reads.

It is told on the command line what to connect to, says on its standard output when all are connected, begins at a line
on its standard input, and prints one JSON line when it has seen ``expected`` events, or nothing for ``idle`` seconds.
One thread and epoll; of a frame it looks at the first bytes only, unless latencies are wanted: then it subtracts the
event's time (``at``, stamped just before the append) from its own clock.
"""

import json
import resource
import selectors
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from tests.benchmarks.frames import CLOSE, PING, PONG, RECEIVE_BYTES, FrameReader, frame, open_socket

CONTROL: Final = b'{"type":'
GOAWAY: Final = b'"type":"goaway"'
BATCH: Final = b'{"type":"events"'
CURSOR: Final = b',"cursor":"'
AT: Final = b'"at":"'
DAY_US: Final = 86_400_000_000


class Orders(Struct, frozen=True, kw_only=True):
    """What the process is told."""

    host: str
    port: int
    path: str
    sockets: int
    subscribe: list[str]
    """Messages that sockets send in turn, each one of these."""
    expected: int
    """Events on all sockets that are read."""
    idle: float = 20
    unread: int = 0
    """So many of the sockets are never read."""
    unread_subscribe: str = ""
    """What these send."""
    latencies: bool = False
    capture: str | None = None
    """A file for the payloads of events that the first socket gets, one a line."""
    report_seconds: float | None = None
    """Print how many events have come, that often."""


class Holder:
    """The sockets, and what came over them."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.events = 0
        self.frames = 0
        self.size = 0
        self.latencies: list[int] = []
        self.captured: list[bytes] = []
        self.closes: dict[str, int] = {}
        self.with_cursor = 0
        """Sockets that were told where they were before they were closed."""
        self.unread_sockets: list[Any] = []
        self.selector = selectors.DefaultSelector()

    def connect(self) -> None:
        """Open all sockets."""
        orders = self.orders
        for number in range(orders.sockets):
            unread = number < orders.unread
            socket, rest = open_socket(orders.host, orders.port, orders.path, 4096 if unread else None)
            socket.setblocking(False)
            if unread:
                self.unread_sockets.append(socket)
            else:
                self.selector.register(socket, selectors.EVENT_READ, (number, FrameReader(rest)))

    def subscribe(self) -> None:
        """Send each socket its message."""
        messages = [frame(text.encode()) for text in self.orders.subscribe]
        for socket in self.unread_sockets:
            socket.send(frame(self.orders.unread_subscribe.encode()))
        for key in self.selector.get_map().values():
            key.fileobj.send(messages[key.data[0] % len(messages)])  # type: ignore[union-attr]  # they are sockets

    def count(self) -> tuple[float, float]:
        """Read until everything has come, or nothing comes any more; return the times of the first and last event."""
        first = last = time.perf_counter()
        told = last
        while self.events < self.orders.expected:
            before = self.events
            for key, _ in self.selector.select(timeout=0.5):
                self._read(key)
            now = time.perf_counter()
            if self.events > before:
                first, last = first if before else now, now
            elif now - last > self.orders.idle or not self.selector.get_map():
                break
            if self.orders.report_seconds is not None and now - told >= self.orders.report_seconds:
                told = now
                say({"events": self.events, "closes": self.closes})
        return first, last

    def _read(self, key: selectors.SelectorKey) -> None:
        socket, (number, reader) = key.fileobj, key.data
        try:
            data = socket.recv(RECEIVE_BYTES)  # type: ignore[union-attr]  # it is a socket
        except ConnectionError:
            data = b""
        if not data:
            self.selector.unregister(socket)
            return
        for opcode, payload in reader.feed(data):
            if opcode == PING:
                socket.send(frame(payload, PONG))  # type: ignore[union-attr]  # likewise
            elif opcode == CLOSE:
                code = str(int.from_bytes(payload[:2], "big"))
                self.closes[code] = self.closes.get(code, 0) + 1
            else:
                self._take(number, payload)

    def _take(self, number: int, payload: bytes) -> None:
        self.frames += 1
        self.size += len(payload)
        if GOAWAY in payload[:40]:
            self.with_cursor += b'"cursors":{' in payload
        elif payload.startswith(BATCH):
            self.events += payload.count(CURSOR)
        elif not payload.startswith(CONTROL):
            self.events += 1
            if self.orders.latencies:
                at = payload.index(AT) + len(AT)
                self.latencies.append(_us_of_day(payload[at : at + 26]))
        if self.orders.capture is not None and number == self.orders.unread and not payload.startswith(CONTROL):
            self.captured.append(payload)


def _us_of_day(at: bytes) -> int:
    """Microseconds from a time as events have it until now; both of one day, or of two that follow."""
    seconds = int(at[11:13]) * 3600 + int(at[14:16]) * 60 + int(at[17:19])
    return (time.time_ns() // 1000 - seconds * 1_000_000 - int(at[20:26])) % DAY_US


def allow_files() -> None:
    """Take as many file descriptors as the system gives."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def say(line: dict[str, Any]) -> None:
    """Print one JSON line."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Do as the command line says."""
    orders = msgspec.json.decode(sys.argv[1], type=Orders)
    allow_files()
    holder = Holder(orders)
    holder.connect()
    say({"connected": orders.sockets})
    sys.stdin.readline()
    used = time.process_time()
    started = time.perf_counter()
    holder.subscribe()
    first, last = holder.count()
    latencies = sorted(holder.latencies)
    say(
        {
            "events": holder.events,
            "frames": holder.frames,
            "bytes": holder.size,
            "seconds": last - started,
            "first": first - started,
            "client_cpu": time.process_time() - used,
            "closes": holder.closes,
            "closed_with_cursor": holder.with_cursor,
            "left": len(holder.selector.get_map()),
            "latency_us": {str(part): latencies[len(latencies) * part // 1000] for part in (500, 990, 999)}
            if latencies
            else None,
        }
    )
    if orders.capture is not None:
        Path(orders.capture).write_bytes(b"\n".join(holder.captured))


if __name__ == "__main__":
    main()
