"""Checks before a campaign begins, without a pool, and their results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from ase import Atoms

from surveyor.dataset import Dataset
from surveyor.errors import InputError
from surveyor.labels import LevelOfTheory
from surveyor.models.choice import make_model, replay_reports, why_no_uncertainty, without_uncertainty
from surveyor.models.model import Model
from surveyor.models.weights import check_weights
from surveyor.pools.choice import LOCAL
from surveyor.pools.site import Site
from surveyor.reading import GIVEN_DATA, ReadingReport, read_labelled
from surveyor.reading.keys import REF_KEYS, LabelKeys
from surveyor.reading.learnable import TrainingData, learnable
from surveyor.reading.weights import pass_over_weights
from surveyor.reference.choice import make_reference
from surveyor.reference.cp2k import CP2KReference
from surveyor.reference.reference import Reference, time_limit_of
from surveyor.run_directory import RunDirectory
from surveyor.sampling.checks import check_auto_limits, checked_walkers
from surveyor.sampling.walkers import Walker
from surveyor.structures import elements_of
from surveyor.words import number_of
from surveyor.works.campaign.learning_checks import check_learning
from surveyor.works.campaign.parameters import CampaignParameters, Origin
from surveyor.works.checks import check_walltime

NOTHING_UNUSABLE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class CheckedCampaign:
    """Results of the checks of a campaign.

    Attributes:
        walkers: walkers at their starts.
        reference: the reference.
        model: the untrained model.
        data: data given by the user, or None.
        elements: elements of the starts and of the given data.
        reports: reports on the structure files, in the order of the parameters.
    """

    walkers: tuple[Walker, ...]
    reference: Reference
    model: Model
    data: TrainingData | None
    elements: tuple[str, ...]
    reports: tuple[ReadingReport, ...]

    @property
    def structures(self) -> list[Atoms]:
        """The starts of the walkers."""
        return [walker.start for walker in self.walkers]


def read_and_check(parameters: CampaignParameters) -> CheckedCampaign:
    """Perform all checks that need no pool, and return their results; each file is read once.

    Raises:
        InputError: the input is wrong. For a campaign that has begun, the message also names the location of its
            labels, because earlier versions checked less.
    """
    try:
        return _read_and_check(parameters)
    except InputError as error:
        if not RunDirectory(parameters.folder).parameters.is_file():
            raise
        raise InputError(
            f"{error}. The campaign in {parameters.run_directory} has begun, maybe with an earlier surveyor, which "
            "took its files as they are: to correct them, choose another run directory; labels that are in the store "
            "are not computed again"
        ) from error


def _read_and_check(parameters: CampaignParameters) -> CheckedCampaign:
    directory = RunDirectory(parameters.folder)
    chosen = parameters.model
    model = make_model(chosen if directory.has_single_uncertainty else without_uncertainty(chosen))
    check_auto_limits(parameters.walkers, why_no_uncertainty(model))
    walkers, reports = checked_walkers(
        parameters.walkers,
        parameters.learning.seed,
        has_plumed=parameters.pools.sampling == LOCAL,
        by_former_rule=directory.has_former_windows,
    )
    check_learning(parameters, len(walkers), is_begun=directory.parameters.is_file())
    reference = make_reference(parameters.reference, parameters.codes.without_blocks)
    structures = [walker.start for walker in walkers]
    _check_kinds(reference, structures)
    data = _given(parameters, model, structures, obeys_weights=directory.obeys_weights)
    if data is not None:
        structures += data.structures
        reports += (data.report,)
    unsupported = model.unsupported(structures)
    if unsupported:
        raise InputError(
            f"model: it cannot treat {', '.join(unsupported)}; choose another model or leave out those structures"
        )
    if parameters.wandb is not None and find_spec("wandb") is None:
        raise InputError('wandb: asked for, but not installed; pip install "surveyor[wandb]", or leave the field out')
    if parameters.begin_from is not None:
        _check_origin(parameters.begin_from, parameters)
    elements = elements_of(structures)
    return CheckedCampaign(
        walkers, reference, model, data, elements, (*reports, *replay_reports(parameters.model, elements))
    )


def _given(
    parameters: CampaignParameters, model: Model, starts: Sequence[Atoms], *, obeys_weights: bool
) -> TrainingData | None:
    """Read and check the data given by the user; return None without such data."""
    path = parameters.bootstrap.data
    if path is None:
        return None
    data = labelled_data(path, parameters.bootstrap.label_keys, obeys_weights=obeys_weights)
    check_weights(model, Dataset(data.structures), "bootstrap.data")
    check_learnt(starts, elements_of(data.structures), f"bootstrap.data: {path} holds")
    return data


def check_sites(parameters: CampaignParameters, checked: CheckedCampaign, sites: Mapping[str, Site]) -> None:
    """Check that the pools of a campaign suit its work.

    Raises:
        InputError: a label may take longer than a job of its pool lasts.
    """
    name = parameters.pools.labelling
    check_walltime("pools.labelling", name, sites.get(name), time_limit_of(checked.reference))


def _check_kinds(reference: Reference, structures: Sequence[Atoms]) -> None:
    """Check that the input of CP2K suits the starts of the walkers."""
    if isinstance(reference, CP2KReference):
        for index, atoms in enumerate(structures):
            objection = _objection(reference, atoms)
            if objection is not None:
                raise InputError(f"reference.cp2k: the start of walker {index}: {objection}")


def _objection(reference: CP2KReference, atoms: Atoms) -> str | None:
    """Return why an input of CP2K does not suit a structure; None where it does."""
    theory = LevelOfTheory("CP2K", {}, reference.input.charge, reference.input.multiplicity)
    try:
        return reference.objection(theory.with_electrons(atoms))
    except InputError as error:
        return str(error)


def check_learnt(structures: Sequence[Atoms], known: Sequence[str], name: str) -> None:
    """Check that the first model learns of all elements of the walkers."""
    missing = [symbol for symbol in elements_of(structures) if symbol not in known]
    if missing:
        raise InputError(
            f"{name} {', '.join(known)}, but the walkers have {', '.join(missing)}, of which the first model "
            "would know nothing; add such structures, or leave out those walkers"
        )


def labelled_data(path: Path, keys: LabelKeys = REF_KEYS, *, obeys_weights: bool = True) -> TrainingData:
    """Read labelled structures that a user gives, with isolated atoms set apart and without copies.

    Raises:
        InputError: a structure is unusable or has no label, or there are too few.
    """
    steps = GIVEN_DATA if obeys_weights else (*GIVEN_DATA, pass_over_weights)
    reading = read_labelled(path, "bootstrap.data", steps, keys, "bootstrap.label_keys")
    data = learnable({"bootstrap.data": reading})["bootstrap.data"].without_copies()
    if len(data.structures) < 3:
        raise InputError(
            f"bootstrap.data: {path} holds {number_of(len(data.structures), 'different structure')} to learn from; "
            "expected at least 3, for training, validation and test"
        )
    return data


def _check_origin(origin: Origin, parameters: CampaignParameters) -> None:
    if parameters.bootstrap.data is not None:
        raise InputError("begin_from: found bootstrap.data, too; expected one of them, for both say what comes first")
    if origin.run_directory.absolute() == parameters.run_directory.absolute():
        raise InputError("begin_from: a new campaign needs a run directory of its own, found that of the old one")
    if not RunDirectory(origin.run_directory).parameters.is_file():
        raise InputError(f"begin_from.run_directory: {origin.run_directory} is not the run directory of a campaign")
    try:
        RunDirectory(origin.run_directory).read_manifest(origin.generation)
    except InputError as error:
        raise InputError(f"begin_from.generation: {error}") from error


def check_theory(parameters: CampaignParameters, walkers: Sequence[Walker], theory: LevelOfTheory) -> None:
    """Check a level of theory against the walkers and the data that the user gives.

    Raises:
        InputError: it cannot treat an element or a periodicity, contradicts a charge or multiplicity, or is not that of
            the data.
    """
    check_elements([walker.start for walker in walkers], theory.elements, theory.name, theory.unusable)
    for walker in walkers:
        if theory.n_periodic is not None and int(walker.start.pbc.sum()) not in theory.n_periodic:
            expected = " or ".join(map(str, theory.n_periodic))
            raise InputError(
                f"walkers: the start of walker {walker.index} has pbc {walker.start.pbc.tolist()}; "
                f"{theory.name} treats structures periodic in {expected} directions"
            )
        try:
            theory.with_electrons(walker.start)
        except InputError as error:
            raise InputError(f"walkers: the start of walker {walker.index}: {error}") from error
    stated = parameters.bootstrap.level_of_theory
    if stated is not None and stated != theory.name:
        raise InputError(
            f"bootstrap.level_of_theory: found {stated!r}, expected that of the reference, {theory.name!r}"
        )


def check_elements(
    structures: Sequence[Atoms],
    supported: Sequence[str] | None,
    name: str,
    unusable: Mapping[str, str] = NOTHING_UNUSABLE,
) -> None:
    """Check that a level of theory can treat all elements.

    Args:
        structures: structures to label.
        supported: symbols of supported elements; None if only an attempt can tell.
        name: name of the level of theory.
        unusable: reason why an element in its input cannot be labelled, by symbol.

    Raises:
        InputError: an element is not supported.
    """
    unsupported = [] if supported is None else [symbol for symbol in elements_of(structures) if symbol not in supported]
    if unsupported:
        reasons = "".join(f"; {unusable[symbol]}" for symbol in unsupported if symbol in unusable)
        known = ", ".join(supported or ())
        raise InputError(f"reference: {name} cannot treat {', '.join(unsupported)}; it knows {known}{reasons}")
