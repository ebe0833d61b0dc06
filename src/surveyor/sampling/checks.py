"""Checks of walkers before any work begins."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from ase import Atoms, units

from surveyor.biases.plumed import check_plumed, variables_that_depend_on_place
from surveyor.biases.plumed_actions import check_temperature
from surveyor.biases.restraints import check_restraints
from surveyor.errors import InputError
from surveyor.reading import Reading, ReadingReport
from surveyor.reading.report import Finding
from surveyor.sampling.conditions import MOVING_CELL, UNDER_BAROSTAT, UNDER_THERMOSTAT, Walkers
from surveyor.sampling.guards import check_distances
from surveyor.sampling.integrators import GLOBAL, degrees_of_freedom, keeps_constraints
from surveyor.sampling.placement import is_placed_by_plumed, plumed_files, plumed_text
from surveyor.sampling.walkers import Walker, read_starts, walkers_of
from surveyor.structures import is_periodic

HARDEST = 16.0  # volume of an atom times bulk modulus of diamond, in eV
FASTEST = 1.6  # radians of a swing of the cell in a time step


def check_walkers(groups: Sequence[Walkers]) -> None:
    """Check that every walker can start, and that PLUMED takes its inputs; see `checked_walkers`."""
    checked_walkers(groups, 0)


def checked_walkers(
    groups: Sequence[Walkers], seed: int, *, has_plumed: bool = True, by_former_rule: bool = False
) -> tuple[tuple[Walker, ...], tuple[ReadingReport, ...]]:
    """Return all walkers at their starts, and the reports on the start files; each file is read once.

    Args:
        groups: groups of walkers.
        seed: seed of the campaign.
        has_plumed: whether PLUMED is available here and checks its inputs.
        by_former_rule: whether windows follow the rule of earlier versions; see `place`.

    Raises:
        InputError: there is no walker, a start file cannot be used, or a structure in it is not suitable for the
            method, the bias or the guards of its group; the message names group and structure.
    """
    if not groups:
        raise InputError("no walkers are given; give at least one group of walkers")
    readings: dict[tuple[Path, str], Reading] = {}
    reports: dict[Path, ReadingReport] = {}
    walkers: list[Walker] = []
    for number, group in enumerate(groups):
        file = group.start, group.initial_velocities
        reading = readings[file] = readings.get(file) or read_starts(group, f"walkers[{number}].start")
        try:
            _check_group(group, reading.structures, has_plumed=has_plumed)
            walkers += walkers_of(group, reading.structures, seed, len(walkers), by_former_rule=by_former_rule)
        except InputError as error:
            raise InputError(_under(f"walkers[{number}]", str(error))) from error
        reports.setdefault(group.start, reading.report)
        for found in filter(None, (fast_barostat(group), useless_ramp(group))):
            about = Finding(f"walkers[{number}]: {found}", reading.report.n_structures, 0)
            reports[group.start] = reports[group.start].with_findings(about)
    return tuple(walkers), tuple(reports.values())


def check_auto_limits(groups: Sequence[Walkers], why_none: str | None) -> None:
    """Check that no guard takes its limit from an uncertainty that the potential does not state.

    Args:
        groups: groups of walkers.
        why_none: why the potential states no uncertainty; None if it does.

    Raises:
        InputError: a group asks for such a limit; the message gives the reason.
    """
    for number, group in enumerate(groups):
        if why_none is not None and group.max_uncertainty_meV_per_A == "auto":
            raise InputError(
                f"walkers[{number}].max_uncertainty_meV_per_A: found auto, but {why_none}; expected a committee, or a "
                "single model of MACE or NequIP with uncertainty: true: choose one, or leave out the field, as nothing "
                "stops walkers by uncertainty here"
            )


def _under(path: str, message: str) -> str:
    """Return an error message with the path of its field, whose last part may already begin the message."""
    return f"{path}.{message}" if message.partition(":")[0] in Walkers.model_fields else f"{path}: {message}"


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """Begin the messages of errors with the name of a field."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{field}: {error}") from error


