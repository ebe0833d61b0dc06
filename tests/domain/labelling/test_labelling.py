from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase.io import read
from labelling_inputs import bad_structures, copper, written

from surveyor.dataset import FAILURE, KEY, MESSAGE, OUTPUT, Dataset, label_of
from surveyor.errors import CampaignInUse, InputError
from surveyor.files import read_json
from surveyor.labels import WORK, Label, LabelFailure
from surveyor.lease import hold_lease
from surveyor.reference.ase import EMTReference
from surveyor.run_directory import RunDirectory
from surveyor.works.labelling import LABELLING, LabellingParameters, make_requests, write_results
from surveyor.works.summary import read_summary

THEORY = EMTReference().resolve()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    written(tmp_path / "copper.extxyz", copper(2))
    return tmp_path / "label.yaml"


def fill(file: Path, **changes: Any) -> Path:
    least = {"structures": "copper.extxyz", "output_directory": "out", "reference": {"emt": {}}}
    file.write_text(yaml.safe_dump(least | changes))
    return file


def test_paths_are_relative_to_the_file_and_the_store_is_beside_the_results(file: Path) -> None:
    parameters = LABELLING.load(fill(file))
    assert parameters.structures == file.parent / "copper.extxyz"
    assert parameters.label_store == file.parent / "labels"
    assert parameters.folder == file.parent / "out"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunks": 3}, r"chunks \(line \d+, column 1\): .*did you mean chunk_size\?"),
        ({"chunk_size": 0}, r"chunk_size \(line \d+, column 1\): .* greater than or equal to 1 \(found 0\)"),
        ({"pool": "slurm"}, r"pool \(line \d+, column 1\): .*expected \"local\", the kind and name of a block"),
        ({"reference": {}}, r"reference \(line 2, column 1\): .*exactly one of .*; found none"),
        ({"reference": {"emt": {"cutoff": 1}}}, r"cutoff \(line 4, column 5\): .*did you mean asap_cutoff"),
        ({"structures": "missing.extxyz"}, r"structures: file .*missing.extxyz does not exist"),
        ({"output_directory": "copper.extxyz"}, r"output_directory: .* is a file; expected a folder"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(changes: dict[str, Any], message: str, file: Path) -> None:
    with pytest.raises(InputError, match=message):
        LABELLING.check(LABELLING.load(fill(file, **changes)))


def test_a_missing_parameter_file_is_called_that(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"parameter file .*none.yaml does not exist"):
        LABELLING.load(tmp_path / "none.yaml")


def test_a_file_that_breaks_off_is_refused_and_says_where(file: Path) -> None:
    structures = file.with_name("copper.extxyz")
    structures.write_text("".join(structures.read_text().splitlines(keepends=True)[:-1]))
    with (
        pytest.raises(InputError, match=r"copper.extxyz cannot be read as structures, after 1 that can"),
        LABELLING.open(LABELLING.load(fill(file))),
    ):
        pass


def test_other_parameters_on_the_same_folder_are_refused_unless_they_say_how(file: Path) -> None:
    with LABELLING.open(LABELLING.load(fill(file))) as labelling:
        assert len(labelling.structures) == 2
    LABELLING.check(LABELLING.load(fill(file, chunk_size=7, pool="tcp://127.0.0.1:9", codes={"cp2k": {}})))
    other = LABELLING.load(fill(file, reference={"emt": {"asap_cutoff": True}}))
    with pytest.raises(InputError, match=r"reference\.emt\.asap_cutoff: False there, True here"):
        LABELLING.check(other)
    written(file.with_name("copper.extxyz"), copper(3))
    with pytest.raises(InputError, match=r"structures: .*file with hash .* there"):
        LABELLING.check(LABELLING.load(fill(file)))


def test_a_second_run_on_the_same_folder_is_refused(file: Path) -> None:
    parameters = LABELLING.load(fill(file))
    with (
        hold_lease(RunDirectory(parameters.output_directory).lease),
        pytest.raises(CampaignInUse, match=r"is in use by process"),
        LABELLING.open(parameters),
    ):
        pass


def test_a_job_that_ends_before_a_chunk_does_is_refused(file: Path, tmp_path: Path) -> None:
    from surveyor.pools.sites import SLURMSite
    from surveyor.works.checks import check_walltime

    site = SLURMSite(queue="cpu", walltime_minutes=30)
    check_walltime("pool", "slurm/cpu", site, 60 * 29)
    with pytest.raises(InputError, match=r"pool: a label may take 40 min"):
        check_walltime("pool", "slurm/cpu", site, 60 * 40)


def test_results_are_in_the_order_of_the_file_with_reasons_and_counts(tmp_path: Path) -> None:
    good, bad = copper(3), list(bad_structures().values())
    requests = make_requests([good[0], bad[0], good[1], good[2], good[0], bad[1]], THEORY)
    label, failure = Label(1.5, np.ones((4, 3)), np.arange(6.0)), LabelFailure("timeout", "60 min", str(tmp_path / "c"))

    def outcome_of(key: str) -> Label | LabelFailure:
        run = "this run" if key == requests.keys[0] else "an earlier one"
        return failure if key == requests.keys[2] else replace(label, provenance={WORK: run})

    directory = RunDirectory(tmp_path / "out")
    with pytest.raises(InputError, match="is not complete"):
        read_summary(directory)
    write_results(directory, requests, THEORY, outcome_of, "this run")

    labelled = Dataset.load(tmp_path / "out" / "labelled.extxyz")
    assert [atoms.info[KEY] for atoms in labelled] == [requests.keys[index] for index in (0, 3, 4)]
    np.testing.assert_array_equal(label_of(labelled[2]).stress, np.arange(6.0))
    failed = read(tmp_path / "out" / "failed.extxyz", ":")
    assert [atoms.info[FAILURE] for atoms in failed] == ["geometry", "timeout", "invalid_input"]
    assert failed[1].info[OUTPUT] == str(tmp_path / "c")
    assert [MESSAGE in atoms.info for atoms in failed] == [True] * 3

    summary = read_summary(directory)
    assert (summary["n_structures"], summary["n_labelled"], summary["n_failed"]) == (6, 3, 3)
    assert summary["n_new"] == 1  # two structures share it
    assert summary["failures"] == {"geometry": 1, "invalid_input": 1, "timeout": 1}
    assert [each["key"] for each in summary["structures"]] == list(requests.keys)
    assert summary["level_of_theory"] == {"name": "EMT", "digest": THEORY.digest}


def test_parameters_are_recorded_with_the_hash_of_the_structures(file: Path) -> None:
    with LABELLING.open(LABELLING.load(fill(file))) as labelling:
        record = read_json(labelling.directory.parameters)
    assert LabellingParameters.model_validate(record["parameters"]) == LABELLING.load(file)
    assert set(record["files"]) == {"structures"}
