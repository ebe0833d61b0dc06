"""Harmonic restraints and walls on geometric variables, for which no PLUMED is needed."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Self

import numpy as np
from ase import Atoms
from ase.geometry import (
    find_mic,
    get_angles,
    get_angles_derivatives,
    get_dihedrals,
    get_dihedrals_derivatives,
    get_distances_derivatives,
)
from ase.stress import full_3x3_to_voigt_6_stress
from pydantic import Field, ValidationError, model_validator

from surveyor.biases.bias import BiasValues
from surveyor.errors import InputError
from surveyor.parameters import Parameters
from surveyor.structures import is_periodic
from surveyor.words import number_of

Variable = Literal["distance", "angle", "torsion", "volume"]
N_ATOMS: Mapping[Variable, int] = {"distance": 2, "angle": 3, "torsion": 4, "volume": 0}
RANGES: Mapping[Variable, tuple[float, float]] = {
    "distance": (0, np.inf),
    "angle": (0, 180),
    "torsion": (-360, 360),
    "volume": (0, np.inf),
}
ANGULAR = ("angle", "torsion")
TURN = (-180.0, 180.0)  # the values of a torsion, in degrees
NAME = re.compile(r"\s*(distance|angle|torsion)\s*\(([\d\s,]*)\)\s*")


class Restraint(Parameters):
    """A harmonic restraint, or a wall that is harmonic on one side, on one variable."""

    variable: Variable = Field(
        title="Variable",
        description="distance of two atoms; angle of three atoms, at the second; torsion of four atoms; volume of"
        " the cell.",
    )
    atoms: tuple[int, ...] = Field(
        (), title="Atoms", description="Indices of the atoms, from 0 as in ASE; none for the volume."
    )
    kind: Literal["harmonic", "upper_wall", "lower_wall"] = Field(
        "harmonic",
        title="Kind",
        description="harmonic acts on both sides of the centre, upper_wall only above it, lower_wall only below it.",
    )
    centre: float = Field(
        title="Centre (Å, degrees or Å³)",
        description="Value of the variable at which the restraint is zero, in the unit of the variable.",
    )
    force_constant: float = Field(
        gt=0,
        title="Force constant (eV/Å², eV/rad² or eV/Å⁶)",
        description="The energy is half the force constant times the squared distance from the centre.",
    )

    @model_validator(mode="after")
    def _has_its_atoms(self) -> Self:
        expected = N_ATOMS[self.variable]
        if len(self.atoms) != expected:
            raise ValueError(f"expected {expected} atoms for {self.variable}; found {len(self.atoms)}")
        if len(set(self.atoms)) < expected or any(index < 0 for index in self.atoms):
            raise ValueError(f"expected different indices from 0; found {list(self.atoms)}")
        return self

    @model_validator(mode="after")
    def _has_a_centre_that_can_be(self) -> Self:
        least, most = RANGES[self.variable]
        if not least <= self.centre <= most:
            raise ValueError(
                f"expected a centre between {least:g} and {most:g} for {self.variable}; found {self.centre:g}"
            )
        return self

    @property
    def name(self) -> str:
        """The name of the variable, such as distance(0,1)."""
        return f"{self.variable}({','.join(map(str, self.atoms))})" if self.atoms else self.variable

    @property
    def domain(self) -> tuple[float, float] | None:
        """The domain of a periodic variable; None for others."""
        return TURN if self.variable == "torsion" else None


def same_variable(one: str, other: str) -> bool:
    """Return whether two names mean one variable: distance(0,1) is distance(1,0), and so on."""
    return _standard_name(one) == _standard_name(other)


def _standard_name(name: str) -> str:
    match = NAME.fullmatch(name)
    if match is None:
        return name
    atoms = [int(index) for index in match[2].replace(",", " ").split()]
    return f"{match[1]}({','.join(map(str, min(atoms, atoms[::-1])))})"


def within(value: float, domain: tuple[float, float] | None) -> float:
    """Return the value of a periodic variable within its domain, without its lower end; others stay as they are."""
    if domain is None:
        return value
    lower, upper = domain
    return upper - (upper - value) % (upper - lower)


def difference(one: float, other: float, domain: tuple[float, float] | None) -> float:
    """Return how far a value is above another one, for periodic variables the shorter way round."""
    if domain is None:
        return one - other
    half = (domain[1] - domain[0]) / 2
    return within(one - other, (-half, half))


def evaluate_restraints(restraints: Sequence[Restraint], atoms: Atoms) -> BiasValues:
    """Return the sum of restraints for a structure.

    Distances, angles and torsions are those of the nearest images.
    """
    energy, forces, strain = 0.0, np.zeros((len(atoms), 3)), np.zeros((3, 3))
    variables = {}
    for restraint in restraints:
        value, gradient, strain_gradient = _measure(restraint, atoms)
        excess = _excess(restraint, value)
        slope = restraint.force_constant * excess
        energy += slope * excess / 2
        forces[list(restraint.atoms)] -= slope * gradient
        strain += slope * strain_gradient
        converted = float(np.degrees(value)) if restraint.variable in ANGULAR else value
        variables[restraint.name] = within(converted, restraint.domain)
    stress = full_3x3_to_voigt_6_stress(strain / atoms.get_volume()) if is_periodic(atoms) else None
    return BiasValues(float(energy), forces, stress, variables)


def _excess(restraint: Restraint, value: float) -> float:
    """Return how far a variable is from the centre of a restraint that acts on it, in Å, rad or Å³."""
    if restraint.variable in ANGULAR:
        excess = value - np.radians(restraint.centre)
        if restraint.variable == "torsion":
            excess = within(excess, (-np.pi, np.pi))  # the shorter way round
    else:
        excess = value - restraint.centre
    is_beyond = {"harmonic": True, "upper_wall": excess > 0, "lower_wall": excess < 0}[restraint.kind]
    return float(excess) if is_beyond else 0.0


def _measure(restraint: Restraint, atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
    """Return a variable in Å, rad or Å³, its derivatives, shape (n, 3), and those with respect to strain, (3, 3)."""
    if restraint.variable == "volume":
        volume = float(atoms.get_volume())
        return volume, np.zeros((0, 3)), volume * np.eye(3)
    positions = atoms.positions[list(restraint.atoms)]
    # ASE completes a cell by vectors at right angles; with others, it does not always find the nearest image.
    periods = np.where(atoms.pbc[:, np.newaxis], atoms.cell.array, 0.0)
    bonds, _ = find_mic(np.diff(positions, axis=0), periods, atoms.pbc)
    value, gradient = _MEASURES[restraint.variable](bonds)
    # One image of each atom: a strain moves it by its position, and the variable by the virial.
    unwrapped = np.concatenate([np.zeros((1, 3)), np.cumsum(bonds, axis=0)])
    virial = gradient.T @ unwrapped
    return value, gradient, (virial + virial.T) / 2


def _distance(bonds: np.ndarray) -> tuple[float, np.ndarray]:
    return float(np.linalg.norm(bonds[0])), get_distances_derivatives(bonds)[0]


def _angle(bonds: np.ndarray) -> tuple[float, np.ndarray]:
    legs = -bonds[:1], bonds[1:]
    return float(np.radians(get_angles(*legs)[0])), np.radians(get_angles_derivatives(*legs)[0])


def _torsion(bonds: np.ndarray) -> tuple[float, np.ndarray]:
    legs = bonds[:1], bonds[1:2], bonds[2:]
    value = within(float(np.radians(get_dihedrals(*legs)[0])), (-np.pi, np.pi))
    return value, np.radians(get_dihedrals_derivatives(*legs)[0])


_MEASURES: Mapping[str, Callable[[np.ndarray], tuple[float, np.ndarray]]] = {
    "distance": _distance,
    "angle": _angle,
    "torsion": _torsion,
}


def check_restraints(restraints: Sequence[Restraint], atoms: Atoms, name: str) -> None:
    """Check that restraints are applicable to a structure.

    Raises:
        InputError: there is no such atom, no volume, or no angle about a bond.
    """
    for restraint in restraints:
        beyond = [index for index in restraint.atoms if index >= len(atoms)]
        if beyond:
            raise InputError(
                f"{name} has {number_of(len(atoms), 'atom')}, but the restraint {restraint.name} is on atom "
                f"{beyond[0]}; indices count from 0, so give at most {len(atoms) - 1}"
            )
        if restraint.variable == "volume" and not is_periodic(atoms):
            raise InputError(
                f"{name} has pbc {atoms.pbc.tolist()}, but a restraint on the volume needs a cell that is periodic in "
                "three directions; leave it out"
            )
    try:
        evaluate_restraints(restraints, atoms)
    except ZeroDivisionError as error:
        raise InputError(
            f"{name}: a restraint is on an angle or torsion of atoms in a line, which has no direction; choose others"
        ) from error


def with_centre(restraints: Sequence[Restraint], name: str, centre: float) -> tuple[Restraint, ...]:
    """Return the restraints, with those on one variable moved to a window about a centre.

    Harmonic restraints are centred there, and walls on the same variable stay, as they are its limits. Walls without a
    harmonic restraint are the window: they move together, so that their middle is at the centre.

    Args:
        restraints: some of them on the variable.
        name: of the variable, see `Restraint.name`.
        centre: in the unit of the variable.

    Raises:
        InputError: the variable does not reach there.
    """
    on_variable = [each for each in restraints if same_variable(each.name, name)]
    is_harmonic = any(each.kind == "harmonic" for each in on_variable)
    middle = _middle(on_variable)
    moved = []
    for each in restraints:
        if each not in on_variable or (is_harmonic and each.kind != "harmonic"):
            moved.append(each)
        else:
            moved.append(
                _centred(each, centre if is_harmonic else centre + difference(each.centre, middle, each.domain))
            )
    return tuple(moved)


def with_one_centre(restraints: Sequence[Restraint], name: str, centre: float) -> tuple[Restraint, ...]:
    """Return the restraints, with all on one variable centred at a value, walls too, as in former campaigns."""
    return tuple(each.model_copy(update={"centre": centre}) if each.name == name else each for each in restraints)


def _middle(restraints: Sequence[Restraint]) -> float:
    first, domain = restraints[0].centre, restraints[0].domain
    return first + float(np.mean([difference(each.centre, first, domain) for each in restraints]))


def _centred(restraint: Restraint, centre: float) -> Restraint:
    try:
        return Restraint(**{**restraint.model_dump(), "centre": within(centre, restraint.domain)})
    except ValidationError as error:
        least, most = RANGES[restraint.variable]
        raise InputError(
            f"distribution: found a centre of {centre:g} for {restraint.name}, expected one between {least:g} and "
            f"{most:g}; correct minimum and maximum"
        ) from error
