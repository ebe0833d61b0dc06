"""The uncertainty of a single MACE model, against dense matrices, brute force, and structures it was not fitted to."""

import json
import logging
import math
import shutil
from dataclasses import replace
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from surveyor.dataset import Dataset, label_of
from surveyor.dataset.metrics import covered, typical_error
from surveyor.errors import InputError
from surveyor.models import mace_evaluation, training, uncertainty
from surveyor.models.batches import MemoryLimits
from surveyor.models.choice import (
    CommitteeParameters,
    MemberParameters,
    ModelParameters,
    load_model,
    make_model,
    why_no_uncertainty,
)
from surveyor.models.mace import MACEModel, MACEPotential
from surveyor.models.mace_cuequivariance import converted
from surveyor.models.mace_parameters import MACEParameters
from surveyor.models.model import Model
from surveyor.models.nequip import NequIPModel
from surveyor.models.nequip_parameters import NequIPParameters
from surveyor.models.pair import PairModel, PairParameters
from surveyor.models.quiet import engine_kept_quiet
from surveyor.models.uncertainty import N_MIN, RIDGE, Uncertainty, conformal_factor, distances, whitening_of
from surveyor.potentials import Prediction, evaluate_one_by_one, predict
from surveyor.sampling.batching import SamplePlan, propagate_together
from surveyor.sampling.checks import check_auto_limits
from surveyor.sampling.conditions import Walkers
from surveyor.sampling.walkers import make_walkers

needs_mace = pytest.mark.skipif(find_spec("mace") is None, reason='needs MACE: pip install "surveyor[mace]"')
N_CHANNELS = 4
SMALL = MACEParameters(
    r_max_A=4.0,
    num_channels=N_CHANNELS,
    max_L=1,
    correlation=2,
    max_num_epochs=12,
    batch_size=4,
    lr=0.03,
    device="cpu",
    options={"max_ell": 1, "num_radial_basis": 4, "radial_MLP": "[8]"},
)


def dense_distances(features: np.ndarray, of_training: np.ndarray) -> np.ndarray:
    """sqrt(phi^T (sum phi phi^T + lambda)^-1 phi) as it is written."""
    moments = sum(np.outer(each, each) for each in of_training)
    precision = np.linalg.inv(moments + RIDGE * np.trace(moments) / len(moments) * np.eye(len(moments)))
    return np.array([np.sqrt(each @ precision @ each) for each in features])


def test_distances_are_those_of_the_dense_precision_matrix() -> None:
    generator = np.random.default_rng(0)
    of_training, features = generator.normal(size=(40, 6)), generator.normal(size=(10, 6))
    of_training[:, 5] = of_training[:, 4]  # a direction that the training never saw, but for the ridge
    found = distances(features, whitening_of(np.split(of_training, [7, 30])))
    np.testing.assert_allclose(found, dense_distances(features, of_training), rtol=1e-6)
    seen = np.append(features[0, :5], features[0, 4])
    assert distances(seen[None], whitening_of([of_training]))[0] < 1 < found.min()


@pytest.mark.parametrize("n", [*range(9, 60), 109, 199])
def test_the_factor_is_the_ratio_of_the_conformal_rank(n: int) -> None:
    ratios = np.random.default_rng(n).lognormal(size=n)
    # The smallest ratio that at least 0.9 (n + 1) of them do not exceed.
    needed = Fraction(9, 10) * (n + 1)
    expected = min(ratio for ratio in ratios if np.count_nonzero(ratios <= ratio) >= needed)
    assert conformal_factor(ratios) == expected
    assert math.isnan(conformal_factor(np.where(ratios > np.median(ratios), np.nan, ratios)))


def test_nine_tenths_of_further_values_are_covered() -> None:
    generator = np.random.default_rng(0)
    fractions = [
        np.mean(generator.gamma(2, size=100) <= conformal_factor(generator.gamma(2, size=29))) for _ in range(300)
    ]
    assert np.mean(fractions) == pytest.approx(0.9, abs=0.01)


