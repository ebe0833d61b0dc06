"""Beginnings other than perturbed structures: labelled data that a user gives, and other campaigns."""

from dataclasses import fields
from pathlib import Path

import numpy as np
from ase import Atoms

from surveyor.campaign.campaign import Campaign
from surveyor.campaign.checks import _check_learnt, check_elements, labelled_data
from surveyor.campaign.continuation import recorded_parameters
from surveyor.campaign.parameters import Origin
from surveyor.dataset import FAILURE, GIVEN, KEY, Dataset, DataSets, is_labelled, label_of
from surveyor.errors import InputError
from surveyor.labels import LevelOfTheory, label_key, load_theory
from surveyor.learning import structure_error, without_repetitions
from surveyor.potentials import Prediction
from surveyor.run_directory import Generation, RunDirectory
from surveyor.sampling.conditions import MOVING_CELL
from surveyor.sampling.walkers import Walker, load_walker, make_walkers
from surveyor.structures import elements_of

SAME_ENERGY_MEV = 1.0  # per atom: given and computed labels of one level of theory agree better
SAME_FORCES_MEV = 5.0  # per Å
SAME_STRESS = 1e-4  # eV/Å³


def given_data(path: Path, theory: LevelOfTheory) -> Dataset:
    """Return labelled structures that a user gives, with their keys, marked as not requested by this campaign.

    Args:
        path: extxyz file.
        theory: that of the campaign.

    Raises:
        InputError: a structure is unusable or has no label.
    """
    structures = labelled_data(path).structures
    check_elements(structures, theory.elements, theory.name)
    for atoms in structures:
        atoms.info[KEY] = label_key(atoms, theory)
        atoms.info[GIVEN] = str(path)
    return without_repetitions(Dataset(structures), ())


def check_given_label(given: Atoms, computed: Atoms, name: str = "bootstrap.data") -> None:
    """Check a given label against one that the reference computed for the same structure.

    Different levels of theory, units or zeros of energy (shifted by atomic energies, say) show at once.

    Args:
        given: with the given label.
        computed: the same structure with the computed label, or the reason why it has none.
        name: of the field or file that gives it, for the message.

    Raises:
        InputError: they differ.
    """
    if not is_labelled(computed):
        raise InputError(f"{name}: the reference fails ({computed.info[FAILURE]}) on a structure that has a label")
    error = structure_error(
        given, Prediction(**{name: getattr(label_of(computed), name) for name in ("energy", "forces")})
    )
    here, there = label_of(computed).stress, label_of(given).stress
    same_stress = here is None or there is None or np.allclose(here, there, rtol=0.02, atol=SAME_STRESS)
    if error.exceeds(SAME_ENERGY_MEV, SAME_FORCES_MEV) or not same_stress:
        raise InputError(
            f"{name}: the reference disagrees with the label given for {given.symbols}: "
            f"by {error.energy:.3g} meV/atom and {error.forces:.3g} meV/Å; "
            "expected unshifted total energies (eV), forces (eV/Å) and stress (eV/Å³, with ASE's sign) of one level of "
            "theory"
        )


def inherit(campaign: Campaign, origin: Origin) -> Generation:
    """Return the generation of another campaign, as the first of this one.

    Walkers go on from where they were, as far as this campaign has a walker of the same number, atoms and cell.

    Args:
        campaign: the new one; its level of theory is known.
        origin: from where.

    Raises:
        InputError: the other campaign has another level of theory.
    """
    directory = RunDirectory(origin.run_directory)
    theory, there = load_theory(campaign.directory.theory), load_theory(directory.theory)
    if theory.digest != there.digest:
        raise InputError(
            f"begin_from: {origin.run_directory} was labelled with another level of theory "
            f"({there.name}, not {theory.name})"
        )
    old = directory.load_generation(origin.generation, ())
    _check_learnt(
        campaign.structures, elements_of(old.data.train), f"begin_from: {origin.run_directory} has learnt from"
    )
    given = {
        each.name: Dataset(_marked(atoms, str(origin.run_directory)) for atoms in getattr(old.data, each.name))
        for each in fields(DataSets)
    }
    return Generation(0, DataSets(**given), _inherited_walkers(campaign, directory, origin.generation), old.model)


def _inherited_walkers(campaign: Campaign, there: RunDirectory, number: int) -> tuple[Walker, ...]:
    old = recorded_parameters(there)
    starts = {walker.index: walker.start for walker in make_walkers(old.walkers, old.learning.seed)}
    return tuple(
        load_walker(there.generation(number).walker(walker.index), walker)
        if walker.index in starts and _goes_on(walker, starts[walker.index])
        else walker
        for walker in campaign.walkers
    )


def _goes_on(walker: Walker, start: Atoms) -> bool:
    same_box = walker.conditions.method in MOVING_CELL or np.array_equal(walker.start.cell.array, start.cell.array)
    same_atoms = np.array_equal(walker.start.numbers, start.numbers)
    return bool(same_atoms and same_box and np.array_equal(walker.start.pbc, start.pbc))


def _marked(atoms: Atoms, source: str) -> Atoms:
    marked = atoms.copy()
    marked.info[GIVEN] = source
    return marked
