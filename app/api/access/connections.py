"""The connections that stay open: how many a key and an address have, and which end when a key does."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from app.api.access.limits import UNKNOWN_SOCKETS_MAX, AccessLimits
from app.api.problems import Closing, ProblemError


class Endable(Protocol):
    """A connection that can be told to end."""

    def end(self, closing: Closing | None) -> None:
        """End the connection, telling why. Only the first call counts."""
        ...


class Connections:
    """Sockets, streams and polls that are open.

    Args:
        is_active: whether the key of that id still opens anything.
    """

    def __init__(self, limits: AccessLimits, is_active: Callable[[str], bool]) -> None:
        self._limits = limits
        self._is_active = is_active
        self._of_address: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()
        self._of_key: dict[str, set[Endable]] = {}

    @contextmanager
    def from_address(self, address: str) -> Iterator[None]:
        """Count a connection of ``address`` until the context closes.

        Raises:
            ProblemError: ``too_many_connections``.
        """
        most = self._limits.address_connections
        if most and self._of_address[address] >= most:
            raise _too_many(most, "address")
        with _counted(self._of_address, address):
            yield

    @contextmanager
    def unknown(self, address: str) -> Iterator[None]:
        """Count a socket of ``address`` that has not said who it is until the context closes; raises as above."""
        if self._unknown[address] >= UNKNOWN_SOCKETS_MAX:
            raise _too_many(UNKNOWN_SOCKETS_MAX, "address without a key")
        with _counted(self._unknown, address):
            yield

    @contextmanager
    def of_key(self, key_id: str | None, connection: Endable) -> Iterator[None]:
        """Count a connection of a key until the context closes, and end it when the key ends.

        Raises:
            ProblemError: ``too_many_connections``; ``unauthenticated``: the key has ended since it was shown.
        """
        if key_id is None:
            yield
            return
        if not self._is_active(key_id):
            raise ProblemError("unauthenticated", "this key opens nothing any more")
        held = self._of_key.setdefault(key_id, set())
        most = self._limits.key_connections
        if most and len(held) >= most:
            raise _too_many(most, "key")
        held.add(connection)
        try:
            yield
        finally:
            held.discard(connection)
            if not held and self._of_key.get(key_id) is held:
                del self._of_key[key_id]

    def end_keys(self, key_ids: frozenset[str], closing: Closing) -> None:
        """End every connection of these keys."""
        for key_id in key_ids:
            for connection in tuple(self._of_key.get(key_id, ())):
                connection.end(closing)


@contextmanager
def _counted(counter: Counter[str], name: str) -> Iterator[None]:
    counter[name] += 1
    try:
        yield
    finally:
        counter[name] -= 1
        if not counter[name]:
            del counter[name]


def _too_many(most: int, whose: str) -> ProblemError:
    return ProblemError(
        "too_many_connections", f"at most {most} connections of one {whose} are open at once in a process"
    )
