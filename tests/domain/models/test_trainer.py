import signal
import sys
from pathlib import Path

import pytest

from surveyor.errors import TrainingFailed
from surveyor.models.trainer import LOG, check_outcome
from surveyor.programs.program import run_program


def outcome_of(script: str, directory: Path) -> str:
    """Return what is said of a training whose program runs a script."""
    command = [sys.executable, "-c", f"import os, signal, sys; print('a warning of the engine', flush=True); {script}"]
    result = run_program(command, directory=directory, output=directory / LOG)
    with pytest.raises(TrainingFailed) as caught:
        check_outcome(result.returncode, "MACE", directory)
    return str(caught.value)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGKILL, "out of memory"),
        (signal.SIGTERM, "queue"),
        (signal.SIGINT, "user"),
        (signal.SIGHUP, "terminal"),
        (signal.SIGUSR1, "queue"),
        (signal.SIGXCPU, "CPU time"),
    ],
)
def test_trainer_killed_from_outside_says_by_which_signal(number: signal.Signals, reason: str, tmp_path: Path) -> None:
    message = outcome_of(
        f"signal.signal({number}, signal.SIG_DFL) if {number} != 9 else None; os.kill(os.getpid(), {number})", tmp_path
    )
    assert f"the trainer of MACE was killed by {number.name} (" in message
    assert reason in message
    assert "the same call continues" in message
    assert "a warning of the engine" not in message


def test_signal_of_a_program_that_a_script_ran_is_named(tmp_path: Path) -> None:
    assert "killed by SIGKILL" in outcome_of("sys.exit(128 + 9)", tmp_path)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGBUS])
def test_crash_is_told_with_its_signal_and_the_last_words(number: signal.Signals, tmp_path: Path) -> None:
    message = outcome_of(f"os.kill(os.getpid(), {number})", tmp_path)
    assert f"the trainer of MACE crashed with {number.name}" in message
    assert "a warning of the engine" in message


def test_exit_code_is_told_with_the_last_words(tmp_path: Path) -> None:
    message = outcome_of("sys.exit(3)", tmp_path)
    assert "ended with exit code 3" in message
    assert "a warning of the engine" in message
