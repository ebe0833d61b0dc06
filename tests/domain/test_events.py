import json
import logging
import multiprocessing
import resource
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError

from surveyor.events.kinds import (
    KINDS,
    CampaignBegins,
    EpochEnds,
    ErrorsMeasured,
    Event,
    FileRead,
    GenerationBegins,
    LabelFailed,
    Labelled,
    Sampled,
    TrainingBegins,
    WorkEnds,
)
from surveyor.events.log import EventLog
from surveyor.events.recording import announce, reporting
from surveyor.events.relay import Relay

FORK = multiprocessing.get_context("fork")  # quick, and these processes have no threads
logger = logging.getLogger("surveyor.test")


@pytest.fixture
def events(tmp_path):
    return EventLog(tmp_path / "events.jsonl")


def words(events):
    return [event.message for event in events.read()[0]]


def word(text):
    return Event(message=text)


def _append(events, number, barrier):
    barrier.wait()
    for turn in range(100):
        events.append(Sampled(name=str(turn), walker=number, message="é" * 500))


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
        assert [int(event.name) for event in read if event.walker == number] == list(range(100))


def test_reading_goes_on_where_it_ended(events):
    events.append(word("first"))
    first, position = events.read()
    events.append(word("second"))
    second, _ = events.read(position)
    assert [event.message for event in first + second] == ["first", "second"]


def test_no_file_is_no_event(events):
    assert events.read() == ([], 0)


def test_a_line_under_way_is_read_when_it_is_whole(events):
    events.append(word("first"))
    whole = events.path.read_bytes()
    events.path.write_bytes(whole + whole[:10])
    read, position = events.read()
    assert len(read) == 1
    events.path.write_bytes(whole + whole)
    assert len(events.read(position)[0]) == 1


@pytest.mark.parametrize("torn", [b'{"time": 1, "eve', b"5\n", b"[1]\n", b'{"time": 2}\n', b"\xff\xfe\n"])
def test_a_torn_line_is_skipped(events, torn):
    events.append(word("first"))
    with events.path.open("ab") as file:
        file.write(torn if torn.endswith(b"\n") else torn + b"\n")
    events.append(word("second"))
    assert words(events) == ["first", "second"]


def test_what_is_logged_is_recorded_as_long_as_it_lasts(events):
    with reporting(events):
        announce(logger, Labelled(message="label %s of 7 is there", key="v1:ab"))
        logger.info("%d walkers", 3)
        logging.getLogger("another").warning("not ours")
    announce(logger, Labelled(key="v1:cd"))
    logger.info("afterwards")
    labelled, walkers = events.read()[0]
    assert (type(labelled), labelled.message, labelled.key) == (Labelled, "label %s of 7 is there", "v1:ab")
    assert (type(walkers), walkers.message, walkers.level) == (Event, "3 walkers", logging.INFO)


@pytest.fixture(params=["warning", "critical", "disabled", "disabled everywhere"])
def silent(request, monkeypatch):
    """Logging as users silence it."""
    surveyor = logging.getLogger("surveyor")
    before = surveyor.level
    match request.param:
        case "disabled":
            monkeypatch.setattr(surveyor, "disabled", True)
            monkeypatch.setattr(logger, "disabled", True)
        case "disabled everywhere":
            logging.disable(logging.CRITICAL)
        case level:
            surveyor.setLevel(level.upper())
    yield
    surveyor.setLevel(before)
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("silent")
def test_an_event_is_recorded_whatever_is_logged(events, tmp_path, caplog):
    heard, worker = [], EventLog(tmp_path / "workers" / "one.jsonl")
    relay = Relay(tmp_path / "workers", events, heard.append)
    with reporting(events):
        announce(logger, GenerationBegins(message="generation 1", generation=1, n_samples=2))
        logger.info("a line")
        with reporting(worker, of_call=True):
            announce(logger, Labelled(key="v1:a", message="a label"))
    relay.pass_on()
    assert [type(event) for event in heard] == [GenerationBegins, Labelled]
    assert caplog.text == ""


