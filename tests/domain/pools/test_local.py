import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import psutil
import pytest
from distributed import Client, Security
from environments import make_environment
from processes import PATIENCE_S, wait_until

from surveyor.errors import AttemptFailed, FunctionFailed, InputError, PoolFailed, WorkerLost
from surveyor.pools import local
from surveyor.pools import pool as pool_module
from surveyor.pools.local import local_pool
from surveyor.pools.pool import Attachment, Pool
from surveyor.pools.sites import LocalSite
from surveyor.pools.submission import Priority, SubmitOptions

# A plain script, without a guard around its main part: starting workers must not run it again.
SCRIPT = """
import signal
import time
from pathlib import Path

# As at a terminal; what is started in the background inherits that Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

from surveyor.pools.local import local_pool
from surveyor.pools.sites import LocalSite
from surveyor.pools.submission import SubmitOptions
from surveyor.programs.program import run_program

def defined_here(folder):
    return run_program(["sh", "-c", "touch started; sleep 60"], directory=folder, output=folder / "output")

pool = local_pool(LocalSite(cores=1))
pool.submit(defined_here, Path.cwd())
time.sleep(60)
"""


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with local_pool(LocalSite(cores=2)) as pool:
        yield pool


def submit_waiting(pool: Pool, folder: Path, name: str) -> "Future[int]":
    """Submit a call that writes the number of its worker's process to a file, then waits for a file called gate."""
    program = f"echo $PPID > {name}; mv {name} {name}.pid; while ! [ -e gate ]; do sleep 0.02; done"
    return pool.submit(subprocess.call, ["sh", "-c", program], cwd=folder)


def wait_until_there(folder: Path, pattern: str, count: int) -> list[Path]:
    program = f'while [ "$(ls {pattern} 2> /dev/null | wc -l)" -lt {count} ]; do sleep 0.02; done'
    subprocess.run(["sh", "-c", program], cwd=folder, check=True, timeout=PATIENCE_S)
    return sorted(folder.glob(pattern))


def test_killed_worker_costs_only_what_it_ran(pool: Pool, tmp_path: Path) -> None:
    futures = [submit_waiting(pool, tmp_path, str(number)) for number in range(pool.capacity)]
    killed, *_ = wait_until_there(tmp_path, "*.pid", pool.size)
    os.kill(int(killed.read_text()), signal.SIGKILL)
    error = futures[int(killed.stem)].exception(PATIENCE_S)
    (tmp_path / "gate").touch()
    outcomes = [future.exception(PATIENCE_S) for future in futures]
    assert isinstance(error, WorkerLost)
    assert "pool local" in str(error)
    assert [outcome for outcome in outcomes if outcome is not error] == [None] * (pool.capacity - 1)
    assert pool.submit(abs, -1).result(PATIENCE_S) == 1


def test_other_users_of_the_machine_cannot_attach(pool: Pool) -> None:
    assert pool.address.startswith("tls://127.0.0.1:")
    with pytest.raises(OSError, match=r"Timed out|certificate|SSL|handshake"):
        Client(pool.address, security=Security.temporary(), timeout=2, set_as_default=False)


def test_message_about_a_dead_worker_holds_what_it_printed_last(pool: Pool) -> None:
    pool.submit(os.write, 2, b"Segmentation fault in a test\n").result(PATIENCE_S)
    assert "Segmentation fault in a test" in str(pool.submit(os._exit, 1).exception(PATIENCE_S))


def test_pool_whose_processes_are_gone_starts_again(tmp_path: Path) -> None:
    others = holders()
    with local_pool(LocalSite(cores=1)) as pool:
        future = submit_waiting(pool, tmp_path, "one")
        wait_until_there(tmp_path, "one.pid", 1)
        for holder in holders() - others:
            holder.kill()
        assert isinstance(future.exception(PATIENCE_S), WorkerLost)
        assert pool.submit(abs, -1).result(PATIENCE_S) == 1


