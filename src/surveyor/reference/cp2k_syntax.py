"""The syntax of CP2K's inputs, by cp2k-input-tools: a text becomes a tree, and a tree a text.

The library knows the sections and keywords of one version of CP2K. What it does not know passes as it was written: as a
line of the section it is in, under "*", where the library keeps lines such as those of COORD.

Importing this takes a second, so it is imported where it is used.
"""

import json
import logging
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, lru_cache
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Any, TypeVar

from cp2k_input_tools import DEFAULT_CP2K_INPUT_XML
from cp2k_input_tools.generator import CP2KInputGenerator
from cp2k_input_tools.keyword_helpers import Keyword
from cp2k_input_tools.parser import CP2KInputParser, Section
from cp2k_input_tools.parser_errors import InvalidNameError, InvalidParameterError, InvalidSectionError, ParserError
from cp2k_input_tools.tokenizer import Context, TokenizerError
from transitions import MachineError

from surveyor.errors import UNFORESEEN, InputError
from surveyor.reference.cp2k_lines import Line, Places, lines_of
from surveyor.reference.cp2k_units import in_words_of_the_library
from surveyor.reference.cp2k_words import BLANKS, COMMENT, behind_first_word, words_of

logger = logging.getLogger(__name__)

Tree = dict[str, Any]  # Any: sections, values, and lists of both

# What surveyor itself has to understand, so that a value it does not know is an error.
UNDERSTOOD = ("METHOD", "STRESS_TENSOR", "CHARGE", "MULTIPLICITY", "UKS", "ROKS")
FORTRAN_EXPONENT = re.compile(r"(?<![\w.])([-+]?(?:\d+\.?\d*|\.\d+))[dD]([-+]?\d+)\b")
QUOTES = "'\""
UNSAFE = {*BLANKS, *COMMENT, "'", "\\"}  # in words that the library would take apart
RANGE = re.compile(r"(?<!\S)(\d+)\.\.(\d+)(?!\S)")
PRODUCT = re.compile(r"(?<!\S)[-+.\deE]+(?:[*/][-+.\deE]+)+(?!\S)")

# Beside its own errors, the library lets through those of Python and of other packages.
MALFORMED = (*UNFORESEEN, ParserError, TokenizerError, TokenError, MachineError)
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


def parse(text: str, places: Places | None = None, description: Path | None = None) -> Parsed:
    """Parse an input; warn of unknown keywords and sections.

    Args:
        text: the input.
        places: folders of included files; by default, the input may include none.
        description: XML description of the input, printed by CP2K; by default that of the library.

    Raises:
        InputError: the input cannot be read; the message gives the reason, section and line.
    """
    parser = _parser(description)
    tree = _tree(parser, lines_of(text, places))
    for each in parser.unknown:
        logger.warning("CP2K input: %s: passed on as it is; CP2K has the last word", each)
    if description is not None:
        # Workers know the description of the library alone. What only the other one knows is written in full once, and
        # passes there.
        canonical = "\n".join(_described(description, _Generator).line_iter(tree))
        tree = _tree(_parser(None, is_trusted=True), lines_of(canonical))
    lines = {name: tuple(found) for name, found in parser.lines.items()}
    return Parsed(tree, lines, tuple(parser.unknown))


@cache
def has_unit(path: str, keyword: str) -> bool:
    """Return whether the values of a keyword can be given in units.

    Args:
        path: section below FORCE_EVAL, such as DFT/MGRID.
        keyword: by its first name.
    """
    node: ET.Element | None = _described(None, _Parser).description
    for name in ("FORCE_EVAL", *filter(None, path.split("/"))):
        node = _inner(node, "SECTION", name)
    found = _inner(node, "KEYWORD", keyword)
    return found is not None and found.find("./DEFAULT_UNIT") is not None


def _inner(node: ET.Element | None, kind: str, name: str) -> ET.Element | None:
    inner = [] if node is None else node.iterfind(f"./{kind}")
    return next((each for each in inner if each.findtext("./NAME") == name), None)


def write(tree: Tree) -> str:
    """Return the text of an input."""
    return "\n".join(_described(None, _Generator).line_iter(tree)) + "\n"


