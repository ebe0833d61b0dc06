"""Labels and weights in files that other programs wrote."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import voigt_6_to_full_3x3_stress

from surveyor.dataset import ENERGY, FORCES, STRESS, label_of
from surveyor.dataset.weights import weight_of
from surveyor.errors import InputError
from surveyor.reading import GIVEN_DATA, Reading, read_labelled
from surveyor.reading.keys import REF_KEYS, LabelKeys, keys_in
from surveyor.reading.reading import read_structures, read_unchecked
from surveyor.reading.weights import pass_over_weights

STEP = 1e-4  # strain


def crystal(seed: int = 0) -> Atoms:
    """A strained and rattled crystal, all of whose six components of the stress differ."""
    atoms = bulk("Cu", cubic=True)
    strain = np.random.default_rng(seed).uniform(-0.03, 0.03, (3, 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    atoms.rattle(0.05, seed=seed)
    return atoms


def computed(atoms: Atoms) -> Atoms:
    """A copy with EMT's calculator."""
    copy = atoms.copy()
    copy.calc = EMT()
    return copy


def labelled(atoms: Atoms, prefix: str = "REF_", **info: Any) -> Atoms:
    """A copy with energy and forces of EMT, and further fields."""
    copy, probe = atoms.copy(), computed(atoms)
    copy.info[f"{prefix}energy"], copy.arrays[f"{prefix}forces"] = probe.get_potential_energy(), probe.get_forces()
    copy.info.update(info)
    return copy


def read(path: Path, *structures: Atoms, keys: LabelKeys = REF_KEYS) -> Reading:
    ase.io.write(path, structures, format="extxyz")
    return read_labelled(path, "train", keys=keys)


def strain_derivative(atoms: Atoms) -> np.ndarray:
    """Derivative of the energy with respect to strain by central differences, eV, shape (3, 3)."""
    derivative = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            energies = []
            for sign in (1, -1):
                strain = np.eye(3)
                strain[i, j] += sign * STEP
                strained = atoms.copy()
                strained.set_cell(atoms.cell.array @ strain.T, scale_atoms=True)
                energies.append(computed(strained).get_potential_energy())
            derivative[i, j] = (energies[0] - energies[1]) / (2 * STEP)
    return 0.5 * (derivative + derivative.T)


@pytest.mark.parametrize("name", ["REF_virials", "REF_virial"])
def test_virials_are_minus_the_derivative_of_the_energy_with_respect_to_strain(name: str, tmp_path: Path) -> None:
    atoms = crystal()
    virials = -strain_derivative(atoms)
    reading = read(tmp_path / "data.extxyz", labelled(atoms, **{name: virials}))
    np.testing.assert_allclose(reading.structures[0].info[STRESS], computed(atoms).get_stress(), atol=2e-6)
    assert reading.report.used == (ENERGY, FORCES, name)


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "six components": lambda stress: stress,
    "a matrix": voigt_6_to_full_3x3_stress,
    "nine numbers": lambda stress: voigt_6_to_full_3x3_stress(stress).ravel(),
    "nested lists": lambda stress: "_JSON " + json.dumps(voigt_6_to_full_3x3_stress(stress).tolist()),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_stress_has_six_or_nine_components(form: str, tmp_path: Path) -> None:
    stress = computed(crystal()).get_stress()
    reading = read(tmp_path / "data.extxyz", labelled(crystal(), REF_stress=FORMS[form](stress)))
    np.testing.assert_allclose(reading.structures[0].info[STRESS], stress, atol=1e-8)
    assert reading.report.findings == ()


