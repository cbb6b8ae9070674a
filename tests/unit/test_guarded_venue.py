"""A venue behind its circuit breaker and its bound on concurrency, on a clock that the test moves."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dex.errors import (
    CircuitOpenError,
    DustError,
    NoLiquidityError,
    NotLaunchedError,
    PriceOutOfRangeError,
    VenueError,
    VenueTimeoutError,
    VenueUnavailableError,
)
from app.dex.router import Refusal, Silence, collect
from app.dex.tokens import SOL, USDC
from app.dex.venue import Swap, VenueFees, VenueQuote
from app.execution.venues import AccessSettings, GuardedVenue
from tests.clocks import VirtualClock

OPEN_US = 2_000_000
FAILURES_MAX = 3
DEADLINE_MS = 1_000
OUTAGES: tuple[type[VenueError], ...] = (VenueUnavailableError, VenueTimeoutError)
ANSWERS: tuple[type[VenueError], ...] = (DustError, NoLiquidityError, NotLaunchedError, PriceOutOfRangeError)


class ScriptedVenue:
    """A venue that takes as long, and answers, as the test says; remembers how many it was asked at once."""

    name = "raydium"

    def __init__(self, clock: VirtualClock) -> None:
        self.error: type[VenueError] | None = None
        self.seconds = 0.0
        self.asked = 0
        self.busy = 0
        self.busiest = 0
        self._clock = clock

    async def quote(self, swap: Swap, slot: int) -> VenueQuote:
        error = self.error
        self.asked += 1
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            if self.seconds:
                await self._clock.sleep(self.seconds)
        finally:
            self.busy -= 1
        if error is not None:
            raise error("scripted")
        fees = VenueFees(lp=1, protocol=0, fund=0)
        return VenueQuote(venue=self.name, amount=100, fee=1, impact_ppm=0, slot=slot, fees=fees)


class Bench:
    """A scripted venue behind a circuit, and the clock of both."""

    def __init__(self, concurrency: int = 8, failures_max: int = FAILURES_MAX) -> None:
        self.clock = VirtualClock()
        self.venue = ScriptedVenue(self.clock)
        settings = AccessSettings(concurrency=concurrency, failures_max=failures_max, open_us=OPEN_US)
        self.guarded = GuardedVenue(self.venue, self.clock, settings)

    async def ask(self, number: int = 0) -> str:
        """The outcome of one quote: ``ok``, or the word for its error."""
        try:
            await self.guarded.quote(swap(number), 7)
        except VenueError as error:
            return error.code
        return "ok"

    async def fail(self, times: int = FAILURES_MAX) -> None:
        """Let ``times`` quotes fail, one after the other."""
        self.venue.error = VenueUnavailableError
        for _ in range(times):
            assert await self.ask() == "unavailable"
        self.venue.error = None

    async def collected(self, number: int = 0) -> str:
        """As :meth:`ask`, with the deadline that the router gives."""
        (answer,) = await collect([self.guarded], swap(number), 7, timeout_ms=DEADLINE_MS, clock=self.clock)
        match answer:
            case Silence():
                return "timeout"
            case Refusal(code=code):
                return code
            case _:
                return "ok"


def swap(number: int = 0) -> Swap:
    return Swap(order_id=f"order-{number}", attempt=1, side="sell", base=SOL, quote=USDC, amount=1_000)


def on_bench(scenario: Callable[[Bench], Coroutine[Any, Any, None]], bench: Bench | None = None) -> None:
    """Run a scenario; time passes whenever nothing else can happen."""

    async def run() -> None:
        found = bench or Bench()
        task = asyncio.create_task(scenario(found))
        await found.clock.run_until(task)
        await task

    asyncio.run(run())


async def at_once(*asked: Awaitable[str]) -> list[str]:
    return list(await asyncio.gather(*asked))


@pytest.mark.parametrize("error", OUTAGES)
def test_the_circuit_opens_after_exactly_so_many_failures_in_a_row(error: type[VenueError]) -> None:
    async def scenario(bench: Bench) -> None:
        bench.venue.error = error
        assert [await bench.ask() for _ in range(FAILURES_MAX + 2)] == [
            *[error.code] * FAILURES_MAX,
            "circuit_open",
            "circuit_open",
        ]
        assert bench.venue.asked == FAILURES_MAX

    on_bench(scenario)


def test_quotes_that_are_cancelled_at_their_deadline_are_failures() -> None:
    async def scenario(bench: Bench) -> None:
        bench.venue.seconds = 60
        assert [await bench.collected() for _ in range(FAILURES_MAX + 1)] == [
            *["timeout"] * FAILURES_MAX,
            "circuit_open",
        ]

    on_bench(scenario)


@pytest.mark.parametrize("answer", [None, *ANSWERS])
def test_an_answer_of_any_kind_ends_a_row_of_failures(answer: type[VenueError] | None) -> None:
    async def scenario(bench: Bench) -> None:
        for _ in range(3):
            await bench.fail(FAILURES_MAX - 1)
            bench.venue.error = answer
            assert await bench.ask() == ("ok" if answer is None else answer.code)
        assert bench.venue.asked == 3 * FAILURES_MAX

    on_bench(scenario)


@pytest.mark.parametrize("answer", ANSWERS)
def test_refusals_that_are_answers_never_open_the_circuit(answer: type[VenueError]) -> None:
    async def scenario(bench: Bench) -> None:
        bench.venue.error = answer
        assert {await bench.ask() for _ in range(5 * FAILURES_MAX)} == {answer.code}

    on_bench(scenario)


def test_an_open_circuit_refuses_for_its_whole_time_and_then_asks_exactly_one_trial() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.fail()
        await bench.clock.sleep(OPEN_US / 1_000_000 - 0.000_001)
        assert await bench.ask(1) == "circuit_open"
        await bench.clock.sleep(0.000_001)
        bench.venue.seconds = 0.2
        outcomes = await at_once(*(bench.ask(number) for number in range(2, 10)))
        assert outcomes == ["ok", *["circuit_open"] * 7]
        assert bench.venue.asked == FAILURES_MAX + 1
        assert [number for number in range(10) if bench.guarded.is_trial(swap(number))] == [2]

    on_bench(scenario)


def test_a_trial_that_takes_longer_than_the_circuit_is_open_stays_the_only_one() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.fail()
        await bench.clock.sleep(OPEN_US / 1_000_000)
        bench.venue.seconds = 3 * OPEN_US / 1_000_000
        trial = asyncio.create_task(bench.ask(1))
        await bench.clock.sleep(2 * OPEN_US / 1_000_000)
        assert await bench.ask(2) == "circuit_open"
        assert await trial == "ok"

    on_bench(scenario)


@pytest.mark.parametrize("answer", [None, *ANSWERS])
def test_a_trial_that_is_answered_closes_the_circuit(answer: type[VenueError] | None) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.fail()
        await bench.clock.sleep(OPEN_US / 1_000_000)
        bench.venue.error = answer
        await bench.ask(1)
        bench.venue.error = None
        assert await at_once(*(bench.ask(number) for number in range(5))) == ["ok"] * 5
        await bench.fail(FAILURES_MAX - 1)
        assert await bench.ask() == "ok"

    on_bench(scenario)


@pytest.mark.parametrize("silent", [False, True])
def test_a_trial_that_fails_opens_the_circuit_again_for_the_whole_time(silent: bool) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.fail()
        await bench.clock.sleep(OPEN_US / 1_000_000)
        bench.venue.error = VenueUnavailableError
        bench.venue.seconds = 60 if silent else 0
        assert await bench.collected(1) == ("timeout" if silent else "unavailable")
        bench.venue.error, bench.venue.seconds = None, 0
        await bench.clock.sleep(OPEN_US / 1_000_000 - 0.000_001)
        assert await bench.ask(2) == "circuit_open"
        await bench.clock.sleep(0.000_001)
        assert await bench.ask(3) == "ok"

    on_bench(scenario)


def test_what_was_asked_before_the_circuit_opened_neither_closes_it_nor_keeps_it_open() -> None:
    async def scenario(bench: Bench) -> None:
        bench.venue.seconds = 0.5
        fine = asyncio.create_task(bench.ask(1))
        await bench.clock.sleep(0.1)
        bench.venue.error, bench.venue.seconds = VenueTimeoutError, 1.5
        broken = asyncio.create_task(bench.ask(2))
        await bench.clock.sleep(0.1)
        bench.venue.seconds = 0
        await bench.fail()
        assert await fine == "ok"
        assert await bench.ask(3) == "circuit_open"
        assert await broken == "timeout"
        await bench.clock.sleep(0.601)
        assert await bench.ask(4) == "ok"

    on_bench(scenario)


def test_a_clock_that_is_set_back_does_not_keep_the_circuit_open() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.fail()
        bench.clock._now_us -= 3_600_000_000
        assert await bench.ask() == "ok"

    on_bench(scenario)


def test_no_more_quotes_than_allowed_are_asked_at_once_and_the_others_follow() -> None:
    async def scenario(bench: Bench) -> None:
        bench.venue.seconds = 0.2
        assert await at_once(*(bench.ask(number) for number in range(20))) == ["ok"] * 20
        assert bench.venue.busiest == 4

    on_bench(scenario, Bench(concurrency=4))


def test_waiting_for_room_until_the_deadline_is_no_failure_of_the_venue() -> None:
    """Of 18 orders that ask at once, room for 2 at a time serves 6; the others get it too late, or never."""

    async def scenario(bench: Bench) -> None:
        bench.venue.seconds = 0.3
        outcomes = await at_once(*(bench.collected(number) for number in range(18)))
        assert outcomes == [*["ok"] * 6, *["timeout"] * 12]
        assert await bench.collected(18) == "ok"

    on_bench(scenario, Bench(concurrency=2, failures_max=1))


def test_a_silent_venue_opens_its_circuit_although_all_its_room_is_taken() -> None:
    async def scenario(bench: Bench) -> None:
        bench.venue.seconds = 60
        outcomes = await at_once(*(bench.collected(number) for number in range(18)))
        assert set(outcomes) <= {"timeout", "circuit_open"}
        assert await bench.collected(18) == "circuit_open"

    on_bench(scenario, Bench(concurrency=FAILURES_MAX))


@given(st.lists(st.tuples(st.sampled_from(["ok", "dust", "unavailable"]), st.integers(0, OPEN_US + 2)), max_size=60))
def test_whatever_happens_one_after_the_other_the_circuit_is_as_its_rule_says(steps: list[tuple[str, int]]) -> None:
    """The rule beside the code: a row of failures, and the time at which the circuit was opened last."""
    errors: dict[str, type[VenueError]] = {"dust": DustError, "unavailable": VenueUnavailableError}

    async def scenario(bench: Bench) -> None:
        row, opened_us = 0, 0
        for outcome, pause_us in steps:
            bench.clock._now_us += pause_us
            now_us = bench.clock.now_us()
            bench.venue.error = errors.get(outcome)
            is_open = row >= FAILURES_MAX and now_us < opened_us + OPEN_US
            assert await bench.ask() == ("circuit_open" if is_open else outcome)
            if is_open:
                continue
            row = row + 1 if outcome == "unavailable" else 0
            if row >= FAILURES_MAX:
                opened_us = now_us

    on_bench(scenario)


def test_a_refusal_says_why_and_raises_its_own_error() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.fail()
        with pytest.raises(CircuitOpenError, match="3 failures in a row"):
            await bench.guarded.quote(swap(), 7)

    on_bench(scenario)