class _Parser(CP2KInputParser):  # type: ignore[misc] # the library has no types
    """The library's parser, which passes on unknown sections and keywords, and can name its position."""

    def __init__(self, description: Path | str) -> None:
        super().__init__(description, key_trafo=str.upper)
        self._treerefs: list[Any] = []  # Any: the open sections, of the library

    @property
    def description(self) -> ET.Element:
        """The root of the description of CP2K's input."""
        root: ET.Element = self._spec.getroot()
        return root

    def prepare(self, is_trusted: bool) -> None:
        """Reset the state.

        Args:
            is_trusted: whether values that cannot be interpreted are accepted, because another description allows them.
        """
        self.is_trusted = is_trusted
        self.lines: dict[str, list[str]] = {}
        self.unknown: list[str] = []
        self._depth = 0  # of sections within an unknown one
        self._here = ""

    def read(self, lines: Iterable[Line]) -> Tree:
        """Return the sections and values of the lines of an input."""
        self._tree = Section("/", node=self._spec.getroot())
        self._treerefs = [self._tree]
        for line in lines:
            self._here = line.place
            words = words_of(line.text)
            if not words:
                continue
            if words[0].startswith("&"):
                self._read_section(words)
            else:
                self._read_line(words, line.text)
        if len(self._treerefs) > 1:
            raise InvalidSectionError(f"section {self._treerefs[-1].name} is not closed", Context())
        tree: Tree = self.nested_dict
        return tree

    @property
    def section(self) -> str:
        """Path of the open section, such as FORCE_EVAL/SUBSYS/KIND H."""
        opened = self._treerefs[1:]
        names = [f"{each.name} {each.param}" if isinstance(each.param, str) else each.name for each in opened]
        return "/".join(names)

    @property
    def is_left_out(self) -> bool:
        """True if the open section never reaches the program: it is the structure, printing, or no FORCE_EVAL."""
        names = [each.name for each in self._treerefs[1:]]
        is_of_structure = names[1:2] == ["SUBSYS"] and names[2:3] not in ([], ["KIND"])
        return bool(names) and (names[0] != "FORCE_EVAL" or "PRINT" in names or is_of_structure)

    @property
    def place(self) -> str:
        """Section and line, for messages."""
        return f"section {self.section}, {self._here}" if self.section else self._here

    def _read_section(self, words: Sequence[str]) -> None:
        name = words[0][1:].upper()
        if self._depth:
            self._depth += -1 if name == "END" else 1
            self._pass_on(words)
        elif name == "END":
            self._close(words)
        elif self._has_opened(name, words):
            self.lines.setdefault(self.section, []).append(self._here)
        else:
            self._depth = 1
            self._pass_on(words)

    def _close(self, words: Sequence[str]) -> None:
        if len(self._treerefs) == 1:
            raise InvalidSectionError("there is no open section to close", Context())
        names = {each.text for each in self._treerefs[-1].node.iterfind("./NAME")}
        allowed = (names | {"SECTION"}, names)  # CP2K reads two words, and passes over all others
        if any(word.upper() not in each for word, each in zip(words[1:], allowed, strict=False)):
            raise InvalidSectionError(f"{' '.join(words)} does not close the section that is open", Context())
        self.lines.setdefault(self.section, []).append(self._here)
        self._treerefs.pop()

    def _has_opened(self, name: str, words: Sequence[str]) -> bool:
        """Open a section; return False where it is unknown and passes."""
        opened = list(self._treerefs)
        if not name:
            raise InvalidSectionError("there is no name behind &", Context())
        try:
            super()._parse_as_section(_written(f"&{name}", self._parameters_of(name, words[1:])))
        except InvalidSectionError:
            self._note(name, "section", opened[-1].section_names)
        except InvalidParameterError:  # then the section is open already
            self._treerefs = opened
            if not self._may_pass(name, opened[-1].find_node_by_name("SECTION", name)):
                raise
            opened[-1].subsections.pop()
            self._note(name, "value of section", ())
        except InvalidNameError:  # a second section of a kind that does not repeat
            if not (self.is_trusted or self.is_left_out):
                raise
        except MALFORMED as error:
            raise InvalidSectionError(_format_error(error, words), Context()) from error
        else:
            return True
        return False

    def _parameters_of(self, name: str, words: Sequence[str]) -> Sequence[str]:
        node = self._treerefs[-1].find_node_by_name("SECTION", name)
        if not words or node is None or node.find("./SECTION_PARAMETERS") is not None:
            return words
        logger.warning("CP2K input: %s takes no value: as CP2K does, surveyor passes over it; in %s", name, self.place)
        return ()

    def _read_line(self, words: Sequence[str], line: str) -> None:
        if self._depth:
            self._pass_on(words)
            return
        name = words[0].upper()
        self.lines.setdefault(f"{self.section}/{name}", []).append(self._here)
        try:
            self._read_keyword(words, line)
        except InvalidNameError:
            self._note(name, "keyword", self._treerefs[-1].keyword_names)
            self._pass_on(words)
        except MALFORMED as error:
            if not self._may_pass(name, self._treerefs[-1].find_node_by_name("KEYWORD", name)):
                raise InvalidParameterError(_format_error(error, words), Context()) from error
            self._note(name, "value of keyword", ())
            self._pass_on(words)

    def _read_keyword(self, words: Sequence[str], line: str) -> None:
        if self._takes_the_whole_line(words[0]):
            value = behind_first_word(line)
            value = words[1] if value.startswith('"') else value
            super()._parse_as_keyword(f"{words[0]} {value.strip(QUOTES)}")
            return
        plain = _written(words[0], [in_words_of_the_library(word) for word in words[1:]])
        try:
            super()._parse_as_keyword(plain)
        except (ParserError, ValueError):
            super()._parse_as_keyword(_as_the_library_reads(plain))

    def _takes_the_whole_line(self, name: str) -> bool:
        node = self._treerefs[-1].find_node_by_name("KEYWORD", name)
        kind = None if node is None else node.find("./DATA_TYPE")
        return kind is not None and kind.get("kind") == "string"

    def _may_pass(self, name: str, node: ET.Element | None) -> bool:
        """Return whether a value that the library refuses may pass: names differ between versions, numbers do not."""
        if self.is_left_out:
            return True
        kind = None if node is None else node.find(".//DATA_TYPE")
        is_name = kind is not None and kind.get("kind") == "keyword"
        return self.is_trusted or (is_name and name not in UNDERSTOOD)

    def _note(self, name: str, what: str, known: Iterable[str | None]) -> None:
        if self.is_trusted or self.is_left_out:
            return
        close = get_close_matches(name, [each for each in known if each], n=1, cutoff=0.75)
        advice = f" (did you mean {close[0]}?)" if close else ""
        self.unknown.append(f"unknown {what} {name} in {self.place}{advice}")

    def _pass_on(self, words: Sequence[str]) -> None:
        line = _written(words[0].upper(), words[1:])
        self._treerefs[-1].keywords.append(Keyword("*", line, repeats=True, node=None))


