"""The lines of a CP2K input as the program reads them: directives followed, variables replaced, lines continued.

Every rule was tried with CP2K 2023.1, odd ones included; `tests/domain/reference/test_cp2k_lines.py` compares the two.
Where CP2K leaves something out without a word, the input is refused here.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from surveyor.errors import InputError
from surveyor.reference.cp2k_words import BLANKS, COMMENT, continuation

DEEPEST_INCLUDE = 20
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
BRACED, BARE = re.compile(r"\$\{(?P<name>[^}]*)\}"), re.compile(r"\$(?P<name>[^ ]*)")
DIRECTIVE = re.compile(r"[ \t]*@(?P<name>\S*)(?P<rest>.*)", re.DOTALL)
COMPARISON = re.compile(r"==|/=")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an input, with those that continue it.

    Attributes:
        text: without what preprocessing has removed; a comment may stand at its end.
        place: number and text of its first line in the file, for messages.
    """

    text: str
    place: str


@dataclass(frozen=True, slots=True)
class Places:
    """Folders in which included files are searched.

    Attributes:
        folder: folder of the input; None for an input given as text, which may include only CP2K's own files.
        data: returns CP2K's data directory; called only for files that are not in the folder.
    """

    folder: Path | None = None
    data: Callable[[], Path] | None = None

    def has(self, name: str) -> bool:
        """Return whether a file is in the folder of the input."""
        return self.folder is not None and _is_file(self.folder / name)

    def read(self, name: str) -> str:
        """Return the text of a file.

        Raises:
            InputError: it is nowhere, or cannot be read.
        """
        if self.folder is not None and self.has(name):
            return _text_of(self.folder / name)
        if self.data is None or not _is_below(name):
            raise InputError(f"the file {name} was not found {_beside(self.folder)}")
        try:
            directory = self.data()
        except InputError as error:
            raise InputError(
                f"the file {name} was not found {_beside(self.folder)}, and CP2K's data directory is not known here "
                f"({error}); put the file beside the input, or set data_directory of the code"
            ) from error
        if not _is_file(directory / name):
            raise InputError(f"the file {name} was not found {_beside(self.folder)}, nor in {directory}")
        return _text_of(directory / name)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for the file system
        return False