def test_a_worker_that_dies_again_and_again_is_replaced_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # Dask gives a worker up that is away at a moment so long after any of its deaths.
    monkeypatch.setenv("DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT", "0.1s")
    with local_pool(LocalSite(cores=1)) as pool:
        for _ in range(2):
            assert isinstance(pool.submit(os._exit, 1).exception(PATIENCE_S), WorkerLost)
            assert pool.submit(abs, -1).result(PATIENCE_S) == 1


def test_a_pool_that_has_lost_its_workers_for_good_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with local_pool(LocalSite(cores=1)) as pool:
        assert pool.submit(abs, -1).result(PATIENCE_S) == 1
        # A nanny ends its worker and starts no other one, as where no process can be started.
        pool._attached().client.run(lambda dask_worker: dask_worker.loop.add_callback(dask_worker.close), nanny=True)
        assert isinstance(pool.submit(abs, -2).exception(PATIENCE_S), WorkerLost)
        deadline = time.monotonic() + PATIENCE_S
        while isinstance(pool.submit(abs, -1).exception(PATIENCE_S), WorkerLost):  # it is ending
            assert time.monotonic() < deadline
        assert pool.submit(abs, -1).result(PATIENCE_S) == 1


@contextmanager
def killing_at_start(n_times: int, whom: str) -> Iterator[list[int]]:
    """Kill a process of pools that start, as soon as it is there; give the pids of those that were killed.

    Args:
        n_times: so many of them.
        whom: a word of its command.
    """
    killed: list[int] = []
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.02) and len(killed) < n_times:
            for process in psutil.Process().children(recursive=True):
                if process.pid not in killed and whom in command_of(process):
                    process.kill()
                    killed.append(process.pid)
                    break

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("whom", ["surveyor.pools.local_process", "spawn_main"])
def test_a_pool_of_which_a_process_is_killed_while_it_starts_is_started_again(whom: str) -> None:
    before = holders()
    with local_pool(LocalSite(cores=1)) as pool, killing_at_start(1, whom) as killed:
        assert pool.submit(abs, -1).result(PATIENCE_S) == 1
        assert len(killed) == 1
    assert not holders() - before


def test_a_pool_whose_process_is_killed_at_each_start_is_refused() -> None:
    before = holders()
    with (
        local_pool(LocalSite(cores=1)) as pool,
        killing_at_start(9, "surveyor.pools.local_process") as killed,
        pytest.raises(PoolFailed, match=r"^pool local ended while it started, 3 times\. The workers printed nothing"),
    ):
        pool.open()
    assert len(killed) == 3
    assert not holders() - before


def test_a_pool_whose_process_is_killed_once_it_has_told_its_address_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed: list[int] = []
    connect = local.PoolClient

    def kill_and_connect(*args: Any, **kwargs: Any) -> local.PoolClient:
        if not killed:
            (holder,) = holders() - others
            killed.append(holder.pid)
            holder.kill()
            holder.wait()
        return connect(*args, **kwargs)

    others = holders()
    monkeypatch.setattr(local, "PoolClient", kill_and_connect)
    monkeypatch.setattr(local, "CONNECT_S", 2.0)
    with local_pool(LocalSite(cores=1)) as pool:
        assert pool.submit(abs, -1).result(PATIENCE_S) == 1
    assert len(killed) == 1
    assert not holders() - others


def test_closing_does_not_wait_for_a_pool_that_is_opening() -> None:
    before = holders()
    pool = local_pool(LocalSite(cores=1))
    with ThreadPoolExecutor() as threads:
        opening = threads.submit(pool.open)
        wait_until(lambda: bool(holders() - before), lambda: "no process of a pool")
        (holder,) = holders() - before
        holder.suspend()
        pool.shutdown()
        assert not opening.done()
        holder.resume()
        assert isinstance(opening.exception(PATIENCE_S), RuntimeError)
    assert not holders() - before


def test_closing_abandons_what_runs_and_leaves_no_process(tmp_path: Path) -> None:
    before = holders()
    pool = local_pool(LocalSite(cores=1))
    future = submit_waiting(pool, tmp_path, "one")
    wait_until_there(tmp_path, "one.pid", 1)
    pool.shutdown(wait=False)
    with pytest.raises(CancelledError):
        future.result(PATIENCE_S)
    assert not holders() - before


