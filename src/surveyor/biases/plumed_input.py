"""PLUMED inputs as users write them: what surveyor reads in them, and changes."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from surveyor.errors import InputError

# Where an action keeps its history if the input does not say it.
DEFAULT_FILES = {"METAD": "HILLS", "OPES_METAD": "KERNELS", "OPES_METAD_EXPLORE": "KERNELS", "OPES_EXPANDED": "DELTAFS"}
BIASES = (
    *DEFAULT_FILES,
    "RESTRAINT",
    "MOVINGRESTRAINT",
    "EXTERNAL",
    "UPPER_WALLS",
    "LOWER_WALLS",
    "BIASVALUE",
    "ABMD",
)
# Their state is not in files that PLUMED reads again, or is shared by several walkers.
NOT_CONTINUED = ("PBMETAD", "VES_LINEAR_EXPANSION", "OPT_AVERAGED_SGD", "EDS", "MAXENT", "LOGMFD", "ABMD")
LEFT_OUT = ("PRINT", "FLUSH", "RESTART", "ENDPLUMED")  # surveyor records values, and says where a history goes on
FILE_KEYWORD = re.compile(r"^(FILE|\w+_[RW]?FILE|REFERENCE|TEMPLATE|STRUCTURE)=(.+)$")


@dataclass(frozen=True, slots=True)
class Action:
    """One action of a PLUMED input.

    Attributes:
        label: its name; empty where it has none.
        name: what it does, such as METAD.
        words: its keywords, such as ARG=d.
        line: number of its first line in the input, from 1.
    """

    label: str
    name: str
    words: tuple[str, ...]
    line: int

    def value(self, keyword: str) -> str | None:
        """Return the value of a keyword; None where it is not given."""
        prefix = f"{keyword}="
        return next((word.removeprefix(prefix) for word in self.words if word.startswith(prefix)), None)

    @property
    def text(self) -> str:
        """The action on one line."""
        label = f"{self.label}: " if self.label else ""
        return " ".join([f"{label}{self.name}", *self.words])


def parse_plumed(text: str) -> list[Action]:
    """Return the actions of a PLUMED input, without comments and with continued lines joined.

    Raises:
        InputError: a continued line has no end.
    """
    return [_action(words, line) for words, line in _statements(text)]


def _statements(text: str) -> Iterator[tuple[list[str], int]]:
    """Yield the words of each action, and the number of its first line."""
    words: list[str] = []
    first: int | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        found = _words(line.split("#", 1)[0])
        if "ENDPLUMED" in found[:1]:
            break
        if first is not None and "..." in found[:1]:
            yield words, first
            words, first = [], None
        elif first is not None:
            words += found
        elif found and found[-1] == "...":
            words, first = found[:-1], number
        elif found:
            yield found, number
    if first is not None:
        raise InputError(
            f"the PLUMED input ends within the action of line {first}; expected a line with ... at its end"
        )


def _words(line: str) -> list[str]:
    """Return the words of a line; what is in braces is one word, with its braces."""
    words, depth, word = [], 0, ""
    for character in line:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character.isspace() and depth == 0:
            words.append(word)
            word = ""
        else:
            word += character
    return [each for each in [*words, word] if each]


def _action(words: Sequence[str], line: int) -> Action:
    label = ""
    if words[0].endswith(":"):
        label, words = words[0][:-1], words[1:]
    if not words:
        raise InputError(
            f"line {line} of the PLUMED input has a label without an action; expected {label}: DISTANCE, say"
        )
    name, *rest = words
    for word in rest:
        if word.startswith("LABEL="):
            label = word.removeprefix("LABEL=")
    return Action(label, name, tuple(word for word in rest if not word.startswith("LABEL=")), line)


def recorded_variables(actions: Sequence[Action]) -> list[str]:
    """Return the names of the values on which biases act, and of those that PRINT asks for, without repetitions."""
    names: dict[str, None] = {}
    for action in actions:
        if action.name == "PRINT" or action.name in BIASES:
            names |= dict.fromkeys((action.value("ARG") or "").strip("{}").replace(",", " ").split())
    return [name for name in names if "*" not in name]


def prepared(actions: Sequence[Action], folder: Path) -> list[tuple[Action, str]]:
    """Return the lines that PLUMED is given, each with its action.

    Their files are in a folder; what surveyor does itself is left out.

    Args:
        actions: of the input.
        folder: where relative paths lead.

    Raises:
        InputError: an action cannot be continued.
    """
    lines = []
    for action in actions:
        _check_can_be_continued(action)
        if action.name in LEFT_OUT or action.name.startswith("DUMP"):
            continue
        words = [_with_folder(word, folder) for word in action.words]
        if action.name in DEFAULT_FILES and action.value("FILE") is None:
            words.append(f"FILE={folder / DEFAULT_FILES[action.name]}")
        lines.append((action, Action(action.label, action.name, tuple(words), action.line).text))
    return lines


def _check_can_be_continued(action: Action) -> None:
    if action.name in NOT_CONTINUED:
        raise InputError(
            f"line {action.line} of the PLUMED input: {action.name} cannot be continued after an interruption; "
            f"expected one of {', '.join(name for name in BIASES if name not in NOT_CONTINUED)}"
        )
    shared = [word for word in action.words if word.startswith("WALKERS_")]
    if shared:
        raise InputError(
            f"line {action.line} of the PLUMED input: found {shared[0]}, but each walker has a history of its own; "
            "leave it out"
        )


def _with_folder(word: str, folder: Path) -> str:
    match = FILE_KEYWORD.match(word)
    return word if match is None else f"{match[1]}={folder / match[2]}"


def with_shifted_centre(text: str, variable: str, centre: float) -> str:
    """Return a PLUMED input in which the RESTRAINT on a variable is centred elsewhere.

    Args:
        text: the input.
        variable: label of the variable on which it acts.
        centre: in the unit of the variable in the input.

    Raises:
        InputError: there is not exactly one RESTRAINT that acts on the variable.
    """
    actions = parse_plumed(text)
    restraints = [each for each in actions if each.name == "RESTRAINT" and _acts_on(each, variable)]
    if len(restraints) != 1:
        raise InputError(
            f"the PLUMED input has {len(restraints)} actions RESTRAINT on {variable}; expected exactly one, whose "
            "centre is to be moved"
        )
    (restraint,) = restraints
    return "\n".join((_centred(each, variable, centre) if each is restraint else each).text for each in actions)


def _acts_on(action: Action, variable: str) -> bool:
    return variable in (action.value("ARG") or "").split(",")


def _centred(action: Action, variable: str, centre: float) -> Action:
    centres = (action.value("AT") or "").split(",")
    centres[(action.value("ARG") or "").split(",").index(variable)] = f"{centre:.10g}"
    words = tuple(f"AT={','.join(centres)}" if word.startswith("AT=") else word for word in action.words)
    return Action(action.label, action.name, words, action.line)
