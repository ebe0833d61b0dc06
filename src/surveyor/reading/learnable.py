"""Labelled structures of files as trainings take them: isolated atoms set apart, suspicious labels named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms

from surveyor.dataset.isolated_atoms import (
    BOX_A,
    CONFIG_TYPE,
    energies_of,
    format_energies,
    is_isolated_atom,
    is_single_and_far,
    is_stated,
    named,
)
from surveyor.errors import InputError
from surveyor.reading.identity import copies, copies_that_share
from surveyor.reading.reading import Reading
from surveyor.reading.report import Finding, ReadingReport, finding_of
from surveyor.reading.suspicions import Suspicion, findings_of, suspicions_of
from surveyor.structures import charge_of, elements_of
from surveyor.words import number_of

UNSEEN = "test"  # the set that no training may see
REPLAY = "replay"  # data of another level of theory, whose atomic energies are those of the foundation model


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The labelled structures of a file that models can learn from, and its isolated atoms.

    Attributes:
        structures: structures without isolated atoms, in the order of the file.
        indices: indices of the structures in the file, shape (n_structures,).
        isolated: isolated atoms, by their name in messages.
        first_copies: index in `structures` of the first copy of each, shape (n_structures,).
        report: report on the reading of the file.
    """

    structures: Sequence[Atoms]
    indices: np.ndarray
    isolated: Mapping[str, Atoms]
    first_copies: np.ndarray
    report: ReadingReport

    @property
    def atomic_energies(self) -> dict[str, float]:
        """Energies of the isolated atoms in eV by chemical symbol."""
        return energies_of(self.isolated)

    def without_copies(self) -> "TrainingData":
        """Return the data with the first copy of each structure alone."""
        kept = np.flatnonzero(self.first_copies == np.arange(len(self.structures)))
        n_copies = len(self.structures) - len(kept)
        if not n_copies:
            return self
        structures = [self.structures[index] for index in kept.tolist()]
        report = self.report.with_remark(
            "1 copy is left out" if n_copies == 1 else f"{number_of(n_copies, 'copy', 'copies')} are left out"
        )
        return TrainingData(structures, self.indices[kept], self.isolated, np.arange(len(kept)), report)


def learnable(readings: Mapping[str, Reading], *, allow_leaks: bool = False) -> dict[str, TrainingData]:
    """Set isolated atoms apart, and look for leaks between the sets and for suspicious labels.

    Raises:
        InputError: as in `set_apart`; or the test data have structures of another set.
    """
    data = {name: set_apart(reading) for name, reading in readings.items()}
    structures = [atoms for each in data.values() for atoms in each.structures]
    sets = np.repeat(np.arange(len(data)), [len(each.structures) for each in data.values()])
    same = copies(structures)
    if not allow_leaks:
        _check_unseen(data, same, sets)
    of_set = copies_that_share(same, sets)
    suspicions = [*_shared(same, sets, list(data)), *suspicions_of(structures, of_set)]
    found = findings_of(suspicions, {name: each.indices for name, each in data.items()})
    begins = dict(zip(data, np.searchsorted(sets, np.arange(len(data))), strict=True))
    return {
        name: replace(
            each,
            first_copies=of_set[begins[name] : begins[name] + len(each.structures)] - begins[name],
            report=each.report.with_findings(*found[name], *_unused_atoms(each, structures)),
        )
        for name, each in data.items()
    }


def set_apart(reading: Reading) -> TrainingData:
    """Separate the isolated atoms of a file from its other structures.

    Raises:
        InputError: they contradict each other, there are no other structures, or the box of an atom declared as
            isolated is too small.
    """
    kept = {index: atoms for index, atoms in reading.numbered.items() if not is_isolated_atom(atoms)}
    if not kept:
        raise InputError(
            f"{reading.report.field}: {reading.report.path} holds isolated atoms alone; expected structures with bonds"
        )
    isolated = named(reading.numbered, str(reading.report.path))
    report = reading.report.with_findings(*_findings(reading))
    if isolated:
        report = report.with_remark(_format_isolated(isolated, report.field))
    if any(is_stated(atoms) for atoms in isolated.values()):
        report = report.with_use_of(CONFIG_TYPE)
    return TrainingData([*kept.values()], np.array([*kept]), isolated, np.arange(len(kept)), report)


