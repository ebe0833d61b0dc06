import logging
import multiprocessing
import resource

import pytest

from surveyor.events import EventLog, Relay, announce, reporting

FORK = multiprocessing.get_context("fork")  # quick, and these processes have no threads
logger = logging.getLogger("surveyor.test")


@pytest.fixture
def events(tmp_path):
    return EventLog(tmp_path / "events.jsonl")


def names(events):
    return [event["event"] for event in events.read()[0]]


def _append(events, number, barrier):
    barrier.wait()
    for turn in range(100):
        events.append("turn", number=number, turn=turn, text="é" * 500)


def test_events_of_several_processes_are_whole_and_in_the_order_of_each(events):
    barrier = FORK.Barrier(3)
    processes = [FORK.Process(target=_append, args=(events, number, barrier)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    read, _ = events.read()
    assert len(read) == 300
    for number in range(3):
        assert [event["turn"] for event in read if event["number"] == number] == list(range(100))


def test_reading_goes_on_where_it_ended(events):
    events.append("first", value=1)
    first, position = events.read()
    events.append("second")
    second, _ = events.read(position)
    assert [event["event"] for event in first + second] == ["first", "second"]
    assert first[0]["value"] == 1


def test_no_file_is_no_event(events):
    assert events.read() == ([], 0)


def test_a_line_under_way_is_read_when_it_is_whole(events):
    events.append("first")
    whole = events.path.read_bytes()
    events.path.write_bytes(whole + whole[:10])
    read, position = events.read()
    assert len(read) == 1
    events.path.write_bytes(whole + whole)
    assert len(events.read(position)[0]) == 1


@pytest.mark.parametrize("torn", [b'{"time": 1, "eve', b"5\n", b"[1]\n", b'{"time": 2}\n', b"\xff\xfe\n"])
def test_a_torn_line_is_skipped(events, torn):
    events.append("first")
    with events.path.open("ab") as file:
        file.write(torn if torn.endswith(b"\n") else torn + b"\n")
    events.append("second")
    assert names(events) == ["first", "second"]


def test_what_is_logged_is_reported_as_long_as_it_lasts(events):
    with reporting(events):
        announce(logger, "labelled", "label %s of 7 is there", key="v1:ab")
        logger.info("%d walkers", 3)
        logging.getLogger("another").warning("not ours")
    logger.info("afterwards")
    labelled, walkers = events.read()[0]
    assert (labelled["event"], labelled["message"], labelled["key"]) == ("labelled", "label %s of 7 is there", "v1:ab")
    assert (walkers["event"], walkers["message"], walkers["level"]) == ("log", "3 walkers", logging.INFO)


def test_reporting_to_a_place_that_cannot_be_written_does_not_end_the_work(tmp_path, capsys):
    (tmp_path / "file").touch()
    with reporting(EventLog(tmp_path / "file" / "events.jsonl")):
        logger.info("somewhere")
    assert "Logging error" in capsys.readouterr().err


def test_a_relay_brings_each_event_once(tmp_path, events):
    workers, heard = tmp_path / "workers", []
    EventLog(workers / "old.jsonl").append("before the relay")
    relay = Relay(workers, events, lambda event: heard.append(event["event"]))
    for turn in range(3):
        EventLog(workers / "one.jsonl").append(f"one {turn}")
        EventLog(workers / "two.jsonl").append(f"two {turn}")
        events.append(f"flow {turn}")
        relay.pass_on()
        relay.pass_on()
    expected = sorted(f"{who} {turn}" for who in ("one", "two", "flow") for turn in range(3))
    assert sorted(heard) == expected
    assert sorted(names(events)) == expected


def test_a_relay_brings_each_event_once_where_the_disk_fills_in_between(tmp_path, events):
    worker = EventLog(tmp_path / "workers" / "one.jsonl")
    relay = Relay(tmp_path / "workers", events, lambda event: None)
    for turn in range(4):
        worker.append(f"turn {turn}")
    size = worker.path.stat().st_size // 4
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * size + size // 2, limits[1]))  # room for two and a half
    try:
        with pytest.raises(OSError, match="No space left"):
            relay.pass_on()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    relay.pass_on()
    assert names(events) == [f"turn {turn}" for turn in range(4)]


def test_a_relay_keeps_the_time_at_which_something_happened(tmp_path, events):
    worker = EventLog(tmp_path / "workers" / "one.jsonl")
    relay = Relay(tmp_path / "workers", events, lambda event: None)
    worker.append("labelled", time=12.5)
    relay.pass_on()
    assert events.read()[0][0]["time"] == 12.5


def test_a_running_relay_brings_the_last_events_when_it_ends(tmp_path, events):
    heard = []
    relay = Relay(tmp_path / "workers", events, heard.append)
    with relay.running(interval_s=0.01):
        EventLog(tmp_path / "workers" / "one.jsonl").append("labelled")
    assert [event["event"] for event in heard] == ["labelled"]