# As mpirun does while it starts its ranks: each in a process group of its own, one after the other.
STARTING_RANKS = "for i in $(seq 4000); do setsid sleep {mark} & sleep 0.005; done; touch started; wait"


def test_closing_while_a_program_starts_others_leaves_no_process(tmp_path: Path) -> None:
    mark = f"300.{os.getpid()}"
    pool = local_pool(LocalSite(cores=1))
    pool.submit(subprocess.call, ["sh", "-c", STARTING_RANKS.format(mark=mark)], cwd=tmp_path)
    wait_until(lambda: n_sleeping(mark) > 20, lambda: "nothing has started")
    pool.shutdown(wait=False)
    assert not (tmp_path / "started").exists()
    assert n_sleeping(mark) == 0


def n_sleeping(mark: str) -> int:
    return sum(process.info["cmdline"] == ["sleep", mark] for process in psutil.process_iter(["cmdline"]))


def test_a_function_is_not_begun_by_a_job_whose_start_took_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURVEYOR_JOB_BEGIN", f"{time.time() - 100:.0f}")
    monkeypatch.setenv("SURVEYOR_JOB_WALLTIME_S", "200")
    with local_pool(LocalSite(cores=1)) as pool:
        outcome = pool.submit_with(SubmitOptions(time_limit_s=90), abs, -1).exception(PATIENCE_S)
    assert isinstance(outcome, AttemptFailed)
    assert "its start took so long" in str(outcome)


def test_a_function_that_no_job_can_end_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURVEYOR_JOB_BEGIN", f"{time.time():.0f}")
    monkeypatch.setenv("SURVEYOR_JOB_WALLTIME_S", "200")
    with local_pool(LocalSite(cores=1)) as pool:
        outcome = pool.submit_with(SubmitOptions(time_limit_s=190), abs, -1).exception(PATIENCE_S)
    assert isinstance(outcome, PoolFailed)
    assert "a job lasts 200 s, of which 20 s are for its start and 30 s for its end" in str(outcome)


def test_closed_pool_refuses_work() -> None:
    pool = local_pool(LocalSite(cores=1))
    pool.shutdown()
    with pytest.raises(RuntimeError, match="was shut down"):
        pool.submit(abs, -1)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_outlives_the_script_that_uses_a_pool(how: signal.Signals, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (tmp_path / "script.py").write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, env={**os.environ, "TMPDIR": str(scratch)}, stderr=subprocess.PIPE
    ) as script:
        wait_until_there(tmp_path, "started", 1)
        children = psutil.Process(script.pid).children(recursive=True)
        script.send_signal(how)
        _, error = script.communicate(timeout=PATIENCE_S)
    _, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
    assert len(children) >= 4  # the holder, its worker, the program and what that started
    assert alive == []
    assert list(scratch.iterdir()) == []
    assert (b"KeyboardInterrupt" in error) == (how == signal.SIGINT)


def test_arguments_that_cannot_travel_are_refused_at_once(pool: Pool) -> None:
    with pytest.raises(InputError, match="the call of id cannot travel"):
        pool.submit(id, Lock())


def test_result_that_cannot_travel_is_an_error_of_its_call(pool: Pool) -> None:
    with pytest.raises(InputError, match=r"the result of .*lock cannot travel"):
        pool.submit(Lock).result(PATIENCE_S)


OF_THE_ENGINE = """
class EngineError(Exception):
    pass

def fail():
    raise EngineError("no such parity")
"""


def test_an_exception_that_only_the_worker_knows_arrives_with_its_text(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "engine_of_the_worker.py").write_text(OF_THE_ENGINE)
    call = f"[__import__('sys').path.append({str(tmp_path)!r}), __import__('engine_of_the_worker').fail()]"
    error = pool.submit(eval, call).exception(PATIENCE_S)
    assert isinstance(error, FunctionFailed)
    assert str(error).startswith("engine_of_the_worker.EngineError: no such parity. The traceback of the worker:")
    assert "in fail" in str(error)