def _format_isolated(isolated: Mapping[str, Atoms], field: str) -> str:
    energies, n = energies_of(isolated), len(isolated)
    atoms = "1 isolated atom is left out" if n == 1 else f"{n} isolated atoms are left out"
    return (
        atoms if field == REPLAY or not energies else f"{atoms}; atomic energies from them: {format_energies(energies)}"
    )


def _findings(reading: Reading) -> list[Finding]:
    several, far, charged = [], [], []
    for index, atoms in reading.numbered.items():
        if is_isolated_atom(atoms):
            charged += [index] if charge_of(atoms) else []
        elif is_stated(atoms):
            if len(atoms) == 1:
                raise InputError(
                    f"structure {index} of {reading.report.path} is an isolated atom by its config_type, but has "
                    f"images less than {BOX_A:g} Å away; expected a larger box, pbc F F F, or another config_type"
                )
            several.append(index)
        elif is_single_and_far(atoms):
            far.append(index)
    texts = {
        "config_type is IsolatedAtom, but there are several atoms; they are taken as any other structure": several,
        f"a single atom in a periodic box of {BOX_A:g} Å or more, taken as a crystal; if it gives the atomic energy, "
        "write config_type=IsolatedAtom or pbc F F F": far,
        "a single atom with a charge, left out: it gives no atomic energy, and has no bonds to learn from": charged,
    }
    return [finding_of(text, np.array(indices)) for text, indices in texts.items() if indices]


def _unused_atoms(data: TrainingData, structures: Sequence[Atoms]) -> list[Finding]:
    """Find isolated atoms of elements of which no set has a structure."""
    present = elements_of(structures)
    unused = [name for name, atom in data.isolated.items() if atom.symbols[0] not in present]
    if not unused:
        return []
    symbols = ", ".join(elements_of([data.isolated[name] for name in unused]))
    return [Finding(f"no structure holds {symbols}, whose isolated atoms are not used", len(unused), _index(unused[0]))]


def _index(name: str) -> int:
    return int(name.split()[1])


def _check_unseen(data: Mapping[str, TrainingData], same: np.ndarray, sets: np.ndarray) -> None:
    """Check that the test data have no structure of another set."""
    if UNSEEN not in data:
        return
    names = list(data)
    is_unseen = sets == names.index(UNSEEN)
    shared = np.flatnonzero(is_unseen & np.isin(same, same[~is_unseen]))
    if not len(shared):
        return
    first = shared[0]
    other = np.flatnonzero(~is_unseen & (same == same[first]))[0]
    where = [_place(data, names[sets[index]], index - np.searchsorted(sets, sets[index])) for index in (first, other)]
    raise InputError(
        f"{UNSEEN}: {where[0]} is the same as {where[1]}, and so {len(shared)} of "
        f"{number_of(int(is_unseen.sum()), 'structure')} for tests are in other sets, too; expected structures that "
        "the training does not see, as errors on others say little; remove them from one set, or set allow_leaks: true"
    )


def _place(data: Mapping[str, TrainingData], name: str, index: int) -> str:
    return f"structure {data[name].indices[index]} of {data[name].report.path} ({name})"


def _shared(same: np.ndarray, sets: np.ndarray, names: Sequence[str]) -> list[Suspicion]:
    """Find structures that an earlier set has, too."""
    return [
        Suspicion(f"the same structure as one of {name}", (sets != number) & (sets[same] == number))
        for number, name in enumerate(names)
    ]
