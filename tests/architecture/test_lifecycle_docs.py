"""The documents on the lifecycle are what the code does: diagram, events, statuses, failures."""

import re
from pathlib import Path
from typing import get_args

from app.orders.lifecycle import TERMINAL, Status, phase, public_names
from app.orders.state import State
from tests.architecture.pages import failures_page, sample_states, transitions
from tests.builders import EVERY_EVENT

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "lifecycle.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[tuple[str, ...]]:
    """The table under a heading, without its head and without code marks."""
    lines = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    cells = [tuple(cell.strip().strip("`") for cell in line.strip("|").split("|")) for line in lines if line[:1] == "|"]
    return cells[2:]


def test_the_samples_are_all_states_there_are() -> None:
    assert {type(state) for state in sample_states()} == set(State.__args__)


def test_the_diagram_has_a_line_for_every_transition_and_no_other() -> None:
    text = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", PAGE, re.DOTALL)
    assert len(text) == 1
    lines = [re.fullmatch(r" +(\S+) --> (\S+) : (\S+)", line) for line in text[0].splitlines()]
    drawn = [(line[1], line[3].replace("#colon;", ":"), line[2]) for line in lines if line]
    assert len(drawn) == len(lines) == len(set(drawn))
    assert set(drawn) == transitions()


def test_the_events_and_statuses_of_the_page_are_those_of_the_code() -> None:
    events = rows("Events")
    assert len(events) == len(set(events))
    assert set(events) == {(*public_names(event), type(event).__name__) for event in EVERY_EVENT}
    statuses = get_args(Status)
    assert rows("Statuses") == [(name, phase(name), "yes" if name in TERMINAL else "no") for name in statuses]


def test_the_page_on_failures_is_what_the_code_prints() -> None:
    assert (DOCS / "failures.md").read_text(encoding="utf-8") == failures_page(), (
        "print it anew: python -m tests.architecture.pages failures > docs/failures.md"
    )
