"""The table of the documentation: what each reference does with structures without a cell, or with a partial one."""

from pathlib import Path

import pytest
from ase import Atoms
from ase.build import molecule

from surveyor.labels import Label, LabelFailure
from surveyor.reference.ase import ASEParameters, ASEReference, EMTReference
from surveyor.reference.ase_calculators import CLASSICAL, NAMES, objection_to, periodicities, placed
from surveyor.reference.cp2k import CP2KReference
from surveyor.reference.cp2k_input import read_input
from surveyor.reference.reference import Reference
from surveyor.reference.xtb import XTBReference

PARTIAL = ([True, False, False], [True, True, False])
ROWS = {
    line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:5]]
    for line in (Path(__file__).parents[3] / "docs" / "how-to" / "use-ase.md").read_text().splitlines()
    if line.startswith("| ") and line.count("|") == 5
}


def water(pbc: list[bool], cell: float = 6.0) -> Atoms:
    atoms = molecule("H2O", cell=[cell] * 3, pbc=pbc)
    atoms.info.update(charge=0, multiplicity=1)
    return atoms


@pytest.mark.parametrize("pbc", PARTIAL)
@pytest.mark.parametrize(
    "kind", ["cp2k", pytest.param("xtb", marks=pytest.mark.xtb), "espresso", "orca", "vasp", "gpaw"]
)
def test_partial_periodicity_is_refused(kind: str, pbc: list[bool], hydrogen_input: str, tmp_path: Path) -> None:
    reference: Reference
    if kind == "cp2k":
        reference = CP2KReference(read_input(hydrogen_input))
    elif kind == "xtb":
        reference = XTBReference()
    else:
        reference = ASEReference(ASEParameters(calculator=kind))
    outcome = reference.compute(water(pbc), tmp_path)
    assert isinstance(outcome, LabelFailure)
    assert outcome.reason == "invalid_input"
    assert f"found pbc {pbc}" in outcome.message
    assert list(tmp_path.iterdir()) == []  # before any work


@pytest.mark.parametrize("pbc", [[False] * 3, *PARTIAL])
def test_classical_potentials_do_as_pbc_says_and_have_no_stress(pbc: list[bool], tmp_path: Path) -> None:
    labels = [EMTReference().compute(water(pbc, cell), tmp_path) for cell in (2.5, 60.0)]
    assert all(isinstance(label, Label) and label.stress is None for label in labels)
    energies = {label.energy for label in labels if isinstance(label, Label)}
    assert len(energies) == (2 if any(pbc) else 1)  # without periodicity, the cell counts for nothing


def test_table_has_each_calculator_once_and_says_what_is_done() -> None:
    named: list[str] = []
    for name in NAMES:
        rows = [row for row in ROWS if f"`{name}`" in row]
        assert len(rows) <= 1, name
        named += rows and [name]
        if not rows or name in CLASSICAL:
            continue
        refused = [cell == "refused" for cell in ROWS[rows[0]]]
        allowed = periodicities(name)
        assert allowed is not None
        assert refused == [0 not in allowed, True, 3 not in allowed], name
    assert {"espresso", "orca", "vasp", "nwchem"} <= set(named)


def test_crystals_are_taken_as_they_are_and_molecules_put_in_a_box_for_plane_waves() -> None:
    crystal, free = water([True] * 3), water([False] * 3)
    assert placed("espresso", crystal) == crystal
    assert placed("orca", free) == free
    boxed = placed("espresso", free)
    assert boxed.cell.lengths().tolist() == [12.0] * 3  # twice 1.5 Å of atoms and 4 Å
    assert boxed.get_all_distances() == pytest.approx(free.get_all_distances())
    centre = (boxed.positions.min(axis=0) + boxed.positions.max(axis=0)) / 2
    assert abs(centre - 6.0).max() <= 0.5
    assert objection_to("espresso", free) is None
