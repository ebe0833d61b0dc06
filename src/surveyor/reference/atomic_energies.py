"""Energies of isolated atoms."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ase import Atoms
from ase.data import atomic_numbers, ground_state_magnetic_moments

from surveyor.errors import AtomicEnergyFailed
from surveyor.labels import POLICIES, Label, LabelFailure, LevelOfTheory
from surveyor.reference.labelling import Labeller, attempt_label

logger = logging.getLogger(__name__)

BOX_A = 10.0  # for calculators that need a cell even without periodicity
NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86)


def isolated_atoms(element: str) -> list[Atoms]:
    """Return an atom in each multiplicity that its open shells allow, from the lowest on, without gaps."""
    number = atomic_numbers[element]
    atoms = []
    for n_unpaired in range(number % 2, max_unpaired_electrons(number) + 1, 2):
        atom = Atoms(element, positions=[[BOX_A / 2] * 3], cell=[BOX_A] * 3, pbc=False)
        atom.info.update(charge=0, multiplicity=n_unpaired + 1)
        atoms.append(atom)
    return atoms


def max_unpaired_electrons(number: int) -> int:
    """Return how many electrons outside of closed shells can be unpaired, each orbital holding one or two."""
    core = max(closed for closed in NOBLE_GASES if closed < number)
    n_valence = number - core
    n_orbitals = 1 if core == 0 else 4  # s, and p
    if core >= 54:
        n_valence, n_orbitals = (n_valence, 13) if n_valence <= 16 else (n_valence - 14, 6)  # s, d, f, or f is full
    elif core >= 18:
        n_orbitals = 6  # s, d
    if core >= 18 and n_orbitals == 6 and n_valence > 12:
        n_valence, n_orbitals = n_valence - 10, 4  # d is full: s, p
    return min(n_valence, 2 * n_orbitals - n_valence)


def lowest_energy(outcomes: Iterable[Label | LabelFailure]) -> float | None:
    """Return the lowest energy among labels in eV; None if there are only failures."""
    return min((outcome.energy for outcome in outcomes if isinstance(outcome, Label)), default=None)


def atomic_energy(element: str, labeller: Labeller) -> float:
    """Return the energy of an isolated neutral atom in its lowest multiplicity, in eV; each label is kept in the store.

    Raises:
        AtomicEnergyFailed: no multiplicity gave an energy, one failed for good by its machine, or that of the ground
            state failed.
        AttemptFailed: one failed by its machine, and is worth another attempt.
    """
    theory, store = labeller.theory, labeller.store
    neutral = replace(labeller, theory=replace(theory, charge=None, multiplicity=None))
    outcomes = [attempt_label(atoms, neutral) for atoms in isolated_atoms(element)]
    by_machine = [each for each in outcomes if isinstance(each, LabelFailure) and POLICIES[each.reason].attempts > 1]
    if by_machine:
        # The missing multiplicity may be the lowest one.
        raise AtomicEnergyFailed(
            f"an isolated {element} atom at {theory.name} failed, maybe by its machine ({by_machine[0].reason}: "
            f"{by_machine[0].message}); correct that, and give: surveyor labels retry {store}"
        )
    energy = lowest_energy(outcomes)
    if energy is None:
        failures = "; ".join(f"{each.reason}: {each.message}" for each in outcomes if isinstance(each, LabelFailure))
        raise AtomicEnergyFailed(f"no energy of an isolated {element} atom at {theory.name}: {failures}")
    _check_ground_state(element, theory, outcomes)
    return energy


def _check_ground_state(element: str, theory: LevelOfTheory, outcomes: Sequence[Label | LabelFailure]) -> None:
    """Check that the multiplicity of the ground state is no failure: the lowest of the others may be eV higher."""
    known = float(ground_state_magnetic_moments[atomic_numbers[element]]) + 1
    for atom, outcome in zip(isolated_atoms(element), outcomes, strict=True):
        if not isinstance(outcome, LabelFailure):
            continue
        multiplicity = atom.info["multiplicity"]
        if multiplicity == known:
            raise AtomicEnergyFailed(
                f"an isolated {element} atom at {theory.name} has no energy in the multiplicity of its ground state, "
                f"{multiplicity} ({outcome.reason}: {outcome.message}); correct that, or set learning.atomic_energies "
                "to least_squares"
            )
        logger.warning("%s atom without multiplicity %d (%s)", element, multiplicity, outcome.reason)
