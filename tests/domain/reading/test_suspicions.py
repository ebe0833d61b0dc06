import time
from collections.abc import Sequence

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from hypothesis import given, settings
from hypothesis import strategies as st

from surveyor.dataset import ENERGY, FORCES, STRESS, with_label
from surveyor.labels import Label
from surveyor.potentials import predict
from surveyor.reading import suspicions
from surveyor.reading.suspicions import findings_of, suspicions_of

CRYSTAL = bulk("Cu", cubic=True)
WATER = molecule("H2O")


def labelled(atoms: Atoms) -> Atoms:
    prediction = predict(EMT(), atoms)
    return with_label(atoms, None, Label(prediction.energy, prediction.forces))


def perturbed(
    atoms: Atoms, n_structures: int, amplitude_A: float, *, strain: float = 0.0, seed: int = 0
) -> list[Atoms]:
    generator = np.random.default_rng(seed)
    structures = []
    for _ in range(n_structures):
        structures.append(atoms.copy())
        if strain:
            deformation = np.eye(3) + generator.uniform(-strain, strain, (3, 3))
            structures[-1].set_cell(atoms.cell.array @ deformation, scale_atoms=True)
        structures[-1].positions += generator.normal(scale=amplitude_A, size=atoms.positions.shape)
    return [labelled(each) for each in structures]


def warnings(structures: Sequence[Atoms]) -> dict[str, tuple[int, int]]:
    """Return how many structures show each kind, and the first of them."""
    found = findings_of(suspicions_of(structures), {"train": np.arange(len(structures))})["train"]
    return {finding.text: (finding.n_structures, finding.first) for finding in found}


def alloys() -> list[Atoms]:
    structures = [CRYSTAL.repeat((2, 1, 1)) for _ in range(30)]
    for seed, atoms in enumerate(structures):
        atoms.numbers[:] = np.random.default_rng(seed).choice([13, 28, 29, 79], 8)
        atoms.rattle(0.2, seed=seed)
    return [labelled(each) for each in structures]


ORDINARY = {
    "gently perturbed": lambda: perturbed(CRYSTAL, 60, 0.01),
    "perturbed": lambda: perturbed(CRYSTAL, 60, 0.1, strain=0.05),
    "strongly perturbed": lambda: perturbed(CRYSTAL, 60, 0.4, strain=0.1),
    "both": lambda: perturbed(CRYSTAL, 60, 0.02) + perturbed(CRYSTAL, 6, 0.4, strain=0.1),
    "molecules": lambda: perturbed(WATER, 60, 0.1),
    "equation of state": lambda: [labelled(bulk("Cu", a=a, cubic=True)) for a in np.linspace(3, 7, 40)],
    "a single crystal": lambda: [labelled(CRYSTAL)],
    "dissociation": lambda: [labelled(Atoms("N2", [[0, 0, 0], [0, 0, d]])) for d in np.linspace(0.9, 4, 30)],
    "alloys": alloys,
    "mixed": lambda: perturbed(CRYSTAL, 40, 0.05) + perturbed(WATER, 20, 0.1) + perturbed(molecule("O2"), 3, 0.1),
}


@pytest.mark.parametrize("kind", ORDINARY)
def test_ordinary_data_are_not_suspicious(kind: str) -> None:
    assert warnings(ORDINARY[kind]()) == {}


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["perturbed", "molecules", "mixed", "both"]),
    error=st.sampled_from([-1000.0, -50.0, 100.0, 1000.0]),  # large forces explain 50 eV more
    index=st.integers(0, 39),
)
def test_wrong_energies_are_found_among_ordinary_ones(kind: str, error: float, index: int) -> None:
    structures = [atoms.copy() for atoms in DATA[kind]]
    structures[index].info[ENERGY] += error
    ((text, found),) = warnings(structures).items()
    assert text.startswith("an energy far from those of the others")
    assert found == (1, index)


DATA = {kind: ORDINARY[kind]() for kind in ("perturbed", "molecules", "mixed", "both")}


