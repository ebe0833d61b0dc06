"""Checks of the walkers that a user asked for, before any work begins."""

from collections.abc import Sequence

from ase import Atoms

from surveyor.errors import InputError
from surveyor.sampling.guards import shortest_distance
from surveyor.sampling.walkers import Walkers
from surveyor.structures import is_periodic, read_structures


def check_walkers(groups: Sequence[Walkers]) -> None:
    """Check that every walker can start, before any work begins.

    Raises:
        InputError: there is no walker, a start file cannot be used, or a structure in it does not suit the method or
            the guards of its group; says which group and which structure.
    """
    if not groups:
        raise InputError("no walkers are given; give at least one group of walkers")
    for number, group in enumerate(groups):
        try:
            starts = read_structures(group.start)
            for index, atoms in enumerate(starts):
                _check_start(atoms, group, f"structure {index} of {group.start}")
        except InputError as error:
            raise InputError(f"walkers[{number}]: {error}") from error


def _check_start(atoms: Atoms, group: Walkers, name: str) -> None:
    shortest = shortest_distance(atoms, group.min_distance_A)
    if shortest is not None:
        raise InputError(
            f"{name}: two atoms are {shortest:.3f} Å apart, but the guard min_distance_A is {group.min_distance_A:g}; "
            "correct the structure or lower the guard"
        )
    if group.method != "perturbation" and atoms.get_number_of_degrees_of_freedom() <= 0:
        raise InputError(f"{name}: no atom can move under its constraints; free some atoms")
    if group.method == "npt" and not is_periodic(atoms):
        raise InputError(
            f"{name} has pbc {atoms.pbc.tolist()}, but method npt needs a cell that is periodic in three directions; "
            "give the structure one, or use method langevin"
        )
    if group.method == "npt" and atoms.constraints:
        raise InputError(f"{name} has constraints, which method npt cannot keep; remove them, or use method langevin")