LOPSIDED = np.arange(9.0).reshape(3, 3)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"REF_stress": LOPSIDED}, "REF_stress is not symmetric"),
        ({"REF_virials": LOPSIDED}, "REF_virials is not symmetric"),
        ({"REF_stress": LOPSIDED / 1000}, "REF_stress is not symmetric"),
        ({"REF_stress": np.where(LOPSIDED, LOPSIDED, np.nan)}, "the label has numbers that are not finite"),
        ({"REF_stress": np.arange(5.0)}, "REF_stress has 5 components; expected six"),
        ({"REF_stress": "none"}, "REF_stress is 'none'; expected numbers"),
        ({"REF_stress": np.full(6, np.nan)}, "the label has numbers that are not finite"),
        ({"REF_energy": "low"}, "REF_energy is 'low'; expected numbers"),
        ({"REF_energy": [1.0, 2.0]}, "REF_energy has 2 values; expected one"),
    ],
)
def test_labels_that_cannot_be_read_are_refused_by_name(fields: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    good = labelled(crystal())
    with pytest.raises(InputError, match=rf"train: (structure 1 of )?.*{complaint}"):
        read(tmp_path / "data.extxyz", good, labelled(crystal(), **fields))


def test_a_lopsided_stress_is_refused_only_where_it_is_used(tmp_path: Path) -> None:
    atoms = labelled(crystal())
    atoms.info["stress"] = LOPSIDED
    path = tmp_path / "data.extxyz"
    reading = read(path, atoms)
    assert "stress" in reading.report.unused
    assert STRESS not in reading.structures[0].info
    for used in (read_structures, read_unchecked):  # starts of walkers, structures to be labelled
        (found,) = used(path).structures
        assert not any("stress" in name for name in found.info)
    keys = LabelKeys(energy="REF_energy", forces="REF_forces", prefix="")
    with pytest.raises(InputError, match=r"structure 0 of .*: stress is not symmetric"):
        read_labelled(path, "train", keys=keys)


@pytest.mark.parametrize("name", ["REF_stress", "REF_virials"])
def test_the_rounding_of_a_relaxed_cell_is_no_lopsided_stress(name: str, tmp_path: Path) -> None:
    rounding = np.zeros((3, 3))
    rounding[0, 1] = 1e-6
    (atoms,) = read(tmp_path / "data.extxyz", labelled(crystal(), **{name: rounding})).structures
    np.testing.assert_allclose(atoms.info[STRESS], np.zeros(6), atol=1e-6)


def test_stress_and_virials_must_agree(tmp_path: Path) -> None:
    probe = computed(crystal())
    both = {"REF_stress": probe.get_stress(), "REF_virials": -probe.get_volume() * probe.get_stress(voigt=False)}
    (atoms,) = read(tmp_path / "data.extxyz", labelled(crystal(), **both)).structures
    np.testing.assert_allclose(atoms.info[STRESS], probe.get_stress(), atol=1e-8)
    with pytest.raises(InputError, match=r"contradict each other.*other sign"):
        read(tmp_path / "data.extxyz", labelled(crystal(), **{**both, "REF_virials": -both["REF_virials"]}))


def test_the_rounding_of_a_relaxed_cell_contradicts_no_virials(tmp_path: Path) -> None:
    both = {"REF_stress": np.full(6, 5e-6), "REF_virials": np.zeros((3, 3))}
    (atoms,) = read(tmp_path / "data.extxyz", labelled(crystal(), **both)).structures
    np.testing.assert_allclose(atoms.info[STRESS], np.full(6, 5e-6))


def test_large_stresses_are_rounded_in_proportion(tmp_path: Path) -> None:
    stress, volume = np.diag([3.0, 2.0, 1.0]), crystal().get_volume()
    stress[0, 1] = 1e-3
    both = {"REF_stress": stress, "REF_virials": -1.0005 * volume * stress}
    (atoms,) = read(tmp_path / "data.extxyz", labelled(crystal(), **both)).structures
    np.testing.assert_allclose(atoms.info[STRESS], [3, 2, 1, 0, 0, 5e-4])


def test_a_stress_of_another_label_does_not_stay(tmp_path: Path) -> None:
    other = {"dft_energy": 1.0, "dft_forces": np.zeros((len(crystal()), 3)), "REF_stress": np.eye(3)}
    (atoms,) = read(tmp_path / "data.extxyz", labelled(crystal(), **other), keys=LabelKeys(prefix="dft_")).structures
    assert atoms.info[ENERGY] == 1.0
    assert STRESS not in atoms.info


@pytest.mark.parametrize(("weightless", "taken"), [("virials", 1.0), ("stress", -2.0)])
def test_of_stress_and_virials_that_of_weight_0_is_not_used(weightless: str, taken: float, tmp_path: Path) -> None:
    volume = crystal().get_volume()
    both = {"REF_stress": np.eye(3), "REF_virials": 2 * volume * np.eye(3), f"config_{weightless}_weight": 0.0}
    (atoms,) = read(tmp_path / "data.extxyz", labelled(crystal(), **both)).structures
    np.testing.assert_allclose(atoms.info[STRESS], taken * np.array([1, 1, 1, 0, 0, 0]))


@pytest.mark.parametrize("field", ["REF_stress", "REF_virials"])
def test_a_stress_is_not_used_where_a_structure_is_not_periodic_in_three_directions(field: str, tmp_path: Path) -> None:
    slab = fcc111("Cu", (1, 1, 3), vacuum=6.0)
    slab.info.clear()
    assert slab.pbc.tolist() == [True, True, False]
    structures = [labelled(crystal(), REF_stress=computed(crystal()).get_stress()), labelled(slab, **{field: LOPSIDED})]
    reading = read(tmp_path / "data.extxyz", *structures)
    assert [label_of(atoms).stress is None for atoms in reading.structures] == [False, True]
    (finding,) = reading.report.findings
    assert finding.line.startswith(f"{field} not used: a stress has no meaning where a structure is not periodic")
    assert finding.line.endswith("(1 structure, the first is 1)")
    assert not any("weight" in name for name in reading.structures[1].info)


def test_structures_without_a_stress_have_no_finding_and_no_weight(tmp_path: Path) -> None:
    reading = read(tmp_path / "data.extxyz", labelled(molecule("CO")), labelled(crystal()))
    assert reading.report.findings == ()
    assert not any("weight" in name for atoms in reading.structures for name in atoms.info)


def test_a_stress_under_another_name_is_told_with_the_parameter_to_write(tmp_path: Path) -> None:
    fields = {"virial": np.eye(3), "stress_unit": 160.2, "virial_weight": np.ones(6)}
    (finding,) = read(tmp_path / "data.extxyz", labelled(crystal(), **fields)).report.findings
    assert finding.text == "virial is not used; if it belongs to the label, write label_keys: {virials: virial}"
    (finding,) = read(tmp_path / "data.extxyz", labelled(crystal(), dft_stress=np.ones(6))).report.findings
    assert finding.text == "dft_stress is not used; if it belongs to the label, write label_keys: {stress: dft_stress}"


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (LabelKeys(prefix="dft_"), ("dft_energy", "dft_forces", "dft_stress")),
        (LabelKeys(prefix=""), ("energy", "forces", "stress")),
        (LabelKeys(energy="energy", forces="forces", stress="stress"), ("energy", "forces", "stress")),
        (LabelKeys(prefix="dft_", forces="dft_force"), ("dft_energy", "dft_force", "dft_stress")),
        (LabelKeys(energy="TotEnergy", forces="force", stress="sigma"), ("TotEnergy", "force", "sigma")),
    ],
)
def test_labels_are_read_under_the_names_that_are_given(
    keys: LabelKeys, names: tuple[str, str, str], tmp_path: Path
) -> None:
    atoms, probe = crystal(), computed(crystal())
    atoms.info |= {names[0]: probe.get_potential_energy(), names[2]: probe.get_stress(voigt=False)}
    atoms.arrays[names[1]] = probe.get_forces()
    atoms.info |= {ENERGY: 0.0, STRESS: np.zeros(6)}  # of another level of theory
    reading = read(tmp_path / "data.extxyz", atoms, keys=keys)
    label = label_of(reading.structures[0])
    assert label.energy == pytest.approx(probe.get_potential_energy())
    np.testing.assert_allclose(label.forces, probe.get_forces(), atol=1e-7)
    np.testing.assert_allclose(label.stress, probe.get_stress(), atol=1e-8)
    assert reading.report.used == names
    (atoms,) = reading.structures
    assert not {*names} & {*atoms.info, *atoms.arrays}


