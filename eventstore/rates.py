"""Rates by the generic cell rate algorithm, in whole microseconds: what one that is taken costs, and when."""

from typing import Final

from msgspec import Struct

PERIOD_MS_MAX: Final = 24 * 60 * 60 * 1000


class Rate(Struct, frozen=True):
    """So many per period, and as many at once; rounded so that it is never more."""

    interval_us: int
    """From one that is free to the next."""
    burst_us: int
    """How far ahead of the clock what was taken may reach."""


class RateTaken(Struct, frozen=True):
    """What became of taking one, and how the rate stands after it."""

    wait_ms: int
    """0: one was taken; else nothing was, and one will be free in so many milliseconds."""
    left: int
    """So many more may be taken now."""
    more_ms: int
    """In so many milliseconds it will be one more than that."""


def rate_of(count: int, period_ms: int) -> Rate:
    """Return the rate of ``count`` per ``period_ms``.

    Raises:
        ValueError: see :meth:`EventStore.take_rate`.
    """
    if not (1 <= period_ms <= PERIOD_MS_MAX and 1 <= count <= 1000 * period_ms):
        raise ValueError(f"a rate is 1 or more, at most 1000 a millisecond, not {count} per {period_ms} ms")
    interval_us = -(-period_ms * 1000 // count)
    return Rate(interval_us, count * interval_us)


def taken(rate: Rate, reached_us: int, now_us: int) -> tuple[int, RateTaken]:
    """Return how far ahead one more reaches, or ``reached_us`` where none is free, and what that means.

    Args:
        reached_us: how far what was taken before reaches; 0 for nothing.
        now_us: the clock. What was taken by another one that was ahead counts as all of the burst at most.
    """
    before_us = min(max(reached_us, now_us), now_us + rate.burst_us) - now_us
    missing_us = before_us + rate.interval_us - rate.burst_us
    if missing_us > 0:
        wait_ms = -(-missing_us // 1000)
        return reached_us, RateTaken(wait_ms, 0, wait_ms)
    ahead_us = before_us + rate.interval_us
    left, free_us = divmod(rate.burst_us - ahead_us, rate.interval_us)
    return now_us + ahead_us, RateTaken(0, left, -(-(rate.interval_us - free_us) // 1000))
