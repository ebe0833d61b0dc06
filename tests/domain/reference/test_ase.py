from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, SCFError, all_changes
from ase.calculators.emt import EMT
from pydantic import ValidationError

from surveyor.errors import InputError
from surveyor.labels import Label, LabelFailure
from surveyor.reference.ase import ASEParameters, ASEReference, EMTParameters, EMTReference
from surveyor.reference.ase_calculation import compute_with
from surveyor.reference.ase_calculators import arguments_for
from surveyor.reference.rehearsal import Rehearsal
from surveyor.testing.references import check_reference, launches, structure_id


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


def named(calculator: str, arguments: dict[str, Any] | None = None) -> ASEReference:
    return ASEReference(ASEParameters(calculator=calculator, arguments=arguments or {}))


def test_emt_keeps_the_promises_of_a_reference(tmp_path: Path) -> None:
    cluster = Atoms("CuAu", [[0, 0, 0], [0.3, 0.2, 2.4]])
    check_reference(EMTReference(), [rattled_copper(), cluster], tmp_path, step=1e-3, forces_tolerance=2e-5)


def test_calculator_by_name_keeps_the_promises_of_a_reference(tmp_path: Path) -> None:
    lennard_jones = named("lj", {"sigma": 2.3, "rc": 6.0, "smooth": True})
    check_reference(lennard_jones, [rattled_copper()], tmp_path, forces_tolerance=1e-3, stress_tolerance=1e-3)


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
    water = molecule("OH")
    unconverged = compute_with(Unreliable("scf"), water, tmp_path, program="test", version="1")
    not_finite = compute_with(Unreliable("nan"), water, tmp_path, program="test", version="1")
    assert isinstance(unconverged, LabelFailure)
    assert isinstance(not_finite, LabelFailure)
    assert (unconverged.reason, not_finite.reason) == ("scf_not_converged", "unparsable")


def test_a_number_is_no_label_where_the_calculator_knows_that_it_has_not_converged(tmp_path: Path) -> None:
    calculator = EMT()
    calculator.converged = False  # as that of VASP has it
    outcome = compute_with(calculator, rattled_copper(), tmp_path, program="test", version="1")
    assert isinstance(outcome, LabelFailure)
    assert outcome.reason == "scf_not_converged"


def test_bugs_of_a_calculator_stay_exceptions(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="a bug"):
        compute_with(Unreliable("bug"), molecule("OH"), tmp_path, program="test", version="1")