def test_flows_of_one_process_record_each_its_own(tmp_path):
    logs = [EventLog(tmp_path / name) for name in "ab"]
    barrier = threading.Barrier(2)

    def flow(events):
        with reporting(events):
            barrier.wait()
            announce(logger, CampaignBegins(message=events.path.name))
            logger.warning(events.path.name)
            barrier.wait()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(flow, logs))
    assert [words(log) for log in logs] == [["a", "a"], ["b", "b"]]


def test_a_place_that_cannot_be_written_does_not_end_the_work(tmp_path, capsys):
    (tmp_path / "file").touch()
    with reporting(EventLog(tmp_path / "file" / "events.jsonl")):
        logger.info("somewhere")
        announce(logger, CampaignBegins(message="it begins"))
    output = capsys.readouterr().err
    assert "somewhere (not recorded: [Errno 20]" in output
    assert "it begins (not recorded: [Errno 20]" in output


OF_VERSION_1 = """\
{"time": 1.5, "event": "campaign_begins", "level": 20, "message": "run; this run: http://x", "url": "http://x"}
{"time": 2.0, "event": "generation_begins", "level": 20, "message": "2", "generation": 1, "n_samples": 2}
{"time": 2.5, "event": "sampled", "level": 20, "message": "m", "name": "w", "walker": 3, "rejections": {"force": 2}}
{"time": 3.0, "event": "label_failed", "level": 20, "message": "m", "key": "v1:a", "reason": "scf", "new": true}
{"time": 3.5, "event": "epoch", "number": 4, "loss": null, "energy_rmse": 0.5, "forces_rmse": null}
{"time": 3.6, "event": "errors", "level": 20, "message": "m", "set": "test", "n_structures": 3, "energy_rmse": 0.5}
{"time": 3.7, "event": "work_ends", "level": 20, "message": "m", "samples.extxyz": 4}
{"time": 4.0, "event": "training_begins", "level": 20, "message": "m", "generation": 1, "n_train": 8, "n_valid": 1}
{"time": 4.5, "event": "log", "level": 30, "message": "careful"}
"""


def test_files_of_earlier_versions_are_read(events):
    events.path.write_text(OF_VERSION_1)
    read = events.read()[0]
    assert {event.version for event in read} == {1}
    times = [event.time for event in read]
    expected = [
        CampaignBegins(message="run; this run: http://x", url="http://x"),
        GenerationBegins(message="2", generation=1, n_samples=2),
        Sampled(message="m", name="w", walker=3, rejections={"force": 2}),
        LabelFailed(message="m", key="v1:a", reason="scf", new=True),
        EpochEnds(number=4, energy_rmse=0.5),
        ErrorsMeasured(message="m", set="test"),
        WorkEnds(message="m"),
        TrainingBegins(message="m", n_train=8, n_valid=1),
        Event(message="careful", level=logging.WARNING),
    ]
    pairs = zip(expected, times, strict=True)
    assert read == [event.model_copy(update={"time": time, "version": 1}) for event, time in pairs]


@pytest.mark.parametrize(
    "newer",
    [
        {"event": "walker_teleported", "where": "far"},
        {"event": "labelled", "version": 3, "key": {"store": "a", "digest": "b"}},
        {"event": "labelled"},
        {"event": "sampled", "name": "a", "rejections": "many"},
    ],
)
def test_what_is_not_understood_is_a_line_of_the_log(events, tmp_path, newer):
    worker, heard = EventLog(tmp_path / "workers" / "one.jsonl"), []
    relay = Relay(tmp_path / "workers", events, heard.append)
    line = json.dumps({"time": 1.0, "level": 30, "message": "look at this", **newer}).encode() + b"\n"
    worker.append_line(line)
    worker.append(word("next"))
    relay.pass_on()
    assert [(type(event), event.message, event.level) for event in heard] == [
        (Event, "look at this", logging.WARNING),
        (Event, "next", logging.INFO),
    ]
    assert events.path.read_bytes().startswith(line)  # whoever understands it finds all of it


