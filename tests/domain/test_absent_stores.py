"""Label stores whose file system is away: it is mounted and unmounted for real, and its mount point looks empty."""

import logging
import pickle
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ase.build import bulk
from processes import PATIENCE_S

from surveyor import files
from surveyor.errors import InputError, StorageFailed
from surveyor.flows.command_line import main
from surveyor.labels import Label, LabelFailure, LabelStore, label_key
from surveyor.labels.calculations import FAILURE
from surveyor.reference.ase import EMTReference
from surveyor.reference.labelling import Labeller, label_structure
from surveyor.storage import MARK, FolderStorage
from surveyor.works.labelling import LABELLING, LabellingParameters

REFERENCE = EMTReference()
THEORY = REFERENCE.resolve()
COPPER, KEY = bulk("Cu"), label_key(bulk("Cu"), THEORY)

pytestmark = pytest.mark.mount


class Disk:
    """A folder that is mounted at another one."""

    def __init__(self, folder: Path) -> None:
        self.content, self.mount_point = folder / "content", folder / "mounted"
        self.content.mkdir()
        self.mount_point.mkdir()
        self.labels = self.mount_point / "labels"
        self.is_mounted = False

    def mount(self) -> None:
        self.is_mounted = True
        subprocess.run(["mount", "--bind", str(self.content), str(self.mount_point)], check=True)

    def unmount(self) -> None:
        self.is_mounted = False
        subprocess.run(["umount", "--lazy", str(self.mount_point)], check=True)


