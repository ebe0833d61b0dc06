import json
import multiprocessing
import os
import signal
import stat

import pytest
from processes import PATIENCE_S

from surveyor.files import make_folder, publish, read_json, temporary_beside, write_atomically, write_json

FORK = multiprocessing.get_context("fork")  # quick, and these processes have no threads


def test_json_comes_back_bit_for_bit(tmp_path):
    value = {"pi": 0.1 + 0.2, "tiny": 5e-324, "zero": -0.0, "list": [None, True, "é"]}
    write_json(tmp_path / "new" / "value.json", value)
    assert json.dumps(read_json(tmp_path / "new" / "value.json")) == json.dumps(value)


def test_what_json_has_no_word_for_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "value.json", {"energy": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_content_and_no_traces(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fail():
        with temporary_beside(path) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_published_file_can_be_read_by_others(tmp_path):
    with temporary_beside(tmp_path / "file.npz") as temporary:
        assert temporary.suffix == ".npz"
        publish(temporary, tmp_path / "file.npz")
    assert stat.S_IMODE((tmp_path / "file.npz").stat().st_mode) == 0o644


def test_a_folder_can_be_made_twice(tmp_path):
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "a")


def _write_for_ever(path, started):
    number = 0
    while True:
        write_atomically(path, str(number % 10) * 500_000)
        started.set()
        number += 1


def test_a_reader_sees_old_or_new_content_whenever_the_writer_is_killed(tmp_path):
    path = tmp_path / "file"
    for _ in range(6):
        started = FORK.Event()
        writer = FORK.Process(target=_write_for_ever, args=(path, started))
        writer.start()
        assert started.wait(PATIENCE_S)
        for _ in range(20):
            content = path.read_text()
            assert len(content) == 500_000
            assert len(set(content)) == 1
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        assert len(set(path.read_text())) == 1
