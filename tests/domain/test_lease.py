import json
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import time

import psutil
import pytest
from processes import PATIENCE_S

from surveyor.errors import CampaignInUse
from surveyor.lease import has_ended, hold_lease, holder_of, is_in_use, is_on_this_host, this_process

FORK = multiprocessing.get_context("fork")  # quick, and these processes have no threads


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lease"


def _hold(path, held, release, results):
    try:
        with hold_lease(path):
            results.put("held")
            held.set()
            release.wait(PATIENCE_S)
    except CampaignInUse as error:
        results.put(str(error))


class Holder:
    """Another process that tries to hold a lease."""

    def __init__(self, path):
        self.held, self.release, self.results = FORK.Event(), FORK.Event(), FORK.Queue()
        self.process = FORK.Process(target=_hold, args=(path, self.held, self.release, self.results))

    def start(self):
        self.process.start()
        return self

    def stop(self):
        if self.process.is_alive():  # an event waits for its waiters, even for killed ones
            self.release.set()
        self.process.join(PATIENCE_S)

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(PATIENCE_S)


@pytest.fixture
def holder(path):
    holder = Holder(path).start()
    assert holder.held.wait(PATIENCE_S)
    yield holder
    holder.stop()


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_second_live_process_is_refused_and_told_by_whom(path, holder):
    expected = f"{path.parent} is in use by process {holder.process.pid} on {socket.gethostname()}; wait for it"
    with pytest.raises(CampaignInUse, match=expected), hold_lease(path):
        pass
    assert is_in_use(path)


def test_who_holds_a_lease_can_be_asked(path):
    assert holder_of(path) is None
    with hold_lease(path):
        assert holder_of(path).items() >= this_process().items()
        edit(path, host="another")
        os.utime(path, (time.time() - 40,) * 2)
        assert holder_of(path)["host"] == "another"
        assert holder_of(path, stale_s=30) is None
        assert not is_in_use(path, stale_s=30)


def test_the_same_process_cannot_hold_a_lease_twice(path):
    with hold_lease(path), pytest.raises(CampaignInUse), hold_lease(path):
        pass


def test_a_lease_is_released_at_the_end_whatever_the_end_is(path):
    with pytest.raises(KeyError), hold_lease(path):
        raise KeyError
    assert not path.exists()
    assert not is_in_use(path)