def test_a_module_that_exits_when_it_is_imported_is_an_error_of_its_call(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "import os, sys\nif 'OF_THE_TEST' not in os.environ:\n    sys.exit('no')\ndef function():\n    pass\n"
    (tmp_path / "exits_on_workers.py").write_text(module)
    pool.submit(eval, f"__import__('sys').path.append({str(tmp_path)!r})").result(PATIENCE_S)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("OF_THE_TEST", "1")
    error = pool.submit(importlib.import_module("exits_on_workers").function).exception(PATIENCE_S)
    assert isinstance(error, RuntimeError)
    assert "the module of a function called sys.exit('no')" in str(error)


def test_an_exception_has_the_traceback_of_the_worker_as_its_cause(pool: Pool) -> None:
    error = pool.submit(int, "eleven").exception(PATIENCE_S)
    assert isinstance(error, ValueError)
    assert "transport.py" in str(error.__cause__)


def test_a_submission_in_the_moment_of_a_lost_connection_can_be_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with local_pool(LocalSite(cores=1)) as pool:
        pool.open()
        # The client closes between the look at it and the submission.
        monkeypatch.setattr(Attachment, "is_alive", True)
        attachment = pool._attached()
        attachment.client.close()
        with pytest.raises(WorkerLost, match="the connection to pool local was lost"):
            pool.submit(abs, -1)
        monkeypatch.undo()
        assert pool.submit(abs, -1).result(PATIENCE_S) == 1


def test_a_result_that_cannot_be_fetched_is_lost_with_the_connection(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connect(*_args: Any, **_kwargs: Any) -> Any:
        raise OSError("Timed out trying to connect after 10 s")  # as on a busy machine

    with monkeypatch.context() as patch:
        patch.setattr("distributed.core.ConnectionPool.connect", connect)
        with pytest.raises(WorkerLost, match=r"the connection to pool \w+ was lost"):
            pool.submit(abs, -1).result(PATIENCE_S)
    assert pool.submit(abs, -1).result(PATIENCE_S) == 1


def test_exit_of_a_function_is_an_error_of_its_call(pool: Pool) -> None:
    with pytest.raises(RuntimeError, match=r"called sys.exit\(3\)"):
        pool.submit(sys.exit, 3).result(PATIENCE_S)


def test_libraries_on_workers_use_one_thread(pool: Pool) -> None:
    assert pool.submit(os.getenv, "OMP_NUM_THREADS").result(PATIENCE_S) == "1"


def test_libraries_use_as_many_threads_as_a_worker_has_cores() -> None:
    with local_pool(LocalSite(cores=2, cores_per_worker=2)) as pool:
        assert pool.size == 1
        assert pool.submit(os.getenv, "OMP_NUM_THREADS").result(PATIENCE_S) == "2"


def test_each_worker_sees_gpus_of_its_own_also_after_a_death(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,GPU-8c5f,7,9")
    with local_pool(LocalSite(cores=2, gpus_per_worker=2)) as pool:
        assert seen_gpus(pool, tmp_path / "before") == {"3,5", "GPU-8c5f,7"}
        assert isinstance(pool.submit(os._exit, 1).exception(PATIENCE_S), WorkerLost)
        assert seen_gpus(pool, tmp_path / "after") == {"3,5", "GPU-8c5f,7"}


def seen_gpus(pool: Pool, folder: Path) -> set[str]:
    """Ask two workers at once: each waits until the other answers."""
    folder.mkdir()
    meet = 'touch $$.here; while [ "$(ls *.here | wc -l)" -lt 2 ]; do sleep 0.02; done'
    ask = f'{meet}; printf %s "$CUDA_VISIBLE_DEVICES"'
    futures = [pool.submit(subprocess.check_output, ["sh", "-c", ask], cwd=folder, text=True) for _ in range(2)]
    return {future.result(PATIENCE_S) for future in futures}


@pytest.mark.cp2k  # comes with MPI
def test_ranks_of_mpi_may_run_on_every_core(pool: Pool) -> None:
    """Bound, as mpirun does by itself, those of all workers would share the first cores."""
    as_root = ["env", "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"]
    command = ["mpirun", "-np", "1", sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"]
    answer = pool.submit(subprocess.check_output, [*as_root, *command], text=True).result(PATIENCE_S)
    assert int(answer) == len(os.sched_getaffinity(0))


def test_workers_of_another_environment_have_what_is_there_and_the_users_own_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = make_environment(tmp_path / "environment", "surveyor")
    (tmp_path / "of_the_user.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with local_pool(LocalSite(cores=1, python=str(python))) as pool:
        interpreter = pool.submit(eval, "__import__('sys').executable").result(PATIENCE_S)
        missing, found = (pool.submit(find_spec, name).result(PATIENCE_S) for name in ("pytest", "of_the_user"))
    assert interpreter == str(python)
    assert missing is None
    assert found is not None


def test_an_environment_with_another_version_is_refused_when_the_pool_opens(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "environment", "surveyor", versions={"surveyor": "0.0.1"})
    before, version = holders(), metadata.version("surveyor")
    with (
        local_pool(LocalSite(cores=1, python=str(python)), "local/mace") as pool,
        pytest.raises(PoolFailed) as failure,
    ):
        pool.open()
    message = str(failure.value)
    assert message.startswith(f"pool local/mace: versions differ: {python} on ")
    assert f" has surveyor 0.0.1 (there {version}), where there is {sys.executable} on " in message
    assert "Install the same versions on both sides, or name another interpreter" in message
    assert not holders() - before


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("nowhere/python", "No such file or directory"), (".", "Permission denied")],
)
def test_an_interpreter_that_cannot_be_started_is_named(name: str, complaint: str, tmp_path: Path) -> None:
    python = str(tmp_path / name)
    with pytest.raises(PoolFailed, match=f"its interpreter {python} cannot be started: {complaint}; expected the full"):
        local_pool(LocalSite(cores=1, python=python)).open()


def holders() -> set[psutil.Process]:
    return {child for child in psutil.Process().children() if "surveyor.pools.local_process" in command_of(child)}


def command_of(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):  # or a zombie, which is one of them
        if process.status() != psutil.STATUS_ZOMBIE:
            return " ".join(process.cmdline())
    return ""


def test_what_matters_most_begins_first_wherever_it_waits(tmp_path):
    def shell(command: str) -> tuple[Any, ...]:
        return subprocess.check_call, ["sh", "-c", f"cd {tmp_path} && {command}"]

    def options(priority: Priority) -> SubmitOptions:
        return SubmitOptions(priority=priority)

    with local_pool(LocalSite(cores=1)) as pool, ThreadPoolExecutor(9) as threads:
        begun = [pool.submit(*shell("until [ -e go ]; do sleep 0.05; done"))]
        begun.append(pool.submit_with(options(Priority.SAMPLING), *shell("echo SAMPLING >> order")))
        waiting = [
            threads.submit(pool.submit_with, options(each), *shell(f"echo {each.name} >> order"))
            for each in [*Priority, *Priority]
        ]
        wait_until(lambda: len(pool._waiting) == 6, lambda: f"waiting: {pool._waiting}")
        (tmp_path / "go").touch()
        for future in [*begun, *(each.result() for each in waiting)]:
            future.result(PATIENCE_S)
    expected = ["SAMPLING", *2 * ["TRAINING"], *2 * ["LABELLING"], *2 * ["SAMPLING"]]
    assert (tmp_path / "order").read_text().split() == expected


def test_whoever_waits_for_room_is_woken_when_there_is_some(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "RECOUNT_S", 60.0)  # who is not woken waits so long
    with ThreadPoolExecutor(24) as threads:
        options = [SubmitOptions(priority=priority) for priority in Priority] * 8
        calls = [threads.submit(pool.submit_with, each, abs, -1) for each in options]
        assert [call.result(PATIENCE_S).result(PATIENCE_S) for call in calls] == [1] * 24
