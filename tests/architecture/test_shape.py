"""The code keeps the shape that docs promise: sizes, purity, no floats near money, few broad handlers."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("eventstore", "projections", "app")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
FOLDERS = sorted({path.parent for path in SOURCES})

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
FOLDER_ENTRIES_MAX = 12
ROOM_MORE = {"app": 1}
"""The application's parts are as many as they are."""
VAGUE = {"utils", "helpers", "common", "core", "managers", "misc"}
BROAD_HANDLERS = {"app/execution/worker.py", "app/api/application.py", "projections/fold/histories.py"}
MONEY = ("app/orders", "app/dex", "projections")


def inside(path: Path) -> str:
    return str(path.relative_to(ROOT))


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(TREES[path])


@pytest.mark.parametrize("path", SOURCES, ids=inside)
def test_every_module_says_in_its_first_line_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(TREES[path])


@pytest.mark.parametrize("path", SOURCES, ids=inside)
def test_files_and_functions_fit_in_the_head(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES_MAX
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES_MAX, node.name


@pytest.mark.parametrize("folder", FOLDERS, ids=inside)
def test_folders_hold_few_things_with_telling_names(folder: Path) -> None:
    names = {path.name for path in folder.iterdir() if path.suffix in {".py", ".lua"} or path.is_dir()} - {
        "__pycache__",
        "__init__.py",
    }
    assert len(names) <= FOLDER_ENTRIES_MAX + ROOM_MORE.get(inside(folder), 0)
    assert not {name.removesuffix(".py") for name in names} & VAGUE


def test_broad_handlers_stand_at_the_named_edges_only() -> None:
    found = {
        inside(path)
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}))
    }
    assert found <= BROAD_HANDLERS


@pytest.mark.parametrize("path", [p for p in SOURCES if inside(p).startswith(MONEY)], ids=inside)
def test_no_float_comes_near_money(path: Path) -> None:
    for node in nodes(path):
        assert not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float")
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)) or "projections" in inside(path)


@pytest.mark.parametrize("path", [p for p in SOURCES if inside(p).startswith("app/orders")], ids=inside)
def test_the_domain_awaits_nothing(path: Path) -> None:
    assert not [node for node in nodes(path) if isinstance(node, ast.AsyncFunctionDef | ast.Await)]


def test_the_environment_is_read_in_one_place() -> None:
    found = {
        inside(path)
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
    }
    assert found <= {"app/cli/connections.py"}
