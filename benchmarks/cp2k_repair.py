"""What the repair of CP2K recovers: small inputs whose SCF does not converge at first, and how good their labels are.

Usage: python benchmarks/cp2k_repair.py [--only NAME ...] [--command COMMAND] [--minutes MINUTES]

Each input is labelled as a campaign does it. The label is compared with two of tight convergence, by other settings of
the solver: one begins from the wavefunction of the label, and so in its state; one begins from atoms, and may end in
another state where there are several. Prints one row per input, with the processor time of the label, and how many each
rung has recovered.
"""

import argparse
import resource
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

from surveyor.labels import Label, LabelFailure, LevelOfTheory
from surveyor.reference.cp2k import CP2KReference
from surveyor.reference.cp2k_code import CP2KCode
from surveyor.reference.cp2k_input import WAVEFUNCTION, read_input
from surveyor.reference.cp2k_repair import AS_GIVEN, WARM_START, Rung, folder_of, ladder_of, with_rung

LIMIT_MINUTES = 3.0
TIGHT = 4  # times the limit of a label is that of a tight one
ENERGY_TARGET_MEV, FORCES_TARGET_MEV_A = 1.0, 5.0  # per atom; largest component

INPUT = """
&FORCE_EVAL
  &DFT
    BASIS_SET_FILE_NAME BASIS_MOLOPT
    POTENTIAL_FILE_NAME GTH_POTENTIALS
    &MGRID
      CUTOFF {cutoff}
      REL_CUTOFF 50
    &END
    &QS
      EPS_DEFAULT 1E-12
    &END
    &SCF
      EPS_SCF {eps_scf}
      {scf}
    &END
    &XC
      &XC_FUNCTIONAL PBE
      &END
    &END
  &END
  &SUBSYS
    {kinds}
  &END
&END
"""
KIND = """
    &KIND {symbol}
      BASIS_SET {basis}-MOLOPT-SR-GTH
      POTENTIAL GTH-PBE
    &END"""
SMEAR = (
    "ADDED_MOS {n} {unrestricted} \n &SMEAR ON\n METHOD FERMI_DIRAC\n ELECTRONIC_TEMPERATURE [K] {temperature}\n &END"
)

# What people write, and what does not get them there.
OT_DIIS = "MAX_SCF 20\n &OT\n MINIMIZER DIIS\n PRECONDITIONER FULL_SINGLE_INVERSE\n &END"
OT_BOLD = "MAX_SCF 20\n &OT\n MINIMIZER DIIS\n PRECONDITIONER FULL_KINETIC\n STEPSIZE 0.4\n &END"
OT_SHORT = "MAX_SCF 6\n &OT\n MINIMIZER CG\n PRECONDITIONER FULL_ALL\n &END"
OT_WIDE_GAP = "MAX_SCF 20\n &OT\n MINIMIZER CG\n PRECONDITIONER FULL_ALL\n ENERGY_GAP 0.5\n &END"
MIX_BOLD = "MAX_SCF 30\n EPS_DIIS 0\n &MIXING\n METHOD DIRECT_P_MIXING\n ALPHA 0.9\n &END"
MIX_SHORT = "MAX_SCF 8\n &MIXING\n METHOD BROYDEN_MIXING\n ALPHA 0.4\n &END"

TIGHT_EPS_SCF = "1E-7"
TIGHT_OT = f"""MAX_SCF 40
      &OUTER_SCF
        EPS_SCF {TIGHT_EPS_SCF}
        MAX_SCF 20
      &END
      &OT
        MINIMIZER CG
        PRECONDITIONER FULL_ALL
        ENERGY_GAP 0.005
      &END"""
TIGHT_DIAGONALISATION = """MAX_SCF 400
      &MIXING
        METHOD BROYDEN_MIXING
        ALPHA 0.1
        NBROYDEN 10
      &END"""


