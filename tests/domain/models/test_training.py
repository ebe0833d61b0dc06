from pathlib import Path

import pytest

from surveyor.dataset import Dataset
from surveyor.errors import InputError, TrainingFailed
from surveyor.models.pair import PairModel, PairParameters
from surveyor.models.training import train_model


@pytest.fixture
def files(train: Dataset, valid: Dataset, tmp_path: Path) -> tuple[Path, Path]:
    train.save(tmp_path / "train.extxyz")
    valid.save(tmp_path / "valid.extxyz")
    return tmp_path / "train.extxyz", tmp_path / "valid.extxyz"


@pytest.fixture
def model(train: Dataset) -> PairModel:
    return PairModel(PairParameters()).initialize(train, atomic_energies=None, seed=0)


def test_trained_model_and_its_history_are_saved(files: tuple[Path, Path], model: PairModel, tmp_path: Path) -> None:
    destination = tmp_path / "generation" / "model"
    trained, history = train_model(model, *files, directory=tmp_path / "work", destination=destination)
    assert trained.is_trained
    assert len(history) == 1
    assert {path.name for path in destination.iterdir()} == {"model.json", "history.json", "data.json", "pair.npz"}
    assert [path.name for path in destination.parent.iterdir()] == ["model"]


def test_a_complete_training_is_not_repeated(files: tuple[Path, Path], model: PairModel, tmp_path: Path) -> None:
    destination = tmp_path / "model"
    first = train_model(model, *files, directory=tmp_path / "work", destination=destination)
    again = train_model(model, *files, directory=tmp_path / "elsewhere", destination=destination)
    assert again == first
    assert not (tmp_path / "elsewhere").exists()


class FailingModel(PairModel):
    def train(self, train: Dataset, valid: Dataset, directory: Path) -> tuple["FailingModel", tuple[()]]:
        raise TrainingFailed("out of memory", directory)


def test_nothing_is_left_at_the_destination_of_a_failed_training(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="out of memory"):
        train_model(FailingModel(PairParameters()), *files, directory=tmp_path / "work", destination=tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_model_of_other_data_is_not_taken_for_one_of_these(
    files: tuple[Path, Path], model: PairModel, train: Dataset, tmp_path: Path
) -> None:
    train_model(model, *files, directory=tmp_path / "work", destination=tmp_path / "model")
    train[1:].save(files[0])
    with pytest.raises(InputError, match="was trained on other data"):
        train_model(model, *files, directory=tmp_path / "work", destination=tmp_path / "model")
