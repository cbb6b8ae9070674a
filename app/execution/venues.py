"""A venue as execution asks it: not too often at once, and not again at once after it has failed repeatedly."""

import asyncio
from typing import Final

from msgspec import Struct

from app.clock import Clock
from app.dex.errors import CircuitOpenError, VenueError, VenueTimeoutError, VenueUnavailableError
from app.dex.venue import Swap, Venue, VenueQuote

_OUTAGES: Final = (VenueUnavailableError, VenueTimeoutError)
"""What counts as a failure of the venue, beside no answer within the deadline, which ends as a cancellation."""


class AccessSettings(Struct, frozen=True, kw_only=True):
    """How one process asks each venue."""

    concurrency: int
    """Most quotes asked of one venue at once; further ones wait, within their own deadline."""
    failures_max: int
    """Failures in a row that open the circuit."""
    open_us: int
    """How long it then stays open, in microseconds: nobody asks meanwhile."""


class GuardedVenue:
    """A venue behind a circuit breaker and a bound on what is asked at once; see :class:`app.dex.venue.Venue`.

    Closed, every quote is asked. After ``failures_max`` failures in a row it opens: quotes are refused at once. When
    ``open_us`` have passed it is half open: one quote is asked as a trial, the others are refused; the trial's success
    closes it, its failure opens it again. What was asked before it opened no longer counts then. A quote that waited
    for room longer than the venue then had for it, until it was cancelled, says nothing about the venue.
    """

    def __init__(self, venue: Venue, clock: Clock, settings: AccessSettings) -> None:
        self.name: Final = venue.name
        self._venue = venue
        self._clock = clock
        self._settings = settings
        self._room = asyncio.Semaphore(settings.concurrency)
        self._failures = 0
        self._open_until_us = 0
        self._trial: tuple[str, int] | None = None
        self._era = 0
        """How often the circuit has opened: only what was asked since counts."""
        self._tried_era: int | None = None
        """Set while a trial is under way."""

    def is_trial(self, swap: Swap) -> bool:
        """Return whether this swap's quote was the last trial."""
        return self._trial == (swap.order_id, swap.attempt)

    async def quote(self, swap: Swap, slot: int) -> VenueQuote:
        """See :meth:`Venue.quote`.

        Raises:
            CircuitOpenError: the venue is left alone for the moment.
        """
        asked_us = self._clock.now_us()
        async with self._room:
            entered_us = self._clock.now_us()
            era = self._enter(swap)
            try:
                quote = await self._venue.quote(swap, slot)
            except _OUTAGES:
                self._failed(era)
                raise
            except asyncio.CancelledError:
                if self._clock.now_us() - entered_us >= entered_us - asked_us:
                    self._failed(era)
                raise
            except VenueError:
                # Any other refusal is an answer: the venue works.
                self._answered(era)
                raise
            finally:
                if era == self._tried_era:
                    self._tried_era = None
            self._answered(era)
            return quote

    def _enter(self, swap: Swap) -> int:
        if self._failures >= self._settings.failures_max:
            left_us = self._open_until_us - self._clock.now_us()
            # More than the whole time is left when the clock was set back.
            if self._tried_era is not None or 0 < left_us <= self._settings.open_us:
                raise CircuitOpenError(f"not asked: {self._failures} failures in a row")
            self._trial = (swap.order_id, swap.attempt)
            self._tried_era = self._era
        return self._era

    def _answered(self, era: int) -> None:
        if era == self._era:
            self._failures = 0

    def _failed(self, era: int) -> None:
        if era != self._era:
            return
        self._failures += 1
        if self._failures >= self._settings.failures_max:
            self._open_until_us = self._clock.now_us() + self._settings.open_us
            self._era += 1