def test_up_to_a_third_of_the_energies_may_be_wrong() -> None:
    structures = [atoms.copy() for atoms in DATA["perturbed"]]
    for atoms in structures[:20]:
        atoms.info[ENERGY] += 1000.0
    ((text, found),) = warnings(structures).items()
    assert text == "an energy far from those of the others, by up to 250 eV/atom: 0, 1, 2, 3, 4, 5, 6, 7 and 12 more"
    assert found == (20, 0)


def test_compositions_of_few_structures_are_compared_by_atomic_energies() -> None:
    structures = alloys()
    structures[7].info[ENERGY] -= 1000.0
    assert list(warnings(structures).values()) == [(1, 7)]


def test_energies_of_all_electrons_are_compared_by_atomic_energies() -> None:
    atomic = {"Al": -6.6e3, "Ni": -4.1e4, "Cu": -4.5e4, "Au": -5.2e5}  # eV
    structures = alloys()
    for atoms in structures:
        atoms.info[ENERGY] += sum(atomic[symbol] for symbol in atoms.symbols)
    assert warnings(structures) == {}
    structures[7].info[ENERGY] -= 200.0
    ((text, found),) = warnings(structures).items()
    assert "by up to 25.4 eV/atom" in text
    assert found == (1, 7)


def random(symbols: str, energy: float, seed: int) -> Atoms:
    """Return a structure with random places and forces, and an energy in eV/atom."""
    generator = np.random.default_rng(seed)
    atoms = Atoms(symbols)
    atoms.positions = generator.uniform(0, 9, (len(atoms), 3))
    forces = generator.normal(0, 0.5, (len(atoms), 3))
    return with_label(atoms, None, Label(energy * len(atoms), forces - forces.mean(axis=0)))


def test_an_oxide_among_its_elements_is_not_suspicious() -> None:
    energies = {"Hf12": -6.4, "O12": -2.6, "Hf4O8": -7.6}
    assert warnings([random(name, energy, seed) for name, energy in energies.items() for seed in range(5)]) == {}


def test_a_high_energy_is_plausible_with_high_forces_alone() -> None:
    structures = [atoms.copy() for atoms in DATA["molecules"]]
    structures[3].info[ENERGY] += 50.0
    assert list(warnings(structures).values()) == [(1, 3)]
    structures[3].arrays[FORCES] += [[0.0, 0.0, 40.0], [0.0, 0.0, -20.0], [0.0, 0.0, -20.0]]
    assert warnings(structures) == {}


def test_copies_and_copies_with_other_labels_are_told_apart() -> None:
    structures = [atoms.copy() for atoms in DATA["perturbed"]]
    for index in (5, 6, 7):
        structures[index] = structures[1].copy()
        structures[index].translate([1.0, 2.0, 3.0])
    structures[5].info[ENERGY] += 0.0009 * len(structures[5])  # two runs of a program differ by less than 1 meV/atom
    structures[6].info[ENERGY] += 0.2
    structures[7].arrays[FORCES][:2] += [[0.1, 0, 0], [0.1, 0, 0]]
    assert warnings(structures) == {
        "the same structure as one before, maybe moved": (1, 5),
        "the same structure as one before with another label, by up to 0.2 eV: 6, 7": (2, 6),
    }


def test_forces_that_were_not_computed_are_named_but_not_those_that_symmetry_takes_away() -> None:
    structures = [atoms.copy() for atoms in DATA["perturbed"]]
    structures[4] = labelled(CRYSTAL)
    structures[4].arrays[FORCES][:] = 0.0
    assert warnings(structures) == {}
    structures[3].arrays[FORCES][:] = 0.0
    assert warnings(structures) == {"all forces are zero, which the symmetry does not ask for": (1, 3)}
    diamond = with_label(bulk("C", cubic=True), None, Label(-70.0, np.zeros((8, 3))))
    assert warnings([diamond]) == {}


