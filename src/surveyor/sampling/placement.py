"""Where the walkers of a group begin, and along which collective variable they are spread."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms

from surveyor.biases.evaluation import evaluate_bias
from surveyor.biases.plumed_input import with_shifted_centre
from surveyor.biases.restraints import with_centre
from surveyor.errors import InputError
from surveyor.sampling.conditions import Walkers


def place(group: Walkers, starts: Sequence[Atoms]) -> list[tuple[Walkers, Atoms, str]]:
    """Return conditions, start and PLUMED input of each walker of a group.

    Without a distribution the walkers take the starts in turn. With one, their restraints are centred at even distances
    along the collective variable, and each walker begins from the start that is nearest to its centre.

    Args:
        group: what the user asked for.
        starts: at least one structure.

    Raises:
        InputError: no restraint acts on the variable of the distribution, or a file cannot be read.
    """
    text = plumed_text(group)
    if group.distribution is None:
        return [(group, starts[number % len(starts)], text) for number in range(group.n_walkers)]
    biases = evaluate_bias(starts, restraints=group.restraints, plumed=text, files=plumed_files(group))
    values = np.array([_value(bias.variables, group.distribution.variable) for bias in biases])
    centres = np.linspace(group.distribution.minimum, group.distribution.maximum, group.n_walkers)
    placed = []
    for centre in centres:
        conditions, own_text = _centred(group, text, float(centre))
        placed.append((conditions, starts[int(np.abs(values - centre).argmin())], own_text))
    return placed


def plumed_text(group: Walkers) -> str:
    """Return the PLUMED input of a group; empty without one."""
    return "" if group.plumed is None else group.plumed.read_text()


def plumed_files(group: Walkers) -> dict[str, bytes]:
    """Return the files that the PLUMED input reads, by the name it gives them."""
    # A copy in a run directory has a part of its hash before its name.
    return {re.sub(r"^[0-9a-f]{12}-", "", path.name): path.read_bytes() for path in group.plumed_files}


def _value(variables: Mapping[str, float], name: str) -> float:
    """Return the collective variable along which walkers are distributed."""
    if name not in variables:
        raise InputError(
            f"distribution: found variable {name}, expected one on which a restraint acts: "
            f"{', '.join(variables) or 'there is none'}"
        )
    return variables[name]


def _centred(group: Walkers, text: str, centre: float) -> tuple[Walkers, str]:
    """Return conditions and PLUMED input with the centre of the distributed restraint moved."""
    if group.distribution is None:
        return group, text
    name = group.distribution.variable
    if name in {restraint.name for restraint in group.restraints}:
        return group.model_copy(update={"restraints": with_centre(group.restraints, name, centre)}), text
    return group, with_shifted_centre(text, name, centre)
