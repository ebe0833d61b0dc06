"""Bounds of the size of functions and modules; ruff has those of complexity and of the number of arguments."""

import ast
import statistics
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
FILES = sorted(path for folder in ("src", "blocks", "tasks", "flows") for path in (REPOSITORY / folder).rglob("*.py"))
MOST_LINES, MEDIAN_LINES = 60, 6  # of a function, without its docstring
MOST_LINES_OF_A_MODULE = 510


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines of the body of a function, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_are_short() -> None:
    lines = {
        f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}": lines_of(node)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: n for name, n in lines.items() if n > MOST_LINES} == {}
    assert 1 < statistics.median(lines.values()) <= MEDIAN_LINES


def test_modules_are_short() -> None:
    lines = {str(path.relative_to(REPOSITORY)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: n for name, n in lines.items() if n > MOST_LINES_OF_A_MODULE} == {}
