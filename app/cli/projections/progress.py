"""How far a rebuild is: a bar on a terminal, or a line of JSON at most every half second."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from app.cli.projections.answers import write_json
from projections.rebuild.building import Progress, Report

LINE_SECONDS: Final = 0.5
FILLING: Final = "filling"


class Step(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="progress"):
    """How far a rebuild is, and how fast; null where nothing can be told yet."""

    stage: str
    events: int
    total: int
    events_per_second: int | None
    eta_seconds: float | None
    """Until every event is folded, which the comparison and the swap come after."""


class Meter:
    """Measures a rebuild's speed from its first word on, so that what an interrupted one had done counts for nothing.

    Args:
        now: seconds, from anywhere, never going back.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._first: tuple[float, int] | None = None

    def step(self, at: Progress) -> Step:
        """Return ``at`` with its speed."""
        now = self._now()
        if self._first is None:
            self._first = (now, at.events)
        seconds, events = now - self._first[0], at.events - self._first[1]
        speed = round(events / seconds) if seconds > 0 and events > 0 else None
        eta = round((at.total - at.events) / speed, 1) if speed and at.stage == FILLING else None
        return Step(stage=at.stage, events=at.events, total=at.total, events_per_second=speed, eta_seconds=eta)


class Lines:
    """Writes steps, the first at once and the others no sooner than half a second after the one before."""

    def __init__(self, write: Callable[[Step], None], now: Callable[[], float]) -> None:
        self._write = write
        self._now = now
        self._meter = Meter(now)
        self._due: float | None = None

    def report(self, at: Progress) -> None:
        """See :data:`projections.rebuild.building.Report`."""
        step, now = self._meter.step(at), self._now()
        if self._due is None or now >= self._due:
            self._write(step)
            self._due = now + LINE_SECONDS


@contextmanager
def reporting(*, as_json: bool) -> Iterator[Report]:
    """Yield what tells whoever waits how far a rebuild is."""
    if as_json:
        yield Lines(write_json, time.monotonic).report
        return
    console, meter = Console(stderr=True), Meter(time.monotonic)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    with Bar(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("beginning", total=None, speed="")

        def report(at: Progress) -> None:
            step = meter.step(at)
            bar.update(task, description=at.stage, completed=at.events, total=at.total, speed=speed_text(step))

        yield report


def speed_text(step: Step) -> str:
    """Return a step's speed for people; "" while nothing can be told."""
    speed = "" if step.events_per_second is None else f"{step.events_per_second:,} events/s"
    return speed if step.eta_seconds is None else f"{speed}, {step.eta_seconds:.0f} s left"
