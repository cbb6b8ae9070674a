"""All subscribers of one process: how many there may be, whether they are welcome, and how they are sent away."""

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from msgspec import Struct

from app.api.access.principal import Principal
from app.api.description.messages import About, Known, Limits, Log, MessageId, Welcome
from app.api.orders.intake import Intake
from app.api.problems import AGED, DRAINING, TOO_MANY_SOCKETS, Closing
from app.api.requests import BODY_BYTES_MAX
from app.api.streaming.messages import BATCH_MAX, VERSION, WINDOW_MAX
from app.api.streaming.ring import Ring
from app.api.streaming.subscriptions import Source
from app.clock import Clock
from app.orders.times import format_time

DRAIN_SECONDS: Final = 3
REQUESTS_MAX: Final = 64
"""Orders and cancellations of one socket that are under way at once."""
CLOSE_SECONDS: Final = 0.5
"""So long a client may take to take its end."""
TICK_SECONDS_MAX: Final = 1.0
LIFE_SPREAD: Final = 0.1
"""The part of a connection's life that is left to chance."""

log: Final = logging.getLogger(__name__)


class SocketLimits(Struct, frozen=True, kw_only=True):
    """Bounds of what sockets and other subscribers may hold."""

    sockets_max: int = 5_000
    subscriptions_max: int = 200
    """Per socket."""
    send_seconds_max: float = 10
    """A client that takes no data for longer is a slow consumer."""
    heartbeat_seconds: float = 15
    """Silence that a heartbeat ends."""
    bookmark_seconds: float = 5
    """A subscription whose place moves without an event is told of it after so long."""
    bookmark_events: int = 1_000
    """Or after so many events that it does not want."""
    lag_seconds_max: float = 60
    """A subscription that had caught up once and has not again for longer is told that it lags."""
    lag_events_max: int = 50_000
    """Or one that so many events are after."""
    lag_close_seconds: float = 30
    """Between that and its end."""
    life_seconds_max: float = 86_400
    """A connection lives so long at most, and nine tenths of it at least, by chance: those that came together go apart.
    """


class Subscriber(Protocol):
    """Somebody who is connected."""

    def end(self, closing: Closing | None) -> None:
        """End the connection, telling why unless the client is gone. Only the first call counts."""
        ...

    def tick(self, now: float) -> None:
        """Do what is due at this time of the event loop. Must not wait."""
        ...


class Sessions:
    """All subscribers of one process, and what they share."""

    def __init__(
        self,
        *,
        source: Source,
        intake: Intake,
        ring: Ring,
        clock: Clock,
        limits: SocketLimits,
        version: str,
    ) -> None:
        self.source: Final = source
        self.intake: Final = intake
        self.ring: Final = ring
        self.clock: Final = clock
        self.limits: Final = limits
        self.version: Final = version
        self.refusal: Closing | None = None
        """Why subscribers are sent away at once; None while they are welcome."""
        self.chance: Callable[[], float] = random.random
        """Draws from 0 up to 1."""
        self._open: dict[Subscriber, float] = {}
        """When each has lived long enough, in the event loop's time."""
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def objection(self) -> Closing | None:
        """Why a new subscriber is not taken; None if it is."""
        return self.refusal or (TOO_MANY_SOCKETS if len(self._open) >= self.limits.sockets_max else None)

    @contextmanager
    def joined(self, subscriber: Subscriber) -> Iterator[None]:
        """Count ``subscriber`` among the open ones until the context closes."""
        seconds = self.limits.life_seconds_max * (1 - LIFE_SPREAD * self.chance())
        self._open[subscriber] = asyncio.get_running_loop().time() + seconds
        self._empty.clear()
        try:
            yield
        finally:
            del self._open[subscriber]
            if not self._open:
                self._empty.set()

    async def run(self) -> None:
        """Let subscribers do what time makes due, until cancelled."""
        limits = self.limits
        intervals = (
            limits.heartbeat_seconds,
            limits.bookmark_seconds,
            limits.lag_seconds_max,
            limits.lag_close_seconds,
            limits.life_seconds_max * LIFE_SPREAD,
        )
        while True:
            await self.clock.sleep(min(TICK_SECONDS_MAX, *(seconds / 2 for seconds in intervals)))
            now = asyncio.get_running_loop().time()
            for subscriber, until in tuple(self._open.items()):
                if now < until:
                    subscriber.tick(now)
                else:
                    subscriber.end(AGED)

    def refuse(self, closing: Closing) -> None:
        """End every subscriber, and each that comes from now on until :meth:`welcome`."""
        if self.refusal is not DRAINING:
            self.refusal = closing
        for subscriber in tuple(self._open):
            subscriber.end(closing)

    def welcome(self) -> None:
        """Take subscribers again, unless the process is stopping."""
        if self.refusal is not DRAINING:
            self.refusal = None

    def welcome_of(self, principal: Principal, reply_to: MessageId | None) -> Welcome:
        """Return what a socket is told in answer to ``hello``: of the logs, only what ``principal`` may know."""
        grant, partition = principal.grant, principal.partition
        heads = {number: head for number, head in self.ring.heads.items() if partition in (None, number)}
        epochs = {str(number): cursor.epoch for number, cursor in heads.items() if cursor.position}
        return Welcome(
            id=reply_to,
            principal=None if grant.key_id is None else Known(grant.key_id, grant.client, sorted(grant.roles)),
            v=VERSION,
            connection=f"c_{secrets.token_hex(6)}",
            log=Log(epochs=epochs, head=self.source.head(partition)),
            heartbeat_ms=int(self.limits.heartbeat_seconds * 1_000),
            limits=Limits(
                frame_bytes=BODY_BYTES_MAX,
                subs=self.limits.subscriptions_max,
                inflight=REQUESTS_MAX,
                window_max=WINDOW_MAX,
                batch_max=BATCH_MAX,
            ),
            server=About(version=self.version, time=format_time(self.clock.now_us())),
        )

    async def drain(self) -> None:
        """End every subscriber, telling it to come back, and wait for that, a few seconds at most."""
        self.refuse(DRAINING)
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._empty.wait()
        except TimeoutError:
            log.warning("sockets_left", extra={"sockets": len(self._open)})
