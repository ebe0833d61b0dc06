"""The actions of a PLUMED input: those that surveyor passes to PLUMED, leaves out and refuses."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from surveyor.biases.plumed_input import BIASES, WITH_HISTORY, Action, bare, parse_plumed
from surveyor.errors import InputError

# Their state is not in text that PLUMED reads again, or is shared by several walkers.
NOT_CONTINUED = (
    "ABMD",
    "ACCUMULATE",
    "ADAPTIVE_PATH",
    "AVERAGE",
    "AVERAGE_PATH_DISPLACEMENT",
    "BAIES",
    "CALIBER",
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
    "MAZE_MEMETIC_SAMPLING",
    "MAZE_OPTIMIZER_BIAS",
    "MAZE_RANDOM_ACCELERATION_MD",
    "MAZE_RANDOM_WALK",
    "MAZE_SIMULATED_ANNEALING",
    "MAZE_STEERED_MD",
    "METAINFERENCE",
    "MULTICOLVARDENS",
    "OPT_ADAM",
    "OPT_AVERAGED_SGD",
    "OPT_DUMMY",
    "OPT_ROBBINS_MONRO_SGD",
    "PCA",
    "PLUMED",
    "READ",
    "REPARAMETERIZE_PATH",
    "RESCALE",
    "TTMETAD",
    "VES_DELTA_F",
    "VES_LINEAR_EXPANSION",
    "WHAM_HISTOGRAM",
    "WHAM_WEIGHTS",
)
# PLUMED would read these files instead of the history of the walker, or the history does not hold what they add.
OPTIONS_OF_HISTORIES = re.compile(
    r"(\w+_RFILES?=.*|ACCELERATION|FREQUENCY_ADAPTIVE|FLYING_GAUSSIAN|ADAPTIVE=DIFF|RCT_USTRIDE=(?!1$).*)$"
)
OPTIONS_OF_OTHERS = re.compile(r"(DOSCORE|CLEAR=(?!1$).*)$")  # Bayesian scores, and averages over more than one step
# surveyor records values and says where a history goes on; what else only writes files would write them anywhere.
LEFT_OUT = ("PRINT", "PRINT_NDX", "FLUSH", "RESTART", "ENDPLUMED", "DEBUG", "OUTPUT_CLUSTER")
LEFT_OUT_BY_PREFIX = ("DUMP", "VES_OUTPUT_")
FAMILY = re.compile(r"PF\d+=")
FILE_KEYWORD = re.compile(r"(\w*FILES?\d*|REFERENCE(?:_?\d+)?|TEMPLATE|STRUCTURE)=(.+)", re.DOTALL)
ALL_DIGITS = "FMT=%26.17g"  # of a double, and blanks between two of them; a run that continues is then the same
OF_HISTORY = re.compile(r"(FMT=.*|STATE_WFILE=.*|STATE_WSTRIDE=.*|STORE_STATES)$")
BEFORE = "before."  # of the name of a state that PLUMED reads, as it writes the next one at once
# What of hills depends on kT; without these, all hills are of one height.
WITH_TEMPERATURE = re.compile(r"(BIASFACTOR|DAMPFACTOR|TTBIASFACTOR|TAU)=.*|CALC_RCT")
WORK = re.compile(r"\w+\.(\w+_)?work")  # of hills, or of a moving restraint
OF_CELL = ("VOLUME", "CELL", "SCALED_COMPONENTS")


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
        if action.name in LEFT_OUT or action.name.startswith(LEFT_OUT_BY_PREFIX):
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
    words = (
        [ALL_DIGITS] if is_named else [f"FILE={','.join(str(folder / name) for name in action.history)}", ALL_DIGITS]
    )
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
    _check_name(action, where)
    _check_options(action, where)
    _check_beginning(action, where)
    _check_restraint(action, where)


def _check_name(action: Action, where: str) -> None:
    """Check that an action is one of those that walkers can have."""
    if action.name == "ENERGY":
        # A bias on it scales the forces of the potential, which PLUMED is not told; PLUMED 2.10 does not convert it.
        raise InputError(f"{where}: found ENERGY, on which walkers cannot be biased; leave it out (it is recorded)")
    if action.name == "COMMITTOR":
        raise InputError(
            f"{where}: found COMMITTOR, which ends a simulation, but walkers end after n_steps; leave it out, and name "
            "its variables in PRINT"
        )
    if action.name == "INCLUDE":
        raise InputError(f"{where}: found INCLUDE, but an input is one file; write the lines of the other one there")
    if action.name in NOT_CONTINUED:
        raise InputError(
            f"{where}: {action.name} cannot be continued after an interruption; expected one of {', '.join(BIASES)}"
        )


def _check_options(action: Action, where: str) -> None:
    """Check that an action has no option with which it shares its history, cannot go on from it, or crashes."""
    shared = [word for word in action.words if word.startswith("WALKERS_")]
    if shared:
        raise InputError(f"{where}: found {shared[0]}, but each walker has a history of its own; leave it out")
    not_continued = OPTIONS_OF_HISTORIES if action.name in WITH_HISTORY else OPTIONS_OF_OTHERS
    options = [word for word in action.words if not_continued.match(word)]
    if options:
        raise InputError(
            f"{where}: found {options[0]}, with which {action.name} cannot go on from what it wrote before; leave it "
            "out (a given bias can be added as the grid of EXTERNAL)"
        )
    families = [word for word in action.words if action.name == "PBMETAD" and FAMILY.match(word)]
    if families:
        raise InputError(
            f"{where}: found {families[0]}, but PLUMED's PBMETAD sometimes crashes with families of variables; leave "
            "it out, and each variable has a bias of its own"
        )


def _check_restraint(action: Action, where: str) -> None:
    """Check that an action exerts no force that remains, and uses no work that PLUMED has added up."""
    verses = {*(action.value("VERSE") or "B").replace(",", " ").split()}
    if action.name == "MOVINGRESTRAINT" and verses != {"B"}:
        raise InputError(
            f"{where}: found VERSE={action.value('VERSE')}, but PLUMED's MOVINGRESTRAINT keeps its last force on the "
            "side where it should exert none; leave it out, or use UPPER_WALLS or LOWER_WALLS"
        )
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
    values = bare(match[2]).split(",")
    if match[1].startswith("REFERENCE") and all(_is_number(each) or each in labels for each in values):
        return word  # of ALPHABETA or CONTACTMAP, say: no file
    return f"{match[1]}={','.join(_in_folder(each, folder) for each in values)}"


def _in_folder(value: str, folder: Path) -> str:
    return value if Path(value).is_absolute() else str(folder / Path(value).name)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+\d.*/]*pi[-+\d.*/]*", text) is not None
