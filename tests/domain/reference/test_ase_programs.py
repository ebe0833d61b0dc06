"""A real program behind a calculator of ASE: pw.x of Quantum ESPRESSO, with pseudopotentials that Debian has."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from ase import Atoms
from ase.units import create_units
from processes import PATIENCE_S

from surveyor.errors import InputError
from surveyor.labels import Label, LabelFailure, LabelStore
from surveyor.reference.ase import ASECode, ASEParameters, ASEReference
from surveyor.reference.ase_espresso import fault_in_espresso
from surveyor.reference.atomic_energies import atomic_energy
from surveyor.reference.labelling import Labeller, attempt_label
from surveyor.testing.references import Energies

PSEUDOPOTENTIALS = Path("/usr/share/espresso/pseudo")  # where Debian's package quantum-espresso-data has them
H_LDA = "H.pz-vbc.UPF"
UNITS = create_units("2006")  # those with which ASE reads it

pytestmark = pytest.mark.espresso


@pytest.fixture(autouse=True)
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Open MPI, with which Debian's pw.x is built, run in a container; and keep to one core."""
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")


class Espresso:
    """References in a folder with a configuration of ASE of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        *,
        command: str = "pw.x",
        timeout_minutes: float = 2.0,
        pseudopotentials: Path = PSEUDOPOTENTIALS,
        **input_data: Any,
    ) -> ASEReference:
        configuration = self.folder / "ase.ini"
        configuration.write_text(f"[espresso]\ncommand = {command}\npseudo_dir = {pseudopotentials}\n")
        arguments = {
            "input_data": input_data if "system" in input_data else {"ecutwfc": 25, "conv_thr": 1e-10, **input_data},
            "pseudopotentials": {"H": H_LDA},
        }
        environment = {"ASE_CONFIG_PATH": str(configuration)}
        return ASEReference(
            ASEParameters(calculator="espresso", arguments=arguments),
            ASECode(environment=environment, timeout_minutes=timeout_minutes),
        )

    def compute(self, reference: ASEReference, atoms: Atoms) -> Label | LabelFailure:
        directory = self.folder / "calculation"
        directory.mkdir()
        return reference.compute(stated(atoms), directory)


@pytest.fixture
def espresso(tmp_path: Path) -> Espresso:
    return Espresso(tmp_path)


def hydrogen(distance: float = 0.78) -> Atoms:
    return Atoms(
        "H2", [[0.1, 0.2, 0.3], [0.4, 0.1, 0.3 + distance]], cell=[[3.2, 0, 0], [0.2, 3.3, 0], [0, 0.1, 3.4]], pbc=True
    )


def stated(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.info = {"charge": 0, "multiplicity": 1}
    return copy


def reason(outcome: Label | LabelFailure) -> str:
    assert isinstance(outcome, LabelFailure), outcome
    return outcome.reason


def test_label_is_what_the_bare_program_says(espresso: Espresso, tmp_path: Path) -> None:
    label = espresso.compute(espresso(), hydrogen())
    assert isinstance(label, Label)
    with (tmp_path / "bare.out").open("wb") as output:
        bare = tmp_path / "calculation" / "espresso.pwi"
        subprocess.run(["pw.x", "-in", bare], cwd=tmp_path, stdout=output, check=True, timeout=PATIENCE_S)
    said = (tmp_path / "bare.out").read_text()
    energy = float(re.findall(r"^!\s+total energy\s+=\s+(\S+) Ry", said, re.MULTILINE)[-1])
    forces = re.findall(r"atom +\d+ type +\d+ +force = +(\S+) +(\S+) +(\S+)", said)[:2]
    assert label.energy == pytest.approx(energy * UNITS["Ry"], rel=1e-9)
    np.testing.assert_allclose(label.forces, np.array(forces, dtype=float) * UNITS["Ry"] / UNITS["Bohr"], atol=1e-8)


def test_forces_and_stress_are_slopes_of_the_energy(espresso: Espresso, tmp_path: Path) -> None:
    step, atoms = 2e-3, stated(hydrogen())
    energies = Energies(espresso(ecutwfc=60), tmp_path)
    label = energies.label(atoms)
    low, high = atoms.copy(), atoms.copy()
    low.positions[1, 2] -= step
    high.positions[1, 2] += step
    assert label.forces[1, 2] == pytest.approx(-energies.slope(low, high, 2 * step), abs=2e-3)

    low, high = atoms.copy(), atoms.copy()
    for stretched, strain in ((low, -step), (high, step)):
        stretched.set_cell(atoms.cell.array @ np.diag([1, 1, 1 + strain]), scale_atoms=True)
    assert label.stress is not None
    assert label.stress[2] == pytest.approx(energies.slope(low, high, 2 * step) / atoms.get_volume(), abs=1e-3)


def test_level_of_theory_has_version_and_pseudopotentials_but_not_their_place(
    espresso: Espresso, tmp_path: Path
) -> None:
    theory = espresso().resolve()
    assert str(theory.content["calculator_version"]).startswith("6.")
    assert theory.elements == ("H",)
    elsewhere = tmp_path / "pseudo"
    elsewhere.mkdir()
    content = (PSEUDOPOTENTIALS / H_LDA).read_bytes()
    (elsewhere / H_LDA).write_bytes(content)
    assert espresso(pseudopotentials=elsewhere).resolve().digest == theory.digest
    (elsewhere / H_LDA).write_bytes(content + b"\n")
    assert espresso(pseudopotentials=elsewhere).resolve().digest != theory.digest
    with pytest.raises(InputError, match=f"no file {tmp_path / H_LDA}"):
        espresso(pseudopotentials=tmp_path).resolve()


def test_version_that_is_stated_must_be_that_of_the_program(espresso: Espresso) -> None:
    reference = espresso()
    stated = reference.parameters.model_copy(update={"version": "5.4"})
    with pytest.raises(InputError, match=r"found '5\.4', but the program says '6\."):
        ASEReference(stated, reference.code).resolve()


def test_missing_configuration_and_program_are_input_errors(espresso: Espresso, tmp_path: Path) -> None:
    unconfigured = ASEReference(espresso().parameters, ASECode(environment={"ASE_CONFIG_PATH": str(tmp_path / "none")}))
    with pytest.raises(InputError, match=r"add a section \[espresso\] to ASE's configuration"):
        unconfigured.resolve()
    with pytest.raises(InputError, match=r"program 'no-pw\.x' was not found"):
        espresso(command="no-pw.x").resolve()
    assert reason(espresso.compute(espresso(command="no-pw.x"), hydrogen())) == "launch"


def test_unconverged_scf_is_a_failure(espresso: Espresso) -> None:
    assert reason(espresso.compute(espresso(electron_maxstep=2), hydrogen())) == "scf_not_converged"


def test_output_that_is_cut_or_garbled_is_no_label(espresso: Espresso, tmp_path: Path) -> None:
    espresso.compute(espresso(), hydrogen())
    whole = (tmp_path / "calculation" / "espresso.pwo").read_text()
    assert fault_in_espresso(whole) is None
    lines = whole.splitlines(keepends=True)
    end = next(number for number, line in enumerate(lines) if "JOB DONE." in line)
    assert all(fault_in_espresso("".join(lines[:number])) is not None for number in range(end + 1))
    for garbled in (re.sub(r"(scf accuracy +<).*", r"\1 ****", whole), re.sub(r".*scf accuracy.*", "", whole)):
        fault = fault_in_espresso(garbled)
        assert fault is not None
        assert fault[0] == "scf_not_converged"


@pytest.mark.parametrize(
    ("input_data", "atoms", "expected"),
    [
        ({"system": {"ecutwfc": 25, "nonsense": 1}}, hydrogen(), "invalid_input"),
        ({}, hydrogen(0.0), "geometry"),
    ],
)
def test_what_the_program_refuses_has_its_reason(
    espresso: Espresso, input_data: dict[str, Any], atoms: Atoms, expected: str
) -> None:
    if expected == "geometry":
        atoms.positions[1] = atoms.positions[0]
    assert reason(espresso.compute(espresso(**input_data), atoms)) == expected


def test_program_that_ends_in_the_middle_is_a_crash(espresso: Espresso, tmp_path: Path) -> None:
    script = tmp_path / "half.sh"
    script.write_text('#!/bin/sh\npw.x "$@" > all; head -n 100 all\n')
    script.chmod(0o755)
    assert reason(espresso.compute(espresso(command=str(script)), hydrogen())) == "crash"


def test_program_that_a_signal_ends_is_a_crash_with_its_name_and_command(espresso: Espresso, tmp_path: Path) -> None:
    script = tmp_path / "broken.sh"
    script.write_text("#!/bin/sh\necho some words\nkill -SEGV $$\n")
    script.chmod(0o755)
    outcome = espresso.compute(espresso(command=f"mpirun -np 1 {script}"), hydrogen())
    assert reason(outcome) == "crash"
    assert isinstance(outcome, LabelFailure)
    assert "SIGSEGV" in outcome.message
    assert f"the command was: mpirun -np 1 {script}" in outcome.message


def test_launcher_that_does_not_find_the_program_is_no_crash(espresso: Espresso) -> None:
    outcome = espresso.compute(espresso(command="mpirun -np 1 no-such-pw.x"), hydrogen())
    assert reason(outcome) == "launch"
    assert isinstance(outcome, LabelFailure)
    assert "unable to find the specified executable file" in outcome.message


def test_multiplicity_that_there_are_too_few_electrons_for(espresso: Espresso, tmp_path: Path) -> None:
    atoms = hydrogen()
    (tmp_path / "calculation").mkdir()
    atoms.info.update(charge=0, multiplicity=5)
    assert reason(espresso().compute(atoms, tmp_path / "calculation")) == "invalid_input"


def test_program_that_hangs_is_ended_with_all_that_it_started(espresso: Espresso, tmp_path: Path) -> None:
    script = tmp_path / "hang.sh"
    script.write_text(f"#!/bin/sh\n{shlex.quote(sys.executable)} -c 'import time; time.sleep(600)' hangs &\nwait\n")
    script.chmod(0o755)
    outcome = espresso.compute(espresso(command=str(script), timeout_minutes=0.1), hydrogen())
    assert reason(outcome) == "timeout"
    assert [each for each in psutil.process_iter(["cmdline"]) if "hangs" in (each.info["cmdline"] or [])] == []


def test_number_without_convergence_is_no_label(espresso: Espresso, tmp_path: Path) -> None:
    """With scf_must_converge = .false. pw.x says that convergence has been achieved, whatever it is."""
    espresso.compute(espresso(electron_maxstep=2), hydrogen())
    given = (tmp_path / "calculation" / "espresso.pwi").read_text()
    (tmp_path / "soft.pwi").write_text(given.replace("&ELECTRONS", "&ELECTRONS\n scf_must_converge = .false."))
    command = ["pw.x", "-in", tmp_path / "soft.pwi"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=PATIENCE_S, text=True).stdout
    assert "convergence has been achieved" in said
    fault = fault_in_espresso(said)
    assert fault is not None
    assert fault[0] == "scf_not_converged"


def test_energy_of_an_atom_is_that_of_its_doublet(espresso: Espresso, tmp_path: Path) -> None:
    reference, store = espresso(conv_thr=1e-8), LabelStore.in_folder(tmp_path / "labels")
    theory = reference.resolve()
    energy = atomic_energy("H", Labeller(reference, theory, store, tmp_path / "scratch"))
    assert energy == pytest.approx(-13.6, abs=0.8)  # LDA: -13.0 eV; without spin it would be at -12.0
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.76]])
    bound = attempt_label(atoms, Labeller(reference, theory, store, tmp_path / "scratch"))
    assert isinstance(bound, Label)
    assert bound.stress is None
    assert 2 * energy - bound.energy == pytest.approx(4.9, abs=0.4)  # LDA: 4.9 eV