def _check_group(group: Walkers, starts: Sequence[Atoms], *, has_plumed: bool) -> None:
    for index, atoms in enumerate(starts):
        name = f"structure {index} of {group.start}"
        _check_start(atoms, group, name)
        with _naming("restraints"):
            check_restraints(group.restraints, atoms, name)
    if group.plumed is not None:
        with _naming("plumed"):
            _check_plumed(group, starts, has_plumed=has_plumed)


def _check_plumed(group: Walkers, starts: Sequence[Atoms], *, has_plumed: bool) -> None:
    if group.final_temperature_K not in (None, group.temperature_K):
        check_temperature(plumed_text(group))
    if has_plumed or is_placed_by_plumed(group):  # here, whatever the pool
        check_plumed(plumed_text(group), starts, files=plumed_files(group))
    if has_plumed:
        _check_momenta(group, starts[0])


def fast_barostat(group: Walkers) -> str | None:
    """Return a warning if the cell of a hard solid swings too fast for the time step; None if not.

    A cell of volume V and bulk modulus B swings with the frequency sqrt(9 V B / (N_degrees kT)) over the time of the
    barostat, and is integrated up to 2 over the time step. V B of an atom in diamond is 16 eV, in copper 10 eV.
    """
    if group.method not in UNDER_BAROSTAT:
        return None
    coldest = min(group.temperature_K, group.final_temperature_K or np.inf)
    shortest = group.timestep_fs * np.sqrt(9 * HARDEST / (3 * units.kB * coldest)) / FASTEST
    if group.barostat_time_fs >= shortest:
        return None
    return (
        f"barostat_time_fs is {group.barostat_time_fs:g}; at {coldest:g} K a hard solid explodes below "
        f"{shortest:.0f}: make it longer or the time step shorter, unless the structure is soft"
    )


def useless_ramp(group: Walkers) -> str | None:
    """Return a warning if walkers have a final temperature, but no thermostat; None if not."""
    if group.final_temperature_K is None or group.method in UNDER_THERMOSTAT:
        return None
    return f"final_temperature_K has no effect with method {group.method}, which has no thermostat: leave it out"


def _check_start(atoms: Atoms, group: Walkers, name: str) -> None:
    close = check_distances(atoms, group, step=0)
    if close is not None:
        guard = "min_distance_A" if close.limit == group.min_distance_A else "min_distance_factor"
        raise InputError(
            f"{name}: two atoms are {close.value:.3f} Å apart, but the guard {guard} allows no less than "
            f"{close.limit:g}; correct the structure or lower the guard"
        )
    if group.method == "perturbation":
        return
    if degrees_of_freedom(atoms, group) <= 0:
        raise InputError(
            f"{name}: no atom can move under its constraints, but for the whole structure; free some atoms, or use "
            "method langevin"
        )
    if group.method in MOVING_CELL and not is_periodic(atoms):
        raise InputError(
            f"{name} has pbc {atoms.pbc.tolist()}, but method {group.method} needs a cell that is periodic in three "
            f"directions; give the structure one, or use a method of constant volume"
        )
    if atoms.constraints and not keeps_constraints(group):
        raise InputError(
            f"{name} has constraints, which method {group.method} cannot keep; remove them, or use method langevin"
        )
    if group.method == "bussi" and group.initial_velocities == "zero":
        raise InputError(f"{name}: method bussi scales velocities, but initial_velocities is zero; take thermal")
    if group.initial_velocities == "given" and not group.is_optimisation and not atoms.has("momenta"):
        raise InputError(
            f"{name} has no momenta, but initial_velocities is given; take thermal, or give a file with them"
        )


def _check_momenta(group: Walkers, start: Atoms) -> None:
    if group.method not in GLOBAL:
        return
    found = variables_that_depend_on_place(plumed_text(group), start, files=plumed_files(group))
    if found:
        raise InputError(
            f"the PLUMED input has variables that depend on where the structure is or how it is turned "
            f"({', '.join(found)}), but method {group.method} needs momenta of the whole structure that are "
            "conserved; use method langevin, or variables of relative positions"
        )
