import logging
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

from surveyor.events.log import EventLog
from surveyor.events.recording import reporting
from surveyor.pools.reporting import Report, ReportingExecutor

FORK = multiprocessing.get_context("fork")  # quick, and these processes have no threads
logger = logging.getLogger("surveyor.test")


def speak(word, times=1):
    for _ in range(times):
        logger.info(word)
    return os.getpid()


def test_a_function_in_another_process_reports_into_a_file_of_its_own(tmp_path):
    with ProcessPoolExecutor(1, mp_context=FORK) as processes:
        pool = ReportingExecutor(processes, Report.into(tmp_path))
        pid = pool.submit(speak, "hello", times=2).result()
    (file,) = tmp_path.iterdir()
    assert str(pid) in file.name
    assert [event.message for event in EventLog(file).read()[0]] == ["hello", "hello"]


def test_a_function_in_this_process_is_reported_by_this_process_alone(tmp_path):
    events = EventLog(tmp_path / "events.jsonl")
    with reporting(events), ThreadPoolExecutor(1) as threads:
        ReportingExecutor(threads, Report.into(tmp_path / "workers")).submit(speak, "hello").result()
    assert [event.message for event in events.read()[0]] == ["hello"]
    assert not (tmp_path / "workers").exists()


def test_a_worker_with_several_threads_reports_each_event_once(tmp_path):
    report, barrier = Report(tmp_path, origin="another process"), threading.Barrier(4)

    def speak_together(word):
        barrier.wait()
        logger.info(word)
        barrier.wait()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda word: report(speak_together, word), "abcd"))
    (file,) = tmp_path.iterdir()
    assert sorted(event.message for event in EventLog(file).read()[0]) == ["a", "b", "c", "d"]
