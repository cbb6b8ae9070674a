"""Follows the log into the ring: the one reader of new events in this process."""

import logging
from typing import Final

from app.api.ring import Ring, frames_of_commit
from app.clock import Clock
from eventstore.errors import StoreUnavailableError
from eventstore.ids import LogPosition
from eventstore.store import EventStore

READ_LIMIT: Final = 500
WAIT_SECONDS: Final = 2
BACK_OFF_SECONDS: Final = 0.1
BACK_OFF_SECONDS_MAX: Final = 2.0

log: Final = logging.getLogger(__name__)


class Tailer:
    """Reads every partition's log from its end at :meth:`start`."""

    def __init__(self, store: EventStore, ring: Ring, clock: Clock) -> None:
        self._store = store
        self._ring = ring
        self._clock = clock
        self._positions: dict[int, LogPosition] = {}
        self.read_at_us: int | None = None
        """When the log last answered; None before the start and after the end."""

    async def start(self) -> None:
        """Take up a position at the log's end: subscribers that come later miss nothing.

        Raises:
            StoreUnavailableError: the store does not answer. Start again later.
        """
        self._positions.update(await self._store.log_ends())
        self.read_at_us = self._clock.now_us()

    async def run(self) -> None:
        """Follow the log until cancelled; an outage of the store is waited out.

        Raises:
            PositionMissingError: the log has a hole. Nothing after it was passed on: send the subscribers away.
        """
        delay = BACK_OFF_SECONDS
        try:
            while True:
                try:
                    commits = await self._store.read_log(self._positions, READ_LIMIT, WAIT_SECONDS)
                except StoreUnavailableError as error:
                    log.warning("log_unavailable", extra={"error": str(error), "retry_seconds": delay})
                    await self._clock.sleep(delay)
                    delay = min(BACK_OFF_SECONDS_MAX, delay * 2)
                    continue
                delay = BACK_OFF_SECONDS
                self.read_at_us = self._clock.now_us()
                for commit in commits:
                    for frame in frames_of_commit(commit):
                        self._ring.append(frame)
                    self._positions[commit.partition] = commit.end
        finally:
            self.read_at_us = None