NUMBERS = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("fields", "keys"),
    [
        ({"volume": 3.0, "energy_weight": 2.0, "dft_energy": 1.0, "dft_forces": NUMBERS}, {"prefix": "dft_"}),
        ({"other_energy": 1.0, "dft_energy": 1.0, "dft_forces": NUMBERS}, {"prefix": "dft_"}),
        (
            {"site_energy": np.zeros(2), "TotEnergy": 1.0, "max_force": 0.1, "spins": NUMBERS, "force": NUMBERS},
            {"energy": "TotEnergy", "forces": "force"},
        ),
        (
            {"TotEnergy": 1.0, "EnergyT0": 1.0, "force": NUMBERS, "force_0": NUMBERS},
            {"energy": "TotEnergy", "forces": "force"},
        ),
        ({"dft_energy": 1.0, "forces_weight": NUMBERS}, None),
        ({"dft_forces": NUMBERS, "energy_weight": 1.0}, None),
    ],
)
def test_labels_under_other_names_are_told_from_what_looks_like_them(
    fields: dict[str, Any], keys: dict[str, str] | None
) -> None:
    assert keys_in({**fields, "positions": NUMBERS}) == keys


def test_a_label_that_is_there_but_not_asked_for_is_told_with_the_parameter_to_write(tmp_path: Path) -> None:
    atoms, probe = crystal(), computed(crystal())
    atoms.calc = SinglePointCalculator(atoms, energy=probe.get_potential_energy(), forces=probe.get_forces())
    with pytest.raises(
        InputError, match=r"expected REF_energy .*has energy and forces: .*write label_keys: \{prefix: ''\}"
    ):
        read(tmp_path / "ase.extxyz", atoms)
    ase.io.write(tmp_path / "ase.traj", atoms)
    with pytest.raises(InputError, match=r"has energy and forces: .*write bootstrap\.label_keys: \{prefix: ''\}"):
        read_labelled(tmp_path / "ase.traj", "bootstrap.data", keys_field="bootstrap.label_keys")
    with pytest.raises(InputError, match=r"dft_energy and dft_forces: .*write label_keys: \{prefix: dft_\}"):
        read(tmp_path / "dft.extxyz", labelled(crystal(), prefix="dft_", config_energy_weight=1.0))
    gap = labelled(crystal(), prefix="dft_")
    gap.arrays["dft_force"] = gap.arrays.pop("dft_forces")
    with pytest.raises(InputError, match=r"write label_keys: \{energy: dft_energy, forces: dft_force\}"):
        read(tmp_path / "gap.extxyz", gap)
    with pytest.raises(InputError, match=r"found no label; expected REF_energy \(eV\) and REF_forces \(eV/Å\)$"):
        read(tmp_path / "bare.extxyz", crystal())