@pytest.fixture
def disk(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RETRY_S", 0.05)
    disk = Disk(tmp_path)
    disk.mount()
    yield disk
    if disk.is_mounted:
        disk.unmount()


@pytest.fixture
def during_absence(disk, caplog) -> Callable[[Callable[[], object]], object]:
    """Calls a function while the disk is away, mounts it as soon as that is said, and returns what was returned."""

    def call(function):
        results = []
        disk.unmount()
        thread = threading.Thread(target=lambda: results.append(function()))
        thread.start()
        deadline = time.monotonic() + PATIENCE_S
        while "Until this is fixed, the work waits" not in caplog.text:
            assert time.monotonic() < deadline
            assert thread.is_alive()
            time.sleep(0.02)
        assert list(disk.mount_point.iterdir()) == []  # nothing is written where nobody would find it again
        disk.mount()
        thread.join(PATIENCE_S)
        return results[0]

    return call


def labeller(store: LabelStore, folder: Path) -> Labeller:
    return Labeller(REFERENCE, THEORY, store, folder / "scratch")


def test_a_label_is_not_computed_again_while_its_store_is_away(disk, tmp_path, during_absence, caplog):
    caplog.set_level(logging.INFO)
    store = LabelStore.in_marked_folder(disk.labels)
    first = label_structure(COPPER, labeller(store, tmp_path))
    elsewhere = pickle.loads(pickle.dumps(labeller(store, tmp_path)))  # as workers have it
    caplog.clear()
    again = during_absence(lambda: label_structure(COPPER, elsewhere))
    assert isinstance(again, Label)
    assert again.provenance == first.provenance
    assert "computed in" not in caplog.text
    said = f"the label store {disk.labels} cannot be read: [Errno 116] the store is gone, or it is another one; "
    assert said in caplog.text


def test_a_new_label_waits_for_its_store(disk, tmp_path, during_absence, caplog):
    store = LabelStore.in_marked_folder(disk.labels)
    label = Label(1.0, bulk("Cu").positions)
    assert during_absence(lambda: files.outlast(lambda: store.put(KEY, COPPER, THEORY, label), "put", "mend")) is True
    assert store.get(KEY).energy == 1.0


def test_a_failure_waits_for_its_store(disk, tmp_path, during_absence):
    store = LabelStore.in_marked_folder(disk.labels)
    assert during_absence(lambda: store.put_failure(KEY, COPPER, THEORY, LabelFailure("crash", "it broke"))) is True
    assert [failure.message for failure in store.failures(KEY)] == ["it broke"]


def test_a_store_that_stays_away_is_said(disk, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE_S", 0.0)
    store = LabelStore.in_marked_folder(disk.labels)
    disk.unmount()
    with pytest.raises(
        StorageFailed, match=rf"the label store {disk.labels} cannot be read: .* may be away: .*0 min.*Repair the disk"
    ):
        label_structure(COPPER, labeller(store, tmp_path))
    assert not (tmp_path / "scratch").exists()


def test_a_label_is_found_if_the_disk_returns_in_the_middle_of_a_read(disk, monkeypatch):
    store = LabelStore.in_marked_folder(disk.labels)
    store.put(KEY, COPPER, THEORY, Label(1.0, bulk("Cu").positions))
    check = FolderStorage.check_present

    def mount_and_check(storage):
        disk.mount()
        check(storage)

    monkeypatch.setattr(FolderStorage, "check_present", mount_and_check)
    disk.unmount()
    assert store.get(KEY).energy == 1.0


def test_another_store_at_the_same_place_is_not_taken_for_it(disk, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE_S", 0.0)
    store = LabelStore.in_marked_folder(disk.labels)
    disk.unmount()
    LabelStore.in_marked_folder(disk.labels)
    with pytest.raises(StorageFailed, match="it is another one"):
        store.get(KEY)
    with pytest.raises(OSError, match="it is another one"):
        list(store.keys())
    shutil.rmtree(disk.labels)


def test_all_who_open_a_store_find_one_mark(tmp_path):
    stores = [LabelStore.in_marked_folder(tmp_path / "labels") for _ in range(3)]
    assert stores[0] == stores[1] == stores[2]
    assert LabelStore.in_marked_folder(tmp_path / "other").storage.mark != stores[0].storage.mark


def labelling(disk: Disk, folder: Path) -> LabellingParameters:
    (folder / "copper.xyz").write_text("1\n\nCu 0 0 0\n")
    return LabellingParameters.model_validate(
        {
            "structures": folder / "copper.xyz",
            "output_directory": folder / "run",
            "reference": {"emt": {}},
            "labels": disk.labels,
        }
    )


def begin(parameters: LabellingParameters) -> LabelStore:
    with LABELLING.open(parameters) as work:
        return work.store


def test_work_that_continues_wants_the_store_that_it_has_used(disk, tmp_path):
    parameters = labelling(disk, tmp_path)
    store = begin(parameters)
    assert begin(parameters) == store
    disk.unmount()
    expected = rf"labels: {tmp_path}/run has kept labels in {disk.labels}, which now holds none; expected {MARK} with"
    with pytest.raises(InputError, match=expected):
        LABELLING.check(parameters)
    with pytest.raises(InputError, match="holds none"):
        begin(parameters)
    assert list(disk.mount_point.iterdir()) == []
    disk.mount()
    assert begin(parameters) == store


def test_work_that_continues_refuses_another_store_at_the_same_place(disk, tmp_path):
    parameters = labelling(disk, tmp_path)
    begin(parameters)
    shutil.rmtree(disk.labels)
    other = LabelStore.in_marked_folder(disk.labels)
    with pytest.raises(InputError, match="which now holds another label store"):
        begin(parameters)
    (tmp_path / "run" / "label_store.json").unlink()  # as the message says
    assert begin(parameters) == other


def test_a_store_of_an_earlier_version_gets_a_mark(disk, tmp_path):
    former = LabelStore.in_folder(disk.labels)
    former.put(KEY, COPPER, THEORY, Label(1.0, bulk("Cu").positions))
    store = begin(labelling(disk, tmp_path))
    assert store.get(KEY).energy == former.get(KEY).energy == 1.0
    assert (disk.labels / MARK).read_text().strip() == store.storage.mark != ""
    assert list(former.keys()) == list(store.keys()) == [KEY]


def test_labels_that_were_copied_without_the_mark_are_the_store(disk, tmp_path):
    parameters = labelling(disk, tmp_path)
    store = begin(parameters)
    store.put(KEY, COPPER, THEORY, Label(1.0, bulk("Cu").positions))
    (disk.labels / MARK).unlink()
    assert begin(parameters) == store
    assert store.get(KEY).energy == 1.0


def test_work_may_go_on_with_another_folder(disk, tmp_path):
    parameters = labelling(disk, tmp_path)
    begin(parameters)
    moved = parameters.model_copy(update={"labels": tmp_path / "moved"})
    assert begin(moved).storage.folder == tmp_path / "moved"
    assert begin(moved).storage.mark


def test_calculations_are_not_cleaned_while_their_store_is_away(disk, tmp_path, capsys):
    begin(labelling(disk, tmp_path))
    folder = tmp_path / "run" / "calculations" / f"{KEY[3:19]}-1-abc"
    folder.mkdir(parents=True)
    (folder / FAILURE).write_text("crash: it broke\n")
    disk.unmount()
    assert main(["calculations", "clean", str(tmp_path / "run"), "--interrupted"]) == 1
    assert "its file system may be away" in capsys.readouterr().err
    assert folder.is_dir()
    disk.mount()
    assert main(["calculations", "clean", str(tmp_path / "run")]) == 0
    assert not folder.exists()
