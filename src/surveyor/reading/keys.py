"""The names under which a structure file holds labels."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np
from pydantic import Field

from surveyor.errors import InputError
from surveyor.parameters import Parameters

Fields = Mapping[str, Any]  # Any: whatever a file gives a structure, by name
LabelName = Literal["energy", "forces", "stress", "virials"]
NAMES: tuple[LabelName, ...] = get_args(LabelName)
LOPSIDED = "stress that is not symmetric"  # atoms.info: takes the place of `stress` while a file is read


class LabelKeys(Parameters):
    """The names under which a structure file holds labels."""

    prefix: str = Field(
        "REF_",
        title="Prefix",
        description="Prefix of energy (eV), forces (eV/Å), stress (eV/Å³, ASE's sign) and virials (eV, minus "
        "stress times volume). Empty for the results of an ASE calculator; free_energy then takes "
        "precedence over energy.",
    )
    energy: str | None = Field(
        None,
        title="Name of the energy",
        description="Complete name, if it is not the prefix followed by energy, such as TotEnergy.",
    )
    forces: str | None = Field(
        None,
        title="Name of the forces",
        description="Complete name, if it is not the prefix followed by forces, such as dft_force.",
    )
    stress: str | None = Field(
        None, title="Name of the stress", description="Complete name, if it is not the prefix followed by stress."
    )
    virials: str | None = Field(
        None,
        title="Name of the virials",
        description="Complete name, if it is not the prefix followed by virials or virial.",
    )

    def names(self, label: LabelName) -> tuple[str, ...]:
        """Return the names that a label may have, of which the first that is found is taken."""
        given: str | None = getattr(self, label)
        if given is not None:
            return (given,)
        names = {"energy": ("energy",) if self.prefix else ("free_energy", "energy"), "virials": ("virials", "virial")}
        return tuple(f"{self.prefix}{name}" for name in names.get(label, (label,)))

    def found(self, label: LabelName, fields: Fields) -> str | None:
        """Return the name under which a label exists; None if it does not exist."""
        return next((name for name in self.names(label) if fields.get(name) is not None), None)


REF_KEYS = LabelKeys()  # surveyor's own
Suggestion = Mapping[str, str]  # fields of `LabelKeys`
Advice = Callable[[Suggestion], str]  # says where to write them


def in_parameters(field: str) -> Advice:
    """Return advice for a parameter file.

    Args:
        field: that takes `LabelKeys`, with its parents.
    """
    return lambda keys: f"{field}: {{{', '.join(f'{name}: {value or repr(value)}' for name, value in keys.items())}}}"


def keys_in(fields: Fields) -> Suggestion | None:
    """Return keys under which a file seems to hold energy and forces, None where it seems to hold none.

    Args:
        fields: of a structure, with its positions.
    """
    energies = [name for name, value in fields.items() if looks_like(name, "energy") and np.size(value) == 1]
    shape = np.shape(fields["positions"])
    forces = [name for name, value in fields.items() if looks_like(name, "force") and np.shape(value) == shape]
    if not (energies and forces):
        return None
    for energy in energies:
        prefix = energy.removesuffix("energy")
        if energy != prefix and f"{prefix}forces" in forces:
            return {"prefix": prefix}
    return {"energy": energies[0], "forces": forces[0]}


def looks_like(name: str, word: str) -> bool:
    """Return whether the name of a field has a word in it, and is not that of a weight."""
    return word in name.lower() and "weight" not in name.lower()


def numbers_in(fields: Fields, name: str) -> np.ndarray:
    """Return the numbers under a name.

    Raises:
        InputError: there is something else.
    """
    try:
        values = np.asarray(fields[name])
    except ValueError:  # lists of different lengths
        values = np.array(None)
    if values.dtype.kind not in "iuf":
        raise InputError(f"{name} is {fields[name]!r}; expected numbers")
    return values.astype(float)


def number_in(fields: Fields, name: str) -> float:
    """Return the number under a name.

    Raises:
        InputError: there are several, or something else.
    """
    values = numbers_in(fields, name)
    if values.size != 1:
        raise InputError(f"{name} has {values.size} values; expected one number")
    return float(values.ravel()[0])