def _format_error(error: Exception, words: Sequence[str]) -> str:
    cause = error.__cause__ or error
    said = str(cause.args[0]) if cause.args else type(cause).__name__
    return f"{words[0].upper()}: {said}"


def _written(name: str, words: Sequence[str]) -> str:
    """Return a line for the library: words are in quotes where they hold characters that it would misread."""
    quoted = (f'"{word}"' if not word or set(word) & UNSAFE else word for word in words)
    return " ".join([name, *quoted])


def _as_the_library_reads(line: str) -> str:
    """Write exponents, ranges, products and fractions, which CP2K reads, in the way that the library understands."""
    whole = RANGE.sub(lambda found: " ".join(map(str, range(int(found[1]), int(found[2]) + 1))), line)
    return PRODUCT.sub(lambda found: _product(found[0]), FORTRAN_EXPONENT.sub(r"\1e\2", whole))


def _product(text: str) -> str:
    if "/" not in text and "." not in text and "e" not in text.lower():
        return str(prod(map(int, text.split("*"))))
    fractions = ([float(each) for each in factor.split("/")] for factor in text.split("*"))
    return repr(prod(first / prod(others) for first, *others in fractions))


def _tree(parser: _Parser, lines: Iterable[Line]) -> Tree:
    try:
        tree = parser.read(lines)
    except InputError:
        raise
    except MALFORMED as error:
        message = error.args[0] if error.args else type(error).__name__
        raise InputError(f"the CP2K input cannot be read: {message}; in {parser.place}") from error
    # As JSON holds it: lists instead of tuples, the same before and after a journey through a file.
    normal: Tree = json.loads(json.dumps(tree))
    return normal


def _parser(description: Path | None, *, is_trusted: bool = False) -> _Parser:
    # What a parser has parsed it keeps, so each text takes a copy, which shares the description alone.
    parser: _Parser = copy(_described(description, _Parser))
    parser.prepare(is_trusted)
    return parser


class _Generator(CP2KInputGenerator):  # type: ignore[misc] # the library has no types
    """The library's generator, extended to write unknown keywords and sections that were passed on."""

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
