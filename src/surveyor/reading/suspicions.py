"""Labels and structures that are probably wrong, found before a model is trained on them.

Each threshold is beyond the range of ordinary data, including strongly perturbed or dissociated structures. Findings
are warnings: no structure is left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list

from surveyor.dataset import ENERGY, FORCES, STRESS
from surveyor.errors import InputError
from surveyor.reading.energies import deviations
from surveyor.reading.identity import copies
from surveyor.reading.report import Finding, finding_of
from surveyor.structures import charge_of, multiplicity_of

SAME_ENERGY_MEV = 1.0  # per atom: two labels of one structure at one level of theory agree better
SAME_FORCES_MEV = 5.0  # per Å
NO_FORCE = 1e-8  # eV/Å: what eight decimals keep
STRONG_FORCE = 100.0  # eV/Å: atoms at half the sum of their covalent radii repel each other by as much
STRONG_FACTOR = 50.0  # times the median of the largest forces
NET_FORCE = 1.0  # eV/Å: of a whole structure; grids and loose convergence leave up to 0.1
NET_FRACTION = 0.05  # of the sum of the magnitudes of all forces
STRONG_STRESS = 1.0  # eV/Å³, 160 GPa, to which strains of some per cent bring no solid; those in GPa or kbar reach it
NEAR_A = 5.0  # neighbours that may leave an atom a force
N_EXAMINED = 500  # structures without forces, of which it is asked whether symmetry takes them away


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of several structures as arrays.

    Attributes:
        structures: that carry them; none is empty.
        n_atoms: shape (n_structures,).
        energies: in eV, shape (n_structures,).
        forces: magnitudes in eV/Å of all atoms, shape (n_atoms of all structures,).
        net_forces: magnitude of the sum over each structure in eV/Å, shape (n_structures,).
        begins: index of the first atom of each structure, shape (n_structures,).
    """

    structures: Sequence[Atoms]
    n_atoms: np.ndarray
    energies: np.ndarray
    forces: np.ndarray
    net_forces: np.ndarray
    begins: np.ndarray

    @property
    def largest_forces(self) -> np.ndarray:
        """The largest force on an atom of each structure, eV/Å."""
        return np.maximum.reduceat(self.forces, self.begins)

    @property
    def mean_forces(self) -> np.ndarray:
        """The root mean square force on the atoms of each structure, eV/Å."""
        found: np.ndarray = np.sqrt(np.add.reduceat(self.forces**2, self.begins) / self.n_atoms)
        return found


@dataclass(frozen=True, slots=True)
class Suspicion:
    """One kind of suspicion.

    Attributes:
        text: describes it.
        is_suspicious: which structures show it, shape (n_structures,).
        is_of_label: whether it is the label that may be wrong.
    """

    text: str
    is_suspicious: np.ndarray
    is_of_label: bool = True


def labels_of(structures: Sequence[Atoms]) -> Labels:
    """Return the labels of structures, at least one, as arrays."""
    n_atoms = np.array([len(atoms) for atoms in structures])
    begins = np.concatenate([[0], np.cumsum(n_atoms)[:-1]])
    forces = np.concatenate([np.asarray(atoms.arrays[FORCES], dtype=float) for atoms in structures])
    return Labels(
        structures,
        n_atoms,
        np.array([float(atoms.info[ENERGY]) for atoms in structures]),
        np.linalg.norm(forces, axis=1),
        np.linalg.norm(np.add.reduceat(forces, begins), axis=1),
        begins,
    )


def suspicions_of(
    structures: Sequence[Atoms], same: np.ndarray | None = None, *, of_labels_alone: bool = False
) -> list[Suspicion]:
    """Return the kinds of suspicion that apply to structures; the time grows as n log n with their number.

    Args:
        structures: labelled structures, without isolated atoms.
        same: index of the first copy of each, see `copies`; None determines them here.
        of_labels_alone: leave out suspicions about charge and multiplicity, which matter only to models.
    """
    if not structures:
        return []
    labels = labels_of(structures)
    found = [*_contradictions(labels, copies(structures) if same is None else same)]
    found += [check(labels) for check in (OF_LABELS if of_labels_alone else CHECKS)]
    return [each for each in found if each.is_suspicious.any()]


def _contradictions(labels: Labels, same: np.ndarray) -> list[Suspicion]:
    is_copy = same != np.arange(len(same))
    is_other = np.zeros(len(same), dtype=bool)
    for index in np.flatnonzero(is_copy).tolist():
        is_other[index] = _differ(labels.structures[index], labels.structures[same[index]])
    difference = float(np.abs(labels.energies - labels.energies[same])[is_other].max(initial=0.0))
    return [
        Suspicion("the same structure as one before, maybe moved", is_copy & ~is_other, is_of_label=False),
        Suspicion(f"the same structure as one before with another label, by up to {difference:.3g} eV", is_other),
    ]


def _differ(one: Atoms, other: Atoms) -> bool:
    orders = [np.argsort(atoms.numbers, kind="stable") for atoms in (one, other)]
    forces = [atoms.arrays[FORCES][order] for atoms, order in zip((one, other), orders, strict=True)]
    by = 1e3 * abs(float(one.info[ENERGY]) - float(other.info[ENERGY])) / len(one)
    return by > SAME_ENERGY_MEV or 1e3 * float(np.sqrt(np.mean((forces[0] - forces[1]) ** 2))) > SAME_FORCES_MEV


