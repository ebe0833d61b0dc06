"""Where the walkers of a group begin, and along which collective variable they are spread."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms

from surveyor.biases.evaluation import evaluate_bias
from surveyor.biases.plumed_input import domain_of, with_shifted_centre
from surveyor.biases.restraints import difference, same_variable, with_centre, with_one_centre, within
from surveyor.errors import InputError
from surveyor.sampling.conditions import Distribution, Walkers

WINDOW_VARIABLE, WINDOW_CENTRE = "window_variable", "window_centre"  # in `info` of structures


def place(group: Walkers, starts: Sequence[Atoms], *, by_former_rule: bool = False) -> list[tuple[Walkers, Atoms, str]]:
    """Return conditions, start and PLUMED input of each walker of a group.

    Without a distribution the walkers take the starts in turn. With one, their restraints are centred at even distances
    along the collective variable, and each walker begins from the start that is nearest to its centre. Variable and
    centre are in `info` of that start, and so of all structures of the walker.

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
    biases = evaluate_bias(starts, restraints=group.restraints, plumed=text, files=plumed_files(group))
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
    return placed


def centres(distribution: Distribution, n_walkers: int, domain: tuple[float, float] | None) -> list[float]:
    """Return the centres of windows, at even distances; a whole turn has its end, which is its beginning, once.

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
    return [within(float(centre), domain) for centre in even]


def _domain(group: Walkers, text: str) -> tuple[float, float] | None:
    assert group.distribution is not None
    name = group.distribution.variable
    found = [each for each in group.restraints if same_variable(each.name, name)]
    return found[0].domain if found else domain_of(text, name)


def plumed_text(group: Walkers) -> str:
    """Return the PLUMED input of a group; empty without one."""
    return "" if group.plumed is None else group.plumed.read_text()


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
    if any(same_variable(restraint.name, name) for restraint in group.restraints):
        move = with_one_centre if moves_all else with_centre
        return group.model_copy(update={"restraints": move(group.restraints, name, centre)}), text
    return group, with_shifted_centre(text, name, centre)
