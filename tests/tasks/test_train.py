"""Trainings through Prefect: what it remembers them by, and that it remembers only what is there."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from ase.build import bulk
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter

from surveyor.dataset import Dataset, with_label
from surveyor.labels import Label, label_key
from surveyor.models.pair import PairModel, PairParameters
from surveyor.pools import worker_check
from surveyor.reference.ase import EMTReference
from surveyor.run_directory import GenerationDirectory
from surveyor.tasks.train import train, training_key


def labelled(n_structures: int) -> Dataset:
    reference = EMTReference()
    theory = reference.resolve()
    structures = []
    for seed in range(n_structures):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=seed)
        label = reference.compute(theory.with_electrons(atoms), Path())
        assert isinstance(label, Label)
        structures.append(with_label(atoms, label_key(atoms, theory), label))
    return Dataset(structures)


def generation(path: Path, n_train: int = 4) -> GenerationDirectory:
    data = labelled(5)
    directory = GenerationDirectory(path)
    data[:n_train].save(directory.set_file("train"))
    data[4:].save(directory.set_file("valid"))
    return directory


def initialized(seed: int = 0, **parameters: float) -> PairModel:
    return PairModel(PairParameters(n_basis=4, **parameters)).initialize(labelled(4), atomic_energies=None, seed=seed)


def key(model: PairModel, directory: GenerationDirectory) -> str:
    return training_key(None, {"model": model, "directory": directory})


def test_the_key_of_a_training_follows_from_contents_and_not_from_paths(tmp_path: Path) -> None:
    assert key(initialized(), generation(tmp_path / "a")) == key(initialized(), generation(tmp_path / "b"))


@pytest.mark.parametrize("change", [{"seed": 1}, {"cutoff_A": 4.5}])
def test_another_model_has_another_key(change: dict[str, Any], tmp_path: Path) -> None:
    directory = generation(tmp_path)
    assert key(initialized(**change), directory) != key(initialized(), directory)


def test_other_data_have_another_key(tmp_path: Path) -> None:
    assert key(initialized(), generation(tmp_path / "a")) != key(initialized(), generation(tmp_path / "b", n_train=3))


@pytest.mark.parametrize("name", ["surveyor", worker_check.CODE])
def test_another_version_and_other_code_of_one_version_have_other_keys(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = generation(tmp_path)
    here = key(initialized(), directory)
    others = {**worker_check.versions(), name: "other"}
    monkeypatch.setattr("surveyor.tasks.train.versions", lambda: others)
    assert key(initialized(), directory) != here


def test_weights_to_continue_from_belong_to_the_key(tmp_path: Path) -> None:
    data, directory = labelled(4), generation(tmp_path / "generation")
    first, _ = initialized().train(data, data, tmp_path / "first")
    assert key(first, directory) != key(initialized(), directory)


def test_a_training_is_remembered_as_long_as_its_model_is_there(tmp_path: Path) -> None:
    directory = generation(tmp_path / "generation")

    @flow(name="trainings", flow_run_name=str(tmp_path))
    def trainings() -> None:
        for delete in (False, False, True):
            if delete:
                shutil.rmtree(directory.model)
            remembered = train.with_options(refresh_cache=not directory.model.exists())
            remembered(None, initialized(), directory=directory, name="0")

    trainings()
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter.model_validate({"name": {"any_": [str(tmp_path)]}}))
    states = [run.state_name for run in sorted(runs, key=lambda run: run.expected_start_time)]
    assert states == ["Completed", "Cached", "Completed"]
    assert directory.model.is_dir()