@pytest.mark.parametrize(("keys", "taken", "other"), [({"prefix": ""}, -1.5, "energy"), ({}, -1.0, "free_energy")])
def test_the_energy_that_is_taken_is_named(keys: dict[str, str], taken: float, other: str, tmp_path: Path) -> None:
    atoms = crystal()
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, free_energy=-1.5, forces=np.zeros((4, 3)))
    names = LabelKeys(**keys) if keys else LabelKeys(energy="energy", forces="forces")
    reading = read(tmp_path / "metal.extxyz", atoms, keys=names)
    assert label_of(reading.structures[0]).energy == taken
    (finding,) = reading.report.findings
    assert f"is used as the energy, not {other}, which differs" in finding.text


def test_two_names_of_one_energy_are_no_finding(tmp_path: Path) -> None:
    atoms, probe = crystal(), computed(crystal())
    energy = probe.get_potential_energy()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, free_energy=energy, forces=probe.get_forces())
    assert read(tmp_path / "data.extxyz", atoms, keys=LabelKeys(prefix="")).report.findings == ()


@pytest.mark.parametrize("name", [ENERGY, FORCES])
def test_half_a_label_is_refused_with_what_there_is(name: str, tmp_path: Path) -> None:
    half = labelled(crystal())
    (half.info if name == FORCES else half.arrays).pop(FORCES if name == ENERGY else ENERGY)
    with pytest.raises(InputError, match=rf"expected REF_energy .* and REF_forces .*, found {name} alone"):
        read(tmp_path / "data.extxyz", half)


def test_weights_come_with_the_label_and_those_of_1_are_dropped(tmp_path: Path) -> None:
    weights = {"config_weight": 0.5, "config_energy_weight": 4.0, "config_forces_weight": 1.0}
    stress = {"REF_stress": computed(crystal()).get_stress(), "config_stress_weight": 2, "config_virials_weight": 3}
    reading = read(tmp_path / "data.extxyz", labelled(crystal(), **weights, **stress))
    assert "config_virials_weight" in reading.report.unused  # there are none
    assert {*weights, "config_stress_weight"} <= {*reading.report.used}
    (atoms,) = reading.structures
    found = {name: value for name, value in atoms.info.items() if "weight" in name}
    assert found == {"config_weight": 0.5, "config_energy_weight": 4.0, "config_stress_weight": 2.0}
    assert [weight_of(atoms, name) for name in ("energy", "forces", "stress")] == [2.0, 0.5, 1.0]


