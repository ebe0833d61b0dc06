"""Ends of programs, under real launchers where they are installed."""

import shutil
import signal
from pathlib import Path

import pytest
from processes import PATIENCE_S

from surveyor.programs.endings import ending_signal, how_it_ended, without_launcher, words_of_launcher
from surveyor.programs.program import ProgramResult, run_program

AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
MPIRUN = ["mpirun", "-np", "2", "--oversubscribe"]
LAUNCHERS = [[], ["sh", "-c", '"$@"; exit $?', "sh"], MPIRUN]
needs_mpirun = pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs Open MPI")


def run(command: list[str], folder: Path) -> tuple[ProgramResult, str]:
    output = folder / "output.txt"
    result = run_program(command, directory=folder, output=output, environment=AS_ROOT, timeout_s=PATIENCE_S)
    return result, output.read_text()


@pytest.mark.parametrize(
    "launcher", [pytest.param(each, marks=needs_mpirun if each == MPIRUN else ()) for each in LAUNCHERS]
)
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_the_signal_is_told_whoever_starts_the_program(
    number: signal.Signals, launcher: list[str], tmp_path: Path
) -> None:
    result, said = run([*launcher, "sh", "-c", f"kill -{number.value} $$"], tmp_path)
    assert ending_signal(said, result.returncode) == number
    hint = " (out of memory?)" if number == signal.SIGKILL else ""
    assert how_it_ended(said, result.returncode) == f"killed by {number.name}{hint}"


@needs_mpirun
def test_a_launcher_that_starts_nothing_is_no_signal_though_it_aborts(tmp_path: Path) -> None:
    result, said = run(["mpirun", "-np", "1", "no-such-program"], tmp_path)
    assert ending_signal(said, result.returncode) is None
    assert words_of_launcher(said).startswith("mpirun was unable to find the specified executable file")
    result, said = run(["mpirun", "-np", "4000", "true"], tmp_path)
    assert ending_signal(said, result.returncode) is None
    assert "not enough slots" in words_of_launcher(said)
    assert words_of_launcher(said).endswith("true")
    assert "not enough slots" not in without_launcher(said)


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("srun: error: node7: task 0: Segmentation fault (core dumped)\n", signal.SIGSEGV),
        ("srun: error: node7: tasks 0-3: Killed\n", signal.SIGKILL),
        ("srun: error: node7: task 2: Aborted\nsrun: Terminating StepId=1.0", signal.SIGABRT),
        ("srun: error: node7: task 0: Exited with exit code 1\n", None),
        ("srun: error: node7: task 0: Out Of Memory\n", None),
        ("srun: error: Unable to create step for job 5: Requested nodes are busy\n", None),
    ],
)
def test_words_of_srun(said: str, number: signal.Signals | None) -> None:
    assert ending_signal(said, 1) == number


def test_where_srun_names_no_signal_the_status_does() -> None:
    said = "slurmstepd: error: Detected 1 oom_kill event in StepId=1.0.\nsrun: error: node7: task 0: Out Of Memory\n"
    assert how_it_ended(said, 128 + signal.SIGKILL) == "killed by SIGKILL (out of memory?)"


def test_a_status_is_no_signal() -> None:
    for status in (0, 1, 2, 126, 127, 128, 255):
        assert ending_signal("", status) is None
        assert how_it_ended("", status) == f"status {status}"
    assert words_of_launcher("---- no frame ----\nsome words") == ""
