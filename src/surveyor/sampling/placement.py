"""Placement of the walkers of a group: their starts, and the collective variable along which they are spread."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms

from surveyor.biases.evaluation import evaluate_bias
from surveyor.biases.plumed_centres import with_moving_centre, with_shifted_centre
from surveyor.biases.plumed_input import domain_of
from surveyor.biases.restraints import Restraint, difference, same_variable, with_centre, with_one_centre, within
from surveyor.errors import InputError
from surveyor.sampling.conditions import Distribution, Walkers

WINDOW_VARIABLE, WINDOW_CENTRE = "window_variable", "window_centre"  # in `info` of structures


def place(group: Walkers, starts: Sequence[Atoms], *, by_former_rule: bool = False) -> list[tuple[Walkers, Atoms, str]]:
    """Return conditions, start and PLUMED input of each walker of a group.

    Without a distribution the walkers take the starts in turn. With one, their restraints are centred at even distances
    along the collective variable, or all at its minimum if the centres move, and each walker begins from the start that
    is nearest to its centre. Variable and centre are in `info` of that start, and so of all structures of the walker.

    Args:
        group: what the user asked for.
        starts: at least one structure.
        by_former_rule: whether windows are those of a campaign that a surveyor of before November 28 began. It did not
            know that torsions are periodic, and moved walls to the centres, too.

    Raises:
        InputError: no restraint acts on the variable of the distribution, or a file cannot be read.
    """
    text = plumed_text(group)
    if group.distribution is None:
        return [(group, starts[number % len(starts)], text) for number in range(group.n_walkers)]
    name = group.distribution.variable
    measured = text if is_placed_by_plumed(group) else ""
    biases = evaluate_bias(starts, restraints=group.restraints, plumed=measured, files=plumed_files(group))
    values = [_value(bias.variables, name) for bias in biases]
    domain = None if by_former_rule else _domain(group, text)
    if by_former_rule and any(each.variable == "torsion" and each.name == name for each in group.restraints):
        values = [value % 360 for value in values]
    placed = []
    for centre in centres(group.distribution, group.n_walkers, domain):
        conditions, own_text = _centred(group, text, centre, moves_all=by_former_rule)
        distances = [abs(difference(value, centre, domain)) for value in values]
        start = starts[int(np.argmin(distances))].copy()
        start.info |= {WINDOW_VARIABLE: name, WINDOW_CENTRE: centre}
        placed.append((conditions, start, own_text))
    bias_at(group, text, progress=1.0)  # it has to reach there
    return placed


def centres(distribution: Distribution, n_walkers: int, domain: tuple[float, float] | None) -> list[float]:
    """Return the centres of windows at the beginning: at even distances, or all at the minimum if they move.

    A whole turn has its end, which is its beginning, once.

    Args:
        distribution: along the variable.
        n_walkers: how many windows there are.
        domain: between which values the variable is, where it is periodic.

    Raises:
        InputError: the range is longer than the period.
    """
    length = distribution.maximum - distribution.minimum
    period = np.inf if domain is None else domain[1] - domain[0]
    is_turn = bool(np.isclose(length, period, rtol=1e-3))
    if length > period and not is_turn:
        raise InputError(
            f"distribution: found a range of {length:g}, expected at most the period of {distribution.variable}, "
            f"{period:g}; correct minimum or maximum"
        )
    even = np.linspace(distribution.minimum, distribution.maximum, n_walkers, endpoint=not is_turn)
    if distribution.moves:
        return [within(distribution.minimum, domain)] * n_walkers
    return [within(float(centre), domain) for centre in even]


def _domain(group: Walkers, text: str) -> tuple[float, float] | None:
    assert group.distribution is not None
    name = group.distribution.variable
    found = [each for each in group.restraints if same_variable(each.name, name)]
    return found[0].domain if found else domain_of(text, name)


def plumed_text(group: Walkers) -> str:
    """Return the PLUMED input of a group, whose restraint moves by itself if it does so by steps; empty without one."""
    text = "" if group.plumed is None else group.plumed.read_text()
    distribution = group.distribution
    if distribution is None or group.ramp_steps is None or not text or not _moves_by_itself(group):
        return text
    return with_moving_centre(text, distribution.variable, distribution.minimum, distribution.maximum, group.ramp_steps)


def _moves_by_itself(group: Walkers) -> bool:
    """Return whether PLUMED moves the centre of a restraint, as it knows the steps of a walker."""
    return group.has_moving_centres and group.ramp_by == "steps" and not _is_restrained(group)


def _is_restrained(group: Walkers) -> bool:
    """Return whether restraints act on the variable of the distribution, rather than PLUMED."""
    name = "" if group.distribution is None else group.distribution.variable
    return any(same_variable(restraint.name, name) for restraint in group.restraints)


def is_placed_by_plumed(group: Walkers) -> bool:
    """Return whether PLUMED measures the variable along which the walkers of a group are distributed."""
    return group.plumed is not None and group.distribution is not None and not _is_restrained(group)


def centre_at(conditions: Walkers, plumed: str, progress: float) -> float:
    """Return the centre of a walker's window, in the unit of the restraint.

    Args:
        conditions: of the walker, with a distribution whose centres move.
        plumed: its PLUMED input.
        progress: along its ramp, from 0 to 1.
    """
    distribution = conditions.distribution
    assert distribution is not None
    centre = distribution.minimum + progress * (distribution.maximum - distribution.minimum)
    return within(centre, _domain(conditions, plumed))


def bias_at(conditions: Walkers, plumed: str, progress: float) -> tuple[tuple[Restraint, ...], str]:
    """Return the restraints and the PLUMED input of a walker at its place along its ramp.

    Args:
        conditions: of the walker.
        plumed: its PLUMED input; one whose restraint moves by steps remains as it is.
        progress: along its ramp, from 0 to 1.

    Raises:
        InputError: the variable does not reach there.
    """
    if not conditions.has_moving_centres:
        return conditions.restraints, plumed
    moved, text = _centred(conditions, plumed, centre_at(conditions, plumed, progress), moves_all=False)
    return moved.restraints, text


def plumed_files(group: Walkers) -> dict[str, bytes]:
    """Return the files that the PLUMED input reads, by the name it gives them."""
    # A copy in a run directory has a part of its hash before its name.
    return {re.sub(r"^[0-9a-f]{12}-", "", path.name): path.read_bytes() for path in group.plumed_files}


def _value(variables: Mapping[str, float], name: str) -> float:
    """Return the collective variable along which walkers are distributed."""
    found = [value for each, value in variables.items() if same_variable(each, name)]
    if not found:
        raise InputError(
            f"distribution: found variable {name}, expected one on which a restraint acts: "
            f"{', '.join(variables) or 'there is none'}"
        )
    return found[0]


def _centred(group: Walkers, text: str, centre: float, *, moves_all: bool) -> tuple[Walkers, str]:
    """Return conditions and PLUMED input with the restraint on the distributed variable moved, or all of them."""
    assert group.distribution is not None
    name = group.distribution.variable
    if _is_restrained(group):
        move = with_one_centre if moves_all else with_centre
        return group.model_copy(update={"restraints": move(group.restraints, name, centre)}), text
    return group, text if _moves_by_itself(group) else with_shifted_centre(text, name, centre)
