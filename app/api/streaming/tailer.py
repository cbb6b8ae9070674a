"""Follows the log into the ring: the one reader of new events in this process."""

import logging
from collections.abc import Sequence
from typing import Final

from app.api.resume import is_held
from app.api.streaming.ring import LogNotChainedError, NotChainedError, Ring, frames_of_commit
from app.clock import Clock
from eventstore.errors import (
    ForkError,
    PartitionForkedError,
    PositionMissingError,
    StoreUnavailableError,
    TruncatedError,
)
from eventstore.ids import Cursor
from eventstore.store import EventStore, StoredCommit

READ_LIMIT: Final = 500
WAIT_SECONDS: Final = 2
BACK_OFF_SECONDS: Final = 0.1
BACK_OFF_SECONDS_MAX: Final = 2.0

log: Final = logging.getLogger(__name__)


class LogRewoundError(Exception):
    """The log is not what was read of it: events were lost or replaced after they went to subscribers.

    Send the subscribers away, then call :meth:`Tailer.take_up`. ``cursors`` has what was read last of each partition
    that this is true of.
    """

    def __init__(self, cursors: dict[int, Cursor]) -> None:
        super().__init__(f"partitions {', '.join(map(str, cursors))}")
        self.cursors = cursors


class Tailer:
    """Reads every partition's log from its end at :meth:`start`."""

    def __init__(self, store: EventStore, ring: Ring, clock: Clock) -> None:
        self._store = store
        self._ring = ring
        self._clock = clock
        self._positions: dict[int, Cursor] = {}
        self._delay = BACK_OFF_SECONDS
        self.read_at_us: int | None = None
        """When the log last answered; None while it is not followed."""

    async def start(self) -> None:
        """Take up a position at the log's end: subscribers that come later miss nothing.

        Raises:
            StoreUnavailableError: the store does not answer. Start again later.
        """
        self._positions.update(await self._store.log_ends())
        self._ring.begin(self._positions)
        self.read_at_us = self._clock.now_us()

    async def run(self) -> None:
        """Follow the log until cancelled; an outage of the store is waited out.

        Raises:
            LogRewoundError: send the subscribers away, then :meth:`take_up`.
        """
        try:
            while True:
                try:
                    commits = await self._read()
                except StoreUnavailableError as error:
                    await self._back_off(error)
                    continue
                for commit in commits:
                    self._pass_on(commit)
                self._delay = BACK_OFF_SECONDS
                self.read_at_us = self._clock.now_us()
        finally:
            self.read_at_us = None

    async def take_up(self, rewound: LogRewoundError) -> None:
        """Forget what was read, and go on at the end of the partitions that were rewound; waits outages out."""
        self._ring.clear()
        await self._pause()
        while True:
            try:
                ends = await self._store.log_ends()
                break
            except StoreUnavailableError as error:
                await self._back_off(error)
        # The other partitions' events since are still to come: whoever reads an order's stream may lack them.
        self._positions.update({number: ends[number] for number in rewound.cursors})
        self._ring.begin(self._positions)
        self.read_at_us = self._clock.now_us()

    async def _read(self) -> Sequence[StoredCommit]:
        try:
            return await self._store.read_log(self._positions, READ_LIMIT, WAIT_SECONDS)
        except PositionMissingError as error:
            raise self._rewound([error.partition]) from error
        except (ForkError, TruncatedError) as error:
            # Servers lose all partitions at once, and the store heals those that it is asked about.
            lost = [number for number in self._positions if not await self._is_held(number)]
            if not lost:
                return ()
            raise self._rewound(lost) from error

    async def _is_held(self, number: int) -> bool:
        try:
            return await is_held(self._store, number, self._positions[number])
        except TruncatedError:
            return False
        except PartitionForkedError:
            # It stays closed, so nothing follows; it is looked at again when it is open.
            return True

    def _pass_on(self, commit: StoredCommit) -> None:
        try:
            for frame in frames_of_commit(commit):
                self._ring.append(frame)
        except (NotChainedError, LogNotChainedError) as error:
            raise self._rewound([commit.partition]) from error
        self._positions[commit.partition] = commit.end

    def _rewound(self, partitions: Sequence[int]) -> LogRewoundError:
        return LogRewoundError({number: self._positions[number] for number in partitions})

    async def _back_off(self, error: StoreUnavailableError) -> None:
        log.warning("log_unavailable", extra={"error": str(error), "retry_seconds": self._delay})
        await self._pause()

    async def _pause(self) -> None:
        delay, self._delay = self._delay, min(BACK_OFF_SECONDS_MAX, self._delay * 2)
        await self._clock.sleep(delay)
