import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from processes import PATIENCE_S

from surveyor.models import preloaded, preloading
from surveyor.models.preloaded import run_preloaded
from surveyor.pools.machine import THREADS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs are preloaded on Linux alone")

PROGRAM = """
import os, sys, threading, time
loaded_by = None
def preload():
    global loaded_by
    loaded_by = os.getpid()
    print("imports may print")
    os.environ["SET_BY_IMPORTS"] = "1"
    if os.environ.get("WITH_TORCH"):
        import torch
    if os.environ.get("HINDERED") == "threads":
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    if os.environ.get("HINDERED") == "import":
        raise ImportError("no such engine")
def main():
    print(loaded_by, os.getpid(), os.getsid(0), os.getcwd(), *sys.argv[1:], flush=True)
    exec(sys.argv[1])
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module with a training program."""
    (tmp_path / "small_program.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield "small_program"
    for each in [each for each in preloaded._kept if each.module == "small_program"]:
        each.end()


def run(program: str, script: str, directory: Path) -> int | None:
    return run_preloaded(program, [script], directory=directory, output=directory / "log")


def log(directory: Path) -> str:
    path = directory / "log"
    return path.read_text() if path.exists() else ""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(process: int) -> bool:
    return psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE


def test_trainings_are_forks_of_one_process_that_has_done_the_imports(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(program, "pass", tmp_path) == 0
    first = log(tmp_path).split()
    monkeypatch.setenv("A_FOLDER", "here")
    assert run(program, "sys.exit(3 if os.environ['A_FOLDER'] == 'here' else 0)", tmp_path) == 3
    second = log(tmp_path).split()
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert first[2] not in {second[2], str(os.getsid(0)), str(os.getsid(int(first[0])))}
    assert second[3] == str(tmp_path)
    assert second[4].startswith("sys.exit(3")


@pytest.mark.parametrize(
    ("script", "code", "message"),
    [
        ("sys.exit('no such option')", 1, "no such option"),
        ("sys.stdout.write('not flushed')", 0, "not flushed"),
        ("raise ValueError('a fault')", 1, "ValueError: a fault"),
        ("os.kill(os.getpid(), 9)", -9, ""),
        ("os.kill(os.getpid(), 15)", -15, ""),
    ],
)
def test_end_of_a_training_is_that_of_a_program(
    script: str, code: int, message: str, program: str, tmp_path: Path
) -> None:
    assert run(program, script, tmp_path) == code
    assert message in log(tmp_path)


def test_what_a_training_has_started_ends_with_it(program: str, tmp_path: Path) -> None:
    script = "import subprocess; print(subprocess.Popen(['sleep', '60'], start_new_session=True).pid)"
    assert run(program, script, tmp_path) == 0
    wait_for(lambda: not is_alive(int(log(tmp_path).split()[-1])))


def test_trainings_run_side_by_side(program: str, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    script = "while not all(os.path.exists(f'../{name}/here') for name in ('one', 'two')): open('here', 'w')"
    threads = [threading.Thread(target=run, args=(program, script, folder)) for folder in folders]
    for folder, thread in zip(folders, threads, strict=True):
        folder.mkdir()
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_training_dies_with_the_process_that_it_was_forked_from(program: str, tmp_path: Path) -> None:
    assert run(program, "os.kill(loaded_by, 9); time.sleep(60)", tmp_path) == -9
    wait_for(lambda: not is_alive(int(log(tmp_path).split()[1])))
    assert run(program, "pass", tmp_path) == 0  # by another one


def test_training_dies_with_the_process_that_waits_for_it(program: str, tmp_path: Path) -> None:
    assert run(program, "os.kill(os.getppid(), 9); time.sleep(60)", tmp_path) == -9
    wait_for(lambda: not is_alive(int(log(tmp_path).split()[1])))


def test_training_dies_when_nobody_waits_for_it(program: str, tmp_path: Path) -> None:
    def give_up(*_: object) -> None:
        raise KeyboardInterrupt

    assert run(program, "pass", tmp_path) == 0
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(1)
    with pytest.raises(KeyboardInterrupt):
        run(program, "time.sleep(60)", tmp_path)
    signal.signal(signal.SIGALRM, before)
    wait_for(lambda: not is_alive(int(log(tmp_path).split()[1])))


WORKER = """
import sys
from pathlib import Path
from surveyor.models.preloaded import run_preloaded
folder = Path(sys.argv[1])
run_preloaded("small_program", ["time.sleep(60)"], directory=folder, output=folder / "log")
"""


@pytest.mark.usefixtures("program")
def test_nothing_outlives_the_worker(tmp_path: Path) -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)])
    wait_for(lambda: "sleep" in log(tmp_path))
    worker.kill()
    worker.wait()
    server, training, *_ = log(tmp_path).split()
    wait_for(lambda: not is_alive(int(server)) and not is_alive(int(training)))


