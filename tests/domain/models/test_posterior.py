"""The last-layer posterior of models, against finite differences, dense matrices and repeated fits."""

import logging
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from gradients import by_differences, check_gradients, sums_of

from surveyor.dataset import FORCES, Dataset
from surveyor.dataset.metrics import errors_of
from surveyor.errors import InputError
from surveyor.models import posterior, single_model
from surveyor.models.choice import CommitteeParameters, MemberParameters, load_model
from surveyor.models.committee import CommitteeModel
from surveyor.models.mace import MACEModel
from surveyor.models.mace_parameters import MACEParameters
from surveyor.models.pair import PairModel, PairParameters, PairPotential
from surveyor.models.posterior import GradientPotential, Posterior
from surveyor.models.training import train_model
from surveyor.models.uncertainty import RIDGE
from surveyor.testing.calculators import CalculatorPotential

needs_mace = pytest.mark.skipif(find_spec("mace") is None, reason='needs MACE: pip install "surveyor[mace]"')
PAIR = PairParameters(n_basis=4)
SLAB = Atoms("Au2", positions=[[0, 0, 0], [0, 0, 2.5]], cell=[5, 5, 20], pbc=[True, True, False])


def dense_rows(potential: GradientPotential, atoms: Atoms, sigmas: tuple[float, float]) -> np.ndarray:
    energy = sums_of(potential, atoms) / len(atoms) / sigmas[0]
    return np.vstack([energy, -by_differences(potential, atoms).reshape(3 * len(atoms), -1) / sigmas[1]])


def dense_covariance(rows: list[np.ndarray]) -> np.ndarray:
    moments = sum(each.T @ each for each in rows)
    return np.linalg.inv(moments + RIDGE * np.trace(moments) / len(moments) * np.eye(len(moments)))


@pytest.fixture(scope="module")
def pair(train: Dataset, valid: Dataset, workplace: Path) -> PairModel:
    model, _ = PairModel(PAIR).initialize(train, atomic_energies=None, seed=0).train(train, valid, workplace / "pair")
    model.compute_posterior(train, valid)
    return model


def test_energies_and_forces_of_the_pair_model_are_linear_in_its_features(pair: PairModel, unseen: Dataset) -> None:
    potential = pair.deploy()
    other = replace(potential, coefficients=potential.coefficients + 1.0)
    for atoms in unseen[:3]:
        one, two = potential.evaluate([atoms])[0], other.evaluate([atoms])[0]
        assert two.energy - one.energy == pytest.approx(sums_of(potential, atoms).sum())
        gradients = potential.feature_gradients([atoms])[0]
        np.testing.assert_allclose(two.forces - one.forces, -gradients.sum(axis=2), atol=1e-9)


def test_gradients_of_the_pair_model(pair: PairModel, unseen: Dataset) -> None:
    check_gradients(pair.deploy(), [*unseen[:3], SLAB])


def test_a_posterior_is_that_of_dense_matrices(pair: PairModel, train: Dataset, valid: Dataset) -> None:
    potential = pair.deploy()
    found = potential.posterior
    assert found is not None
    errors = errors_of(valid, potential.evaluate(valid))
    assert (found.energy_rmse, found.forces_rmse) == (errors.energy_rmse, errors.forces_rmse)
    expected = dense_covariance(
        [dense_rows(potential, atoms, (found.energy_rmse, found.forces_rmse)) for atoms in train]
    )
    np.testing.assert_allclose(found.whitening @ found.whitening.T, expected, rtol=1e-5, atol=1e-6 * expected.max())
    atoms_expected = dense_covariance([*potential.features(train)])
    of_atoms = found.atoms_whitening @ found.atoms_whitening.T
    np.testing.assert_allclose(of_atoms, atoms_expected, rtol=1e-6, atol=1e-9 * of_atoms.max())
    np.testing.assert_allclose(found.means, [each.mean(axis=0) for each in potential.features(train)])


def test_rows_are_energy_per_atom_and_forces_in_units_of_sigma(pair: PairModel, unseen: Dataset) -> None:
    potential, atoms = pair.deploy(), unseen[0]
    found = potential.posterior
    assert found is not None
    rows = found.rows(potential.features([atoms])[0], potential.feature_gradients([atoms])[0])
    assert rows.shape == (1 + 3 * len(atoms), potential.coefficients.size)
    np.testing.assert_allclose(
        rows, dense_rows(potential, atoms, (found.energy_rmse, found.forces_rmse)), rtol=1e-5, atol=1e-4
    )