@dataclass(frozen=True)
class Case:
    """An input that does not converge as it is."""

    name: str
    atoms: Atoms
    scf: str
    multiplicity: int = 1
    smear: str = ""
    cutoff: int = 150
    basis: str = "DZVP"

    def input(self, tight: str = "") -> str:
        """Return the input of CP2K: its own, or one of tight convergence by another SCF."""
        scf = tight or self.scf
        kinds = "".join(KIND.format(symbol=symbol, basis=self.basis) for symbol in sorted(set(self.atoms.symbols)))
        return INPUT.format(
            cutoff=self.cutoff, eps_scf=TIGHT_EPS_SCF if tight else "1E-6", scf=scf + "\n" + self.smear, kinds=kinds
        )


def pair(symbols: str, distance_A: float, edge_A: float = 5.0) -> Atoms:
    """Return two atoms in a box, off its axes."""
    middle = np.full(3, edge_A / 2)
    step = np.array([0.6, 0.48, 0.64]) * distance_A / 2
    return Atoms(symbols, positions=[middle - step, middle + step], cell=[edge_A] * 3, pbc=True)


def boxed(name: str, edge_A: float = 5.0) -> Atoms:
    """Return a molecule in a box, off its equilibrium."""
    atoms = molecule(name)
    atoms.set_cell([edge_A] * 3)
    atoms.center()
    atoms.pbc = True
    atoms.rattle(0.05, seed=1)
    return atoms


