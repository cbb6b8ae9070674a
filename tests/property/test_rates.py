"""Laws of rates, and the server's script against the function that says what it does."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple

from eventstore.rates import Rate, rate_of, taken
from eventstore.redis.scripts import RATE
from tests.crash.scenes import connected

START_US = 1_800_000_000_000_000

# The script's clock is an argument here, and what it writes does not expire while that stands still.
_TIMED = """
local server = redis
local redis = {call = function(name, ...)
  if name == 'TIME' then return {ARGV[3], ARGV[4]} end
  if name == 'SET' then return server.call('SET', (...), (select(2, ...))) end
  return server.call(name, ...)
end}
"""

counts = st.integers(1, 50)
periods_ms = st.sampled_from([1, 7, 1000, 60_000, 86_400_000])
steps_us = st.lists(st.one_of(st.just(0), st.integers(0, 5_000), st.integers(0, 90_000_000_000)), max_size=60)


@given(count=counts, period_ms=periods_ms, steps=steps_us)
def test_no_more_than_the_rate_and_one_burst_is_taken_in_any_time(count: int, period_ms: int, steps: list[int]) -> None:
    rate, reached, now, when = rate_of(count, period_ms), 0, START_US, list[int]()
    for step in steps:
        now += step
        reached, answer = taken(rate, reached, now)
        if answer.wait_ms == 0:
            when.append(now)
    for first in range(len(when)):
        for last in range(first, len(when)):
            elapsed_us = when[last] - when[first]
            assert last - first + 1 <= count + elapsed_us * count // (period_ms * 1000)


@given(count=counts, period_ms=periods_ms, steps=steps_us)
def test_the_wait_that_is_told_is_enough_and_one_millisecond_less_is_not(
    count: int, period_ms: int, steps: list[int]
) -> None:
    rate, reached, now = rate_of(count, period_ms), 0, START_US
    for step in steps:
        now += step
        before = reached
        reached, answer = taken(rate, reached, now)
        if wait_ms := answer.wait_ms:
            assert reached == before
            assert taken(rate, reached, now + wait_ms * 1000)[1].wait_ms == 0
            assert taken(rate, reached, now + (wait_ms - 1) * 1000)[1].wait_ms > 0


def free(rate: Rate, reached: int, now: int) -> int:
    """How many can be taken at once."""
    found = 0
    while True:
        reached, answer = taken(rate, reached, now)
        if answer.wait_ms:
            return found
        found += 1


@given(count=counts, period_ms=periods_ms, steps=steps_us)
def test_what_is_said_to_be_left_is_left_and_then_one_more(count: int, period_ms: int, steps: list[int]) -> None:
    rate, reached, now = rate_of(count, period_ms), 0, START_US
    for step in steps[:20]:
        now += step
        reached, answer = taken(rate, reached, now)
        assert free(rate, reached, now) == answer.left
        assert free(rate, reached, now + answer.more_ms * 1000) > answer.left
        # What is told is whole milliseconds: one less may be early by a part of one, never by more.
        assert free(rate, reached, now + (answer.more_ms - 1) * 1000) == answer.left


@given(count=counts, period_ms=periods_ms, back_us=st.integers(1, START_US))
def test_a_clock_that_was_set_back_holds_nobody_up_for_longer_than_one_interval(
    count: int, period_ms: int, back_us: int
) -> None:
    rate = rate_of(count, period_ms)
    reached, _ = taken(rate, 0, START_US)
    _, answer = taken(rate, reached, START_US - back_us)
    assert answer.wait_ms <= -(-rate.interval_us // 1000)


def test_the_burst_is_the_count() -> None:
    for count in (1, 2, 3, 7, 1000):
        rate, reached = rate_of(count, 1000), 0
        for _ in range(count):
            reached, answer = taken(rate, reached, START_US)
            assert answer.wait_ms == 0
        assert taken(rate, reached, START_US)[1].wait_ms == -(-rate.interval_us // 1000)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(count=counts, period_ms=periods_ms, steps=steps_us, forward=st.booleans())
def test_the_script_does_what_the_function_does(
    redis_url: str, count: int, period_ms: int, steps: list[int], forward: bool
) -> None:
    rate, reached, now, key = rate_of(count, period_ms), 0, START_US, "{rates}:rate:client"
    with connected(redis_url) as on:
        on.command("DEL", key)
        for step in steps[:20]:
            now += step if forward else -step
            reached, answer = taken(rate, reached, now)
            args = (rate.interval_us, rate.burst_us, now // 1_000_000, now % 1_000_000)
            assert on.run(_TIMED + RATE.text, [key], args) == list(astuple(answer))
            assert int(on.command("GET", key)) == reached
        on.command("DEL", key)


def test_what_was_taken_is_kept_no_longer_than_it_matters(redis_url: str) -> None:
    rate, key = rate_of(2, 60_000), "{rates}:rate:expiring"
    with connected(redis_url) as on:
        on.command("DEL", key)
        assert on.run(RATE.text, [key], (rate.interval_us, rate.burst_us)) == [0, 1, 30_000]
        assert 0 < on.command("PTTL", key) <= 30_000
        assert on.run(RATE.text, [key], (rate.interval_us, rate.burst_us))[:2] == [0, 0]
        assert 30_000 < on.command("PTTL", key) <= 60_000
        on.command("DEL", key)
