"""A well-behaved subscriber that goes on while others send what they like: it must get everything."""

import json
import threading
from collections.abc import Mapping
from typing import Final

from eventstore.store import EventStore
from tests.benchmarks.frames import PING, PONG, RECEIVE_BYTES, FrameReader, frame, open_socket
from tests.integration.rewinding import histories

ALL: Final = b'{"type":"subscribe","sub":"s","scope":"all","from":"start"}'
SECONDS_MAX: Final = 60


class Witness:
    """Follows all orders in a thread of its own."""

    def __init__(self, port: int) -> None:
        self.events: list[tuple[str, int]] = []
        self.others: list[str] = []
        self._more = threading.Condition()
        self._socket, rest = open_socket("127.0.0.1", port, "/api/orders/ws")
        self._socket.settimeout(None)
        self._reader = FrameReader(rest)
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "Witness":
        self._socket.sendall(frame(ALL))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(2)
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        while data := self._socket.recv(RECEIVE_BYTES):
            for opcode, payload in self._reader.feed(data):
                if opcode == PING:
                    self._socket.sendall(frame(payload, PONG))
                    continue
                message = json.loads(payload)
                with self._more:
                    if "event" in message:
                        self.events.append((message["orderId"], message["seq"]))
                    else:
                        self.others.append(message["type"])
                    self._more.notify()

    def has(self, count: int) -> bool:
        """Wait until so many events have come; return whether they have."""
        with self._more:
            return self._more.wait_for(lambda: len(self.events) >= count, SECONDS_MAX)


async def written(store: EventStore) -> Mapping[int, list[tuple[str, int]]]:
    """Return the events of each partition, in order."""
    found: dict[int, list[tuple[str, int]]] = {}
    for number, commits in enumerate(await histories(store)):
        found[number] = [
            (commit.stream, commit.version - len(commit.events) + 1 + index)
            for commit in commits
            for index in range(len(commit.events))
        ]
    return found


def require_all(witness: Witness, logs: Mapping[int, list[tuple[str, int]]]) -> None:
    """Require that the witness had every event, in the order of each partition, and nothing but its subscription."""
    assert witness.has(sum(map(len, logs.values())))
    for number, log in logs.items():
        assert [event for event in witness.events if event[0].endswith(f"-{number:02d}")] == log
    assert set(witness.others) <= {"subscribed", "caught_up", "bookmark"}