def _is_below(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _beside(folder: Path | None) -> str:
    return "beside the input, which is given as text" if folder is None else f"in {folder}"


def _text_of(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise InputError(f"the file {path} cannot be read: {error.strerror}") from error


def lines_of(text: str, places: Places | None = None) -> Iterator[Line]:
    """Yield the lines of an input that hold something, as CP2K reads them.

    Raises:
        InputError: CP2K refuses a line, or leaves it out without a word.
    """
    lines = _Preprocessor(places or Places()).read(text)
    for line in lines:
        whole = line.text
        while (cut := continuation(whole)) is not None:
            following = next(lines, None)
            if following is None:
                raise _unreadable("found the end of the input, expected the line that continues this one", line.place)
            whole = f"{whole[:cut]} {following.text}"
        yield Line(whole, line.place)


@contextmanager
def _located(place: str) -> Iterator[None]:
    """Convert an error in a line into one that names the line."""
    try:
        yield
    except ValueError as error:
        raise _unreadable(str(error), place) from error


def _unreadable(message: str, place: str) -> InputError:
    return InputError(f"the CP2K input cannot be read: {message}; in {place}")


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    text: str


@dataclass(slots=True)
class _Preprocessor:
    """CP2K's preprocessor: follows directives and replaces variables.

    Attributes:
        places: where included files are looked for.
        values: of the variables; upper and lower case differ.
    """

    places: Places
    values: dict[str, str] = field(default_factory=dict)

    def read(self, text: str, file: str = "", depth: int = 0) -> Iterator[Line]:
        """Yield the lines of a file, and of those that it includes, without empty ones and comments."""
        skipped_since: str | None = None
        # Not splitlines, which also splits where CP2K does not.
        for number, line in enumerate(text.split("\n"), 1):
            place = f"line {number}{file}: {line.strip()}"
            if skipped_since is not None:
                skipped_since = None if _ends_condition(line) else skipped_since
                continue
            if not line.strip(BLANKS) or line.strip(BLANKS)[0] in COMMENT:
                continue
            with _located(place):
                expanded = self._expanded(line)
                directive = _directive_in(expanded)
                included = None if directive is None else self._included(*directive, depth)
                holds = directive is None or included is not None or self._holds(*directive)
            if included is not None:
                yield from self.read(included.text, f" of {included.name}", depth + 1)
            elif directive is None:
                yield Line(expanded, place)
            elif not holds:
                skipped_since = place
        if skipped_since is not None:
            raise _unreadable("found the end of the file, expected @ENDIF", skipped_since)

    def _expanded(self, line: str) -> str:
        while "${" in line:
            found = BRACED.search(line)
            if found is None:
                raise ValueError("a variable ${ is not closed by }")
            name, has_default, default = found["name"].partition("-")
            value = self._value(name, default if has_default else None)
            line = line[: found.start()] + value + line[found.end() :]
        while (found := BARE.search(line)) is not None:
            line = line[: found.start()] + self._value(found["name"].rstrip("\r"), None) + line[found.end() :]
        return line

    def _value(self, name: str, default: str | None) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(f"invalid name of a variable: ${{{name}}}; CP2K replaces variables in comments, too")
        value = self.values.get(name, default)
        if value is None:
            known = ", ".join(self.values) or "none"
            raise ValueError(f"the variable {name} is not set; those set before are {known} (case matters)")
        return value

    def _included(self, directive: str, rest: str, depth: int) -> "_File | None":
        if directive not in ("@INCLUDE", "@XCTYPE"):
            return None
        name = _file_in(rest)
        if not name:
            raise ValueError(f"{directive} names no file")
        if depth == DEEPEST_INCLUDE:
            raise ValueError("files include each other without end")
        if directive == "@INCLUDE":
            return _File(name, self.places.read(name))
        beside = f"{name}.sec"
        if self.places.has(beside):
            return _File(beside, self.places.read(beside))
        return _File(f"xc_section/{beside}", self.places.read(f"xc_section/{beside}"))

    def _holds(self, directive: str, rest: str) -> bool:
        """Follow a directive; return False where it is a condition that does not hold."""
        if directive == "@IF":
            return _condition(rest.strip(BLANKS))
        if directive == "@SET":
            name, _, value = rest.strip(BLANKS).replace("\t", " ").partition(" ")
            if not NAME.fullmatch(name) or not value.strip(BLANKS):
                raise ValueError("expected @SET with the name of a variable and a value")
            self.values[name] = value.strip(BLANKS)
        elif directive not in ("@ENDIF", "@PRINT") and not _says_nothing(directive, rest):
            raise ValueError(f"{directive} is no directive; CP2K leaves such a line out without a word")
        return True


def _directive_in(line: str) -> tuple[str, str] | None:
    if "@" not in line:
        return None
    found = DIRECTIVE.match(line)
    if found is None:
        raise ValueError(
            "there is an @ in the line, for which CP2K leaves the whole line out without a word, even where it is in a "
            "comment; remove it"
        )
    return f"@{found['name'].upper()}", found["rest"]


def _says_nothing(directive: str, rest: str) -> bool:
    text = f"{directive[1:]}{rest}".strip(BLANKS)
    return not text or text[0] in COMMENT


def _ends_condition(line: str) -> bool:
    mark = line.find("@")
    is_comment = any(0 <= line.find(each) < mark for each in COMMENT)
    return not is_comment and mark >= 0 and line[mark:].upper().startswith("@ENDIF")


def _condition(text: str) -> bool:
    """Return whether a condition holds; as in CP2K, a comment is part of the compared text, so it makes "0" true."""
    signs: list[str] = COMPARISON.findall(text)
    if len(signs) > 1:
        raise ValueError("expected one comparison in @IF")
    if not signs:
        return text not in ("", "0")
    left, right = (str(each) for each in COMPARISON.split(text))
    left, right = left.partition("(")[2] if "(" in left else left, right.partition(")")[0]
    if not right.strip(BLANKS):
        raise ValueError("expected a value behind the comparison of @IF")
    return (left.strip(BLANKS) == right.strip(BLANKS)) == (signs[0] == "==")


def _file_in(rest: str) -> str:
    for quote in "\"'":
        if rest.count(quote) >= 2:
            return rest.split(quote)[1]
    if '"' in rest or "'" in rest:
        raise ValueError("a quotation mark is not matched")
    return rest.strip(BLANKS)