@pytest.fixture(scope="module")
def trained(train: Dataset, valid: Dataset, workplace: Path) -> MACEModel:
    model = MACEModel(SMALL).initialize(train, atomic_energies=None, seed=0)
    return model.train(train, valid, workplace / "training")[0]


@pytest.fixture(scope="module")
def calibrated(trained: MACEModel, train: Dataset, valid: Dataset, unseen: Dataset) -> MACEModel:
    trained.calibrate_uncertainty(train, valid, unseen[:40])
    return trained


@pytest.fixture
def copied(trained: MACEModel, tmp_path: Path) -> MACEModel:
    """The trained model without an uncertainty."""
    assert trained.weights is not None
    return replace(trained, weights=Path(shutil.copyfile(trained.weights, tmp_path / "mace.model")))


def largest(predictions: list[Prediction]) -> list[float]:
    return [float(each.uncertainty.max()) for each in predictions if each.uncertainty is not None]


@pytest.mark.mace
@needs_mace
class TestMACE:
    """The uncertainty of a MACE model."""

    def test_features_give_the_energy_by_the_readouts_of_the_model(self, trained: MACEModel, valid: Dataset) -> None:
        import torch

        potential, structures = trained.deploy(), valid[:4]
        network = potential.calculator().models[0]
        for atoms, features, prediction in zip(
            structures, potential.features(structures), potential.evaluate(structures), strict=True
        ):
            assert features.shape == (len(atoms), 2 * N_CHANNELS)
            first, last = torch.as_tensor(features).split(N_CHANNELS, dim=1)
            vectors = torch.zeros(len(atoms), 3 * N_CHANNELS, dtype=torch.float64)  # do not reach the energy
            of_atoms = network.readouts[0](torch.cat([first, vectors], dim=1)) + network.readouts[1](last)
            interaction = network.scale_shift(of_atoms[:, 0], torch.zeros(len(atoms), dtype=torch.int64)).sum()
            atomic = sum(trained.energies[symbol] for symbol in atoms.symbols)
            assert float(interaction.detach()) + atomic == pytest.approx(prediction.energy, abs=1e-9)

    def test_uncertainties_are_the_calibrated_distances(
        self, calibrated: MACEModel, train: Dataset, valid: Dataset, unseen: Dataset
    ) -> None:
        potential = calibrated.deploy()
        of_training = np.concatenate(potential.features(train))
        calibration = [*valid, *unseen[:40]]
        errors = [
            np.linalg.norm(each.forces - label_of(atoms).forces, axis=1).max()
            for atoms, each in zip(calibration, potential.evaluate(calibration), strict=True)
        ]
        far = [dense_distances(each, of_training).max() for each in potential.features(calibration)]
        factor = sorted(np.array(errors) / far)[math.ceil(0.9 * 47) - 1]
        test = unseen[40:]
        for features, prediction in zip(potential.features(test), potential.evaluate(test), strict=True):
            expected = factor * dense_distances(features, of_training)
            np.testing.assert_allclose(prediction.uncertainty, expected, rtol=1e-5)
        assert potential.typical_error == typical_error(valid, potential.evaluate(valid))

    def test_most_structures_that_nothing_was_fitted_to_are_covered(
        self, calibrated: MACEModel, unseen: Dataset
    ) -> None:
        test = unseen[40:]
        n_covered, n = covered(test, calibrated.deploy().evaluate(test))
        assert n == 50
        assert 0.8 <= n_covered / n <= 1.0
        assert calibrated.deploy().coverage == 0.9

    def test_uncertainties_are_the_same_alone_and_together(self, calibrated: MACEModel, unseen: Dataset) -> None:
        potential = calibrated.deploy()
        slab = Atoms("Au2", positions=[[0, 0, 0], [0, 0, 2.5]], cell=[5, 5, 20], pbc=[True, True, False])
        mixed = [*unseen[:4], Atoms("Cu"), slab]
        for one, other in zip(potential.evaluate(mixed), evaluate_one_by_one(potential, mixed), strict=True):
            assert one.uncertainty is not None
            np.testing.assert_allclose(one.uncertainty, other.uncertainty, rtol=1e-9)

    def test_turned_moved_and_renumbered_structures_are_as_uncertain(
        self, calibrated: MACEModel, unseen: Dataset
    ) -> None:
        potential = calibrated.deploy()
        for atoms in unseen[:3]:
            moved, turned = atoms.copy(), atoms.copy()
            moved.positions += (0.7, -1.3, 2.1)
            turned.rotate(40, (1, 2, 3), rotate_cell=True)
            order = np.random.default_rng(0).permutation(len(atoms))
            same, *others = potential.evaluate([atoms, moved, turned, atoms[order]])
            assert same.uncertainty is not None
            for other, expected in zip(others, [same.uncertainty] * 2 + [same.uncertainty[order]], strict=True):
                np.testing.assert_allclose(other.uncertainty, expected, rtol=1e-6)

    def test_single_precision_is_close_to_double(self, calibrated: MACEModel, unseen: Dataset) -> None:
        double = calibrated.deploy()
        single = replace(double, precision="float32")
        found, expected = single.evaluate(unseen[:9]), double.evaluate(unseen[:9])
        np.testing.assert_allclose(largest(found), largest(expected), rtol=1e-3)
        assert found[0].uncertainty is not None
        assert found[0].uncertainty.dtype == np.float64

    @pytest.mark.cuequivariance
    @pytest.mark.filterwarnings("ignore:cuequivariance_ops_torch is not available")
    def test_features_are_the_same_with_cuequivariance(self, calibrated: MACEModel, unseen: Dataset) -> None:
        import torch

        potential = calibrated.deploy()
        with engine_kept_quiet():
            network = converted(torch.load(calibrated.network, weights_only=False), "cpu")
        found = mace_evaluation.evaluate_together(
            network,
            unseen[:6],
            precision="float64",
            limits=MemoryLimits("cpu"),
            uncertainty=potential.uncertainty,
        )
        np.testing.assert_allclose(largest(found), largest(potential.evaluate(unseen[:6])), rtol=1e-6)

    def test_what_is_far_from_the_data_is_more_uncertain(self, calibrated: MACEModel, unseen: Dataset) -> None:
        potential = calibrated.deploy()
        close = bulk("Cu", a=3.0, cubic=True)
        (far,) = largest(potential.evaluate([close]))
        assert far > 2 * max(largest(potential.evaluate(unseen)))

    def test_the_guard_stops_a_walker_that_leaves_the_data_and_no_other(
        self, calibrated: MACEModel, tmp_path: Path
    ) -> None:
        ase.io.write(tmp_path / "crystal.traj", bulk("Cu", cubic=True))
        cool = {"start": tmp_path / "crystal.traj", "n_walkers": 1, "temperature_K": 100, "n_steps": 15}
        hot = {**cool, "temperature_K": 5000, "thermostat_time_fs": 20, "timestep_fs": 2, "n_steps": 200}
        no_other = {"max_temperature_factor": 1e6, "max_force_eV_per_A": 1e6, "min_distance_A": 0}
        groups = [
            Walkers(**fields, max_uncertainty_meV_per_A="auto", min_distance_factor=0, **no_other)
            for fields in (cool, hot)
        ]
        plans = [SamplePlan(each, (f"{each.index}",)) for each in make_walkers(groups, seed=0)]
        potential = calibrated.deploy()
        limit = 3e3 * (potential.typical_error or 0.0)
        for name, size in (("alone", 1), ("together", 2)):
            brought = [
                sample
                for begin in range(0, 2, size)
                for _, sample in propagate_together(plans[begin : begin + size], potential, directory=tmp_path / name)
            ]
            within, driven = brought
            assert (within.stop, within.n_steps) == (None, 15)
            assert within.max_uncertainty_meV_per_A == pytest.approx(limit)
            assert driven.stop is not None
            assert (driven.stop.reason, driven.stop.limit) == ("uncertainty", pytest.approx(limit))
            assert driven.structure is not None
            (stated,) = largest(potential.evaluate([driven.structure]))
            assert driven.stop.value == pytest.approx(1e3 * stated, rel=1e-6)

    def test_too_few_structures_are_told_and_give_no_uncertainty(
        self, copied: MACEModel, train: Dataset, valid: Dataset, unseen: Dataset, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        copied.calibrate_uncertainty(train, valid, unseen[: N_MIN - len(valid) - 1])
        assert copied.uncertainty_file is None
        (record,) = [record for record in caplog.records if "uncertainty" in record.getMessage()]
        assert "found 19 structures that it was not fitted to, expected at least 20" in record.getMessage()
        assert (record.event.n_structures, record.event.n_expected, record.event.factor) == (19, 20, None)  # type: ignore[attr-defined]
        assert copied.deploy().evaluate(valid[:1])[0].uncertainty is None
        assert "too few structures" in (why_no_uncertainty(copied) or "")

    def test_labels_of_weight_zero_and_isolated_atoms_do_not_calibrate(
        self, copied: MACEModel, train: Dataset, valid: Dataset, unseen: Dataset
    ) -> None:
        others = Dataset(atoms.copy() for atoms in unseen[:30])
        for atoms in others[10:]:
            atoms.info["config_forces_weight"] = 0.0
        copied.calibrate_uncertainty(train, valid, others)
        assert copied.uncertainty_file is None

    def test_predictions_that_are_no_numbers_give_no_uncertainty(
        self,
        copied: MACEModel,
        train: Dataset,
        valid: Dataset,
        unseen: Dataset,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        evaluate = MACEPotential.evaluate

        def broken(potential: MACEPotential, structures: Any) -> list[Prediction]:
            found = evaluate(potential, structures)
            return [
                replace(each, forces=each.forces * np.nan) if index > 20 else each for index, each in enumerate(found)
            ]

        monkeypatch.setattr(MACEPotential, "evaluate", broken)
        copied.calibrate_uncertainty(train, valid, unseen[:20])
        assert copied.uncertainty_file is None

    def test_it_is_kept_with_the_model(
        self, calibrated: MACEModel, unseen: Dataset, tmp_path: Path, train: Dataset, valid: Dataset
    ) -> None:
        calibrated.save(tmp_path / "saved")
        loaded = load_model(tmp_path / "saved")
        assert isinstance(loaded, MACEModel)
        assert why_no_uncertainty(loaded) is None
        expected = largest(calibrated.deploy().evaluate(unseen[:3]))
        assert largest(loaded.deploy().evaluate(unseen[:3])) == pytest.approx(expected)
        assert predict(loaded.deploy().calculator(), unseen[0]).uncertainty is not None
        # It was calibrated once: the same call does not do it again.
        written = (tmp_path / "saved" / uncertainty.FILE).stat().st_mtime_ns
        loaded.calibrate_uncertainty(train, valid, unseen)
        assert (tmp_path / "saved" / uncertainty.FILE).stat().st_mtime_ns == written

    def test_it_can_be_switched_off(
        self, copied: MACEModel, calibrated: MACEModel, train: Dataset, valid: Dataset, unseen: Dataset
    ) -> None:
        off = SMALL.model_copy(update={"uncertainty": False})
        replace(copied, parameters=off).calibrate_uncertainty(train, valid, unseen)
        assert copied.uncertainty_file is None
        silent = replace(calibrated, parameters=off)
        assert silent.deploy().evaluate(valid[:1])[0].uncertainty is None
        assert "uncertainty: false" in (why_no_uncertainty(silent) or "")

    def test_a_model_of_an_earlier_version_and_what_is_trained_from_it_have_none(
        self, copied: MACEModel, train: Dataset, tmp_path: Path
    ) -> None:
        copied.save(tmp_path / "saved")
        record = json.loads((tmp_path / "saved" / "model.json").read_text())
        del record["parameters"]["uncertainty"]
        (tmp_path / "saved" / "model.json").write_text(json.dumps(record))
        loaded = load_model(tmp_path / "saved")
        assert isinstance(loaded, MACEModel)
        again = loaded.initialize(train, atomic_energies=loaded.atomic_energies, seed=1)
        assert (loaded.parameters.uncertainty, again.parameters.uncertainty) == (False, False)
        assert loaded.deploy().evaluate(train[:1])[0].uncertainty is None

    def test_a_file_of_a_newer_version_is_refused(self, calibrated: MACEModel, tmp_path: Path) -> None:
        calibrated.save(tmp_path / "saved")
        file = tmp_path / "saved" / uncertainty.FILE
        with np.load(file) as arrays:
            content = dict(arrays)
        np.savez(file, **(content | {"schema_version": np.array(2)}))
        with pytest.raises(InputError, match="schema version 2, this surveyor reads up to 1"):
            Uncertainty.load(file)

    def test_a_training_calibrates_on_validation_and_test_data(
        self, copied: MACEModel, train: Dataset, valid: Dataset, unseen: Dataset, tmp_path: Path
    ) -> None:
        files = {"train": train, "valid": valid, "test": unseen[:20]}
        for name, data in files.items():
            data.save(tmp_path / f"{name}.extxyz")
        paths = [tmp_path / f"{name}.extxyz" for name in files]
        trained_before = tmp_path / "training" / "mace.model"  # so that there is nothing to train
        trained_before.parent.mkdir()
        shutil.copyfile(copied.network, trained_before)
        shutil.copyfile(tmp_path / "train.extxyz", trained_before.parent / "unused")
        model, _ = training.train_model(
            replace(copied, weights=None),
            *paths[:2],
            directory=trained_before.parent,
            destination=tmp_path / "model",
            test=paths[2],
        )
        assert isinstance(model, MACEModel)
        found = model.deploy().uncertainty
        assert found is not None
        assert found.n_structures == 26

    def test_memory_that_is_lacking_for_features_halves_the_batch(
        self, calibrated: MACEModel, unseen: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch

        take = mace_evaluation._pass_for_features

        def take_two(calculator: object, structures: Any) -> list[np.ndarray]:
            if len(structures) > 2:
                raise torch.OutOfMemoryError("no memory")
            return take(calculator, structures)

        expected = calibrated.deploy().features(unseen[:5])
        monkeypatch.setattr(mace_evaluation, "_pass_for_features", take_two)
        for one, other in zip(calibrated.deploy().features(unseen[:5]), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)


def test_members_of_a_committee_state_none_of_their_own() -> None:
    parameters = CommitteeParameters(n_members=2, member=MemberParameters(mace=SMALL))
    model = make_model(ModelParameters(committee=parameters))
    assert [each.parameters.uncertainty for each in model.members] == [False, False]  # type: ignore[attr-defined]
    assert why_no_uncertainty(model) is None


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (PairModel(PairParameters()), "a single pair model states no uncertainty"),
        (NequIPModel(NequIPParameters()), "the model is to state no uncertainty"),
    ],
)
def test_an_automatic_limit_is_refused_where_nothing_states_an_uncertainty(
    model: Model, why: str, tmp_path: Path
) -> None:
    fixed, auto = (Walkers(start=tmp_path / "a.xyz", max_uncertainty_meV_per_A=limit) for limit in (300.0, "auto"))
    check_auto_limits([fixed], why_no_uncertainty(model))
    for stating in (MACEModel(SMALL), NequIPModel(NequIPParameters(uncertainty=True))):
        check_auto_limits([auto], why_no_uncertainty(stating))
    with pytest.raises(InputError, match=rf"walkers\[1\].max_uncertainty_meV_per_A: found auto, but {why}"):
        check_auto_limits([fixed, auto], why_no_uncertainty(model))