def test_the_lease_of_a_killed_process_on_this_host_is_taken_over_at_once(path, holder):
    holder.kill()
    assert path.exists()
    assert not is_in_use(path)
    with hold_lease(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_process_that_only_has_the_number_of_the_holder_is_another_one(path, holder):
    edit(path, started=json.loads(path.read_text())["started"] - 3600)
    with hold_lease(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
        holder.stop()
        assert path.exists()  # the former holder releases what is its own only


@pytest.mark.parametrize(("age_s", "is_taken"), [(0, False), (250, False), (350, True)])
def test_the_lease_of_another_host_is_taken_over_when_its_heartbeat_is_old(path, holder, age_s, is_taken):
    edit(path, host="another", pid=1)
    os.utime(path, (time.time() - age_s,) * 2)
    if is_taken:
        with hold_lease(path):
            assert json.loads(path.read_text())["host"] == socket.gethostname()
    else:
        with pytest.raises(CampaignInUse, match="process 1 on another"), hold_lease(path):
            pass


def test_a_lease_that_a_crash_left_empty_counts_by_its_age(path):
    path.touch()
    with pytest.raises(CampaignInUse, match="an unknown process"), hold_lease(path):
        pass
    os.utime(path, (time.time() - 400,) * 2)
    with hold_lease(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_lease_that_is_gone_when_it_is_read_is_taken(path):
    path.symlink_to(path.with_name("gone"))  # its name is taken, and there is nothing to read
    with hold_lease(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_the_heartbeat_touches_the_lease(path):
    with hold_lease(path, heartbeat_s=0.01):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + PATIENCE_S
        while path.stat().st_mtime == 0:
            assert time.monotonic() < deadline


def test_a_lease_that_another_process_took_is_lost_and_left_to_it(path):
    with hold_lease(path) as lease:
        lease.check()
        edit(path, token="of another", host="another", pid=7)
        assert lease.is_lost
        with pytest.raises(CampaignInUse, match=r"was taken over by process 7 on another"):
            lease.check()
    assert json.loads(path.read_text())["pid"] == 7


def test_a_lease_that_another_process_had_meanwhile_is_lost(path):
    with hold_lease(path) as lease:
        path.unlink()
        assert lease.is_lost
        with pytest.raises(CampaignInUse, match=r"was taken over by an unknown process"):
            lease.check()


@pytest.mark.parametrize("content", ["", "{", None])
def test_a_lease_that_cannot_be_read_for_a_moment_is_not_lost(path, content):
    with hold_lease(path) as lease:
        mine = path.read_text()
        path.unlink()
        if content is None:
            path.mkdir()  # the system refuses to read it
        else:
            path.write_text(content)
        assert not lease.is_lost
        lease.check()
        path.rmdir() if content is None else path.unlink()
        path.write_text(mine)
    assert not path.exists()


@pytest.mark.parametrize("answer", ["an error", "nothing there"])
def test_the_heartbeat_goes_on_after_its_file_system_was_away(tmp_path, answer):
    folder, away = tmp_path / "campaign", tmp_path / "away"
    folder.mkdir()
    path = folder / "lease"
    with hold_lease(path, heartbeat_s=0.01) as lease:
        folder.rename(away)
        if answer == "an error":
            folder.symlink_to(folder)  # whatever is asked of it is refused
        deadline = time.monotonic() + 0.2
        while time.monotonic() < deadline:  # for several heartbeats
            assert not lease.is_lost
        folder.unlink(missing_ok=True)
        away.rename(folder)
        os.utime(path, (0, 0))
        deadline = time.monotonic() + PATIENCE_S
        while path.stat().st_mtime == 0:
            assert time.monotonic() < deadline


def test_the_heartbeat_says_that_the_lease_was_taken_and_ends(path, caplog):
    with caplog.at_level(logging.ERROR, logger="surveyor.lease"), hold_lease(path, heartbeat_s=0.01):
        edit(path, token="of another")
        deadline = time.monotonic() + PATIENCE_S
        while not caplog.records:  # a heartbeat that had looked before may follow the edit
            assert time.monotonic() < deadline
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 0.2
        while time.monotonic() < deadline:  # for several heartbeats
            assert path.stat().st_mtime == 0
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path.parent} was taken over by another process")


def test_who_takes_the_lease_of_a_dead_process_says_so(path, holder, caplog):
    holder.kill()
    with hold_lease(path):
        pass
    expected = f"taking over {path.parent} from process {holder.process.pid} on {socket.gethostname()}, which is dead"
    assert expected in caplog.messages


@pytest.mark.parametrize(
    ("later_s", "is_another"), [(0, False), (0.9, False), (-0.9, False), (3.1, True), (-3.1, True)]
)
def test_a_process_is_told_by_its_number_and_its_beginning(later_s, is_another):
    found = this_process()
    assert is_on_this_host(found)
    assert not is_on_this_host(found | {"host": "another"})
    assert has_ended(found | {"started": found["started"] + later_s}) is is_another


def test_a_process_that_nobody_has_waited_for_has_ended():
    process = subprocess.Popen(["true"])
    found = {"pid": process.pid, "started": psutil.Process(process.pid).create_time()}
    deadline = time.monotonic() + PATIENCE_S
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
    assert has_ended(found)
    process.wait()
    assert has_ended(found)


def test_of_processes_that_race_for_a_dead_lease_one_wins(path, holder):
    holder.kill()
    dead = path.read_text()
    for _ in range(8):
        path.write_text(dead)
        rivals = [Holder(path).start() for _ in range(4)]
        results = [rival.results.get(timeout=PATIENCE_S) for rival in rivals]
        for rival in rivals:
            rival.stop()
        assert results.count("held") == 1
        assert not path.exists()
