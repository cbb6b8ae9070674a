"""Every code that the source refuses with has its type and page, and every type is met somewhere."""

import ast
from collections.abc import Iterator
from pathlib import Path

from app.api.problems import PROBLEMS
from tests.architecture.pages import problems_page

ROOT = Path(__file__).parents[2]


def codes() -> Iterator[str]:
    """The codes that the source gives to problems, and that forms are finished with."""
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            named = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if named == "ProblemError" or (named == "finish" and isinstance(node.args[0], ast.Constant)):
                constants = (part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant))
                yield from (value for value in constants if isinstance(value, str))


def test_every_code_in_the_source_has_a_page_and_every_page_a_code_in_the_source() -> None:
    # A form's own refusal passes the code on that it is finished with.
    assert set(codes()) == set(PROBLEMS)


def test_the_page_of_problems_is_the_table() -> None:
    assert (ROOT / "docs" / "problems.md").read_text(encoding="utf-8") == problems_page()


def test_types_say_what_to_do_in_whole_sentences() -> None:
    for code, known in PROBLEMS.items():
        assert known.title[0].isupper() and not known.title.endswith("."), code
        for text in (known.meaning, known.cause, known.remedy):
            assert text[0].isupper() and text.endswith("."), code
            assert "|" not in text
