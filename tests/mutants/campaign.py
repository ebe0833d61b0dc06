"""A campaign of single mutations: does some test notice each of them?

    PYTHONPATH=.venv/mutants python tests/mutants/campaign.py [MODULE ...]

Each file `MODULE.toml` beside this one names the files of a module or package, the tests that are to notice, and the
mutants that no test can notice, with the reason. mutmut makes the mutants and keeps what it has found in
`build/mutants/MODULE`, so that a campaign that was interrupted goes on. Any other mutant that survives, and any entry
that no longer fits, is an error.
"""

import os
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libcst as cst
from mutmut import __main__ as mutmut
from mutmut.configuration import reset_config
from mutmut.mutation import mutators
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "mutants"
NOTICED = ("killed", "timeout", "segfault")


def returns_none(node: cst.Return) -> Iterable[cst.Return]:
    """Make a function return nothing."""
    if node.value is not None and not (isinstance(node.value, cst.Name) and node.value.value in ("None", "False")):
        yield node.with_changes(value=cst.Name("None"))


def drops_argument(node: cst.Call) -> Iterable[cst.Call]:
    """Leave an argument out; mutmut would also put None in its place, which nearly any test notices."""
    return (call for call in mutators.operator_arg_removal(node) if len(call.args) < len(node.args))


# Not mutated: the wording of strings, and calls in which None stands for an argument.
OPERATORS = [
    *(
        pair
        for pair in mutators.mutation_operators
        if pair[1].__name__ not in ("operator_string", "operator_arg_removal")
    ),
    (cst.Call, drops_argument),
    (cst.Return, returns_none),
]


@dataclass(frozen=True)
class Mutant:
    """The lines of a function that a mutation changes, without their indentation."""

    function: str
    was: str
    now: str

    def __str__(self) -> str:
        return f'[[equal]]\nfunction = "{self.function}"\nwas = {_quoted(self.was)}\nnow = {_quoted(self.now)}\n'


def _quoted(text: str) -> str:
    return f"'{text}'" if "'" not in text and "\n" not in text else f"'''\n{text}'''"


def run(module: str) -> bool:
    """Test the mutants of a module; say whether all that survive are listed, and all listed ones survive."""
    settings = tomllib.loads((HERE / f"{module}.toml").read_text())
    _lay_out(BUILD / module, settings)
    os.chdir(BUILD / module)
    mutated = str(BUILD / module / "mutants" / "src")
    os.environ["PYTHONPATH"] = os.pathsep.join([mutated, os.environ["PYTHONPATH"]])  # for what tests start
    mutators.mutation_operators[:] = OPERATORS
    reset_config()  # it was read where the process began
    _try_survivors_again(settings)
    mutmut.cli(["run", "--max-children", "1"], standalone_mode=False)
    return _report(module, settings)


def _lay_out(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make a folder that looks like the project to mutmut, which reads its settings there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("src", "tests"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    mine = {
        "source_paths": ["src"],
        "only_mutate": settings["files"],
        "pytest_add_cli_args": ["-p", "no:cacheprovider"],
        "pytest_add_cli_args_test_selection": [*settings["tests"], "-m", "not slow and not long"],
        "timeout_constant": 10.0,
        "timeout_multiplier": 5.0,
        "use_git_change_detection": False,
        "process_isolation": "forkserver",  # or mutmut waits for processes that tests have started
    }
    lines = [f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in mine.items()]
    text = "\n".join([(ROOT / "pyproject.toml").read_text(), "[tool.mutmut]", *lines, ""])
    file = folder / "pyproject.toml"
    if not file.exists() or file.read_text() != text:
        file.write_text(text)


def _found(settings: Mapping[str, Any]) -> list[SourceFileMutationData]:
    found = [SourceFileMutationData(path=Path(file)) for file in settings["files"]]
    for data in found:
        data.load()
    return found


def _try_survivors_again(settings: Mapping[str, Any]) -> None:
    """Forget what survived a campaign that was finished, and which test covers what: tests may have changed."""
    found = _found(settings)
    codes = [code for data in found for code in data.exit_code_by_key.values()]
    if not codes or None in codes:
        return
    for data in found:
        data.exit_code_by_key = {
            name: code if status_by_exit_code[code] in NOTICED else None for name, code in data.exit_code_by_key.items()
        }
        data.save()
    Path("mutants/mutmut-stats.json").unlink(missing_ok=True)


def _report(module: str, settings: Mapping[str, Any]) -> bool:
    paths = {name: data.path for data in _found(settings) for name in data.exit_code_by_key}
    statuses = {
        name: status_by_exit_code[code] for data in _found(settings) for name, code in data.exit_code_by_key.items()
    }
    survivors = [_mutant(name, paths[name]) for name, status in statuses.items() if status not in NOTICED]
    listed = [Mutant(each["function"], each["was"].strip(), each["now"].strip()) for each in settings.get("equal", [])]
    unlisted, stale = Counter(survivors) - Counter(listed), Counter(listed) - Counter(survivors)
    for mutant in unlisted.elements():
        print(f"# survives in {module}, and is not listed in tests/mutants/{module}.toml:\n{mutant}")
    for mutant in stale.elements():
        print(f"# is listed in tests/mutants/{module}.toml, and does not survive:\n{mutant}")
    counts = ", ".join(f"{n} {status}" for status, n in Counter(statuses.values()).most_common())
    print(f"{module}: {len(statuses)} mutants: {counts}; {len(listed)} listed as equal")
    return not unlisted and not stale


def _mutant(name: str, path: Path) -> Mutant:
    changed = get_diff_for_mutant(name, path=path).splitlines()[2:]
    was, now = ("\n".join(line[1:].strip() for line in changed if line[0] == sign) for sign in "-+")
    function = name.rpartition(".")[2].partition("__mutmut_")[0].removeprefix("x_").replace("xǁ", "").replace("ǁ", ".")
    return Mutant(function, was, now)


def main(modules: Sequence[str]) -> int:
    """Test modules one after the other, each in a process of its own; all without arguments."""
    known = sorted(path.stem for path in HERE.glob("*.toml"))
    if unknown := set(modules) - set(known):
        sys.exit(f"found {', '.join(sorted(unknown))}; expected some of {', '.join(known)}")
    if len(modules) == 1:
        return 0 if run(modules[0]) else 1
    return max(subprocess.run([sys.executable, __file__, each], check=False).returncode for each in modules or known)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
