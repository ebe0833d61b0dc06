"""Energies of isolated atoms by CP2K: all multiplicities of an element, and what a larger box changes.

    python benchmarks/atomic_energies.py --elements H Cr --wider H

PBE, DZVP-MOLOPT-SR-GTH, 300 Ry. Each atom is computed in its box as a campaign has it (`place`), then, for the elements
of --wider, in the multiplicity of the lowest energy in a box that leaves 3 Å more on each side. Minutes for each
transition metal.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from ase import Atoms

from surveyor.labels import Label, LabelFailure
from surveyor.reference import cp2k_input
from surveyor.reference.atomic_energies import isolated_atoms
from surveyor.reference.cp2k import CP2KReference
from surveyor.reference.cp2k_code import CP2KCode

INPUT = """
&FORCE_EVAL
  &DFT
    BASIS_SET_FILE_NAME BASIS_MOLOPT
    POTENTIAL_FILE_NAME GTH_POTENTIALS
    &MGRID
      CUTOFF 300
      REL_CUTOFF 50
    &END
    &SCF
      EPS_SCF 1E-5
      MAX_SCF 25
      &OT
        MINIMIZER CG
        PRECONDITIONER FULL_ALL
      &END
      &OUTER_SCF
        EPS_SCF 1E-5
        MAX_SCF 3
      &END
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
KIND = "    &KIND {0}\n      BASIS_SET DZVP-MOLOPT-SR-GTH\n      POTENTIAL GTH-PBE\n    &END"
WIDER_A = 3.0
TIMEOUT_MINUTES = 10.0


def main() -> None:
    """Print one row for each multiplicity of each element, then one for each wider box."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", nargs="+", default=["H", "Cr"])
    parser.add_argument("--wider", nargs="*", default=["H"])
    options = parser.parse_args()
    kinds = "\n".join(KIND.format(element) for element in options.elements)
    code = CP2KCode(timeout_minutes=TIMEOUT_MINUTES)
    reference = CP2KReference(cp2k_input.read_input(INPUT.format(kinds=kinds), None), code)
    print(f"{'atom':<5}{'multiplicity':>13}{'energy (eV)':>14}{'steps':>7}{'time (s)':>10}")
    for element in options.elements:
        energies = {atom.info["multiplicity"]: compute(reference, atom) for atom in isolated_atoms(element)}
        known = {multiplicity: energy for multiplicity, energy in energies.items() if energy is not None}
        lowest = min(known, key=lambda multiplicity: known[multiplicity])
        print(f"{element}: lowest at multiplicity {lowest}")
        if element in options.wider:
            compare_boxes(reference, element, lowest, known[lowest])


def compute(reference: CP2KReference, atom: Atoms) -> float | None:
    """Return the energy of an atom in eV, None where there is none, and print its row."""
    begin = time.monotonic()
    with TemporaryDirectory() as folder:
        outcome: Label | LabelFailure = reference.compute(atom, Path(folder))
    found = f"{outcome.energy:.5f}" if isinstance(outcome, Label) else outcome.reason
    steps, wall = outcome.provenance.get("scf_steps") or "", time.monotonic() - begin
    print(f"{atom.symbols!s:<5}{atom.info['multiplicity']:>13}{found:>14}{steps:>7}{wall:>10.1f}", flush=True)
    return outcome.energy if isinstance(outcome, Label) else None


def compare_boxes(reference: CP2KReference, element: str, multiplicity: int, energy: float) -> None:
    """Print by how much the energy changes in a wider box, in meV."""
    (atom,) = [each for each in isolated_atoms(element) if each.info["multiplicity"] == multiplicity]
    usual = cp2k_input.VACUUM_A
    cp2k_input.VACUUM_A = usual + WIDER_A  # the rule of the reference knows no other way
    wide = compute(reference, atom)
    cp2k_input.VACUUM_A = usual
    if wide is not None:
        edges = f"{2 * usual:g} Å to {2 * (usual + WIDER_A):g} Å"
        print(f"{element}: from a box of {edges}, the energy changes by {1000 * (wide - energy):.3f} meV")


if __name__ == "__main__":
    main()