@pytest.mark.parametrize(
    ("calculator", "arguments", "message"),
    [
        ("expresso", {}, "did you mean espresso"),
        ("os.system", {}, "ASE knows no calculator 'os.system' by name"),
        ("ase.calculators.lj.LennardJones", {}, "by name"),
        ("surveyor.testing", {}, "by name"),
        ("../lj", {}, "by name"),
        ("plumed", {}, "its arguments are Python objects"),
        ("lammpslib", {"lmpcmds": ["shell true"]}, "a language that starts programs"),
        ("CP2K", {}, "use reference: {cp2k: …}"),
        ("vasp", {"command": "true"}, "command of vasp is no level of theory"),
        ("aims", {"aims_command": "true"}, "aims_command of aims"),
        ("espresso", {"profile": {"command": "true"}}, "profile of espresso"),
        ("lj", {"restart": "file"}, "restart of lj"),
        ("espresso", {"input_data": {"control": {"pseudo_dir": "/"}}}, "pseudo_dir of espresso is set by surveyor"),
        ("espresso", {"input_data": {"scf_must_converge": False}}, "scf_must_converge of espresso"),
        ("espresso", {"input_data": {"ecutwfcc": 25}}, "pw.x has no keyword ecutwfcc"),
        ("espresso", {"input_data": "&system"}, "expected input_data"),
        ("espresso", {"kptz": [2, 2, 2]}, "espresso takes no kptz"),
        ("orca", {"charge": 1}, "charge of orca is set by surveyor"),
        ("lj", {"sigma": np.ones(2)}, "not a valid JSON"),
        ("lj", {"sigma": object()}, "not a valid JSON"),
    ],
)
def test_parameters_that_are_no_level_of_theory_are_refused(
    calculator: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        ASEParameters(calculator=calculator, arguments=arguments)


def test_registering_a_calculator_with_ase_makes_it_no_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    import ase.calculators.calculator
    import ase.calculators.names

    monkeypatch.setitem(ase.calculators.calculator.external_calculators, "foreign", EMT)
    monkeypatch.setattr(ase.calculators.names, "names", [*ase.calculators.names.names, "foreign"])
    with pytest.raises(ValidationError, match="by name"):
        ASEParameters(calculator="foreign")


def test_name_may_be_written_as_people_do() -> None:
    assert ASEParameters(calculator="EMT") == ASEParameters(calculator="emt")


@pytest.mark.parametrize(
    ("calculator", "arguments", "message"),
    [
        ("tip3p", {"colour": "red"}, r"tip3p does not take the arguments .*colour"),
        ("hotbit", {}, "the calculator hotbit needs a package that is not installed here"),
        ("eam", {"potential": "/no/such/file.alloy"}, "no/such/file"),
    ],
)
def test_calculator_that_cannot_be_made_is_an_input_error(
    calculator: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        named(calculator, arguments).resolve()


def test_arguments_and_stated_version_belong_to_the_level_of_theory() -> None:
    near = named("lj", {"sigma": 2.3})
    far = named("lj", {"sigma": 2.4})
    stated = ASEReference(ASEParameters(calculator="lj", arguments={"sigma": 2.3}, version="mine"))
    assert len({reference.resolve().digest for reference in (near, far, stated)}) == 3


def test_classical_potentials_are_told_no_charge_and_have_no_time_limit() -> None:
    reference = named("lj")
    charged = bulk("Cu")
    charged.info["charge"] = 1
    assert reference.time_limit_s is None
    with pytest.raises(InputError, match="charge"):
        reference.resolve().with_electrons(charged)


@pytest.mark.parametrize(
    ("calculator", "pbc", "multiplicity", "message"),
    [
        ("orca", [True, True, True], 1, "orca takes structures periodic in 0 directions"),
        ("vasp", [False, False, False], 1, "vasp takes structures periodic in 3 directions"),
        ("espresso", [True, True, False], 1, "espresso takes structures periodic in 0 or 3 directions"),
        ("dftb", [True, False, False], 1, "dftb takes structures periodic in 0 or 3 directions"),
        ("vasp", [True, True, True], 3, "cannot tell vasp the multiplicity 3"),
        ("dftb", [False, False, False], 3, "cannot tell dftb the multiplicity 3"),
    ],
)
def test_what_a_calculator_would_pass_over_in_silence_is_refused(
    calculator: str, pbc: list[bool], multiplicity: int, message: str, tmp_path: Path
) -> None:
    atoms = molecule("O2", cell=[6, 6, 6], pbc=pbc)
    atoms.info.update(charge=0, multiplicity=multiplicity)
    outcome = named(calculator).compute(atoms, tmp_path)
    assert isinstance(outcome, LabelFailure)
    assert outcome.reason == "invalid_input"
    assert message in outcome.message
    assert list(tmp_path.iterdir()) == []


def test_programs_are_told_charge_and_multiplicity(tmp_path: Path) -> None:
    from ase.calculators.calculator import get_calculator_class
    from ase.calculators.orca import OrcaProfile

    radical = molecule("OH")
    radical.info.update(charge=-1, multiplicity=3)
    orca = get_calculator_class("orca")(
        **arguments_for("orca", {"orcasimpleinput": "PBE engrad"}, radical),
        profile=OrcaProfile("orca"),
        directory=tmp_path,
    )
    orca.write_inputfiles(radical, ["energy", "forces"])
    assert "*xyz -1 3" in (tmp_path / "orca.inp").read_text()
    gaussian = get_calculator_class("gaussian")(**arguments_for("gaussian", {"xc": "PBE"}, radical))
    gaussian.directory = tmp_path
    gaussian.write_input(radical)
    assert "\n-1 3\n" in (tmp_path / "Gaussian.com").read_text()


@pytest.mark.parametrize(
    ("given", "pbc", "multiplicity", "expected"),
    [
        ({}, False, 1, {"assume_isolated": "mt"}),
        ({}, False, 3, {"assume_isolated": "mt", "nspin": 2, "tot_magnetization": 2}),
        ({"nspin": 2}, False, 1, {"assume_isolated": "mt", "nspin": 2, "tot_magnetization": 0}),
        ({"nspin": 2}, True, 1, {"nspin": 2}),  # left to the input, as for any metal
        ({}, True, 3, {"nspin": 2, "tot_magnetization": 2}),
    ],
)
def test_espresso_is_told_the_multiplicity_that_a_structure_has(
    given: dict[str, Any], pbc: bool, multiplicity: int, expected: dict[str, Any]
) -> None:
    atoms = molecule("O2", cell=[6, 6, 6], pbc=pbc)
    atoms.info.update(charge=0, multiplicity=multiplicity)
    arguments = arguments_for("espresso", {"input_data": {"system": given}, "kpts": [2, 2, 2]}, atoms)
    assert arguments["input_data"]["system"] == expected
    assert arguments["input_data"]["control"]["tstress"] == pbc
    assert ("kpts" in arguments) == pbc


def test_espresso_is_told_the_charge_that_a_structure_has() -> None:
    atoms = molecule("O2", cell=[6, 6, 6], pbc=True)
    atoms.info.update(charge=1, multiplicity=2)
    assert arguments_for("espresso", {}, atoms)["input_data"]["system"] == {"tot_charge": 1}


def test_rehearsal_tells_each_launch_and_changes_no_label(tmp_path: Path) -> None:
    log, atoms = tmp_path / "log", rattled_copper()
    rehearsed = EMTReference(EMTParameters(rehearsal=Rehearsal(log=str(log), delay_s=0.01)))
    label, plain = rehearsed.compute(atoms, tmp_path), EMTReference().compute(atoms, tmp_path)
    assert isinstance(label, Label)
    assert isinstance(plain, Label)
    assert label.energy == plain.energy
    assert rehearsed.resolve().digest == EMTReference().resolve().digest
    assert launches(log) == launches(log, "end") == [structure_id(atoms)]


@pytest.mark.parametrize(("symbol", "failing_fraction"), [("Fe", 0.0), ("Cu", 0.999999)])
def test_rehearsal_tells_the_end_of_a_label_that_failed(tmp_path: Path, symbol: str, failing_fraction: float) -> None:
    rehearsal = Rehearsal(log=str(tmp_path / "log"), failing_fraction=failing_fraction)
    reference = EMTReference(EMTParameters(rehearsal=rehearsal))
    assert isinstance(reference.compute(Atoms(symbol), tmp_path), LabelFailure)
    assert launches(tmp_path / "log") == launches(tmp_path / "log", "end") == [structure_id(Atoms(symbol))]


def test_rehearsed_failures_are_a_share_of_the_structures_and_always_the_same_ones(tmp_path: Path) -> None:
    reference = EMTReference(EMTParameters(rehearsal=Rehearsal(failing_fraction=0.3)))
    structures = [Atoms("Cu2", [[0, 0, 0], [0, 0, 2 + 0.01 * number]]) for number in range(60)]
    outcomes = [[reference.compute(atoms, tmp_path) for atoms in structures] for _ in range(2)]
    failed = [[isinstance(outcome, LabelFailure) for outcome in each] for each in outcomes]
    assert failed[0] == failed[1]
    assert 8 <= sum(failed[0]) <= 28
    assert reference.resolve().digest != EMTReference().resolve().digest  # failures are final
