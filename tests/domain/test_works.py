"""The life cycle that all kinds of work share."""

from pathlib import Path
from typing import Any

import pytest
from labelling_inputs import copper, labelled, written

from surveyor.benchmark.benchmark import BENCHMARK
from surveyor.errors import InputError
from surveyor.files import read_json, write_json
from surveyor.reading import reading
from surveyor.run_directory import RunDirectory
from surveyor.works.campaign import CAMPAIGN
from surveyor.works.labelling import LABELLING, LabellingParameters
from surveyor.works.sampling import SAMPLING
from surveyor.works.summary import is_complete, read_summary, write_summary
from surveyor.works.training import TRAINING, TrainingParameters

KINDS = (CAMPAIGN, LABELLING, TRAINING, SAMPLING, BENCHMARK)


@pytest.fixture
def parameters(tmp_path: Path) -> LabellingParameters:
    structures = written(tmp_path / "copper.extxyz", copper(2))
    return LabellingParameters(structures=structures, output_directory=tmp_path / "out", reference={"emt": {}})


@pytest.fixture
def files_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the structure files that were read, one entry for each time."""
    names: list[str] = []
    images_in = reading.images_in

    def counting(path: Path) -> Any:
        names.append(path.name)
        return images_in(path)

    monkeypatch.setattr(reading, "images_in", counting)
    return names


def test_a_folder_says_what_kind_of_work_it_holds(parameters: LabellingParameters) -> None:
    directory = RunDirectory(parameters.folder)
    assert not any(kind.holds(directory) for kind in KINDS)
    with LABELLING.open(parameters):
        pass
    record = read_json(directory.parameters)
    assert record["kind"] == "labelling"
    assert [kind for kind in KINDS if kind.holds(directory)] == [LABELLING]
    del record["kind"]  # as earlier versions wrote it
    write_json(directory.parameters, record)
    assert [kind for kind in KINDS if kind.holds(directory)] == [LABELLING]


def test_the_folder_of_other_work_is_refused(parameters: LabellingParameters, tmp_path: Path) -> None:
    with LABELLING.open(parameters):
        pass
    train = written(tmp_path / "train.extxyz", labelled(copper(4)))
    training = TrainingParameters(train=train, output_directory=parameters.folder, model={"pair": {}})
    with pytest.raises(InputError, match=r"output_directory: .*out holds a labelling, expected a training or nothing"):
        TRAINING.check(training)
    record = read_json(RunDirectory(parameters.folder).parameters)
    del record["kind"]
    write_json(RunDirectory(parameters.folder).parameters, record)
    with pytest.raises(InputError, match=r"out holds work of another kind, expected a training or nothing"):
        TRAINING.check(training)


def test_what_was_checked_is_not_read_again(parameters: LabellingParameters, files_read: list[str]) -> None:
    checked = LABELLING.check(parameters)
    with LABELLING.open(parameters, checked=checked) as labelling:
        assert labelling.checked is checked
    assert files_read == ["copper.extxyz"]


def test_walkers_of_one_file_read_it_once(tmp_path: Path, files_read: list[str]) -> None:
    written(tmp_path / "start.extxyz", copper(2))
    written(tmp_path / "data.extxyz", labelled(copper(6)))
    content = {
        "run_directory": tmp_path / "run",
        "walkers": [{"start": tmp_path / "start.extxyz", "n_walkers": 1, "temperature_K": T} for T in (300, 600)],
        "reference": {"emt": {}},
        "model": {"pair": {}},
        "bootstrap": {"data": tmp_path / "data.extxyz", "level_of_theory": "EMT"},
    }
    checked = CAMPAIGN.check(CAMPAIGN.parameters.model_validate(content))
    assert files_read == ["start.extxyz", "data.extxyz"]
    assert [walker.index for walker in checked.walkers] == [0, 1]
    assert [report.path.name for report in checked.reports] == files_read


def test_a_summary_makes_work_complete(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    with pytest.raises(InputError, match="is not complete; the same call continues it"):
        read_summary(directory)
    written = write_summary(directory, {"n_labelled": 3})
    assert is_complete(directory)
    assert read_summary(directory) == written == {"schema_version": 1, "n_labelled": 3}
    write_json(directory.summary, {"schema_version": 99})
    with pytest.raises(InputError, match="schema version 99"):
        read_summary(directory)
