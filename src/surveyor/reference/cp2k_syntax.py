"""The syntax of CP2K's inputs, by cp2k-input-tools: a text becomes a tree, and a tree a text.

The library knows the sections and keywords of one version of CP2K. What it does not know passes as it was written: as a
line of the section it is in, under "*", where the library keeps lines such as those of COORD.

Importing this takes a second, so it is imported where it is used.
"""

import json
import logging
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from cp2k_input_tools import DEFAULT_CP2K_INPUT_XML
from cp2k_input_tools.generator import CP2KInputGenerator
from cp2k_input_tools.keyword_helpers import Keyword
from cp2k_input_tools.lineiterator import LineContinuationError
from cp2k_input_tools.parser import CP2KInputParser
from cp2k_input_tools.parser_errors import InvalidNameError, InvalidParameterError, InvalidSectionError, ParserError
from cp2k_input_tools.tokenizer import COMMENT_CHARS, Context, TokenizerError, tokenize

from surveyor.errors import InputError

logger = logging.getLogger(__name__)

Tree = dict[str, Any]  # Any: sections, values, and lists of both

# What surveyor itself has to understand, so that a value it does not know is an error.
UNDERSTOOD = ("METHOD", "STRESS_TENSOR", "CHARGE", "MULTIPLICITY", "UKS", "ROKS")
FORTRAN_EXPONENT = re.compile(r"(?<![\w.])([-+]?(?:\d+\.?\d*|\.\d+))[dD]([-+]?\d+)\b")
RANGE = re.compile(r"(?<!\S)(\d+)\.\.(\d+)(?!\S)")

# Beside its own errors, the library lets through what a malformed line or number makes of Python's.
MALFORMED = (
    ParserError,
    TokenizerError,
    LineContinuationError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
)
RAW_LINE = ET.fromstring(
    '<DEFAULT_KEYWORD repeats="yes"><DATA_TYPE kind="string"><N_VAR>1</N_VAR></DATA_TYPE></DEFAULT_KEYWORD>'
)


@dataclass(frozen=True, slots=True)
class Parsed:
    """An input as it was read.

    Attributes:
        tree: sections and values, as JSON holds them.
        lines: number and text of each line, by section and keyword such as "FORCE_EVAL/SUBSYS/KIND H/BASIS_SET".
        unknown: what passes although it is unknown, with section and line, for messages.
    """

    tree: Tree
    lines: Mapping[str, tuple[str, ...]]
    unknown: tuple[str, ...]


def parse(text: str, folder: Path | None = None, description: Path | None = None) -> Parsed:
    """Read an input; warn of what is unknown.

    Args:
        text: the input.
        folder: where files lie that it includes; None where it may include none.
        description: XML that a CP2K prints of its input; by default that of the library.

    Raises:
        InputError: the input cannot be read: says why, in which section and line.
    """
    parser = _parser(folder, description)
    tree = _tree(parser, text)
    for each in parser.unknown:
        logger.warning("CP2K input: %s: passed on as it is; CP2K has the last word", each)
    if description is not None:
        # Workers know the description of the library alone. What only the other one knows is written in full once, and
        # passes there.
        canonical = "\n".join(_described(description, _Generator).line_iter(tree))
        tree = _tree(_parser(None, None, is_trusted=True), canonical)
    lines = {name: tuple(found) for name, found in parser.lines.items()}
    return Parsed(tree, lines, tuple(parser.unknown))


def write(tree: Tree) -> str:
    """Return the text of an input."""
    return "\n".join(_described(None, _Generator).line_iter(tree)) + "\n"


