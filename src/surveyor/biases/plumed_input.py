"""Parsing of the PLUMED inputs that users write."""

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from surveyor.errors import InputError

# Where an action keeps its history if the input does not say it.
DEFAULT_FILES = {"METAD": "HILLS", "OPES_METAD": "KERNELS", "OPES_METAD_EXPLORE": "KERNELS", "OPES_EXPANDED": "DELTAFS"}
WITH_HISTORY = (*DEFAULT_FILES, "PBMETAD")  # PBMETAD names its files by the variables: HILLS.d
WITH_STATE = ("OPES_METAD", "OPES_METAD_EXPLORE", "OPES_EXPANDED")  # more than is in their history
BIASES = (
    *WITH_HISTORY,
    "RESTRAINT",
    "MOVINGRESTRAINT",
    "EXTERNAL",
    "UPPER_WALLS",
    "LOWER_WALLS",
    "BIASVALUE",
)
BESIDE_HISTORY = re.compile(r"\w*WFILES?=")
PI_NUMBER = re.compile(r"(?P<factor>[-+]?[\d.]*(?:e[-+]?\d+)?)\*?(?P<pi>pi)?(?:/(?P<divisor>[\d.]+))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Action:
    """One action of a PLUMED input, whose name and keywords are in capitals, which PLUMED does not distinguish.

    Attributes:
        label: its name; empty where it has none.
        name: what it does, such as METAD.
        words: its keywords, such as ARG=d.
        line: number of its first line in the input, from 1.
        last_line: number of its last one.
    """

    label: str
    name: str
    words: tuple[str, ...]
    line: int
    last_line: int

    def value(self, keyword: str) -> str | None:
        """Return the value of a keyword without braces; None where it is not given."""
        prefix = f"{keyword}="
        return next((bare(word.removeprefix(prefix)) for word in self.words if word.startswith(prefix)), None)

    @property
    def arguments(self) -> list[str]:
        """The names of the values on which it acts."""
        return (self.value("ARG") or "").replace(",", " ").split()

    @property
    def history(self) -> list[str]:
        """The names of the files from which it continues, given by the input or by PLUMED."""
        if self.name not in WITH_HISTORY:
            return []
        default = DEFAULT_FILES.get(self.name) or ",".join(f"HILLS.{name}" for name in self.arguments)
        return (self.value("FILE") or default).split(",")

    @property
    def state(self) -> str | None:
        """The name of the file of its state, where PLUMED has one for it."""
        return (self.value("STATE_WFILE") or f"{self.history[0]}.STATE") if self.name in WITH_STATE else None

    @property
    def outputs(self) -> list[str]:
        """The names of the files that the action writes: its history, and the files beside it."""
        if self.name not in WITH_HISTORY:
            return []
        beside = [bare(word.split("=", 1)[1]) for word in self.words if BESIDE_HISTORY.match(word)]
        states = [] if self.state is None else [self.state]
        return [*self.history, *dict.fromkeys(states + [name for names in beside for name in names.split(",")])]

    @property
    def text(self) -> str:
        """The action on one line."""
        label = f"{self.label}: " if self.label else ""
        return " ".join([f"{label}{self.name}", *self.words])


def bare(value: str) -> str:
    """Return a value without the braces around it."""
    return value[1:-1].strip() if value.startswith("{") and value.endswith("}") else value


def parse_plumed(text: str) -> list[Action]:
    """Return the actions of a PLUMED input, without comments and with continued lines joined.

    Raises:
        InputError: a continued line has no end.
    """
    return [_action(_words(statement), first, last) for statement, first, last in _statements(text)]


def _statements(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield each action on one line, and the numbers of its first and last line."""
    parts: list[str] = []
    first: int | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        found = line.split("#", 1)[0].strip()
        begins, is_continued = found.split()[:1], found.split()[-1:] == ["..."]
        if [word.upper() for word in begins] == ["ENDPLUMED"]:
            break
        if first is not None and begins == ["..."]:
            yield " ".join(parts), first, number
            parts, first = [], None
        elif first is not None or is_continued:
            first = first or number
            parts.append(found.removesuffix("...") if is_continued else found)
        elif found:
            yield found, number, number
    if first is not None:
        raise InputError(
            f"the PLUMED input ends within the action of line {first}; expected a line with ... at its end"
        )


def _words(line: str) -> list[str]:
    """Return the words of an action; text in braces is one word, including the braces."""
    words, depth, word = [], 0, ""
    for character in line:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character.isspace() and depth == 0:
            words.append(word)
            word = ""
        else:
            word += character
    return [each for each in [*words, word] if each]


def _action(words: Sequence[str], line: int, last_line: int) -> Action:
    label = ""
    if words and words[0].endswith(":"):
        label, words = words[0][:-1], words[1:]
    if not words:
        raise InputError(
            f"line {line} of the PLUMED input has a label without an action; expected {label or 'd'}: DISTANCE, say"
        )
    name, *rest = [_capitalised(word) for word in words]
    label = next((word.removeprefix("LABEL=") for word in rest if word.startswith("LABEL=")), label)
    return Action(label, name, tuple(word for word in rest if not word.startswith("LABEL=")), line, last_line)


def _capitalised(word: str) -> str:
    """Return a name or keyword in capitals; PLUMED takes any, but not in the value of a keyword."""
    keyword, mark, value = word.partition("=")
    return f"{keyword.upper()}{mark}{value}"


def recorded_variables(actions: Sequence[Action]) -> list[str]:
    """Return the names of the values on which biases act, and of those that PRINT asks for, without repetitions.

    Raises:
        InputError: values are named by a pattern.
    """
    names: dict[str, None] = {}
    for action in actions:
        # What OPES_EXPANDED acts on are no collective variables, and ecv.* is how they are named.
        if action.name == "PRINT" or (action.name in BIASES and action.name != "OPES_EXPANDED"):
            patterns = [name for name in action.arguments if set("*()") & set(name)]
            if patterns:
                raise InputError(
                    f"line {action.line} of the PLUMED input: found the pattern {patterns[0]} in ARG of {action.name}, "
                    "expected names, as these values are recorded; write them out, such as d.x,d.y"
                )
            names |= dict.fromkeys(action.arguments)
    return list(names)


@lru_cache(maxsize=64)  # the centre of a restraint that moves is asked for at each step
def domain_of(text: str, variable: str) -> tuple[float, float] | None:
    """Return the domain of a periodic variable of a PLUMED input; None for others.

    Args:
        text: the input.
        variable: its name, such as t or p.phs.
    """
    label, _, component = variable.partition(".")
    action = next((each for each in parse_plumed(text) if each.label == label), None)
    if action is None:
        return None
    if action.name == "TORSION" and "COSINE" not in action.words:
        return (-math.pi, math.pi)
    if action.name == "PUCKERING" and component == "phs":
        return (0.0, 2 * math.pi)
    ends = [_number(each) for each in (action.value("PERIODIC") or "").split(",")]
    return (ends[0], ends[1]) if len(ends) == 2 and None not in ends else None  # type: ignore[return-value]


def _number(text: str) -> float | None:
    """Return a number as PLUMED writes it, such as -pi/2; None for anything else."""
    match = PI_NUMBER.fullmatch(text.strip())
    if match is None or not (match["factor"].strip("+-") or match["pi"]):
        return None
    factor = match["factor"] + ("" if match["factor"].strip("+-") else "1")
    return float(factor) * (math.pi if match["pi"] else 1) / float(match["divisor"] or 1)


def pace_of(actions: Sequence[Action]) -> int:
    """Return a number of steps that is a multiple of the pace and of the stride of each action."""
    paces = [action.value(keyword) or "1" for action in actions for keyword in ("PACE", "STRIDE")]
    return math.lcm(*(int(pace) for pace in paces if pace.isdigit() and int(pace)))


def paces_of(actions: Sequence[Action], names: Collection[str]) -> set[int]:
    """Return the paces of the actions with some names, in steps."""
    paces = [action.value("PACE") or "" for action in actions if action.name in names]
    return {int(pace) for pace in paces if pace.isdigit() and int(pace)}
