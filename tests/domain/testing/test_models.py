from pathlib import Path

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from surveyor.dataset import Dataset, with_label
from surveyor.labels import Label
from surveyor.models.choice import load_model
from surveyor.models.model import Epoch
from surveyor.models.pair import PairModel, PairParameters
from surveyor.testing.models import check_model


@pytest.fixture
def data() -> Dataset:
    structures = []
    for seed in range(6):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        copy = atoms.copy()
        copy.calc = EMT()
        structures.append(with_label(atoms, f"v1:{seed}", Label(copy.get_potential_energy(), copy.get_forces())))
    return Dataset(structures)


class UntrainableModel(PairModel):
    """Predicts no forces beyond the repulsion."""

    def train(self, train: Dataset, valid: Dataset, directory: Path) -> tuple["UntrainableModel", list[Epoch]]:
        return super().train(train[:0], valid, directory)


class SecretiveModel(PairModel):
    """Keeps its history to itself."""

    def train(self, train: Dataset, valid: Dataset, directory: Path) -> tuple["SecretiveModel", list[Epoch]]:
        return super().train(train, valid, directory)[0], []


@pytest.mark.parametrize(
    ("defective", "message"),
    [
        (UntrainableModel, "error of forces on the training data: found .* expected at most"),
        (SecretiveModel, "number of epochs in the history: found 0, expected at least 1"),
    ],
)
def test_defects_are_named(data: Dataset, tmp_path: Path, defective: type[PairModel], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_model(defective(PairParameters()), data, data, directory=tmp_path, load=load_model)


def test_trained_model_is_refused(data: Dataset, tmp_path: Path) -> None:
    trained = check_model(PairModel(PairParameters()), data, data, directory=tmp_path, load=load_model)
    with pytest.raises(AssertionError, match="is_trained of the model given: found True, expected False"):
        check_model(trained, data, data, directory=tmp_path / "again", load=load_model)
