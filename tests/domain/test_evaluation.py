from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from surveyor.dataset import Dataset
from surveyor.dataset.evaluation import evaluate_dataset, load_predictions, save_predictions
from surveyor.potentials import Prediction
from surveyor.testing.calculators import CalculatorPotential

EMT_POTENTIAL = CalculatorPotential("ase.calculators.emt.EMT")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Structures of several sizes, one of them periodic."""
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.1, seed=0)
    Dataset([molecule("H2O"), copper, molecule("CH4")]).save(tmp_path / "data.extxyz")
    return tmp_path / "data.extxyz"


def test_predictions_are_those_of_the_bare_calculator(dataset: Path, tmp_path: Path) -> None:
    structures = Dataset.load(dataset)
    predictions = load_predictions(evaluate_dataset(EMT_POTENTIAL, dataset, tmp_path / "new" / "emt.npz"), structures)
    for atoms, prediction in zip(structures, predictions, strict=True):
        bare = atoms.copy()
        bare.calc = EMT()
        assert prediction.energy == pytest.approx(bare.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(prediction.forces, bare.get_forces(), atol=1e-12)
    copper = structures[1].copy()
    copper.calc = EMT()
    np.testing.assert_allclose(predictions[1].stress, copper.get_stress(), atol=1e-12)


def test_only_periodic_structures_have_a_stress(dataset: Path, tmp_path: Path) -> None:
    structures = Dataset.load(dataset)
    predictions = load_predictions(evaluate_dataset(EMT_POTENTIAL, dataset, tmp_path / "emt.npz"), structures)
    assert [prediction.stress is not None for prediction in predictions] == [False, True, False]


def test_predictions_come_back_bit_for_bit(tmp_path: Path) -> None:
    water = molecule("H2O")
    forces = np.random.default_rng(0).normal(size=(3, 3))
    save_predictions(tmp_path / "water.npz", [Prediction(0.1 + 0.2, forces)])
    (prediction,) = load_predictions(tmp_path / "water.npz", [water])
    assert prediction.energy == 0.1 + 0.2
    np.testing.assert_array_equal(prediction.forces, forces)


def test_uncertainties_come_back_where_the_potential_states_them(tmp_path: Path) -> None:
    structures = [molecule("H2O"), molecule("H2")]
    known = [Prediction(0.0, np.zeros((3, 3)), None, np.array([0.1, 0.2, 0.3])), Prediction(1.0, np.zeros((2, 3)))]
    known[1] = replace(known[1], uncertainty=np.array([0.4, 0.5]))
    save_predictions(tmp_path / "known.npz", known)
    found = [each.uncertainty for each in load_predictions(tmp_path / "known.npz", structures)]
    assert [each.tolist() for each in found if each is not None] == [[0.1, 0.2, 0.3], [0.4, 0.5]]
    save_predictions(tmp_path / "none.npz", [replace(each, uncertainty=None) for each in known])
    assert [each.uncertainty for each in load_predictions(tmp_path / "none.npz", structures)] == [None, None]
    with np.load(tmp_path / "none.npz") as arrays:
        assert "uncertainties" not in arrays  # as in files of earlier versions


def test_what_is_there_is_not_computed_again(dataset: Path, tmp_path: Path) -> None:
    file = evaluate_dataset(EMT_POTENTIAL, dataset, tmp_path / "emt.npz")
    written = file.stat().st_mtime_ns
    impossible = CalculatorPotential("no.such.Calculator")
    assert evaluate_dataset(impossible, dataset, file).stat().st_mtime_ns == written


def test_an_empty_set_gives_no_predictions(tmp_path: Path) -> None:
    Dataset().save(tmp_path / "empty.extxyz")
    file = evaluate_dataset(EMT_POTENTIAL, tmp_path / "empty.extxyz", tmp_path / "empty.npz")
    assert load_predictions(file, []) == []


def test_predictions_of_other_structures_are_made_anew(dataset: Path, tmp_path: Path) -> None:
    evaluate_dataset(EMT_POTENTIAL, dataset, tmp_path / "predictions.npz")
    fewer = Dataset.load(dataset)[:2]
    fewer.save(dataset)
    file = evaluate_dataset(EMT_POTENTIAL, dataset, tmp_path / "predictions.npz")
    assert len(load_predictions(file, fewer)) == 2
