"""How much one key or one address may ask for: buckets of tokens, and open connections."""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

BUCKETS_MAX: Final = 10_000
FAILURES_PER_SECOND: Final = 1.0
FAILURES_BURST: Final = 20
"""Requests of one address that name no key, or none that opens anything."""
UNKNOWN_SOCKETS_MAX: Final = 64
"""Sockets of one address that have not said yet who they are."""
HELLO_SECONDS: Final = 10.0
"""So long a socket may take to say it."""
BURST_SECONDS: Final = 2
"""What a limit per second allows at once, in seconds of it."""
REFUSED_MESSAGES_MAX: Final = 100
"""Messages of a socket that are refused in a row before it is closed."""
ACK_COST: Final = 0.1
"""An acknowledgement is sent for each event, so ten of them count as one message."""


class AccessLimits(Struct, frozen=True, kw_only=True):
    """Bounds per process; 0: any number."""

    requests_per_second: int = 0
    """Of one key, or, without keys, of one address; twice as many may come at once."""
    key_connections: int = 0
    """Sockets, streams and polls of one key."""
    address_connections: int = 0
    """The same of one address."""
    messages_per_second: int = 0
    """Of one socket; twice as many may come at once."""


class Bucket:
    """Holds tokens that come back with time.

    Args:
        per_second: how many come back.
        burst: how many there are at most, and at first.
    """

    def __init__(self, per_second: float, burst: float, now: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = float(burst)
        self._at = now

    def take(self, now: float, cost: float = 1.0) -> float:
        """Take tokens and return 0; or take none, and return after how many seconds there are enough."""
        self._fill(now)
        if self._tokens < cost:
            return (cost - self._tokens) / self._per_second
        self._tokens -= cost
        return 0.0

    def _fill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now


class Buckets:
    """A bucket for each name; of more than :data:`BUCKETS_MAX` the longest unused are forgotten."""

    def __init__(self, per_second: float, burst: float, now: Callable[[], float]) -> None:
        self._per_second = per_second
        self._burst = burst
        self._now = now
        self._buckets: dict[str, Bucket] = {}

    def take(self, name: str) -> float:
        """See :meth:`Bucket.take`."""
        now = self._now()
        bucket = self._buckets.pop(name, None) or Bucket(self._per_second, self._burst, now)
        wait = bucket.take(now)
        self._buckets[name] = bucket
        while len(self._buckets) > BUCKETS_MAX:
            del self._buckets[next(iter(self._buckets))]
        return wait
