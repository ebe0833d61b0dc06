import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import psutil
import pytest
from ase import Atoms
from ase.units import Bohr, Hartree

from surveyor.errors import InputError
from surveyor.labels import Label, LabelFailure, LevelOfTheory
from surveyor.reference.atomic_energies import isolated_atoms
from surveyor.reference.cp2k import CP2KReference
from surveyor.reference.cp2k_code import CP2KCode
from surveyor.reference.cp2k_input import read_input
from surveyor.testing.references import check_reference

pytestmark = [
    pytest.mark.cp2k,
    pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="needs CP2K (Debian package cp2k)"),
]

AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
MPI = CP2KCode(command="mpirun -np 2 --oversubscribe cp2k.psmp", environment=AS_ROOT)

# What a chemist would write by hand for the same structure.
BY_HAND = """
&GLOBAL
  PROJECT hand
  RUN_TYPE ENERGY_FORCE
  PREFERRED_DIAG_LIBRARY SCALAPACK
&END
{force_eval}
&END
"""
STRUCTURE_BY_HAND = """
  &SUBSYS
    &CELL
      A 3.0 0.0 0.0
      B 0.0 3.1 0.0
      C 0.0 0.0 3.2
    &END
    &COORD
      H 0.10 0.20 0.30
      H 0.25 0.40 1.02
    &END
"""


def hydrogen(**options: object) -> Atoms:
    atoms = Atoms("H2", [[0.1, 0.2, 0.3], [0.25, 0.4, 1.02]], **options)
    return LevelOfTheory("test", {}).with_electrons(atoms)


def crystal() -> Atoms:
    return hydrogen(cell=[3.0, 3.1, 3.2], pbc=True)


@pytest.fixture(scope="module")
def label(hydrogen_input: str, tmp_path_factory: pytest.TempPathFactory) -> Label:
    outcome = CP2KReference(read_input(hydrogen_input)).compute(crystal(), tmp_path_factory.mktemp("label"))
    assert isinstance(outcome, Label)
    return outcome


def test_energy_and_forces_are_those_of_the_bare_program(label: Label, hydrogen_input: str, tmp_path: Path) -> None:
    force_eval = hydrogen_input.replace("  &SUBSYS\n", STRUCTURE_BY_HAND).rstrip().removesuffix("&END")
    printing = "  &PRINT\n    &FORCES\n      NDIGITS 12\n    &END\n  &END\n"
    (tmp_path / "hand.inp").write_text(BY_HAND.format(force_eval=force_eval + printing))
    command = ["cp2k.psmp", "-i", "hand.inp"]
    run = subprocess.run(command, cwd=tmp_path, env=bare_environment(), capture_output=True, text=True, check=True)
    energies = re.findall(r"ENERGY\|.*?(-\d+\.\d+)", run.stdout)
    assert [float(energy) * Hartree for energy in energies] == pytest.approx([label.energy], rel=1e-9)
    rows = re.findall(r"^ +\d +1 +H +(\S+) +(\S+) +(\S+)$", run.stdout, re.MULTILINE)
    np.testing.assert_allclose(np.array(rows, dtype=float) * Hartree / Bohr, label.forces, atol=1e-8)


def bare_environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_label_says_where_it_comes_from(label: Label) -> None:
    assert label.provenance["program"] == "CP2K"
    assert label.provenance["version"]
    assert label.provenance["scf_steps"] > 1
    assert label.provenance["wall_time_s"] > 0
    assert len(label.provenance["inputs_sha256"]) == 64


@pytest.mark.slow
def test_cp2k_keeps_the_promises_of_a_reference(hydrogen_input: str, tmp_path: Path) -> None:
    reference = CP2KReference(read_input(hydrogen_input))
    check_reference(reference, [crystal()], tmp_path, forces_tolerance=2e-3, stress_tolerance=2e-4)


def test_two_processes_give_the_same_label(label: Label, hydrogen_input: str, tmp_path: Path) -> None:
    reference = CP2KReference(read_input(hydrogen_input), MPI)
    assert reference.resolve().digest == CP2KReference(read_input(hydrogen_input)).resolve().digest
    outcome = reference.compute(crystal(), tmp_path)
    assert isinstance(outcome, Label)
    assert outcome.energy == pytest.approx(label.energy, rel=1e-9)
    np.testing.assert_allclose(outcome.forces, label.forces, atol=1e-6)


