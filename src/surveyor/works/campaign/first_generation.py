"""Beginnings other than perturbed structures: labelled data that a user gives, and other campaigns."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from ase import Atoms

from surveyor.dataset import GIVEN, KEY, Dataset, DataSets
from surveyor.dataset.isolated_atoms import check_agreement
from surveyor.dataset.weights import counts
from surveyor.errors import InputError
from surveyor.labels import LevelOfTheory, label_key, load_theory
from surveyor.learning.decisions import without_repetitions
from surveyor.reading.learnable import TrainingData
from surveyor.run_directory import Generation, RunDirectory
from surveyor.sampling.conditions import MOVING_CELL
from surveyor.sampling.walkers import Walker, load_walker, make_walkers
from surveyor.structures import elements_of
from surveyor.works.campaign.campaign import Campaign
from surveyor.works.campaign.checks import check_elements, check_learnt
from surveyor.works.campaign.parameters import CampaignParameters, Origin
from surveyor.works.continuation import recorded_parameters


@dataclass(frozen=True, slots=True)
class GivenData:
    """Labelled data that a user gives.

    Attributes:
        structures: without isolated atoms; with their keys, marked as not requested by this campaign.
        atomic_energies: of the isolated atoms, in eV by chemical symbol.
    """

    structures: Dataset = field(default_factory=Dataset)
    atomic_energies: Mapping[str, float] = field(default_factory=dict)

    @property
    def example(self) -> Atoms:
        """The first structure with nonzero weights of energy and forces; otherwise the first structure."""
        whole = (atoms for atoms in self.structures if counts(atoms, "energy") and counts(atoms, "forces"))
        return next(whole, self.structures[0])

    def check(self, energies: Mapping[str, float]) -> None:
        """Check the atomic energies of the campaign against those of the isolated atoms in the data."""
        advice = (
            "the data are of another level of theory, or their atom is in another state; correct the data, or set "
            "learning.atomic_energies to least_squares to keep the energies of the data, and choose another run "
            "directory, as this one keeps its parameters"
        )
        check_agreement(energies, self.atomic_energies, "bootstrap.data: atomic energy by the reference", advice)


def given_data(data: TrainingData, theory: LevelOfTheory, path: Path) -> GivenData:
    """Return labelled data that a user gives, with their keys.

    Raises:
        InputError: the level of theory cannot treat an element.
    """
    check_elements(data.structures, theory.elements, theory.name)
    structures = [_marked(atoms, str(path)) for atoms in data.structures]
    for atoms in structures:
        atoms.info[KEY] = label_key(atoms, theory)
    return GivenData(without_repetitions(Dataset(structures), ()), data.atomic_energies)


def inherit(campaign: Campaign, origin: Origin) -> Generation:
    """Return the generation of another campaign, as the first of this one.

    A walker continues from its last state if this campaign has a walker with the same number, atoms and cell.

    Raises:
        InputError: the other campaign has another level of theory.
    """
    directory = RunDirectory(origin.run_directory)
    theory, there = load_theory(campaign.directory.theory), load_theory(directory.theory)
    if not theory.is_same_as(there):
        raise InputError(
            f"begin_from: {origin.run_directory} was labelled with another level of theory "
            f"({there.name}, not {theory.name})"
        )
    old = directory.load_generation(origin.generation, ())
    check_learnt(
        campaign.checked.structures, elements_of(old.data.train), f"begin_from: {origin.run_directory} has learnt from"
    )
    given = {
        each.name: Dataset(_marked(atoms, str(origin.run_directory)) for atoms in getattr(old.data, each.name))
        for each in fields(DataSets)
    }
    return Generation(0, DataSets(**given), _inherited_walkers(campaign, directory, origin.generation), old.model)


def _inherited_walkers(campaign: Campaign, there: RunDirectory, number: int) -> tuple[Walker, ...]:
    old = recorded_parameters(there, CampaignParameters)
    walkers = make_walkers(old.walkers, old.learning.seed, by_former_rule=there.has_former_windows)
    starts = {walker.index: walker.start for walker in walkers}
    return tuple(
        load_walker(there.generation(number).walker(walker.index), walker)
        if walker.index in starts and _goes_on(walker, starts[walker.index])
        else walker
        for walker in campaign.checked.walkers
    )


def _goes_on(walker: Walker, start: Atoms) -> bool:
    same_box = walker.conditions.method in MOVING_CELL or np.array_equal(walker.start.cell.array, start.cell.array)
    same_atoms = np.array_equal(walker.start.numbers, start.numbers)
    return bool(same_atoms and same_box and np.array_equal(walker.start.pbc, start.pbc))


def _marked(atoms: Atoms, source: str) -> Atoms:
    marked = atoms.copy()
    marked.info[GIVEN] = source
    return marked
