"""Labels in the fields of structure files."""

from ase import Atoms

from surveyor.dataset import ENERGY, FORCES, STRESS, is_labelled, label_of
from surveyor.errors import InputError
from surveyor.reading.report import Notes

LABELS = (ENERGY, FORCES, STRESS, "energy", "free_energy", "forces", "stress")  # the last four: ASE's results


def read_label(atoms: Atoms, notes: Notes) -> Atoms:
    """Return a structure with the label that it carries.

    Raises:
        InputError: it carries none, or an incomplete one.
    """
    if not is_labelled(atoms):
        raise InputError("found no label; expected REF_energy (eV) and REF_forces (eV/Å)")
    if not label_of(atoms).is_complete_for(atoms):
        raise InputError(
            "the label has numbers that are not finite, or another shape; expected one energy, three forces for each "
            "atom, and six components of REF_stress (eV/Å³) or none"
        )
    notes.use(ENERGY, FORCES, *([STRESS] if STRESS in atoms.info else []))
    return atoms


def pass_over_label(atoms: Atoms, notes: Notes) -> Atoms:
    """Return the structure; a label that it carries is not used, which is noted."""
    results = {} if atoms.calc is None else atoms.calc.results
    found = [name for name in LABELS if name in atoms.info or name in atoms.arrays or name in results]
    if found:
        notes.warn(f"{', '.join(found)}: labels in the file are not used; where needed they are computed anew")
    return atoms