class _Parser(CP2KInputParser):  # type: ignore[misc] # the library has no types
    """The library's parser, which passes on what it does not know, and can say where it is."""

    def __init__(self, description: Path | str) -> None:
        super().__init__(description, key_trafo=str.upper)
        self._treerefs: list[Any] = []  # Any: the open sections, of the library

    def prepare(self, is_trusted: bool) -> None:
        """Begin anew.

        Args:
            is_trusted: whether a value that is not understood passes, too, as another description has allowed it.
        """
        self.is_trusted = is_trusted
        self.lines: dict[str, list[str]] = {}
        self.unknown: list[str] = []
        self._depth = 0  # of sections within an unknown one
        self._here = ""

    def numbered(self, text: str) -> Iterator[str]:
        """Give the lines of a text, and remember at which one the parser is."""
        for number, line in enumerate(text.splitlines(keepends=True), 1):
            self._here = f"line {number}: {line.strip()}"
            yield line

    @property
    def section(self) -> str:
        """Path of the open section, such as FORCE_EVAL/SUBSYS/KIND H."""
        opened = self._treerefs[1:]
        names = [f"{each.name} {each.param}" if isinstance(each.param, str) else each.name for each in opened]
        return "/".join(names)

    @property
    def place(self) -> str:
        """Section and line, for messages."""
        return f"section {self.section}, {self._here}" if self.section else self._here

    def _parse_as_section(self, line: str) -> None:
        name = (line[1:].split() or [""])[0].upper()
        if self._depth:
            self._depth += -1 if name == "END" else 1
            self._pass_on(line)
        elif self._has_opened_or_closed(name, line):
            self.lines.setdefault(self.section, []).append(self._here)
        else:
            self._depth = 1
            self._pass_on(line)

    def _has_opened_or_closed(self, name: str, line: str) -> bool:
        """Open or close a section; say no where it is unknown and passes."""
        opened = list(self._treerefs)
        if name == "END" and len(opened) == 1:
            raise InvalidSectionError("there is no open section to close", Context())
        try:
            super()._parse_as_section(line)
        except InvalidSectionError:
            self._note(name, "section", opened[-1].section_names)
        except InvalidParameterError:  # then the section is open already
            self._treerefs = opened
            if not self._may_pass(name, opened[-1].find_node_by_name("SECTION", name)):
                raise
            opened[-1].subsections.pop()
            self._note(name, "value of section", ())
        except InvalidNameError:  # a second section of a kind that does not repeat
            if not self.is_trusted:
                raise
        except MALFORMED as error:
            raise InvalidSectionError(_told(error, line), Context()) from error
        else:
            return True
        return False

    def _parse_as_keyword(self, line: str) -> None:
        if self._depth:
            self._pass_on(line)
            return
        name = line.split()[0].upper()
        self.lines.setdefault(f"{self.section}/{name}", []).append(self._here)
        try:
            self._read_keyword(line)
        except InvalidNameError:
            self._note(name, "keyword", self._treerefs[-1].keyword_names)
            self._pass_on(line)
        except MALFORMED as error:
            if not self._may_pass(name, self._treerefs[-1].find_node_by_name("KEYWORD", name)):
                raise InvalidParameterError(_told(error, line), Context()) from error
            self._note(name, "value of keyword", ())
            self._pass_on(line)

    def _read_keyword(self, line: str) -> None:
        try:
            super()._parse_as_keyword(line)
        except (ParserError, ValueError):
            plain = _as_the_library_reads(line)
            if plain == line:
                raise
            super()._parse_as_keyword(plain)

    def _may_pass(self, name: str, node: ET.Element | None) -> bool:
        """Say whether a value passes that the library does not take: other versions have other names, not numbers."""
        kind = None if node is None else node.find(".//DATA_TYPE")
        is_name = kind is not None and kind.get("kind") == "keyword"
        return self.is_trusted or (is_name and name not in UNDERSTOOD)

    def _note(self, name: str, what: str, known: Iterable[str | None]) -> None:
        if self.is_trusted:
            return
        close = get_close_matches(name, [each for each in known if each], n=1, cutoff=0.75)
        advice = f" (did you mean {close[0]}?)" if close else ""
        self.unknown.append(f"unknown {what} {name} in {self.place}{advice}")

    def _pass_on(self, line: str) -> None:
        self._treerefs[-1].keywords.append(Keyword("*", _without_comment(line), repeats=True, node=None))


def _told(error: Exception, line: str) -> str:
    if line.upper().startswith("&END"):
        return f"{line} does not close the section that is open"
    cause = error.__cause__ or error
    said = str(cause.args[0]) if cause.args else type(cause).__name__
    return f"{line.split()[0].upper()}: {said}"


def _as_the_library_reads(line: str) -> str:
    """Write exponents and ranges of whole numbers, which CP2K reads, in the way that the library understands."""
    whole = RANGE.sub(lambda found: " ".join(map(str, range(int(found[1]), int(found[2]) + 1))), line)
    return FORTRAN_EXPONENT.sub(r"\1e\2", whole)


def _without_comment(line: str) -> str:
    """Return a line in one way of writing it: the name in upper case, one blank between words, no comment."""
    name, *words = (word for word in tokenize(line) if not word.startswith(COMMENT_CHARS))
    return " ".join([name.upper(), *words])


def _tree(parser: _Parser, text: str) -> Tree:
    try:
        tree: Tree = parser.parse(parser.numbered(text))
    except MALFORMED as error:
        message, *context = error.args or (type(error).__name__,)
        line = getattr(context[0], "line", None) if context else None
        file = getattr(context[0], "filename", None) if context else None
        included = f" (included: {file}: {line})" if line and file and file != "<BUFFER>" else ""
        raise InputError(f"the CP2K input cannot be read: {message}; in {parser.place}{included}") from error
    # As JSON holds it: lists instead of tuples, the same before and after a journey through a file.
    normal: Tree = json.loads(json.dumps(tree))
    return normal


def _parser(folder: Path | None, description: Path | None, *, is_trusted: bool = False) -> _Parser:
    # What a parser has parsed it keeps, so each text takes a copy, which shares the description alone.
    parser: _Parser = copy(_described(description, _Parser))
    parser._base_inc_dir = [] if folder is None else folder
    parser.prepare(is_trusted)
    return parser


class _Generator(CP2KInputGenerator):  # type: ignore[misc] # the library has no types
    """The library's generator, which writes what was passed on."""

    def _get_default_keyword(self, section_node: ET.Element) -> ET.Element:
        found = section_node.find("./DEFAULT_KEYWORD")
        return RAW_LINE if found is None else found


K = TypeVar("K", _Parser, _Generator)


@lru_cache(maxsize=4)
def _described(description: Path | None, kind: type[K]) -> K:
    # Making one takes seconds, as a description of all of CP2K's input is read; it keeps nothing else.
    source = DEFAULT_CP2K_INPUT_XML if description is None else description
    try:
        return kind(source)
    except OSError as error:
        raise InputError(f"the description of CP2K's input {source} cannot be read: {error.strerror}") from error
    except ET.ParseError as error:
        raise InputError(
            f"the description of CP2K's input {source} is no XML: {error}; expected what `cp2k.psmp --xml` writes"
        ) from error