def test_the_weight_of_virials_is_that_of_the_stress_that_they_become(tmp_path: Path) -> None:
    given = {"REF_virials": np.eye(3), "config_stress_weight": 2.0, "config_virials_weight": 3.0}
    reading = read(tmp_path / "data.extxyz", labelled(crystal(), **given))
    assert weight_of(reading.structures[0], "stress") == 3.0
    assert "config_virials_weight" in reading.report.used


def test_what_has_weight_0_is_left_out_and_told(tmp_path: Path) -> None:
    nowhere = {"config_energy_weight": 0.0, "config_forces_weight": 0.0}
    structures = [
        labelled(crystal()),
        labelled(crystal(1), config_weight=0.0, REF_energy=np.nan),
        labelled(crystal(2), **nowhere),
        labelled(crystal(3), **nowhere, REF_stress=np.zeros(6)),
        labelled(crystal(4), config_stress_weight=0.0, REF_stress=np.zeros(6)),
    ]
    reading = read(tmp_path / "data.extxyz", *structures)
    assert reading.indices == (0, 3, 4)
    assert [label_of(atoms).stress is None for atoms in reading.structures] == [True, False, True]
    (finding,) = reading.report.findings
    assert finding.line == "config_weight, or the weights of all labels, are 0: left out (2 structures, the first is 1)"
    with pytest.raises(InputError, match=r"the labels of all structures of .* have weight 0"):
        read(tmp_path / "none.extxyz", structures[1])


@pytest.mark.parametrize(
    ("weight", "complaint"),
    [(-1.0, "is -1; expected a finite number"), (np.inf, "is inf; expected"), ("high", "is 'high'; expected numbers")],
)
def test_weights_that_are_none_are_refused(weight: float | str, complaint: str, tmp_path: Path) -> None:
    water = molecule("H2O")
    water.info |= {ENERGY: -1.0, "config_forces_weight": weight}
    water.arrays[FORCES] = np.zeros((3, 3))
    with pytest.raises(InputError, match=f"structure 0 of .*config_forces_weight {complaint}"):
        read(tmp_path / "data.extxyz", water)


@pytest.mark.parametrize("name", ["weight", "Config_Weight", "energy_weight", "REF_forces_weight", "sample_weights"])
def test_weights_under_other_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=f"structure 0 of .*: {name} is a weight .* write config_weight, .*, or remove"
    ):
        read(tmp_path / "data.extxyz", labelled(crystal(), **{name: 0.0}))
    assert not read(tmp_path / "ones.extxyz", labelled(crystal(), **{name: 1.0})).report.findings


def test_what_is_no_weight_is_not_taken_for_one_and_sigmas_are_told_of(tmp_path: Path) -> None:
    info = {"molecular_weight": 63.5, "atomic_weight": 63.5, "sigma": 2.0, "energy_sigma": 0.001, "virial_sigma": 0.1}
    findings = read(tmp_path / "data.extxyz", labelled(crystal(), **info)).report.findings
    assert [finding.text for finding in findings] == [
        f"{name} is not used; a weight of the structure is written as config_weight"
        for name in ("energy_sigma", "virial_sigma")
    ]


def test_weights_under_any_name_are_passed_over_where_a_campaign_began_without(tmp_path: Path) -> None:
    results = {"energy": -1.0, "free_energy": -1.0, "forces": np.zeros((4, 3))}
    atoms = crystal()
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info |= {"weight": 0.0, "config_weight": 0.0}
    atoms.set_array("force_weights", np.zeros(len(atoms)))
    ase.io.write(tmp_path / "data.extxyz", atoms)
    steps = (*GIVEN_DATA, pass_over_weights)
    reading = read_labelled(tmp_path / "data.extxyz", "data", steps, LabelKeys(prefix=""))
    assert label_of(reading.structures[0]).energy == -1.0
    (finding,) = reading.report.findings
    assert finding.text.startswith("weights are passed over")