def test_the_posterior_variance_is_that_of_repeated_fits_to_noisy_labels() -> None:
    """Of a linear model with known noise, fitted again and again: no formula of the posterior is used."""
    generator = np.random.default_rng(0)
    rows, further = generator.normal(size=(60, 5)), generator.normal(size=(3, 5))
    weights = generator.normal(size=5)
    predictions = []
    for _ in range(4000):
        labels = rows @ weights + generator.normal(size=len(rows))
        predictions.append(further @ np.linalg.lstsq(rows, labels, rcond=None)[0])
    root = posterior.inverse_root(rows.T @ rows)
    np.testing.assert_allclose(further @ root @ root.T @ further.T, np.cov(np.transpose(predictions)), atol=0.01)


def test_labels_of_weight_zero_are_left_out(pair: PairModel, train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    potential = pair.deploy()
    weighted = [atoms.copy() for atoms in train]
    weighted[0].info["config_forces_weight"] = 0.0
    weighted[1].info["config_energy_weight"] = 0.0
    weighted[2].info["config_weight"] = 0.0
    posterior.compute_posterior(potential, Dataset(weighted), valid, tmp_path / "posterior.npz")
    found = Posterior.load(tmp_path / "posterior.npz")
    rows = [dense_rows(potential, atoms, (found.energy_rmse, found.forces_rmse)) for atoms in train]
    expected = dense_covariance([rows[0][:1], rows[1][1:], *rows[3:]])
    np.testing.assert_allclose(found.whitening @ found.whitening.T, expected, rtol=1e-5, atol=1e-6 * expected.max())
    assert len(found.means) == len(train) - 1


def test_a_posterior_goes_where_its_model_goes(pair: PairModel, unseen: Dataset, tmp_path: Path) -> None:
    pair.save(tmp_path / "saved")
    loaded = load_model(tmp_path / "saved").deploy()
    assert isinstance(loaded, PairPotential)
    assert loaded.posterior is not None
    found = pair.deploy().posterior
    assert found is not None
    np.testing.assert_array_equal(loaded.posterior.whitening, found.whitening)
    np.testing.assert_array_equal(loaded.posterior.means, found.means)
    assert loaded.posterior.forces_rmse == found.forces_rmse


def test_a_file_of_a_later_surveyor_is_refused(
    pair: PairModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = pair.deploy().posterior
    assert found is not None
    monkeypatch.setattr(posterior, "SCHEMA_VERSION", 2)
    found.save(tmp_path / "posterior.npz")
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"schema version 2, this surveyor reads up to 1; update surveyor"):
        Posterior.load(tmp_path / "posterior.npz")


def test_a_posterior_needs_structures_and_features(pair: PairModel, valid: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no structure with labels that count, expected a training set"):
        posterior.compute_posterior(pair.deploy(), Dataset(), valid, tmp_path / "posterior.npz")
    other: Any = CalculatorPotential("ase.calculators.emt.EMT")
    with pytest.raises(InputError, match="found a potential without feature_gradients"):
        posterior.compute_posterior(other, valid, valid, tmp_path / "posterior.npz")


def saved_sets(train: Dataset, valid: Dataset, folder: Path) -> tuple[Path, Path]:
    paths = folder / "train.extxyz", folder / "valid.extxyz"
    for path, structures in zip(paths, (train, valid), strict=True):
        structures.save(path)
    return paths


@pytest.mark.parametrize("is_asked_later", [False, True])
def test_a_training_computes_a_posterior_if_it_is_asked(
    train: Dataset, valid: Dataset, tmp_path: Path, is_asked_later: bool
) -> None:
    paths = saved_sets(train, valid, tmp_path)
    model = PairModel(PAIR).initialize(train, atomic_energies=None, seed=0)
    folders = {"directory": tmp_path / "training", "destination": tmp_path / "model"}
    if is_asked_later:
        train_model(model, *paths, **folders)
        assert not (tmp_path / "model" / posterior.FILE).exists()
    trained, _ = train_model(model, *paths, **folders, with_posterior=True)
    assert isinstance(trained, PairModel)
    found = trained.deploy().posterior
    assert found is not None
    modified = (tmp_path / "model" / posterior.FILE).stat().st_mtime_ns
    train_model(model, *paths, **folders, with_posterior=True)
    assert (tmp_path / "model" / posterior.FILE).stat().st_mtime_ns == modified


def test_a_training_does_not_fail_for_its_posterior(
    train: Dataset,
    valid: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def without_memory(*_arguments: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(single_model.posterior, "compute_posterior", without_memory)
    model = PairModel(PAIR).initialize(train, atomic_energies=None, seed=0)
    trained, _ = train_model(
        model,
        *saved_sets(train, valid, tmp_path),
        directory=tmp_path / "training",
        destination=tmp_path / "model",
        with_posterior=True,
    )
    assert trained.is_trained
    (warning,) = (each.message for each in caplog.records if each.levelno == logging.WARNING)
    assert warning == "the model has no posterior: CUDA out of memory"


def test_a_committee_has_no_posterior(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    parameters = CommitteeParameters(n_members=2, member=MemberParameters(pair=PAIR))
    model = CommitteeModel(parameters, (PairModel(PAIR),) * 2).initialize(train, atomic_energies=None, seed=0)
    train_model(
        model,
        *saved_sets(train, valid, tmp_path),
        directory=tmp_path / "training",
        destination=tmp_path / "model",
        with_posterior=True,
    )
    assert not [*(tmp_path / "model").rglob(posterior.FILE)]


@pytest.fixture(scope="module")
def trained(train: Dataset, valid: Dataset, workplace: Path) -> MACEModel:
    parameters = MACEParameters(
        r_max_A=4.0,
        num_channels=4,
        max_L=1,
        correlation=2,
        max_num_epochs=6,
        batch_size=4,
        lr=0.03,
        device="cpu",
        options={"max_ell": 1, "num_radial_basis": 4, "radial_MLP": "[8]"},
    )
    model = MACEModel(parameters).initialize(train, atomic_energies=None, seed=0)
    return model.train(train, valid, workplace / "mace")[0]


@pytest.mark.mace
@needs_mace
class TestMACE:
    """The posterior of a MACE model."""

    def test_an_atom_alone_has_none(self, trained: MACEModel, unseen: Dataset) -> None:
        alone, among = (trained.deploy().feature_gradients(each) for each in ([Atoms("Cu")], [unseen[0], Atoms("Cu")]))
        np.testing.assert_array_equal(alone[0], np.zeros((1, 3, 8)))
        np.testing.assert_array_equal(among[1], alone[0])

    def test_gradients_turn_with_the_structure(self, trained: MACEModel, unseen: Dataset) -> None:
        atoms = unseen[0]
        turned = atoms.copy()
        turned.rotate(40, (1, 2, 3), rotate_cell=True)
        one, other = trained.deploy().feature_gradients([atoms, turned])
        np.testing.assert_allclose(np.linalg.norm(other, axis=1), np.linalg.norm(one, axis=1), atol=1e-9)

    def test_single_precision_is_close_to_double(self, trained: MACEModel, unseen: Dataset) -> None:
        double = trained.deploy()
        (found,), (expected,) = (
            each.feature_gradients(unseen[:1]) for each in (replace(double, precision="float32"), double)
        )
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())

    def test_a_posterior_is_that_of_dense_matrices(
        self, trained: MACEModel, train: Dataset, valid: Dataset, tmp_path: Path
    ) -> None:
        assert trained.weights is not None
        copied = replace(trained, weights=Path(shutil.copyfile(trained.weights, tmp_path / "mace.model")))
        assert copied.deploy().posterior is None
        copied.compute_posterior(train, valid)
        potential = copied.deploy()
        found = potential.posterior
        assert found is not None
        rows = [dense_rows(potential, atoms, (found.energy_rmse, found.forces_rmse)) for atoms in train]
        expected = dense_covariance(rows)
        np.testing.assert_allclose(found.whitening @ found.whitening.T, expected, rtol=1e-4, atol=1e-4 * expected.max())
        # What the forces say of the weights does not depend on how the labels turned out.
        other = Dataset(atoms.copy() for atoms in train)
        for atoms in other:
            atoms.arrays[FORCES] += 1.0
        np.testing.assert_array_equal(posterior.posterior_of(potential, other, valid).whitening, found.whitening)
