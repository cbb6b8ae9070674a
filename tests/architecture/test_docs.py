"""The documents stay true: what they name exists, and what exists by name is in them."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.main import get_command

from app.api.description.messages import SERVER_MESSAGES
from app.api.families.aliases import ALIASES
from app.api.families.dialects import FAMILIES
from app.api.problems import PROBLEMS, Code
from app.api.requests import parse_object
from app.api.streaming.messages import Message, message_id, read_message
from app.api.streaming.scopes import FILTER_FIELDS, START_FIELDS, EventName
from app.cli.main import app
from app.orders.events import FailureCode
from app.orders.lifecycle import Status, public_names
from tests.builders import EVERY_EVENT
from tests.clocks import START_US

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
TESTS = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
README_LINES_MAX = 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [page.parent / link for link in re.findall(r"\]\(([^)#:]+)\)", text)]
    named = [ROOT / name for name in re.findall(r"`((?:tests|app|docs|eventstore|projections)/[\w./]+\.\w+)`", text)]
    assert [str(path) for path in (*links, *named) if not path.exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_a_page_names_exist(page: Path) -> None:
    names = re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8"))
    assert [name for name in names if f"def {name}(" not in TESTS] == []


def test_the_api_page_lists_exactly_the_events_of_the_lifecycle() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    table = text[text.index("| `event` |") :].split("\n\n")[0]
    rows = re.findall(r"^\| `([\w:]+)` \| (\w+) \|", table, re.MULTILINE)
    assert set(rows) == {public_names(event) for event in EVERY_EVENT}
    assert {status for _, status in rows} <= set(get_args(Status))


def test_the_readme_is_short_and_its_commands_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= README_LINES_MAX
    known = set(getattr(get_command(app), "commands"))  # noqa: B009 - click's groups have it, its commands have not
    assert set(re.findall(r"^ordertape (\w+)", text, re.MULTILINE)) <= known
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)) <= targets


def test_every_problem_has_its_status() -> None:
    assert set(PROBLEMS) == set(get_args(Code))


def test_filters_know_exactly_the_events_of_the_lifecycle() -> None:
    assert set(get_args(EventName)) == {public_names(event)[0] for event in EVERY_EVENT}


def _examples(heading: str) -> list[dict[str, Any]]:
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    block = text[text.index(f"### {heading}") :].split("```json\n")[1].split("```")[0]
    return [parse_object(line) for line in block.splitlines()]


def test_every_client_message_of_the_protocol_page_is_understood() -> None:
    examples = _examples("Client to server")
    messages = [type(read_message(members, now_us=START_US)) for members in examples]
    assert set(messages) == set(get_args(Message))
    assert all(message_id(members) == members.get("id") for members in examples)
    given = {name for members in examples if members.get("type") == "subscribe" for name in members}
    assert {*START_FIELDS, *FILTER_FIELDS} - given == {"lastEventId", "statuses"}


def test_the_protocol_page_shows_every_message_of_the_server_and_every_close_code() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "app/api").rglob("*.py"))
    said = {str(kind.__struct_config__.tag) for kind in SERVER_MESSAGES} | {"error"}
    examples = _examples("Server to client")
    assert {members["type"] for members in examples if "type" in members} == said
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    codes = set(re.findall(r"\b4[45]\d\d\b", code))
    assert codes == set(
        re.findall(r"\b4[45]\d\d\b", page[page.index("| code | meaning | do |\n|---|---|---|\n| 1000") :])
    )


def test_the_page_for_other_clients_has_every_path_type_and_name() -> None:
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    kinds = {
        kind
        for family in FAMILIES.values()
        for dialect in family.values()
        for kind in (dialect.kind, *dialect.kinds.values())
    }
    assert [word for word in (*FAMILIES, *ALIASES, *sorted(kinds)) if f"`{word}`" not in page] == []


def test_every_failure_code_is_given_by_some_decision() -> None:
    decisions = "".join((ROOT / "app" / "orders" / name).read_text("utf-8") for name in ("decide.py", "guards.py"))
    assert [code for code in get_args(FailureCode) if f'"{code}"' not in decisions] == []
