"""Labels by every way to an SCF, against tight runs of the bare program.

An SCF that has converged to EPS_SCF leaves an error of that order in the density: of first order in the forces, of
second order in the energy. The tolerances follow from that.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.units import Bohr, Hartree

from surveyor.labels import Label, LabelFailure, LevelOfTheory
from surveyor.reference.cp2k import CP2KReference
from surveyor.reference.cp2k_input import WAVEFUNCTION, CP2KInput, read_input, write_input
from surveyor.reference.cp2k_repair import WARM_START, ladder_of, with_rung

pytestmark = [
    pytest.mark.cp2k,
    pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="needs CP2K (Debian package cp2k)"),
]

EPS_SCF, TIGHT_EPS_SCF = 1e-5, 1e-8  # CP2K's default, and one without visible errors
FORCES_TOLERANCE = 3 * EPS_SCF  # Hartree/Bohr; Kerker mixing, the least accurate, had 1.0 · EPS_SCF
ENERGY_TOLERANCE = 100 * EPS_SCF**2  # Hartree per atom; Kerker mixing had 0.5 · EPS_SCF²

INPUT = """
&FORCE_EVAL
  &DFT
    BASIS_SET_FILE_NAME GTH_BASIS_SETS
    POTENTIAL_FILE_NAME POTENTIAL
    &MGRID
      CUTOFF {cutoff}
      REL_CUTOFF 30
    &END
    &SCF
      EPS_SCF {eps_scf}
      {scf}
    &END
    {kpoints}
    &XC
      &XC_FUNCTIONAL PADE
      &END
    &END
  &END
  &SUBSYS
    {kinds}
  &END
