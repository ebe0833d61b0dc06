import logging
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial

import pytest
from processes import PATIENCE_S

from surveyor.errors import InputError, WorkerLost
from surveyor.events.log import EventLog
from surveyor.events.recording import reporting
from surveyor.pools.local import local_pool
from surveyor.pools.reporting import ReportingCall, ReportingExecutor
from surveyor.pools.sites import LocalSite

FORK = multiprocessing.get_context("fork")  # quick, and these processes have no threads
logger = logging.getLogger("surveyor.test")


def speak(word, times=1):
    for _ in range(times):
        logger.info(word)
    return os.getpid()


def test_a_function_in_another_process_reports_into_a_file_of_its_own(tmp_path):
    with ProcessPoolExecutor(1, mp_context=FORK) as processes:
        pool = ReportingExecutor(processes, tmp_path)
        pid = pool.submit(speak, "hello", times=2).result()
    (file,) = tmp_path.iterdir()
    assert str(pid) in file.name
    assert [event.message for event in EventLog(file).read()[0]] == ["hello", "hello"]


def test_a_function_in_this_process_is_reported_by_this_process_alone(tmp_path):
    events = EventLog(tmp_path / "events.jsonl")
    with reporting(events), ThreadPoolExecutor(1) as threads:
        ReportingExecutor(threads, tmp_path / "workers").submit(speak, "hello").result()
    assert [event.message for event in events.read()[0]] == ["hello"]
    assert not (tmp_path / "workers").exists()


def test_a_worker_with_several_threads_reports_each_event_once(tmp_path):
    barrier = threading.Barrier(4)

    def speak_together(word):
        barrier.wait()
        logger.info(word)
        barrier.wait()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ReportingCall(speak_together, tmp_path, origin="another process"), "abcd"))
    (file,) = tmp_path.iterdir()
    assert sorted(event.message for event in EventLog(file).read()[0]) == ["a", "b", "c", "d"]


def test_messages_name_the_function_that_reports(tmp_path):
    with local_pool(LocalSite(cores=1)) as pool:
        reporting_pool = ReportingExecutor(pool, tmp_path)
        with pytest.raises(WorkerLost, match="while _exit was to run there"):
            reporting_pool.submit(os._exit, 1).result(PATIENCE_S)
        with pytest.raises(WorkerLost, match="while _exit was to run there"):
            reporting_pool.submit(partial(os._exit, 1)).result(PATIENCE_S)
        with pytest.raises(InputError, match="the result of Semaphore cannot travel"):
            reporting_pool.submit(threading.Semaphore).result(PATIENCE_S)
