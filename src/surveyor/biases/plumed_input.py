"""Parsing, checks and changes of the PLUMED inputs that users write."""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from surveyor.errors import InputError
from surveyor.words import number_of

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
# Their state is not in text that PLUMED reads again, or is shared by several walkers.
NOT_CONTINUED = (
    "ABMD",
    "ACCUMULATE",
    "ADAPTIVE_PATH",
    "AVERAGE",
    "BAIES",
    "COLLECT",
    "COLLECT_FRAMES",
    "DRR",
    "EDS",
    "EFFECTIVE_ENERGY_DRIFT",
    "EMMI",
    "EXTENDED_LAGRANGIAN",
    "FISST",
    "HISTOGRAM",
    "LOGMFD",
    "MAXENT",
    "MAZE_OPTIMIZER_BIAS",
    "MAZE_RANDOM_ACCELERATION_MD",
    "METAINFERENCE",
    "OPT_ADAM",
    "OPT_AVERAGED_SGD",
    "OPT_DUMMY",
    "OPT_ROBBINS_MONRO_SGD",
    "PLUMED",
    "RESCALE",
    "TTMETAD",
    "VES_DELTA_F",
    "VES_LINEAR_EXPANSION",
)
# PLUMED would read these files instead of the history of the walker, or the history does not hold what they add.
OPTIONS_NOT_CONTINUED = re.compile(
    r"(\w+_RFILES?=.*|ACCELERATION|FREQUENCY_ADAPTIVE|FLYING_GAUSSIAN|ADAPTIVE=DIFF|DOSCORE)$"
)
LEFT_OUT = (
    "PRINT",
    "PRINT_NDX",
    "FLUSH",
    "RESTART",
    "ENDPLUMED",
)  # surveyor records values, and says where a history goes on
FILE_KEYWORD = re.compile(r"(\w*FILES?\d*|REFERENCE(?:_?\d+)?|TEMPLATE|STRUCTURE)=(.+)", re.DOTALL)
OF_HISTORY = re.compile(r"(FMT=.*|STATE_WFILE=.*|STATE_WSTRIDE=.*|STORE_STATES)$")
BEFORE = "before."  # of the name of a state that PLUMED reads, as it writes the next one at once
BESIDE_HISTORY = re.compile(r"\w*WFILES?=")
PI_NUMBER = re.compile(r"(?P<factor>[-+]?[\d.]*(?:e[-+]?\d+)?)\*?(?P<pi>pi)?(?:/(?P<divisor>[\d.]+))?", re.IGNORECASE)
# What of hills depends on kT; without these, all hills are of one height.
WITH_TEMPERATURE = re.compile(r"(BIASFACTOR|DAMPFACTOR|TTBIASFACTOR|TAU)=.*|CALC_RCT")
WORK = re.compile(r"\w+\.(\w+_)?work")  # of hills, or of a moving restraint
OF_CELL = ("VOLUME", "CELL", "SCALED_COMPONENTS")