&END
"""
KIND = "&KIND {}\n BASIS_SET SZV-GTH\n POTENTIAL GTH-PADE-q{}\n &END\n"
OT = "&OT\n MINIMIZER {}\n PRECONDITIONER FULL_ALL\n &END"
DIAGONALISATION = "&DIAGONALIZATION\n ALGORITHM {}\n &END\n &MIXING\n METHOD {}\n ALPHA {}\n &END"
SMEARING = "ADDED_MOS 10\n &SMEAR ON\n METHOD FERMI_DIRAC\n ELECTRONIC_TEMPERATURE [K] 1000\n &END\n "
KPOINTS = "&KPOINTS\n SCHEME MONKHORST-PACK 2 2 2\n &END"

WAYS = {
    "OT, DIIS": OT.format("DIIS"),
    "OT, CG": OT.format("CG"),
    "OT, outer loop": f"&OUTER_SCF\n MAX_SCF 9\n &END\n MAX_SCF 5\n {OT.format('CG')}",
    "default": "",
    "Broyden": DIAGONALISATION.format("STANDARD", "BROYDEN_MIXING", 0.4),
    "Pulay": DIAGONALISATION.format("STANDARD", "PULAY_MIXING", 0.4),
    "Kerker": DIAGONALISATION.format("STANDARD", "KERKER_MIXING", 0.4),
    "density matrix": "EPS_DIIS 0\n" + DIAGONALISATION.format("STANDARD", "DIRECT_P_MIXING", 0.3),
    "Broyden, outer loop": "&OUTER_SCF\n MAX_SCF 9\n &END\n MAX_SCF 6\n"
    + DIAGONALISATION.format("STANDARD", "BROYDEN_MIXING", 0.4),
    "multisecant": "MAX_SCF 100\n" + DIAGONALISATION.format("STANDARD", "MULTISECANT_MIXING", "0.4\n NBUFFER 1"),
    "Lanczos": DIAGONALISATION.format("LANCZOS", "BROYDEN_MIXING", 0.4),
}


@dataclass(frozen=True)
class System:
    """A structure, and its input without the SCF."""

    atoms: Atoms
    kinds: str
    smearing: str = ""
    kpoints: str = ""
    cutoff: int = 150

    def input(self, scf: str, eps_scf: float) -> str:
        """Return the input of CP2K."""
        scf = self.smearing + scf
        return INPUT.format(cutoff=self.cutoff, eps_scf=eps_scf, scf=scf, kpoints=self.kpoints, kinds=self.kinds)

    def label(self, scf: str, folder: Path) -> Label | LabelFailure:
        """Return the label that surveyor computes, without repair."""
        return self.compute(read_input(self.input(scf, EPS_SCF)), folder)

    def compute(self, given: CP2KInput, folder: Path, *, repairs: bool = False) -> Label | LabelFailure:
        """Return the label of an input."""
        atoms = LevelOfTheory("test", {}).with_electrons(self.atoms)
        return CP2KReference(given, repairs=repairs).compute(atoms, folder)

    def run(self, scf: str, folder: Path) -> tuple[float, np.ndarray]:
        """Return energy in Hartree and forces in Hartree/Bohr of a tight run of the bare program."""
        atoms = LevelOfTheory("test", {}).with_electrons(self.atoms)
        (folder / "tight.inp").write_text(write_input(read_input(self.input(scf, TIGHT_EPS_SCF)), atoms))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = ["cp2k.psmp", "-i", "tight.inp"]
        said = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout
        assert "SCF run converged" in said
        assert "NOT converged" not in said
        (energy,) = re.findall(r"ENERGY\|.*?(-\d+\.\d+)", said)
        rows = re.findall(r"^ +\d+ +\d+ +[A-Z][a-z]? +(-?\d+\.\d{14}) +(\S+) +(\S+)$", said, re.MULTILINE)
        return float(energy), np.array(rows, dtype=float)


def water(**options: str) -> System:
    atoms = Atoms("OH2", [[0, 0, 0.119262], [0, 0.763239, -0.477047], [0, -0.763239, -0.477047]])
    atoms.set_cell([5.0, 5.0, 5.0])
    atoms.pbc = True
    return System(atoms, KIND.format("H", 1) + KIND.format("O", 6), **options)


def aluminium() -> System:
    atoms = bulk("Al", cubic=True, a=4.05)
    atoms.rattle(0.05, seed=1)
    return System(atoms, KIND.format("Al", 3), SMEARING, cutoff=50)


def check(label: Label | LabelFailure, right: tuple[float, np.ndarray]) -> None:
    assert isinstance(label, Label), label
    energy, forces = right
    assert label.energy / Hartree == pytest.approx(energy, abs=ENERGY_TOLERANCE * len(forces))
    np.testing.assert_allclose(label.forces / (Hartree / Bohr), forces, rtol=0, atol=FORCES_TOLERANCE)


@pytest.fixture(scope="module")
def tight_water(tmp_path_factory: pytest.TempPathFactory) -> tuple[float, np.ndarray]:
    return water().run(OT.format("CG"), tmp_path_factory.mktemp("water"))


@pytest.mark.parametrize("way", WAYS)
def test_water_has_one_label_by_all_ways(way: str, tight_water: tuple[float, np.ndarray], tmp_path: Path) -> None:
    check(water().label(WAYS[way], tmp_path), tight_water)


def test_k_points(tmp_path: Path) -> None:
    right = water(kpoints=KPOINTS).run(WAYS["Pulay"], tmp_path)
    check(water(kpoints=KPOINTS).label(WAYS["Broyden"], tmp_path), right)


@pytest.mark.long
def test_smeared_metal(tmp_path: Path) -> None:
    mixing = DIAGONALISATION.format("STANDARD", "{}", 0.2)
    right = aluminium().run(mixing.format("BROYDEN_MIXING"), tmp_path)
    for method in ("BROYDEN_MIXING", "KERKER_MIXING"):
        check(aluminium().label(mixing.format(method), tmp_path), right)


@pytest.mark.parametrize(
    "scf",
    [
        "MAX_SCF 4\n" + WAYS["Broyden"],
        f"MAX_SCF 4\n &OUTER_SCF\n MAX_SCF 1\n &END\n {WAYS['Broyden']}",
        f"MAX_SCF 4\n &OUTER_SCF\n MAX_SCF 1\n EPS_SCF 1E-1\n &END\n {WAYS['Pulay']}",
        f"MAX_SCF 40\n &OUTER_SCF\n MAX_SCF 1\n EPS_SCF 1E-12\n &END\n {WAYS['Broyden']}",
        f"MAX_SCF 40\n &OUTER_SCF\n MAX_SCF 1\n EPS_SCF 1E-12\n &END\n {WAYS['OT, CG']}",
    ],
    ids=["inner loop", "outer loop", "lax outer loop", "strict outer loop", "strict outer loop of OT"],
)
def test_what_has_not_converged_is_refused_with_every_kind_of_loop(scf: str, tmp_path: Path) -> None:
    outcome = water().label(scf, tmp_path)
    assert isinstance(outcome, LabelFailure)
    assert outcome.reason == "scf_not_converged"


@pytest.mark.parametrize("way", ["OT, CG", "Broyden"])
def test_every_rung_gives_the_label_from_what_an_unconverged_scf_has_left(
    way: str, tight_water: tuple[float, np.ndarray], tmp_path: Path
) -> None:
    given = read_input(water().input("MAX_SCF 5\n" + WAYS[way], EPS_SCF))
    first, *rungs = ladder_of(given)
    assert isinstance(water().compute(with_rung(given, first), tmp_path), LabelFailure)
    assert {bool(rung.ot) for rung in rungs} == {True, False}
    for number, rung in enumerate(rungs):
        folder = tmp_path / str(number)
        folder.mkdir()
        check(water().compute(with_rung(given, rung, f"../{WAVEFUNCTION}"), folder), tight_water)


def stretched_fluorine(scf: str, eps_scf: float) -> tuple[System, CP2KInput]:
    """Return F2 at 2.6 Å, off the axes of its cell, and its input."""
    middle, step = np.full(3, 2.5), np.array([0.6, 0.48, 0.64]) * 1.3
    atoms = Atoms("F2", [middle - step, middle + step], cell=[5.0] * 3, pbc=True)
    system = System(atoms, "&KIND F\n BASIS_SET DZVP-MOLOPT-SR-GTH\n POTENTIAL GTH-PBE-q7\n &END\n")
    text = system.input(scf, eps_scf).replace("PADE", "PBE").replace("GTH_BASIS_SETS", "BASIS_MOLOPT")
    text = text.replace("FILE_NAME POTENTIAL", "FILE_NAME GTH_POTENTIALS").replace("REL_CUTOFF 30", "REL_CUTOFF 50")
    return system, read_input(text.replace("&SCF", "&QS\n EPS_DEFAULT 1E-12\n &END\n &SCF", 1))


@pytest.mark.long
@pytest.mark.slow
def test_stretched_fluorine_that_no_mixing_converges_is_recovered_by_ot(tmp_path: Path) -> None:
    system, given = stretched_fluorine("MAX_SCF 5\n" + WAYS["Broyden"], EPS_SCF)
    label = system.compute(given, tmp_path, repairs=True)
    assert isinstance(label, Label), label
    assert label.provenance["rung"] == "CG, FULL_ALL"
    assert [each["rung"] for each in label.provenance["before"]] == ["as given", "Broyden mixing"]
    _, tight = stretched_fluorine(OT.format("CG\n ENERGY_GAP 0.005"), EPS_SCF / 10)
    (tmp_path / "tight").mkdir()
    own_state = with_rung(tight, WARM_START, f"../repair-2/{WAVEFUNCTION}")
    right = system.compute(own_state, tmp_path / "tight")
    assert isinstance(right, Label), right
    assert label.energy == pytest.approx(right.energy, abs=1e-6)
    np.testing.assert_allclose(label.forces, right.forces, atol=1e-3)
