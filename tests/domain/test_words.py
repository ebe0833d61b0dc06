"""Words in messages: numbers agree with their nouns."""

import ast
import re
from pathlib import Path

import pytest

from surveyor.words import number_of

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("src", "blocks", "tasks", "flows") for path in (ROOT / folder).rglob("*.py"))
PLURAL = re.compile(r" (?:[a-z]+ )?([a-z]+[^\Ws])s\b")
NEVER_ONE = {"actions", "jobs", "sections", "times"}  # such a message is written only when the number is not 1
VERBS = {"counts", "does", "exists", "expects", "gives", "has", "holds", "is", "was"}


@pytest.mark.parametrize(("n", "words"), [(0, "0 labels"), (1, "1 label"), (2, "2 labels")])
def test_a_number_agrees_with_its_noun(n: int, words: str) -> None:
    assert number_of(n, "label") == words


def test_an_irregular_plural_is_given() -> None:
    assert [number_of(n, "try", "tries") for n in (1, 2)] == ["1 try", "2 tries"]


def test_no_message_has_a_plural_in_brackets() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"[a-z]\((s|es)\)", node.value)
    ]
    assert found == []


def test_no_message_puts_a_counted_number_before_a_plural() -> None:
    """Such a message says "1 labels"; `number_of` agrees."""
    found = [
        f"{path}:{node.lineno}: {match[0]}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.JoinedStr)
        for number, text in zip(node.values, node.values[1:], strict=False)
        if is_count(number) and isinstance(text, ast.Constant)
        if (match := PLURAL.match(str(text.value))) and f"{match[1]}s" not in NEVER_ONE | VERBS
    ]
    assert found == []


def is_count(part: ast.expr) -> bool:
    """Return whether a part of a text is a length, or a name such as `n_labels`."""
    if not isinstance(part, ast.FormattedValue):
        return False
    value = part.value
    name = value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "")
    return name.startswith("n_") or (isinstance(value, ast.Call) and getattr(value.func, "id", "") == "len")
