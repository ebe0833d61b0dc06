"""Claims on labels, on folders and on any other storage."""

import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from dict_storage import DictStorage
from object_stores import S3
from processes import PATIENCE_S

from surveyor.errors import LabelClaimed
from surveyor.events.kinds import ClaimSilent, LabelAwaited, Waiting
from surveyor.events.log import of_kind
from surveyor.labels import LabelStore
from surveyor.labels.claims import Claimant, Claims, Watch, _Heart
from surveyor.lease import this_process
from surveyor.progress import waiting_of
from surveyor.storage import FolderStorage, Storage

KEY = f"v1:{'ab' * 32}"
ROOT = f"claims/v1/ab/{'ab' * 32}.json"
FORK = multiprocessing.get_context("fork")  # quick, and these processes have no threads


@pytest.fixture(params=["folder", "dict", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "bucket":
        return request.getfixturevalue("s3").storage()
    return FolderStorage(tmp_path / "store") if request.param == "folder" else DictStorage()


def put_claim(storage: Storage, *, host: str = "another", work: str | None = None) -> None:
    """Leave the claim of a process of which nothing is known but what it says."""
    claim = {"token": "t0", "holder": {**this_process(), "host": host}, "work": work, "beats": 0}
    storage.put_new(ROOT, json.dumps(claim).encode())


def beat(storage: Storage, n_beats: int) -> None:
    content = storage.get(ROOT)
    assert content is not None
    assert storage.renew(ROOT, content, json.dumps({**json.loads(content), "beats": n_beats}).encode())


def hold(folder: Path, held, release) -> None:
    with Claims(FolderStorage(folder)).held(KEY):
        held.set()
        release.wait(PATIENCE_S)


@pytest.fixture
def killed(tmp_path: Path) -> Claims:
    """The claims of a folder, with that of a process that was killed."""
    held, folder = FORK.Event(), tmp_path / "store"
    process = FORK.Process(target=hold, args=(folder, held, FORK.Event()))
    process.start()
    assert held.wait(PATIENCE_S)
    claims = Claims(FolderStorage(folder))
    with pytest.raises(LabelClaimed, match=rf"label v1:abababab is being computed by process {process.pid} on "):
        claims.held(KEY).__enter__()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return claims


def test_one_at_a_time_holds_a_claim_and_nothing_is_left_of_it(storage: Storage) -> None:
    claims = Claims(storage)
    with claims.held(KEY):
        assert claims.of(KEY).holder == this_process()
        with pytest.raises(LabelClaimed), claims.held(KEY, Claimant("other work")):
            pass
        with claims.held(f"v1:{'cd' * 32}"):
            pass
    with pytest.raises(KeyError), claims.held(KEY):
        raise KeyError
    assert list(storage.list("")) == []


def test_the_claim_of_a_process_that_was_killed_on_this_host_is_taken_over_at_once(
    killed: Claims, caplog: pytest.LogCaptureFixture
) -> None:
    assert not Watch(killed).is_held(KEY)
    with killed.held(KEY):
        assert killed.of(KEY).holder["pid"] == os.getpid()
        assert "taking over label v1:abababab from process" in caplog.text
        with pytest.raises(LabelClaimed), killed.held(KEY):
            pass
    assert list(killed.storage.list("")) == []


def test_an_observer_takes_a_process_elsewhere_for_dead_when_it_has_seen_no_sign_of_life_for_long(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watch = Watch(Claims(storage), silent_s=300)
    put_claim(storage)
    assert watch.is_held(KEY)
    now = 299.0
    assert watch.is_held(KEY)
    beat(storage, 1)
    now = 400.0
    assert watch.is_held(KEY)
    now = 695.0
    assert watch.is_held(KEY)
    assert watch.dead == frozenset()
    now = 701.0
    assert not watch.is_held(KEY)
    with pytest.raises(LabelClaimed), watch.claims.held(KEY):
        pass  # a process that has not watched knows nothing
    with watch.claims.held(KEY, Claimant(dead=watch.dead)):
        assert watch.is_held(KEY)
    assert list(storage.list("")) == []


def test_clocks_of_hosts_do_not_matter(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    put_claim(storage)
    for skew_s in (-1e6, 1e6):
        os.utime(tmp_path / ROOT, (time.time() + skew_s,) * 2)
        with pytest.raises(LabelClaimed), Claims(storage).held(KEY):
            pass
        assert Watch(Claims(storage)).is_held(KEY)


def test_who_holds_a_claim_gives_signs_of_life(storage: Storage) -> None:
    claims = Claims(storage)
    with claims.held(KEY, heartbeat_s=0.01):
        wait_for_beat(storage)
        assert claims.of(KEY).holder == this_process()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_beat(storage: Storage, name: str = ROOT) -> None:
    first = storage.get(name)
    wait_until(lambda: storage.get(name) != first)


def test_one_thread_gives_the_signs_of_life_of_all_claims_of_a_process(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    heart, far_off_s = _Heart(), 3600.0
    monkeypatch.setattr("surveyor.labels.claims._heart", heart)  # as in a new process
    claims, before = Claims(storage), {*threading.enumerate()}
    others = [f"v1:{digit * 64}" for digit in "123"]
    with ExitStack() as held:
        held.enter_context(claims.held(KEY, heartbeat_s=far_off_s))
        wait_until(lambda: heart._waits_s == far_off_s)
        for key in others:
            held.enter_context(claims.held(key, heartbeat_s=0.01))
        for key in others:
            wait_for_beat(storage, claims.of(key).name)
        new = [thread.name for thread in {*threading.enumerate()} - before]
        assert [name for name in new if "process_request" not in name] == ["claims"]  # those are of the service
    assert list(storage.list("")) == []


def test_a_claim_that_cannot_beat_does_not_end_the_heartbeat_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("surveyor.labels.claims._heart", _Heart())  # as in a new process

    class Broken(FolderStorage):
        def renew(self, name: str, former: bytes, content: bytes) -> bool:
            raise RuntimeError("the client of the bucket is closed")

    broken, storage = Broken(tmp_path / "broken"), FolderStorage(tmp_path / "good")
    with Claims(broken).held(KEY, heartbeat_s=0.01), Claims(storage).held(KEY, heartbeat_s=0.01):
        wait_until(lambda: "gives no sign of life" in caplog.text)
        wait_for_beat(storage)


def _hold_and_beat(folder: Path, results) -> None:
    storage = FolderStorage(folder)
    with Claims(storage).held(KEY, heartbeat_s=0.01):
        wait_for_beat(storage)
        results.put("beaten")


def test_a_forked_process_gives_signs_of_life_of_its_own_claims(tmp_path: Path) -> None:
    results, other = FORK.Queue(), Claims(FolderStorage(tmp_path / "other"))
    with other.held(KEY, heartbeat_s=3600):
        before = other.of(KEY)
        process = FORK.Process(target=_hold_and_beat, args=(tmp_path / "store", results))
        process.start()
        assert results.get(timeout=PATIENCE_S) == "beaten"
        process.join(PATIENCE_S)
        assert other.of(KEY) == before
    assert process.exitcode == 0


def test_another_attempt_at_the_same_work_needs_not_wait_for_the_lost_one(storage: Storage) -> None:
    put_claim(storage, work="task 7")
    for other in (Claimant(), Claimant("task 8")):
        with pytest.raises(LabelClaimed), Claims(storage).held(KEY, other):
            pass
    with Claims(storage).held(KEY, Claimant("task 7")):
        assert Claims(storage).of(KEY).holder["pid"] == os.getpid()


def test_a_claim_that_a_crash_left_empty_counts_until_it_was_seen_for_long(storage: Storage) -> None:
    storage.put_new(ROOT, b"")
    claims = Claims(storage)
    with pytest.raises(LabelClaimed, match="by an unknown process"), claims.held(KEY):
        pass
    watch = Watch(claims, silent_s=0.0)
    assert watch.is_held(KEY)
    time.sleep(0.01)
    assert not watch.is_held(KEY)
    with claims.held(KEY, Claimant(dead=watch.dead)):
        pass
    assert list(storage.list("")) == []


def _race(folder: Path, barrier, results) -> None:
    barrier.wait()
    try:
        with Claims(FolderStorage(folder)).held(KEY):
            results.put("held")
            barrier.wait()  # until all have tried
    except LabelClaimed:
        results.put("claimed")
        barrier.wait()


def test_of_processes_that_race_for_a_dead_claim_one_wins(killed: Claims) -> None:
    dead = killed.storage.get(ROOT)
    for _ in range(8):
        killed.storage.put_new(ROOT, dead)
        barrier, results = FORK.Barrier(4, timeout=PATIENCE_S), FORK.Queue()
        rivals = [
            FORK.Process(target=_race, args=(killed.storage.folder, barrier, results), daemon=True) for _ in range(4)
        ]
        for rival in rivals:
            rival.start()
        outcomes = [results.get(timeout=PATIENCE_S) for _ in rivals]
        for rival in rivals:
            rival.join(PATIENCE_S)
        assert sorted(outcomes) == ["claimed"] * 3 + ["held"]
        assert list(killed.storage.list("")) == []


class Overtaken(DictStorage):
    """A storage whose first successor of a claim is put only after others have done something."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: list[Iterator[None]] = []

    def put_new(self, name: str, content: bytes, *, durable: bool = True) -> bool:
        if name != ROOT and self.meanwhile:
            next(self.meanwhile.pop())
        return super().put_new(name, content, durable=durable)


def test_who_was_slow_to_take_over_does_not_disturb_whoever_came_after_a_quick_one() -> None:
    storage = Overtaken()
    claims = Claims(storage)
    dead = Claimant(dead=frozenset({"t0"}))

    def others() -> Iterator[None]:
        with claims.held(KEY, dead):
            pass  # a quick one takes over and is done
        with claims.held(KEY):  # and another one begins
            yield

    put_claim(storage)
    storage.meanwhile = [running := others()]
    with pytest.raises(LabelClaimed), claims.held(KEY, dead):
        pass
    assert list(storage.list("")) == [ROOT]
    running.close()
    assert list(storage.list("")) == []


def test_who_was_wrongly_taken_for_dead_leaves_the_claim_to_its_successor(storage: Storage) -> None:
    claims = Claims(storage)
    with claims.held(KEY, heartbeat_s=0.01):
        token = claims.of(KEY).token
        successor = claims.held(KEY, Claimant(dead=frozenset({token})))
        successor.__enter__()
    assert claims.of(KEY).token != token
    with pytest.raises(LabelClaimed), claims.held(KEY):
        pass
    successor.__exit__(None, None, None)
    assert list(storage.list("")) == []


def test_no_sign_of_life_brings_back_a_claim_that_others_have_removed() -> None:
    storage = DictStorage()
    with Claims(storage).held(KEY, heartbeat_s=0.01):
        storage.remove(ROOT)
        time.sleep(0.1)
        assert list(storage.list("")) == []


def test_a_store_that_takes_no_claim_does_not_prevent_a_label(caplog: pytest.LogCaptureFixture) -> None:
    class Full(DictStorage):
        def put_new(self, name: str, content: bytes, *, durable: bool = True) -> bool:
            raise OSError(28, "No space left on device")

    with Claims(Full()).held(KEY):
        assert "is computed without a claim, so others may compute it, too: [Errno 28]" in caplog.text


def test_a_wait_is_said_once(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    put_claim(storage)
    watch = Watch(Claims(storage))
    for _ in range(3):
        assert watch.is_held(KEY)
    assert caplog.text.count("is being computed by process") == 1
    assert "this waits for it, unless it shows no sign of life for 5 min" in caplog.text
    assert [type(record.event) for record in caplog.records] == [LabelAwaited]


def test_how_long_silent_processes_are_waited_for_is_said_once_and_counted_down(
    storage: Storage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "time", lambda: now + 5000)
    caplog.set_level(logging.INFO)
    put_claim(storage)
    watch = Watch(Claims(storage), silent_s=300)

    def events() -> list[ClaimSilent]:
        return of_kind([record.event for record in caplog.records], ClaimSilent)

    for now in (1000.0, 1030.0, 1061.0, 1090.0):
        assert watch.is_held(KEY)
        assert len(events()) == (now > 1060)
    host = f"process {os.getpid()} on another"
    assert events()[0].message.startswith(f"{host} shows no sign of life; without one by ")
    assert waiting_of(events()) == f"waiting for labels of {host}, silent, for 3:30 min at most"
    waiting = Waiting(message="waiting for a job")
    assert waiting_of([waiting, *events()]).startswith("waiting for a job; waiting for labels of process")
    now = 1301.0
    assert not watch.is_held(KEY)
    assert waiting_of(events()) == ""


def test_claims_are_no_labels(storage: Storage) -> None:
    store = LabelStore(storage)
    with store.claimed(KEY):
        assert list(storage.list("claims/")) == [ROOT]
        assert list(store.keys()) == list(store.failed_keys()) == []
        assert store.outcome(KEY) is None


def test_a_claim_in_a_bucket_is_asked_for_every_few_seconds_only(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    now, storage = 0.0, s3.storage()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    put_claim(storage)
    watch, before = Watch(Claims(storage)), len(s3.requests)
    assert watch.is_held(KEY)
    once = len(s3.requests) - before
    now = 4.0
    assert watch.is_held(KEY)
    assert len(s3.requests) - before == once
    storage.remove(ROOT)
    now = 6.0
    assert not watch.is_held(KEY)
