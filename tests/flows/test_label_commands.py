import os
import shutil
from pathlib import Path

import pytest
from ase.build import molecule

from surveyor.files import write_json
from surveyor.flows.command_line import main
from surveyor.labels import LabelFailure, LabelStore, LevelOfTheory, Reason, label_key
from surveyor.labels.calculations import keep_failed, new_folder

THEORY = LevelOfTheory("toy", {})
FAILED: dict[str, Reason] = {"CH4": "launch", "NH3": "geometry", "H2O": "missing_data_file"}


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    """A store in which three labels have failed for good."""
    store = LabelStore.in_folder(tmp_path / "labels")
    for name, reason in FAILED.items():
        for attempt in range(1, 5):
            store.put_failure(key(name), molecule(name), THEORY, LabelFailure(reason, "no", attempt=attempt))
    assert not to_do(store)
    return store


def key(name: str) -> str:
    return label_key(molecule(name), THEORY)


def to_do(store: LabelStore) -> list[str]:
    return [name for name in FAILED if store.outcome(key(name)) is None]


def test_failures_of_machines_are_tried_again(
    store: LabelStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["labels", "retry", str(tmp_path / "labels")]) == 0
    assert to_do(store) == ["CH4", "H2O"]
    said = capsys.readouterr().out
    assert "1 failed: launch" in said
    assert "2 labels will be tried again" in said


def test_failures_of_chosen_reasons_are_tried_again(store: LabelStore, tmp_path: Path) -> None:
    assert main(["labels", "retry", str(tmp_path / "labels"), "--reason", "geometry"]) == 0
    assert to_do(store) == ["NH3"]


def test_nothing_is_left_to_try_a_second_time(
    store: LabelStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["labels", "retry", str(tmp_path / "labels")])
    capsys.readouterr()
    assert main(["labels", "retry", str(tmp_path / "labels")]) == 0
    assert capsys.readouterr().out.startswith("0 labels")


def test_folder_that_is_no_store_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["labels", "retry", str(tmp_path)]) == 2
    assert "expected the folder or bucket of a label store" in capsys.readouterr().err


def test_outputs_of_failed_calculations_are_removed_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "one"
    write_json(run / "parameters.json", {"parameters": {"labels": str(tmp_path / "labels")}})
    failed = [new_folder(run / "calculations", f"v1:{digit * 64}", 1) for digit in "ab"]
    for age, folder in enumerate(failed):
        keep_failed(folder, "crash: as told")
        os.utime(folder, (age, age))
    interrupted = new_folder(run / "calculations", f"v1:{'c' * 64}", 1)
    assert main(["calculations", "clean", str(run), "--keep", "1"]) == 0
    assert capsys.readouterr().out.startswith("removed 1 folder of calculations (0.0 MB), kept 2 in ")
    assert sorted((run / "calculations").iterdir()) == [failed[-1], interrupted]  # the newest is kept
    assert main(["calculations", "clean", str(run)]) == 0
    assert list((run / "calculations").iterdir()) == [interrupted]
    claim = {"token": "t0", "holder": {"host": "node3", "pid": 17, "started": 0.0}, "work": None, "beats": 0}
    write_json(tmp_path / "labels" / "claims" / "v1" / "cc" / f"{'c' * 64}.json", claim)
    capsys.readouterr()
    assert main(["calculations", "clean", str(run), "--interrupted"]) == 0
    assert "claim them: process 17 on node3" in " ".join(capsys.readouterr().out.split())
    assert list((run / "calculations").iterdir()) == [interrupted]
    shutil.rmtree(tmp_path / "labels")
    assert main(["calculations", "clean", str(run), "--interrupted"]) == 0
    assert list((run / "calculations").iterdir()) == []
    assert main(["calculations", "clean", str(tmp_path)]) == 2
    assert "is not the folder of a campaign or a labelling" in capsys.readouterr().err


def test_fewer_than_no_failed_calculations_cannot_be_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["calculations", "clean", str(tmp_path), "--keep", "-1"])
    assert "argument --keep: found -1, expected 0 or more" in capsys.readouterr().err