def test_names_in_files_stay():
    assert {name: kind.__name__ for name, kind in KINDS.items()} == {
        "batch_halved": "BatchHalved",
        "calibration": "CommitteeCalibrated",
        "uncertainty": "UncertaintyCalibrated",
        "campaign_begins": "CampaignBegins",
        "campaign_complete": "CampaignComplete",
        "campaign_fails": "CampaignFails",
        "claim_silent": "ClaimSilent",
        "epoch": "EpochEnds",
        "errors": "ErrorsMeasured",
        "generation_begins": "GenerationBegins",
        "generation_complete": "GenerationComplete",
        "label_claimed": "LabelAwaited",
        "label_failed": "LabelFailed",
        "labelled": "Labelled",
        "labelling_begins": "LabellingBegins",
        "labelling_complete": "LabellingComplete",
        "labels_requested": "LabelsRequested",
        "near_duplicate": "NearDuplicate",
        "no_better_epoch": "NoBetterEpoch",
        "nothing_learned": "GenerationFails",
        "reading": "FileRead",
        "reading_warning": "FileSuspicious",
        "rejected": "Rejected",
        "sampled": "Sampled",
        "training_begins": "TrainingBegins",
        "training_ends": "TrainingEnds",
        "try_rejected": "TryRejected",
        "waiting": "Waiting",
        "waiting_ends": "WaitingEnds",
        "work_begins": "WorkBegins",
        "work_ends": "WorkEnds",
    }


@pytest.mark.parametrize("kind", KINDS.values())
def test_what_is_written_is_read(events, kind):
    texts = dict.fromkeys(("name", "key", "reason"), "a")
    numbers = dict.fromkeys(("number", "generation", "n_samples", "batch_size", "loss", "first_loss", "until"), 2)
    given = {name: value for name, value in (texts | numbers).items() if kind.model_fields.get(name)}
    event = kind(message="é", **given)
    events.append(event)
    assert events.read()[0] == [event]
    with pytest.raises(ValidationError):
        kind(**given, anything_else=1)


def test_a_name_that_is_no_text_is_recorded(events):
    events.append(FileRead(message="read \udcff.extxyz", file="\udcff.extxyz"))
    (read,) = events.read()[0]
    assert (type(read), read.message) == (FileRead, "read ?.extxyz")


def test_a_relay_brings_each_event_once(tmp_path, events):
    workers, heard = tmp_path / "workers", []
    EventLog(workers / "old.jsonl").append(word("before the relay"))
    relay = Relay(workers, events, lambda event: heard.append(event.message))
    for turn in range(3):
        EventLog(workers / "one.jsonl").append(word(f"one {turn}"))
        EventLog(workers / "two.jsonl").append(word(f"two {turn}"))
        events.append(word(f"flow {turn}"))
        relay.pass_on()
        relay.pass_on()
    expected = sorted(f"{who} {turn}" for who in ("one", "two", "flow") for turn in range(3))
    assert sorted(heard) == expected
    assert sorted(words(events)) == expected


def test_a_relay_brings_each_event_once_where_the_disk_fills_in_between(tmp_path, events):
    worker = EventLog(tmp_path / "workers" / "one.jsonl")
    relay = Relay(tmp_path / "workers", events, lambda event: None)
    for turn in range(4):
        worker.append(word(f"turn {turn}"))
    size = worker.path.stat().st_size // 4
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * size + size // 2, limits[1]))  # room for two and a half
    try:
        with pytest.raises(OSError, match="No space left"):
            relay.pass_on()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    relay.pass_on()
    assert words(events) == [f"turn {turn}" for turn in range(4)]


def test_a_relay_keeps_the_time_at_which_something_happened(tmp_path, events):
    worker = EventLog(tmp_path / "workers" / "one.jsonl")
    relay = Relay(tmp_path / "workers", events, lambda event: None)
    worker.append(Event(time=12.5))
    relay.pass_on()
    assert events.read()[0][0].time == 12.5


def test_a_running_relay_brings_the_last_events_when_it_ends(tmp_path, events):
    heard = []
    relay = Relay(tmp_path / "workers", events, heard.append)
    with relay.running(interval_s=0.01):
        EventLog(tmp_path / "workers" / "one.jsonl").append(Labelled(key="v1:a"))
    assert [event.key for event in heard] == ["v1:a"]