def test_free_hydrogen_atom(hydrogen_input: str, tmp_path: Path) -> None:
    text = hydrogen_input.replace("BASIS_MOLOPT", "GTH_BASIS_SETS").replace("SZV-MOLOPT-SR-GTH", "TZV2P-GTH")
    text = text.replace("CUTOFF 280", "CUTOFF 150").replace("1E-8", "1E-6")
    (atom,) = isolated_atoms("H")
    outcome = CP2KReference(read_input(text)).compute(atom, tmp_path)
    assert isinstance(outcome, Label)
    assert outcome.energy == pytest.approx(-13.60, abs=0.1)  # the limit of PBE, and what the basis is short of it
    assert outcome.stress is None


def test_all_ranks_are_ended_when_the_time_is_up(hydrogen_input: str, tmp_path: Path) -> None:
    endless = hydrogen_input.replace("1E-8", "1E-30").replace("MAX_SCF 40", "MAX_SCF 100000")
    reference = CP2KReference(read_input(endless), MPI.model_copy(update={"timeout_minutes": 4 / 60}))
    outcome = reference.compute(crystal(), tmp_path)
    assert isinstance(outcome, LabelFailure)
    assert outcome.reason == "timeout"
    assert not running_in(tmp_path)


def running_in(directory: Path) -> list[psutil.Process]:
    """Return the processes of CP2K that work in a directory."""
    found = []
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] == "cp2k.psmp" and process.cwd() == str(directory):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def test_data_file_that_is_gone_is_named(hydrogen_input: str, tmp_path: Path) -> None:
    reference = CP2KReference(read_input(hydrogen_input.replace("BASIS_MOLOPT", "NO_BASIS")))
    with pytest.raises(InputError, match="NO_BASIS"):
        reference.resolve()
    outcome = reference.compute(crystal(), tmp_path)
    assert isinstance(outcome, LabelFailure)
    assert outcome.reason == "missing_data_file"


def test_missing_basis_set_is_an_input_error_before_any_work(hydrogen_input: str) -> None:
    reference = CP2KReference(read_input(hydrogen_input.replace("SZV-MOLOPT-SR-GTH", "SZV-MOLOPT-SR-PBE")))
    with pytest.raises(InputError, match=r"KIND H/BASIS_SET .*SR-PBE.*BASIS_MOLOPT; there are .*SZV-MOLOPT-SR-GTH"):
        reference.resolve()


def test_own_data_directory_is_used(hydrogen_input: str, tmp_path: Path) -> None:
    reference = CP2KReference(read_input(hydrogen_input), CP2KCode(data_directory=tmp_path))
    with pytest.raises(InputError, match="BASIS_MOLOPT"):
        reference.resolve()


def test_elements_and_version_are_told_before_any_work(hydrogen_input: str) -> None:
    theory = CP2KReference(read_input(hydrogen_input)).resolve()
    assert theory.elements == ("H",)
    assert re.fullmatch(r"\d{4}\.\d", theory.content["version"])


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms("O", cell=[5, 5, 5], pbc=True), "no KIND O"),
        (hydrogen(cell=[5, 5, 5], pbc=[True, True, False]), "no or three directions"),
    ],
)
def test_structure_that_the_input_does_not_serve_is_refused(
    atoms: Atoms, message: str, hydrogen_input: str, tmp_path: Path
) -> None:
    outcome = CP2KReference(read_input(hydrogen_input)).compute(atoms, tmp_path)
    assert isinstance(outcome, LabelFailure)
    assert outcome.reason == "invalid_input"
    assert message in outcome.message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["no-such-cp2k", "sh -c 'echo no such module; exit 1'"])
def test_program_that_does_not_start(command: str, hydrogen_input: str, tmp_path: Path) -> None:
    reference = CP2KReference(read_input(hydrogen_input), CP2KCode(command=command))
    with pytest.raises(InputError, match=r"package cp2k|no such module"):
        reference.resolve()
    outcome = reference.compute(crystal(), tmp_path)
    assert isinstance(outcome, LabelFailure)
    assert outcome.reason == "launch"
