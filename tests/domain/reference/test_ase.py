from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, SCFError, all_changes
from ase.calculators.emt import EMT

from surveyor.errors import InputError
from surveyor.labels import Label, LabelFailure
from surveyor.reference.ase import ASEReference, EMTReference
from surveyor.testing.references import CountingEMT, check_reference, launches, structure_id


class Unreliable(Calculator):
    """Fails, or gives numbers that are not finite, as it is told."""

    implemented_properties = ("energy", "forces")

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def calculate(self, atoms: object = None, properties: object = None, system_changes: object = all_changes) -> None:
        if self.how == "scf":
            raise SCFError("no convergence")
        if self.how == "bug":
            raise KeyError("a bug")
        self.results = {"energy": float("nan"), "forces": np.zeros((2, 3))}


def rattled_copper() -> Atoms:
    atoms = bulk("Cu") * (2, 1, 1)
    atoms.rattle(0.05, seed=1)
    return atoms


def test_emt_keeps_the_promises_of_a_reference(tmp_path: Path) -> None:
    cluster = Atoms("CuAu", [[0, 0, 0], [0.3, 0.2, 2.4]])
    check_reference(EMTReference(), [rattled_copper(), cluster], tmp_path, step=1e-3, forces_tolerance=2e-5)


def test_any_calculator_keeps_the_promises_of_a_reference(tmp_path: Path) -> None:
    reference = ASEReference("ase.calculators.lj.LennardJones", {"sigma": 2.3, "rc": 6.0, "smooth": True})
    check_reference(reference, [rattled_copper()], tmp_path, forces_tolerance=1e-3, stress_tolerance=1e-3)


def test_label_is_what_the_bare_calculator_says(tmp_path: Path) -> None:
    atoms = rattled_copper()
    label = EMTReference().compute(atoms, tmp_path)
    atoms.calc = EMT()
    assert isinstance(label, Label)
    assert label.energy == atoms.get_potential_energy(force_consistent=True)
    np.testing.assert_array_equal(label.forces, atoms.get_forces())
    np.testing.assert_array_equal(label.stress, atoms.get_stress())


def test_constraints_do_not_change_a_label(tmp_path: Path) -> None:
    from ase.constraints import FixAtoms

    atoms = rattled_copper()
    free = EMTReference().compute(atoms, tmp_path)
    atoms.set_constraint(FixAtoms([0]))
    fixed = EMTReference().compute(atoms, tmp_path)
    assert isinstance(free, Label)
    assert isinstance(fixed, Label)
    np.testing.assert_array_equal(free.forces, fixed.forces)


def test_emt_refuses_charges_and_names_its_elements() -> None:
    theory = EMTReference().resolve()
    charged = bulk("Cu")
    charged.info["charge"] = 1
    assert theory.elements is not None
    assert "Cu" in theory.elements
    assert "Fe" not in theory.elements
    with pytest.raises(InputError, match="charge"):
        theory.with_electrons(charged)


def test_unknown_element_is_a_failure(tmp_path: Path) -> None:
    outcome = EMTReference().compute(Atoms("Fe"), tmp_path)
    assert isinstance(outcome, LabelFailure)
    assert outcome.reason == "invalid_input"


def test_calculator_failures_are_values(tmp_path: Path) -> None:
    from surveyor.reference.ase import compute_with

    water = molecule("OH")
    unconverged = compute_with(Unreliable("scf"), water, tmp_path, program="test", version="1")
    not_finite = compute_with(Unreliable("nan"), water, tmp_path, program="test", version="1")
    assert isinstance(unconverged, LabelFailure)
    assert isinstance(not_finite, LabelFailure)
    assert (unconverged.reason, not_finite.reason) == ("scf_not_converged", "unparsable")


def test_bugs_of_a_calculator_stay_exceptions(tmp_path: Path) -> None:
    from surveyor.reference.ase import compute_with

    with pytest.raises(KeyError, match="a bug"):
        compute_with(Unreliable("bug"), molecule("OH"), tmp_path, program="test", version="1")


@pytest.mark.parametrize(
    ("calculator", "arguments", "message"),
    [
        ("ase.calculators.lj.Lennard", {}, "no calculator 'ase.calculators.lj.Lennard'"),
        ("no.such.Module", {}, "no calculator"),
        ("ase.Atoms", {}, "no ASE calculator"),
        ("surveyor.testing.references.CountingEMT", {"colour": "red"}, "does not take the arguments"),
        ("ase.calculators.lj.LennardJones", {"sigma": np.ones(2)}, "plain values"),
    ],
)
def test_calculator_that_cannot_be_made_is_an_input_error(
    calculator: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ASEReference(calculator, arguments).resolve()


def test_arguments_belong_to_the_level_of_theory() -> None:
    near = ASEReference("ase.calculators.lj.LennardJones", {"sigma": 2.3})
    far = ASEReference("ase.calculators.lj.LennardJones", {"sigma": 2.4})
    assert near.resolve().digest != far.resolve().digest


def test_counting_emt_tells_each_launch(tmp_path: Path) -> None:
    log, atoms = tmp_path / "log", rattled_copper()
    reference = ASEReference("surveyor.testing.references.CountingEMT", {"log": str(log)})
    label = reference.compute(atoms, tmp_path)
    plain = EMTReference().compute(atoms, tmp_path)
    assert isinstance(label, Label)
    assert isinstance(plain, Label)
    assert label.energy == plain.energy
    assert launches(log) == launches(log, "end") == [structure_id(atoms)]


def test_counting_emt_shows_what_was_begun_and_not_ended(tmp_path: Path) -> None:
    calculator = CountingEMT(str(tmp_path / "log"))
    with pytest.raises(NotImplementedError):
        calculator.calculate(Atoms("Fe"))
    assert len(launches(tmp_path / "log")) == 1
    assert launches(tmp_path / "log", "end") == []
