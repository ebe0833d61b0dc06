"""Centres of the restraints of a PLUMED input, which surveyor moves."""

import re
from collections.abc import Mapping

from surveyor.biases.plumed_input import Action, parse_plumed
from surveyor.errors import InputError
from surveyor.words import number_of


def with_shifted_centre(text: str, variable: str, centre: float) -> str:
    """Return a PLUMED input in which the RESTRAINT on a variable is centred elsewhere; all else is left as it is.

    Args:
        text: the input.
        variable: label of the variable on which it acts.
        centre: in the unit of the variable in the input.

    Raises:
        InputError: there is not exactly one RESTRAINT that acts on the variable, or it has not one centre for each.
    """
    restraint = _restraint_on(text, variable)
    return _with_words(text, restraint, {"AT": f"AT={_centres(restraint, variable, centre)}"})


def with_moving_centre(text: str, variable: str, minimum: float, maximum: float, n_steps: int) -> str:
    """Return a PLUMED input in which the RESTRAINT on a variable is a MOVINGRESTRAINT; all else is left as it is.

    Args:
        text: the input.
        variable: label of the variable on which it acts.
        minimum: centre at step 0, in the unit of the variable in the input.
        maximum: centre from the last of the steps on.
        n_steps: number of steps.

    Raises:
        InputError: there is not exactly one RESTRAINT that acts on the variable, or it has not one centre for each, or
            a slope.
    """
    restraint = _restraint_on(text, variable)
    if restraint.value("SLOPE") is not None:
        raise InputError(
            f"line {restraint.line} of the PLUMED input: found SLOPE of RESTRAINT, whose centre is to move by steps; "
            "leave it out, or give it in a RESTRAINT of its own"
        )
    first, last = (_centres(restraint, variable, centre) for centre in (minimum, maximum))
    force_constants = ",".join((restraint.value("KAPPA") or "").replace(",", " ").split())
    words = {
        "RESTRAINT": "MOVINGRESTRAINT",
        "AT": f"STEP0=0 AT0={first} STEP1={n_steps} AT1={last}",
        "KAPPA": f"KAPPA0={force_constants}",
    }
    return _with_words(text, restraint, words)


def _restraint_on(text: str, variable: str) -> Action:
    actions = parse_plumed(text)
    restraints = [each for each in actions if each.name == "RESTRAINT" and variable in each.arguments]
    if len(restraints) != 1:
        raise InputError(
            f"the PLUMED input has {len(restraints)} actions RESTRAINT on {variable}; expected exactly one, whose "
            "centre is to be moved"
        )
    return restraints[0]


def _with_words(text: str, action: Action, words: Mapping[str, str]) -> str:
    """Return the input with some words of an action replaced, by their keywords; each word is on one line."""
    lines = text.splitlines(keepends=True)
    for keyword, word in words.items():
        pattern = re.compile(rf"(?<!\S){keyword}(=(\{{[^}}]*\}}|\S+)|(?!\S))", re.IGNORECASE)
        for number in range(action.line - 1, action.last_line):
            code, mark, comment = lines[number].partition("#")
            if pattern.search(code):
                lines[number] = pattern.sub(word, code) + mark + comment
                break
        else:
            raise InputError(
                f"line {action.line} of the PLUMED input: found no {keyword} of {action.name} on one line; write it so"
            )
    return "".join(lines)


def _centres(restraint: Action, variable: str, centre: float) -> str:
    centres = (restraint.value("AT") or "").replace(",", " ").split()
    if len(centres) != len(restraint.arguments):
        raise InputError(
            f"line {restraint.line} of the PLUMED input: found {number_of(len(centres), 'value')} in AT of RESTRAINT, "
            f"expected {len(restraint.arguments)}, one for each in ARG"
        )
    centres[restraint.arguments.index(variable)] = f"{centre:.10g}"
    return ",".join(centres)
