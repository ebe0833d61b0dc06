import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from processes import PATIENCE_S

from surveyor.errors import InputError
from surveyor.programs import launcher
from surveyor.programs.program import find_program, run_program

PARENT = """
import sys
from pathlib import Path
from surveyor.programs.program import run_program
folder = Path(sys.argv[1])
run_program(["sh", "-c", "echo $$ > pid; sleep 300"], directory=folder, output=folder / "output.txt")
"""


def test_output_and_status_are_those_of_the_program(tmp_path: Path) -> None:
    result = run_program(
        ["sh", "-c", "echo said; echo complained >&2; exit 3"], directory=tmp_path, output=tmp_path / "o"
    )
    assert (result.returncode, result.timed_out) == (3, False)
    assert (tmp_path / "o").read_text() == "said\ncomplained\n"


def test_program_runs_in_its_directory_with_its_environment(tmp_path: Path) -> None:
    run_program(["sh", "-c", "pwd; echo $SAY"], directory=tmp_path, output=tmp_path / "o", environment={"SAY": "hello"})
    assert (tmp_path / "o").read_text().split() == [str(tmp_path), "hello"]


def test_program_cannot_read_from_the_terminal(tmp_path: Path) -> None:
    assert run_program(["cat"], directory=tmp_path, output=tmp_path / "o", timeout_s=PATIENCE_S).returncode == 0


def test_whole_group_is_ended_when_its_time_is_up(tmp_path: Path) -> None:
    script = "sleep 300 & echo $! > pid; wait"
    result = run_program(["sh", "-c", script], directory=tmp_path, output=tmp_path / "o", timeout_s=0.5)
    assert result.timed_out
    assert result.returncode < 0
    assert is_gone(int((tmp_path / "pid").read_text()))


def test_programs_end_alike_where_the_kernel_does_not_tell_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    command = ["sh", "-c", "sleep 0.1; exit 3"]
    assert run_program(command, directory=tmp_path, output=tmp_path / "o", timeout_s=PATIENCE_S).returncode == 3
    assert run_program(["sleep", "300"], directory=tmp_path, output=tmp_path / "o", timeout_s=0.3).timed_out


def test_what_a_program_leaves_behind_is_ended_with_it(tmp_path: Path) -> None:
    run_program(["sh", "-c", "sleep 300 & echo $! > pid"], directory=tmp_path, output=tmp_path / "o")
    assert is_gone(int((tmp_path / "pid").read_text()))


# As ranks of MPI do: a process group of its own, which no signal to the group of the program reaches.
ELSEWHERE = "setsid sleep 300 & echo $! > pid; wait"


@pytest.mark.parametrize("script", [ELSEWHERE, f"trap '' TERM; {ELSEWHERE}", ELSEWHERE.removesuffix("; wait")])
def test_what_has_left_the_group_of_the_program_is_ended_too(script: str, tmp_path: Path) -> None:
    run_program(["sh", "-c", script], directory=tmp_path, output=tmp_path / "o", timeout_s=0.5)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_program_is_told_once_to_end(tmp_path: Path) -> None:
    script = "trap 'echo told' TERM; while true; do sleep 0.05; done"
    run_program(["sh", "-c", script], directory=tmp_path, output=tmp_path / "o", timeout_s=0.5)
    assert (tmp_path / "o").read_text().count("told") == 1


def test_signal_that_ended_the_program_is_told(tmp_path: Path) -> None:
    result = run_program(["sh", "-c", "kill -9 $$"], directory=tmp_path, output=tmp_path / "o")
    assert result.returncode == -signal.SIGKILL


def test_program_whose_whole_group_is_told_to_end_is_told_from_one_that_was_killed(tmp_path: Path) -> None:
    script = "echo $PPID > pid; while true; do sleep 0.05; done"
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(run_program, ["sh", "-c", script], directory=tmp_path, output=tmp_path / "o")
        os.killpg(wait_for_number(tmp_path / "pid"), signal.SIGTERM)
        assert future.result(PATIENCE_S).returncode == -signal.SIGTERM


def test_program_dies_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)])
    pid = wait_for_number(tmp_path / "pid")
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.wait()
    assert is_gone(pid)


def test_what_a_program_has_started_dies_with_its_parent_too(tmp_path: Path) -> None:
    script = "sleep 300 & echo $! > child; echo $$ > pid; wait"
    parent = subprocess.Popen([sys.executable, "-c", PARENT.replace("echo $$ > pid; sleep 300", script), str(tmp_path)])
    pid = wait_for_number(tmp_path / "pid")
    parent.kill()
    parent.wait()
    assert is_gone(pid)
    assert is_gone(int((tmp_path / "child").read_text()))


def test_program_does_not_begin_when_its_parent_is_dead_already(tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-I", launcher.__file__, str(os.getpid() + 1), "touch", "begun"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert result.returncode != 0
    assert not (tmp_path / "begun").exists()


def test_missing_program_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no-such-program"):
        run_program(["no-such-program"], directory=tmp_path, output=tmp_path / "o")


def test_program_is_looked_for_on_the_path_that_it_is_given(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_program(["tool"], {"PATH": str(tmp_path)}) == program


def is_gone(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        # Where nothing collects orphans, what was killed stays as a zombie.
        return process.status() == psutil.STATUS_ZOMBIE or process.wait(PATIENCE_S) is None
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return process.status() == psutil.STATUS_ZOMBIE


def wait_for_number(path: Path) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().endswith("\n"):
            return int(path.read_text())
        time.sleep(0.01)
    raise TimeoutError(f"{path} was not written in {PATIENCE_S} s")
