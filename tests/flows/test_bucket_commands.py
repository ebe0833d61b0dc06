"""Commands on label stores in buckets; credentials come from the environment, so no Prefect server is asked."""

import json
from pathlib import Path

import ase.io
import pytest
from ase.build import bulk
from object_stores import S3, SECRET, Fault

from surveyor.dataset import with_label
from surveyor.flows.command_line import main
from surveyor.labels import Label, LabelFailure, LabelStore, label_key, save_theory
from surveyor.labels.calculations import FAILURE
from surveyor.reference.ase import EMTReference
from surveyor.storage.buckets import client_of
from surveyor.works.labelling import LABELLING, LabellingParameters

THEORY = EMTReference().resolve()
COPPER = bulk("Cu")
KEY = label_key(COPPER, THEORY)


@pytest.fixture
def address(s3: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """A label store in a new bucket, which this process can reach."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    client_of.cache_clear()
    return f"{s3.new_bucket()}/labels"


def test_doctor_proves_that_a_bucket_can_keep_labels(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", address]) == 0
    said = capsys.readouterr().out
    assert "0 faults in 1 result" in said
    assert f"{address}: writable; of several writers of one object, exactly one wins" in " ".join(said.split())
    assert list(LabelStore.at(address).storage.list("")) == []


def test_doctor_refuses_a_service_where_two_writers_both_succeed(
    address: str, s3: S3, capsys: pytest.CaptureFixture[str]
) -> None:
    with s3.failing(Fault(removed=("HTTP_IF_NONE_MATCH",))):
        assert main(["doctor", address]) == 1
    said = capsys.readouterr().out
    assert "of two writers of one object, both succeed, as it ignores `If-None-Match: *`" in said.replace("\n", " ")
    assert "mend: edit the environment" in said


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["campaign.yaml", "--storage", "s3/minio"], "--storage: expected only with a bucket"),
        (["s3://bucket/labels", "--storage", "gcs/minio"], "expected a block of kind s3 for s3://bucket/labels"),
    ],
)
def test_doctor_says_what_it_wants(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *arguments]) == 2
    assert why in capsys.readouterr().err.replace("\n", " ")


def test_failed_labels_in_a_bucket_are_tried_again(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["labels", "retry", address]) == 2
    assert f"{address}: there are no failures" in capsys.readouterr().err
    store = LabelStore.at(address)
    for attempt in (1, 2, 3):
        store.put_failure(KEY, COPPER, THEORY, LabelFailure("crash", "it broke", attempt=attempt))
    assert isinstance(store.outcome(KEY), LabelFailure)
    assert main(["labels", "retry", address]) == 0
    assert store.outcome(KEY) is None


def test_a_bucket_that_is_missing_is_said(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["labels", "retry", "s3://missing/labels"]) == 2
    assert "s3://missing/labels cannot be used (there is no such bucket)" in capsys.readouterr().err.replace("\n", " ")
    with pytest.raises(SystemExit):
        main(["labels", "retry", "http://host/labels"])
    assert "found 'http://host/labels', expected a folder, or a bucket such as s3://" in capsys.readouterr().err


def test_labels_are_imported_into_a_bucket(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = Label(1.0, COPPER.positions)
    ase.io.write(tmp_path / "copper.extxyz", with_label(COPPER, KEY, label))
    save_theory(tmp_path / "theory.json", THEORY)
    given = ["--store", address, "--level-of-theory", str(tmp_path / "theory.json")]
    assert main(["labels", "import", str(tmp_path / "copper.extxyz"), *given]) == 0
    assert f"1 new label in {address}" in capsys.readouterr().out
    assert LabelStore.at(address).get(KEY).energy == 1.0


def test_calculations_are_cleaned_by_what_a_bucket_knows(
    address: str, s3: S3, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "copper.xyz").write_text("1\n\nCu 0 0 0\n")
    given = {"structures": tmp_path / "copper.xyz", "output_directory": tmp_path / "run", "reference": {"emt": {}}}
    with LABELLING.open(LabellingParameters.model_validate({**given, "labels": address})) as work:
        store = work.store
    folder = tmp_path / "run" / "calculations" / f"{KEY[3:19]}-1-abc"
    folder.mkdir(parents=True)
    (folder / FAILURE).write_text("crash: it broke\n")
    with store.claimed(KEY):
        assert main(["calculations", "clean", str(tmp_path / "run")]) == 0
        assert folder.is_dir()
    assert main(["calculations", "clean", str(tmp_path / "run")]) == 0
    assert not folder.exists()
    record = json.loads((tmp_path / "run" / "label_store.json").read_text())
    assert record["folder"] == address
    assert SECRET not in json.dumps(record)