def _no_forces(labels: Labels) -> Suspicion:
    """Find structures all of whose forces are zero, though their symmetry does not ask for it."""
    candidates = np.flatnonzero((labels.largest_forces < NO_FORCE) & (labels.n_atoms > 1)).tolist()
    examined = [not _is_symmetric(labels.structures[index]) for index in candidates[:N_EXAMINED]]
    rest = [any(examined)] * (len(candidates) - len(examined))
    is_suspicious = np.zeros(len(labels.n_atoms), dtype=bool)
    is_suspicious[candidates] = [*examined, *rest]
    return Suspicion("all forces are zero, which the symmetry does not ask for", is_suspicious)


def _is_symmetric(atoms: Atoms) -> bool:
    """Return whether the surroundings of each atom have no direction, so that symmetry leaves it no force."""
    first, second, distance, vector = neighbor_list("ijdD", atoms, NEAR_A)
    pulls = (atoms.numbers[second] * np.exp(-distance / 2))[:, None] * vector
    sums, sizes = np.zeros((len(atoms), 3)), np.zeros(len(atoms))
    np.add.at(sums, first, pulls)
    np.add.at(sizes, first, np.linalg.norm(pulls, axis=1))
    return bool((np.linalg.norm(sums, axis=1) <= 1e-4 * sizes).all())


def _far_energies(labels: Labels) -> Suspicion:
    by, is_far = deviations(labels.structures, labels.energies / labels.n_atoms, labels.mean_forces)
    largest = float(np.abs(by)[is_far].max(initial=0.0))
    return Suspicion(f"an energy far from those of the others, by up to {largest:.3g} eV/atom", is_far)


def _strong_forces(labels: Labels) -> Suspicion:
    largest = labels.largest_forces
    is_strong = largest > max(STRONG_FORCE, STRONG_FACTOR * float(np.median(largest)))
    text = f"forces far beyond those of the others, up to {largest[is_strong].max(initial=0.0):.3g} eV/Å"
    return Suspicion(text, is_strong)


def _net_forces(labels: Labels) -> Suspicion:
    sums = np.add.reduceat(labels.forces, labels.begins)
    has_net = (labels.net_forces > NET_FORCE) & (labels.net_forces > NET_FRACTION * sums)
    text = f"forces that do not add up to zero but to {labels.net_forces[has_net].max(initial=0.0):.3g} eV/Å or less"
    return Suspicion(text, has_net)


def _strong_stresses(labels: Labels) -> Suspicion:
    stresses = [atoms.info.get(STRESS) for atoms in labels.structures]
    largest = np.array([0.0 if each is None else float(np.abs(each).max()) for each in stresses])
    text = f"a stress of up to {largest.max(initial=0.0):.3g} eV/Å³, such as one in GPa or kbar"
    return Suspicion(text, largest > STRONG_STRESS)


def _charges(labels: Labels) -> Suspicion:
    charges = np.array([electrons_of(atoms)[0] for atoms in labels.structures])
    values = ", ".join(f"{charge:+d}" if charge else "0" for charge in np.unique(charges))
    return Suspicion(f"another charge than most ({values}): models do not know the charge", charges != _most(charges))


def _multiplicities(labels: Labels) -> Suspicion:
    """Find structures whose multiplicity is not that of most of their composition and charge."""
    found = np.zeros(len(labels.n_atoms), dtype=bool)
    if any("multiplicity" in atoms.info for atoms in labels.structures):
        electrons = [electrons_of(atoms) for atoms in labels.structures]
        multiplicities = np.array([multiplicity for _, multiplicity in electrons])
        kinds: dict[tuple[bytes, int], list[int]] = {}
        for index, (atoms, (charge, _)) in enumerate(zip(labels.structures, electrons, strict=True)):
            kinds.setdefault((np.sort(atoms.numbers).tobytes(), charge), []).append(index)
        for members in kinds.values():
            found[members] = multiplicities[members] != _most(multiplicities[members])
    return Suspicion("another multiplicity than most of their composition: models do not know it", found)


def electrons_of(atoms: Atoms) -> tuple[int, int]:
    """Return charge and multiplicity; values that are not integers, warned of at reading, are ignored."""
    try:
        return charge_of(atoms), multiplicity_of(atoms)
    except InputError:
        return 0, 1 + int(atoms.numbers.sum()) % 2


def _most(values: np.ndarray) -> int:
    """Return the value that occurs most often."""
    unique, counts = np.unique(values, return_counts=True)
    return int(unique[np.argmax(counts)])


OF_LABELS: tuple[Callable[[Labels], Suspicion], ...] = (
    _no_forces,
    _far_energies,
    _strong_forces,
    _net_forces,
    _strong_stresses,
)
CHECKS = (*OF_LABELS, _charges, _multiplicities)


def findings_of(suspicions: Sequence[Suspicion], indices: Mapping[str, np.ndarray]) -> dict[str, list[Finding]]:
    """Return suspicions as findings on the files of the structures."""
    ends = np.cumsum([len(each) for each in indices.values()])[:-1]
    found: dict[str, list[Finding]] = {name: [] for name in indices}
    for suspicion in suspicions:
        for name, which in zip(indices, np.split(suspicion.is_suspicious, ends), strict=True):
            if which.any():
                found[name].append(finding_of(suspicion.text, indices[name][which]))
    return found