@pytest.mark.parametrize("reason", ["threads", "import"])
def test_what_cannot_be_preloaded_is_left_to_a_new_process(
    reason: str, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HINDERED", reason)
    assert run(program, "pass", tmp_path) is None
    assert not log(tmp_path)


def test_where_the_path_of_the_socket_is_too_long_no_import_is_done(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    (tmp_path / "small_program.py").write_text("import pathlib; pathlib.Path(__file__).with_name('imported').touch()")
    assert run(program, "pass", tmp_path) is None
    assert not (tmp_path / "imported").exists()


def test_another_number_of_threads_has_a_process_of_its_own(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(program, "pass", tmp_path) == 0
    before = log(tmp_path).split()[0]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert run(program, "print(os.environ['OMP_NUM_THREADS'])", tmp_path) == 0
    assert log(tmp_path).split()[-1] == "7"
    wait_for(lambda: not is_alive(int(before)))


def test_trainings_outlive_a_change_of_the_environment_and_end_their_process_by_ending(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int | None] = []
    other = tmp_path / "other"
    other.mkdir()
    script = "while not os.path.exists('end'): time.sleep(0.01)"
    thread = threading.Thread(target=lambda: codes.append(run(program, script, tmp_path)))
    thread.start()
    wait_for(lambda: bool(log(tmp_path)))
    before, training, *_ = map(int, log(tmp_path).split()[:2])
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert run(program, "pass", other) == 0
    assert int(log(other).split()[0]) != before
    time.sleep(2 * preloading.POLL_S)
    assert is_alive(before)
    assert is_alive(training)
    (tmp_path / "end").touch()
    thread.join(PATIENCE_S)
    assert codes == [0]
    wait_for(lambda: not is_alive(before))
    assert run(program, "pass", other) == 0  # what has ended is forgotten
    assert len([each for each in preloaded._kept if each.module == program]) == 1


@pytest.mark.mace
def test_trainings_have_as_many_threads_as_the_worker_may_use(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("WITH_TORCH", "1")
    for name in THREADS:
        monkeypatch.setenv(name, "2")
    assert run(program, "import torch; print(torch.get_num_threads())", tmp_path) == 0
    assert log(tmp_path).split()[-1] == "2"


def test_variables_that_imports_have_set_stay(program: str, tmp_path: Path) -> None:
    assert run(program, "print(os.environ['SET_BY_IMPORTS'])", tmp_path) == 0
    assert log(tmp_path).split()[-1] == "1"


def test_import_of_the_engine_by_the_worker_changes_nothing(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    assert run(program, "pass", tmp_path) == 0
    before = log(tmp_path).split()[0]
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert run(program, "pass", tmp_path) == 0
    assert log(tmp_path).split()[0] == before


def test_memory_is_given_back_after_a_while(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preloading, "__name__", "brief")
    (tmp_path / "brief.py").write_text(
        "from surveyor.models import preloading\npreloading.IDLE_S = 0.1\npreloading.main()\n"
    )
    assert run(program, "time.sleep(1.5)", tmp_path) == 0  # it is not idle meanwhile
    first = int(log(tmp_path).split()[0])
    wait_for(lambda: not is_alive(first))
    assert run(program, "pass", tmp_path) == 0
    assert int(log(tmp_path).split()[0]) != first
    assert os.getpid() != first
