"""What is told of a rebuild's progress: speed, time left, and how often."""

import pytest

from app.cli.projections.progress import Lines, Meter, Step, reporting, speed_text
from projections.rebuild.building import Progress


def at(events: int, stage: str = "filling") -> Progress:
    return Progress(stage, events, 1_000, 0)


class Watch:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds


def test_the_speed_is_that_of_this_run_not_of_the_one_that_was_interrupted() -> None:
    watch = Watch()
    meter = Meter(watch.now)
    assert (meter.step(at(600)).events_per_second, meter.step(at(600)).eta_seconds) == (None, None)
    watch.seconds = 2.0
    step = meter.step(at(800))
    assert (step.events_per_second, step.eta_seconds) == (100, 2.0)
    assert speed_text(step) == "100 events/s, 2 s left"
    assert meter.step(at(1_000, "comparing")).eta_seconds is None
    assert speed_text(meter.step(at(600))) == ""


def test_lines_are_written_at_most_every_half_second() -> None:
    watch, written = Watch(), list[Step]()
    lines = Lines(written.append, watch.now)
    for number in range(101):
        watch.seconds = number / 50
        lines.report(at(number))
    assert [step.events for step in written] == [0, 25, 50, 75, 100]


def test_a_bar_is_drawn_on_a_terminal_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for terminal in ("0", "1"):
        monkeypatch.setenv("TTY_COMPATIBLE", terminal)
        monkeypatch.setenv("COLUMNS", "120")
        with reporting(as_json=False) as report:
            report(at(600))
            report(at(800))
        told = capsys.readouterr()
        assert told.out == ""
        assert ("800/1000" in told.err) == (terminal == "1")
