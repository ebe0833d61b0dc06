from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from surveyor.dataset import Dataset, with_label
from surveyor.errors import InputError
from surveyor.labels import Label
from surveyor.models import neighbours, pair
from surveyor.models.choice import load_model
from surveyor.models.committee import CommitteeModel
from surveyor.models.pair import PairModel, PairParameters, PairPotential
from surveyor.testing.models import check_model
from surveyor.testing.potentials import check_potential


def trained(train: Dataset, valid: Dataset, directory: Path, **parameters: float) -> PairModel:
    model = PairModel(PairParameters(**parameters)).initialize(train, atomic_energies=None, seed=0)
    return model.train(train, valid, directory)[0]


def test_pair_model_fulfils_what_is_asked_of_models(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    check_model(PairModel(PairParameters()), train, valid, directory=tmp_path, load=load_model)


def test_pair_potential_fulfils_what_is_asked_of_potentials(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    large = bulk("Cu", cubic=True).repeat((2, 1, 1))
    large.rattle(0.1, seed=3)
    check_potential(trained(train, valid, tmp_path).deploy(), [*valid[:3], large])


def test_data_of_a_pair_potential_are_fitted_exactly(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    truth = trained(train, valid, tmp_path / "truth", regularization=1e-2).deploy()
    data = Dataset(
        with_label(atoms, "v1:0", Label(each.energy, each.forces, each.stress))
        for atoms, each in zip(train, truth.evaluate(train), strict=True)
    )
    model = PairModel(PairParameters(regularization=1e-10))
    model = model.initialize(data, atomic_energies=truth.atomic_energies, seed=0)
    fitted, (epoch,) = model.train(data, Dataset(), tmp_path / "fitted")
    assert fitted.is_trained
    assert epoch.forces_rmse == pytest.approx(0, abs=1e-4)
    assert epoch.energy_rmse == pytest.approx(0, abs=1e-4)


def test_fit_is_reproducible_bit_for_bit(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    one = trained(train, valid, tmp_path / "one").deploy()
    other = trained(train, valid, tmp_path / "other").deploy()
    assert np.array_equal(one.coefficients, other.coefficients)


def test_walkers_get_from_kept_neighbour_lists_what_new_ones_give(
    train: Dataset, valid: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    potential = trained(train, valid, tmp_path).deploy()
    made: list[float] = []

    def neighbour_list(atoms: Atoms, reach_A: float) -> neighbours.NeighbourList:
        made.append(reach_A)
        return neighbours.neighbour_list(atoms, reach_A)

    monkeypatch.setattr(pair, "neighbour_list", neighbour_list)
    walker, chance = bulk("Cu", cubic=True), np.random.default_rng(0)
    walker.calc = potential.calculator()
    for step in range(60):
        walker.positions += chance.normal(0, 0.03, (4, 3))
        walker.positions[0, 0] += 4.0 * (step == 30)
        if step % 3 == 0:
            walker.set_cell(walker.cell.array @ (np.eye(3) + chance.normal(0, 0.005, (3, 3))), scale_atoms=True)
        (expected,) = potential.evaluate([walker])
        assert walker.get_potential_energy() == expected.energy
        assert np.array_equal(walker.get_forces(), expected.forces)
        assert expected.stress is not None
        assert np.array_equal(walker.get_stress(), expected.stress)
    n_made = len(made) - 60  # those of `evaluate`
    assert 5 < n_made < 30
    other = bulk("Cu", cubic=True).repeat((2, 1, 1))
    other.calc = walker.calc
    assert other.get_potential_energy() == potential.evaluate([other])[0].energy


def test_isolated_atoms_are_passed_over_and_atoms_without_bonds_are_no_trouble(
    train: Dataset, valid: Dataset, tmp_path: Path
) -> None:
    atom = with_label(Atoms("Cu"), None, Label(-3.0, np.zeros((1, 3))))
    apart = with_label(Atoms("Cu2", [[0, 0, 0], [0, 0, 9]]), None, Label(-6.0, np.zeros((2, 3))))
    model = PairModel(PairParameters()).initialize(train, atomic_energies=None, seed=0)
    expected, _ = model.train(train, valid, tmp_path / "expected")
    for name, others in (("atom", [atom]), ("apart", [apart])):
        found, _ = model.train(Dataset([*train, *others]), valid + others, tmp_path / name)
        assert np.array_equal(found.deploy().coefficients, expected.deploy().coefficients)


def test_atoms_repel_where_there_are_no_data(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    potential = trained(train, valid, tmp_path).deploy()
    energies = [potential.evaluate([Atoms("Cu2", [[0, 0, 0], [0, 0, z]])])[0].energy for z in (0.5, 0.6, 0.7)]
    assert energies[0] > energies[1] > energies[2]


def test_energy_of_a_distant_atom_is_its_atomic_energy(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    potential = trained(train, valid, tmp_path).deploy()
    (prediction,) = potential.evaluate([Atoms("Au")])
    assert prediction.energy == potential.atomic_energies["Au"]


def test_unknown_element_is_named(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    potential = trained(train, valid, tmp_path).deploy()
    with pytest.raises(InputError, match="the structure also holds Ag"):
        potential.evaluate([Atoms("Ag")])


def test_untrained_model_is_not_deployed() -> None:
    with pytest.raises(ValueError, match="not trained"):
        PairModel(PairParameters()).deploy()


def weighted(dataset: Dataset, **weights: float) -> Dataset:
    copies = [atoms.copy() for atoms in dataset]
    for atoms in copies:
        atoms.info.update(weights)
    return Dataset(copies)


@pytest.mark.parametrize("resample", [False, True])
def test_structures_of_weight_0_are_as_if_left_out_bit_for_bit(
    resample: bool, train: Dataset, valid: Dataset, tmp_path: Path
) -> None:
    def coefficients(data: Dataset, folder: str) -> list[np.ndarray]:
        committee = CommitteeModel(PairParameters(), (PairModel(PairParameters()),) * 2, resample)
        fitted, _ = committee.initialize(data, atomic_energies=None, seed=0).train(data, valid, tmp_path / folder)
        return [member.coefficients for member in fitted.deploy().members]  # type: ignore[attr-defined]

    with_outliers = weighted(train[:4], config_weight=0.0, REF_energy=1e4) + train
    for one, other in zip(coefficients(train, "without"), coefficients(with_outliers, "with"), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    "weights",
    [
        {"config_weight": 2.0},
        {"config_energy_weight": 2.0, "config_forces_weight": 2.0, "config_stress_weight": 2.0},
        {"config_weight": 4.0, "config_energy_weight": 0.5, "config_forces_weight": 0.5, "config_stress_weight": 0.5},
    ],
)
def test_a_structure_of_weight_2_counts_twice(
    weights: dict[str, float], train: Dataset, valid: Dataset, tmp_path: Path
) -> None:
    once = trained(weighted(train[:3], **weights) + train[3:], valid, tmp_path / "once").deploy()
    twice = trained(train[:3] + train, valid, tmp_path / "twice").deploy()
    plain = trained(train, valid, tmp_path / "plain").deploy()
    assert once.atomic_energies == pytest.approx(twice.atomic_energies)
    np.testing.assert_allclose(once.coefficients, twice.coefficients, rtol=1e-6, atol=1e-9)
    assert not np.allclose(once.coefficients, plain.coefficients, rtol=1e-3)


@pytest.mark.parametrize("name", ["energy", "forces", "stress"])
def test_a_label_of_weight_0_may_be_anything(name: str, train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    def fit(energy: float, force: float, stress: float, folder: str) -> PairPotential:
        data = weighted(train, **{f"config_{name}_weight": 0.0})
        for atoms in data:
            atoms.info["REF_energy"] += energy
            atoms.arrays["REF_forces"] += force
            if "REF_stress" in atoms.info:
                atoms.info["REF_stress"] = atoms.info["REF_stress"] + stress  # copies share what is in info
        energies = {"Cu": 0.0, "Au": 0.0}
        model = PairModel(PairParameters()).initialize(data, atomic_energies=energies, seed=0)
        return model.train(data, valid, tmp_path / folder)[0].deploy()

    off = {"energy": (9.0, 0.0, 0.0), "forces": (0.0, 9.0, 0.0), "stress": (0.0, 0.0, 9.0)}[name]
    assert np.array_equal(fit(0.0, 0.0, 0.0, "right").coefficients, fit(*off, "wrong").coefficients)


def test_an_old_stress_of_a_slab_is_not_fitted(train: Dataset, tmp_path: Path) -> None:
    slabs = Dataset(atoms.copy() for atoms in train)
    for atoms in slabs:
        atoms.pbc = atoms.pbc & (True, True, False)
    without = Dataset(atoms.copy() for atoms in slabs)
    for atoms in without:
        atoms.info.pop("REF_stress", None)
    one, other = (trained(data, data, tmp_path / str(id(data))).deploy() for data in (slabs, without))
    assert np.array_equal(one.coefficients, other.coefficients)