def crystal(symbol: str, structure: str, a: float) -> Atoms:
    """Return a crystal, off its sites."""
    atoms = bulk(symbol, structure, a=a, cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


METAL = SMEAR.format(n=20, unrestricted="", temperature=1000)
MAGNET = SMEAR.format(n=10, unrestricted="10", temperature=1000)
CASES = (
    Case("F2 at 2.2 Å", pair("F2", 2.2), OT_BOLD),
    Case("H2O, few steps", boxed("H2O"), OT_SHORT),
    Case("CH3, doublet", boxed("CH3"), OT_SHORT, 2),
    Case("Na, 2 atoms, smeared", crystal("Na", "bcc", 4.2), MIX_SHORT, smear=METAL),
    Case("Al, 4 atoms, smeared", crystal("Al", "fcc", 4.05), MIX_BOLD, smear=METAL),
    Case("Al, 4 atoms, by OT", crystal("Al", "fcc", 4.05), OT_DIIS),
    Case("NO, doublet", pair("NO", 1.3), OT_BOLD, 2),
    Case("Si2 at 2.2 Å, triplet", pair("Si2", 2.2), OT_BOLD, 3),
    Case("NiO, triplet", pair("NiO", 1.7), OT_WIDE_GAP, 3, cutoff=200, basis="SZV"),
    Case("Fe, 2 atoms, smeared", crystal("Fe", "bcc", 2.86), MIX_BOLD, 5, smear=MAGNET, cutoff=200, basis="SZV"),
    Case("FeO, quintet", pair("FeO", 1.7), OT_DIIS, 5, cutoff=200, basis="SZV"),
    Case("O2 at 1.3 Å, triplet, diagonalised", pair("O2", 1.3), MIX_BOLD, 3),
    Case(
        "Fe atom, quintet",
        Atoms("Fe", [[2.5, 2.5, 2.5]], cell=[5] * 3, pbc=True),
        OT_DIIS,
        5,
        cutoff=200,
        basis="SZV",
    ),
    Case("Ti atom, triplet", Atoms("Ti", [[2.5, 2.5, 2.5]], cell=[5] * 3, pbc=True), OT_DIIS, 3),
    Case("N2 at 2.2 Å", pair("N2", 2.2), OT_DIIS),
    Case("O2 at 1.8 Å, triplet", pair("O2", 1.8), OT_DIIS, 3),
    Case("OH, doublet", pair("OH", 1.2), OT_SHORT, 2),
    Case("F2 at 2.6 Å, diagonalised", pair("F2", 2.6), MIX_SHORT),
)


def label(case: Case, code: CP2KCode, folder: Path) -> Label | LabelFailure:
    """Compute a label as a campaign does."""
    return CP2KReference(read_input(case.input()), code).compute(electrons_of(case), folder)


def tight(case: Case, scf: str, code: CP2KCode, folder: Path, wavefunction: Path | None = None) -> Label | LabelFailure:
    """Compute the label of an input at tight convergence, from a wavefunction or from atoms."""
    given = read_input(case.input(scf))
    if wavefunction is not None:
        given = with_rung(given, WARM_START, str(wavefunction))
    folder.mkdir()
    return CP2KReference(given, code, repairs=wavefunction is None).compute(electrons_of(case), folder)


def electrons_of(case: Case) -> Atoms:
    """Return the structure with its charge and multiplicity."""
    atoms = case.atoms.copy()
    atoms.info["multiplicity"] = case.multiplicity
    return LevelOfTheory("test", {}).with_electrons(atoms)


def rung_of(case: Case, found: Label) -> Rung:
    """Return the rung that recovered a label."""
    (rung,) = (rung for rung in ladder_of(read_input(case.input())) if rung.name == found.provenance["rung"])
    return rung


def wavefunction_of(case: Case, found: Label, folder: Path) -> Path:
    """Return the wavefunction of a label."""
    return folder_of(folder, rung_of(case, found), ladder_of(read_input(case.input()))) / WAVEFUNCTION


def tight_scf_for(case: Case, found: Label) -> str:
    """Return a tight SCF by the method that gave a label."""
    rung = rung_of(case, found)
    is_ot = "&OT" in case.scf if rung == AS_GIVEN else bool(rung.ot)
    return TIGHT_OT if is_ot else TIGHT_DIAGONALISATION


def difference(found: Label, right: Label | LabelFailure) -> tuple[float, float] | None:
    """Return by how much a label is above a better one, in meV/atom, and the largest deviation of a force in meV/Å."""
    if isinstance(right, LabelFailure):
        return None
    energy = 1000 * (found.energy - right.energy) / len(found.forces)
    return energy, 1000 * float(np.abs(found.forces - right.forces).max())


def processor_seconds() -> float:
    """Return the processor time of all programs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def row(case: Case, code: CP2KCode, minutes: float) -> tuple[str, str]:
    """Label an input within a time limit; return the rung that recovered it, and the row of the table."""
    with tempfile.TemporaryDirectory(prefix="surveyor-") as name:
        folder = Path(name)
        begin = processor_seconds()
        found = label(case, code.model_copy(update={"timeout_minutes": minutes}), folder)
        seconds = processor_seconds() - begin
        if isinstance(found, LabelFailure):
            return "none", f"| {case.name} | {found.reason}: {found.message} | {seconds:.0f} | - | - | - |"
        code = code.model_copy(update={"timeout_minutes": TIGHT * minutes})
        scf = tight_scf_for(case, found)
        same = difference(found, tight(case, scf, code, folder / "same", wavefunction_of(case, found, folder)))
        other = difference(found, tight(case, scf, code, folder / "atoms"))
    is_good = same is not None and abs(same[0]) <= ENERGY_TARGET_MEV and same[1] <= FORCES_TARGET_MEV_A
    cells = ["?" if each is None else f"{each[0]:.3f}, {each[1]:.2f}" for each in (same, other)]
    rung = found.provenance["rung"]
    return rung, f"| {case.name} | {rung} | {seconds:.0f} | {' | '.join(cells)} | {'yes' if is_good else 'no'} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of inputs")
    parser.add_argument("--command", default="cp2k.psmp", help="starts CP2K")
    parser.add_argument("--minutes", type=float, default=LIMIT_MINUTES, help="time limit of a label (default: 3)")
    options = parser.parse_args()
    code = CP2KCode(command=options.command)
    chosen = [case for case in CASES if not options.only or any(part in case.name for part in options.only)]
    print("Deviations from tight labels, of which one begins in the state of the label and one from atoms:\n")
    columns = "input | rung | CPU s | meV/atom, meV/Å | from atoms | within 1 and 5"
    print(f"| {columns} |\n|---|---|---|---|---|---|", flush=True)
    rungs: Counter[str] = Counter()
    for case in chosen:
        rung, line = row(case, code, options.minutes)
        rungs[rung] += 1
        print(line, flush=True)
    print("\n| rung | recovered |\n|---|---|")
    for rung, number in rungs.most_common():
        print(f"| {rung} | {number} |")


if __name__ == "__main__":
    main()
