"""The lists of mutants that no test can notice fit today's code. Whether tests notice all others: `make mutants`."""

import ast
import tomllib
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LISTS = {path.stem: tomllib.loads(path.read_text()) for path in sorted(HERE.glob("*.toml"))}


def lines_by_function(file: Path) -> dict[str, set[str]]:
    """Return the lines of each function and method of a file, without their indentation."""
    text, found = file.read_text(), {}
    for node in ast.parse(text).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for each in inner:
            if isinstance(each, ast.FunctionDef):
                lines = text.splitlines()[each.lineno - 1 : each.end_lineno]
                found.setdefault(prefix + each.name, set()).update(line.strip() for line in lines)
    return found


@pytest.mark.parametrize("name", LISTS)
def test_files_and_tests_of_a_list_exist(name: str) -> None:
    named = [*LISTS[name]["files"], *(each for each in LISTS[name]["tests"] if each.startswith("tests/"))]
    assert [each for each in named if not (ROOT / each).is_file()] == []


@pytest.mark.parametrize("name", LISTS)
def test_listed_mutants_change_lines_that_the_code_has(name: str) -> None:
    lines: dict[str, set[str]] = {}
    for file in LISTS[name]["files"]:
        lines |= lines_by_function(ROOT / file)
    assert [each for each in LISTS[name].get("equal", []) if not fits(each, lines)] == []


def fits(entry: dict[str, Any], lines: dict[str, set[str]]) -> bool:  # Any: strings
    """Return whether an entry has a reason and changes lines of its function."""
    return bool(entry["reason"]) and {*entry["was"].strip().splitlines()} <= lines.get(entry["function"], set())


def test_no_file_is_in_two_lists() -> None:
    files = [file for each in LISTS.values() for file in each["files"]]
    assert len(files) == len({*files})