def test_of_many_structures_without_forces_the_first_stand_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspicions, "N_EXAMINED", 2)
    nowhere = [with_label(atoms, None, Label(-1.0, np.zeros((3, 3)))) for atoms in perturbed(WATER, 3, 0.1)]
    crystal = with_label(CRYSTAL, None, Label(-1.0, np.zeros((4, 3))))
    (found,) = [each for each in suspicions_of([crystal, *nowhere]) if "all forces are zero" in each.text]
    assert found.is_suspicious.tolist() == [False, True, True, True]


def test_forces_beyond_those_of_others_and_forces_with_a_sum_are_named() -> None:
    structures = [atoms.copy() for atoms in DATA["perturbed"]]
    structures[2].arrays[FORCES][0] += [500.0, 0, 0]
    structures[2].arrays[FORCES][1] -= [500.0, 0, 0]
    structures[3].arrays[FORCES][0] += [0, 30.0, 0]
    found = warnings(structures)
    assert [text.split(",")[0] for text in found] == [
        "forces far beyond those of the others",
        "forces that do not add up to zero but to 30 eV/Å or less",
    ]
    assert list(found.values()) == [(1, 2), (1, 3)]


@pytest.mark.parametrize(("unit", "is_named"), [("eV/Å³", False), ("GPa", True), ("kbar", True)])
def test_a_stress_in_another_unit_is_named(unit: str, is_named: bool) -> None:
    per_eV_A3 = {"eV/Å³": 1.0, "GPa": 160.2, "kbar": 1602.0}[unit]
    structures = [atoms.copy() for atoms in DATA["perturbed"]]
    structures[4].info[STRESS] = per_eV_A3 * np.array([-0.05, 0, 0, 0, 0, 0])  # 8 GPa
    found = warnings(structures)
    assert list(found.values()) == ([(1, 4)] if is_named else [])
    assert all(text.endswith("eV/Å³, such as one in GPa or kbar") for text in found)


def test_a_net_force_is_seen_beside_all_forces() -> None:
    structures = [atoms.copy() for atoms in DATA["perturbed"]]
    forces = structures[3].arrays[FORCES]
    forces[:2] += [[40.0, 0, 0], [-40.0, 0, 0]]
    forces[2] += [0, 1.5, 0]
    assert warnings(structures) == {}  # 1.5 eV/Å are rounding beside 80 eV/Å
    forces[2] += [0, 6.0, 0]
    assert list(warnings(structures).values()) == [(1, 3)]


def test_charges_and_multiplicities_that_models_do_not_know_are_named() -> None:
    structures = [atoms.copy() for atoms in DATA["molecules"]]
    structures[8].info.update(charge=-1, multiplicity=2)
    structures[9].info["multiplicity"] = 3
    structures[10].info["charge"] = "plus"  # warned of when it is read
    assert warnings(structures) == {
        "another charge than most (-1, 0): models do not know the charge": (1, 8),
        "another multiplicity than most of their composition: models do not know it": (1, 9),
    }


def test_findings_have_the_indices_in_their_files() -> None:
    structures = [atoms.copy() for atoms in DATA["perturbed"]]
    for index in (3, 50):
        structures[index].info[ENERGY] += 1000.0
    files = {"train": np.arange(40) + 2, "test": np.arange(20)}
    found = findings_of(suspicions_of(structures), files)
    assert [(each.n_structures, each.first) for name in files for each in found[name]] == [(1, 5), (1, 10)]


def test_no_structures_are_not_suspicious() -> None:
    assert suspicions_of([]) == []


def test_many_structures_take_seconds() -> None:
    base = DATA["molecules"] * 100
    structures = [atoms.copy() for atoms in base[:5000]]
    generator = np.random.default_rng(0)
    for atoms in structures:
        atoms.positions += generator.normal(scale=0.05, size=(3, 3))
    begin = time.process_time()
    assert suspicions_of(structures) == []
    assert time.process_time() - begin < 5
