"""The words of a line of a CP2K input, as the program takes the line apart."""

import re
from collections.abc import Iterator

BLANKS = " \t\r"
COMMENT = "!#"
# Only double quotes hold words together, and only at their beginning. One separator counts as a blank; and so does the
# mark of a comment that follows a word without a blank, behind which CP2K reads on.
TOKEN = re.compile(
    r'[ \t\r]*(?:(?P<comment>[!#].*)|"(?P<quoted>[^"]*)"|(?P<word>[^ \t\r!#\\,:;="][^ \t\r!#\\,:;=]*)(?P<end>[!#,:;=])?'
    r"|(?P<separator>[,:;=])|(?P<continued>\\)|(?P<unmatched>\"))",
    re.DOTALL,
)


def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a line, without quotes and without a comment at its end.

    Raises:
        ValueError: CP2K does not read the line.
    """
    return tuple(word for _, word in _words(text))


def behind_first_word(text: str) -> str:
    """Return a line after its first word, with a comment: the value of a keyword that takes the whole rest."""
    for end, _ in _words(text):
        return text[end:].strip(BLANKS)
    return ""


def _words(text: str) -> Iterator[tuple[int, str]]:
    """Yield the words of a line, each with the column at which CP2K continues to read."""
    was_separated = False
    for found in _tokens(text):
        kind = found.lastgroup
        if kind == "comment":
            return
        if kind == "unmatched":
            raise ValueError('a quotation mark (") is not matched')
        if kind == "continued":
            raise ValueError("words follow the backslash, which continues a line only at its end")
        if kind == "separator":
            if was_separated:
                raise ValueError(f"unexpected separator {found['separator']}")
            was_separated = True
            continue
        was_separated = found["end"] is not None and found["end"] not in COMMENT
        yield found.end(), found["word"] if found["quoted"] is None else found["quoted"]


def _tokens(text: str) -> Iterator[re.Match[str]]:
    column = 0
    while (found := TOKEN.match(text, column)) is not None:
        yield found
        column = found.end()


def continuation(text: str) -> int | None:
    """Return the column of the backslash by which a line is continued; None where it is not."""
    for found in _tokens(text):
        if found.lastgroup == "comment":
            return None
        if found.lastgroup == "continued":
            rest = text[found.end() :].lstrip(BLANKS)
            return found.end() - 1 if not rest or rest[0] in COMMENT else None
    return None