@dataclass(frozen=True, slots=True)
class Action:
    """One action of a PLUMED input.

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
        return next((_bare(word.removeprefix(prefix)) for word in self.words if word.startswith(prefix)), None)

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
        beside = [_bare(word.split("=", 1)[1]) for word in self.words if BESIDE_HISTORY.match(word)]
        states = [] if self.state is None else [self.state]
        return [*self.history, *dict.fromkeys(states + [name for names in beside for name in names.split(",")])]

    @property
    def text(self) -> str:
        """The action on one line."""
        label = f"{self.label}: " if self.label else ""
        return " ".join([f"{label}{self.name}", *self.words])


def _bare(value: str) -> str:
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
        if begins == ["ENDPLUMED"]:
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
    name, *rest = words
    for word in rest:
        if word.startswith("LABEL="):
            label = word.removeprefix("LABEL=")
    return Action(label, name, tuple(word for word in rest if not word.startswith("LABEL=")), line, last_line)


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


def prepared(
    actions: Sequence[Action], folder: Path, *, files: Collection[str] = (), history: Collection[str] = ()
) -> list[tuple[Action, str]]:
    """Return the lines to pass to PLUMED, each with its action.

    All their files are in one folder; actions that surveyor performs itself are left out.

    Args:
        actions: actions of the input.
        folder: folder of relative paths.
        files: names of other files that the input reads.
        history: names of the files that an earlier run left; an action continues if its own file is among them.

    Raises:
        InputError: an action cannot be used, or not be continued.
    """
    _check_outputs(actions, files)
    labels = {action.label for action in actions}
    lines = []
    for action in actions:
        _check_action(action)
        if action.name in LEFT_OUT or action.name.startswith("DUMP"):
            continue
        words = [_with_folder(word, folder, labels) for word in action.words if not _is_ours(action, word)]
        lines.append((action, _line(action, words + _of_history(action, folder, history))))
    return lines


def _line(action: Action, words: Sequence[str]) -> str:
    return " ".join([*([f"{action.label}:"] if action.label else []), action.name, *words])


def _is_ours(action: Action, word: str) -> bool:
    """Return whether a word controls how an action continues, or the number of digits in its history."""
    return word.startswith("RESTART=") or (action.name in WITH_HISTORY and OF_HISTORY.match(word) is not None)


def _of_history(action: Action, folder: Path, history: Collection[str]) -> list[str]:
    """Return the keywords that say where an action has its history, and whether it has one."""
    if action.name not in WITH_HISTORY:
        return []
    is_named = action.value("FILE") is not None
    words = [] if is_named else [f"FILE={','.join(str(folder / name) for name in action.history)}"]
    if action.state is not None:
        words.append(f"STATE_WFILE={folder / action.state}")
        words += [f"STATE_RFILE={folder / f'{BEFORE}{action.state}'}"] if action.state in history else []
    # One action may have written before another one did: PLUMED cannot restart from a file that is not there.
    return [*words, f"RESTART={'YES' if {*action.history, action.state} & set(history) else 'NO'}"]


def _check_outputs(actions: Sequence[Action], files: Collection[str]) -> None:
    seen: set[str] = set()
    for action in actions:
        for name in action.outputs:
            where = f"line {action.line} of the PLUMED input: {action.name} writes {name}"
            if name != Path(name).name:
                raise InputError(f"{where}; expected a name without folders, as each walker keeps its own file")
            if name in seen:
                raise InputError(f"{where}, and so does another action; give them different files (keyword FILE)")
            if name in files:
                raise InputError(
                    f"{where}, which is also among its given files, but walkers begin without history; leave it out, "
                    "or add what it holds as the grid of EXTERNAL"
                )
            seen.add(name)


def _check_action(action: Action) -> None:
    where = f"line {action.line} of the PLUMED input"
    if action.name == "ENERGY":
        # A bias on it scales the forces of the potential, which PLUMED is not told; PLUMED 2.10 does not convert it.
        raise InputError(f"{where}: found ENERGY, on which walkers cannot be biased; leave it out (it is recorded)")
    if action.name == "INCLUDE":
        raise InputError(f"{where}: found INCLUDE, but an input is one file; write the lines of the other one there")
    if action.name in NOT_CONTINUED:
        raise InputError(
            f"{where}: {action.name} cannot be continued after an interruption; expected one of {', '.join(BIASES)}"
        )
    shared = [word for word in action.words if word.startswith("WALKERS_")]
    if shared:
        raise InputError(f"{where}: found {shared[0]}, but each walker has a history of its own; leave it out")
    options = [word for word in action.words if OPTIONS_NOT_CONTINUED.match(word)]
    if options and (action.name in WITH_HISTORY or options == ["DOSCORE"]):
        raise InputError(
            f"{where}: found {options[0]}, with which {action.name} cannot go on from what it wrote before; leave it "
            "out (a given bias can be added as the grid of EXTERNAL)"
        )
    _check_beginning(action, where)
    work = [name for name in action.arguments if WORK.fullmatch(name)]
    if work:
        raise InputError(
            f"{where}: found {work[0]} in ARG of {action.name}, but PLUMED adds up work from the last interruption on; "
            "leave it out"
        )


def check_temperature(text: str) -> None:
    """Check that a PLUMED input states all temperatures that it needs, as those of the walkers change.

    Raises:
        InputError: an action takes the temperature from its surroundings.
    """
    for action in parse_plumed(text):
        if "kBT" in action.arguments:
            raise InputError(
                f"line {action.line} of the PLUMED input: found kBT in ARG of {action.name}, but the temperature of "
                "the walkers changes; expected a number (CONSTANT VALUE=…)"
            )
        if _takes_temperature(action) and action.value("TEMP") is None:
            raise InputError(
                f"line {action.line} of the PLUMED input: {action.name} needs one temperature, but that of the walkers "
                "changes; give the one that counts (TEMP=…, in K), or no final_temperature_K"
            )


def _takes_temperature(action: Action) -> bool:
    # OPES_EXPANDED takes that of the expansions on which it acts.
    if action.name in ("METAD", "PBMETAD"):
        return any(WITH_TEMPERATURE.fullmatch(word) for word in action.words)
    return action.name in ("OPES_METAD", "OPES_METAD_EXPLORE") or action.name.startswith("ECV_")


def check_cell(actions: Sequence[Action], pbc: Sequence[bool]) -> None:
    """Check that a PLUMED input uses no cell if a structure is not periodic in three directions: PLUMED would say 0.

    Raises:
        InputError: an action is about the cell, and the structure is not periodic in three directions.
    """
    for action in actions:
        asked = {*OF_CELL} & {action.name, *action.words}
        if asked and not all(pbc):
            raise InputError(
                f"line {action.line} of the PLUMED input: found {asked.pop()}, but the structure has pbc "
                f"{[bool(each) for each in pbc]}; expected one that is periodic in three directions, or another "
                "variable"
            )


def _check_beginning(action: Action, where: str) -> None:
    """Check that an action can continue after an interruption before its first state is written."""
    if action.name in ("OPES_METAD", "OPES_METAD_EXPLORE") and action.value("SIGMA") in (None, "ADAPTIVE"):
        raise InputError(
            f"{where}: found no SIGMA, but {action.name} cannot go on from an interruption while it measures one; give "
            "SIGMA"
        )
    if action.name == "OPES_EXPANDED" and action.value("OBSERVATION_STEPS") != "1":
        raise InputError(
            f"{where}: found OBSERVATION_STEPS={action.value('OBSERVATION_STEPS') or 100}, but {action.name} cannot go "
            "on from an interruption while it observes; expected OBSERVATION_STEPS=1"
        )


def _with_folder(word: str, folder: Path, labels: Collection[str]) -> str:
    match = FILE_KEYWORD.fullmatch(word)
    if match is None:
        return word
    values = _bare(match[2]).split(",")
    if match[1].startswith("REFERENCE") and all(_is_number(each) or each in labels for each in values):
        return word  # of ALPHABETA or CONTACTMAP, say: no file
    return f"{match[1]}={','.join(_in_folder(each, folder) for each in values)}"


def _in_folder(value: str, folder: Path) -> str:
    return value if Path(value).is_absolute() else str(folder / Path(value).name)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+\d.*/]*pi[-+\d.*/]*", text) is not None


def with_shifted_centre(text: str, variable: str, centre: float) -> str:
    """Return a PLUMED input in which the RESTRAINT on a variable is centred elsewhere; all else is left as it is.

    Args:
        text: the input.
        variable: label of the variable on which it acts.
        centre: in the unit of the variable in the input.

    Raises:
        InputError: there is not exactly one RESTRAINT that acts on the variable, or it has not one centre for each.
    """
    restraint = _restraint_on(text, variable)
    return _with_words(text, restraint, {"AT": f"AT={_centres(restraint, variable, centre)}"})


def with_moving_centre(text: str, variable: str, minimum: float, maximum: float, n_steps: int) -> str:
    """Return a PLUMED input in which the RESTRAINT on a variable is a MOVINGRESTRAINT; all else is left as it is.

    Args:
        text: the input.
        variable: label of the variable on which it acts.
        minimum: centre at step 0, in the unit of the variable in the input.
        maximum: centre from the last of the steps on.
        n_steps: number of steps.

    Raises:
        InputError: there is not exactly one RESTRAINT that acts on the variable, or it has not one centre for each, or
            a slope.
    """
    restraint = _restraint_on(text, variable)
    if restraint.value("SLOPE") is not None:
        raise InputError(
            f"line {restraint.line} of the PLUMED input: found SLOPE of RESTRAINT, whose centre is to move by steps; "
            "leave it out, or give it in a RESTRAINT of its own"
        )
    first, last = (_centres(restraint, variable, centre) for centre in (minimum, maximum))
    force_constants = ",".join((restraint.value("KAPPA") or "").replace(",", " ").split())
    words = {
        "RESTRAINT": "MOVINGRESTRAINT",
        "AT": f"STEP0=0 AT0={first} STEP1={n_steps} AT1={last}",
        "KAPPA": f"KAPPA0={force_constants}",
    }
    return _with_words(text, restraint, words)


def _restraint_on(text: str, variable: str) -> Action:
    actions = parse_plumed(text)
    restraints = [each for each in actions if each.name == "RESTRAINT" and variable in each.arguments]
    if len(restraints) != 1:
        raise InputError(
            f"the PLUMED input has {len(restraints)} actions RESTRAINT on {variable}; expected exactly one, whose "
            "centre is to be moved"
        )
    return restraints[0]


def _with_words(text: str, action: Action, words: Mapping[str, str]) -> str:
    """Return the input with some words of an action replaced, by their keywords; each word is on one line."""
    lines = text.splitlines(keepends=True)
    for keyword, word in words.items():
        pattern = re.compile(rf"(?<!\S){keyword}(=(\{{[^}}]*\}}|\S+)|(?!\S))")
        for number in range(action.line - 1, action.last_line):
            code, mark, comment = lines[number].partition("#")
            if pattern.search(code):
                lines[number] = pattern.sub(word, code) + mark + comment
                break
        else:
            raise InputError(
                f"line {action.line} of the PLUMED input: found no {keyword} of {action.name} on one line; write it so"
            )
    return "".join(lines)


def _centres(restraint: Action, variable: str, centre: float) -> str:
    centres = (restraint.value("AT") or "").replace(",", " ").split()
    if len(centres) != len(restraint.arguments):
        raise InputError(
            f"line {restraint.line} of the PLUMED input: found {number_of(len(centres), 'value')} in AT of RESTRAINT, "
            f"expected {len(restraint.arguments)}, one for each in ARG"
        )
    centres[restraint.arguments.index(variable)] = f"{centre:.10g}"
    return ",".join(centres)


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
