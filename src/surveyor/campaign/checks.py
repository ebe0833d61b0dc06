"""What is checked before a campaign begins, without a pool."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from ase import Atoms

from surveyor.campaign.parameters import CampaignParameters, Origin
from surveyor.dataset import Dataset
from surveyor.errors import InputError
from surveyor.files import temporary_beside
from surveyor.labels import LevelOfTheory
from surveyor.models.choice import make_model
from surveyor.models.weights import check_weights
from surveyor.parameter_files import check_files_exist, check_no_file
from surveyor.pools.choice import LOCAL
from surveyor.pools.sites import JobQueueSite, Site
from surveyor.reading import GIVEN_DATA, ReadingReport, read_labelled
from surveyor.reading.keys import REF_KEYS, LabelKeys
from surveyor.reading.learnable import TrainingData, learnable
from surveyor.reading.weights import pass_over_weights
from surveyor.reference.choice import make_reference
from surveyor.reference.cp2k import CP2KReference
from surveyor.reference.reference import Reference, time_limit_of
from surveyor.run_directory import RunDirectory
from surveyor.sampling.checks import check_walkers
from surveyor.sampling.walkers import Walker, make_walkers
from surveyor.structures import elements_of

NOTHING_UNUSABLE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class CheckedCampaign:
    """Results of the checks of a campaign.

    Attributes:
        walkers: at their starts.
        reports: on the files of structures, in the order of the parameters.
        elements: of the starts and of the data that the user gives.
    """

    walkers: tuple[Walker, ...]
    reports: tuple[ReadingReport, ...]
    elements: tuple[str, ...]


def check_campaign(parameters: CampaignParameters) -> CheckedCampaign:
    """Check all that can be checked without a pool, and return what was read.

    Raises:
        InputError: something cannot work: names the field, what was found, what was expected and what to do.
    """
    check_files_exist(parameters.input_files(), "campaign file")
    check_no_file("run_directory", parameters.run_directory)
    directory = RunDirectory(parameters.run_directory)
    by_former_rule, has_plumed = directory.has_former_windows, parameters.pools.sampling == LOCAL
    reports = check_walkers(parameters.walkers, has_plumed=has_plumed, by_former_rule=by_former_rule)
    if parameters.learning.n_frames and all(group.frame_interval is None for group in parameters.walkers):
        raise InputError(
            f"learning.n_frames: found {parameters.learning.n_frames}, but no group of walkers keeps frames; give "
            "one a frame_interval"
        )
    walkers = make_walkers(parameters.walkers, parameters.learning.seed, by_former_rule=by_former_rule)
    structures = [walker.start for walker in walkers]
    _check_kinds(make_reference(parameters.reference), structures)
    if parameters.bootstrap.data is not None:
        data = labelled_data(
            parameters.bootstrap.data, parameters.bootstrap.label_keys, obeys_weights=directory.obeys_weights
        )
        check_weights(make_model(parameters.model), Dataset(data.structures), "bootstrap.data")
        _check_learnt(structures, elements_of(data.structures), f"bootstrap.data: {parameters.bootstrap.data} holds")
        structures += data.structures
        reports += (data.report,)
    unsupported = make_model(parameters.model).unsupported(structures)
    if unsupported:
        raise InputError(
            f"model: it cannot treat {', '.join(unsupported)}; choose another model or leave out those structures"
        )
    _check_budget(parameters)
    _check_valid_fraction(parameters)
    if parameters.wandb is not None and find_spec("wandb") is None:
        raise InputError('wandb: asked for, but not installed; pip install "surveyor[wandb]", or leave the field out')
    if parameters.begin_from is not None:
        _check_origin(parameters.begin_from, parameters)
    return CheckedCampaign(walkers, reports, tuple(elements_of(structures)))


def check_folders(parameters: CampaignParameters) -> None:
    """Check that run directory and label store can be written to; they are made where they are missing.

    Raises:
        InputError: one cannot.
    """
    for name, folder in (("run_directory", parameters.run_directory), ("labels", parameters.label_store)):
        check_writable(name, folder)


def check_writable(name: str, folder: Path) -> None:
    """Check that a folder can be written to; it is made where it is missing.

    Args:
        name: of the field that names it.
        folder: to be written to.

    Raises:
        InputError: it cannot.
    """
    try:
        with temporary_beside(folder.absolute() / "writable"):
            pass
    except OSError as error:
        raise InputError(
            f"{name}: {folder} cannot be written to ({error.strerror}); mend that, or choose another folder"
        ) from error


def check_sites(parameters: CampaignParameters, sites: Mapping[str, Site]) -> None:
    """Check the pools of a campaign against what is to run there.

    Args:
        parameters: of the campaign.
        sites: where the pools are, by name.

    Raises:
        InputError: a label may take longer than a job of its pool lasts.
    """
    name = parameters.pools.labelling
    limit = time_limit_of(make_reference(parameters.reference, parameters.codes))
    check_walltime("pools.labelling", name, sites.get(name), limit)


def check_walltime(field: str, name: str, site: Site | None, limit_s: float | None) -> None:
    """Check that the jobs of a pool last as long as what is to run there.

    Args:
        field: that names the pool.
        name: of the pool.
        site: where it is, None where that is not known.
        limit_s: so long may the labels of one task take; None without a limit.

    Raises:
        InputError: they may take longer than a job lasts.
    """
    if isinstance(site, JobQueueSite) and limit_s is not None and limit_s > site.longest_function_s:
        raise InputError(
            f"{field}: a label may take {limit_s / 60:g} min (the time limit of the code), expected at most "
            f"{site.longest_function_s / 60:.3g} min, as a job of {name} lasts {site.walltime_minutes:g} min and "
            "takes a while to start and to end; lower the time limit, or raise walltime_minutes of the pool"
        )


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


def _check_learnt(structures: Sequence[Atoms], known: Sequence[str], name: str) -> None:
    missing = [symbol for symbol in elements_of(structures) if symbol not in known]
    if missing:
        raise InputError(
            f"{name} {', '.join(known)}, but the walkers have {', '.join(missing)}, of which the first model "
            "would know nothing; add such structures, or leave out those walkers"
        )


def _check_budget(parameters: CampaignParameters) -> None:
    budget, bootstrap = parameters.learning.max_labels, parameters.bootstrap
    if (
        parameters.begin_from is None
        and bootstrap.data is None
        and budget is not None
        and budget < bootstrap.n_structures
    ):
        raise InputError(
            f"learning.max_labels: found {budget}, expected at least bootstrap.n_structures "
            f"({bootstrap.n_structures}), which are labelled first; change one of them"
        )


def _check_valid_fraction(parameters: CampaignParameters) -> None:
    if parameters.model.needs_validation and parameters.learning.valid_fraction == 0:
        raise InputError(
            "learning.valid_fraction: found 0, expected more: the training needs validation data to choose by"
        )


def labelled_data(path: Path, keys: LabelKeys = REF_KEYS, *, obeys_weights: bool = True) -> TrainingData:
    """Read labelled structures that a user gives, with isolated atoms set apart and without copies.

    Args:
        path: the file.
        keys: names of the labels in the file.
        obeys_weights: whether weights in the file count.

    Raises:
        InputError: a structure is unusable or has no label, or there are too few.
    """
    steps = GIVEN_DATA if obeys_weights else (*GIVEN_DATA, pass_over_weights)
    reading = read_labelled(path, "bootstrap.data", steps, keys, "bootstrap.label_keys")
    data = learnable({"bootstrap.data": reading})["bootstrap.data"].without_copies()
    if len(data.structures) < 3:
        raise InputError(
            f"bootstrap.data: {path} holds {len(data.structures)} different structures to learn from; "
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
        structures: to be labelled.
        supported: symbols that it can treat; None where only the attempt tells.
        name: of the level of theory.
        unusable: why it cannot treat an element that its input names, by symbol.

    Raises:
        InputError: it cannot treat one.
    """
    unsupported = [] if supported is None else [symbol for symbol in elements_of(structures) if symbol not in supported]
    if unsupported:
        reasons = "".join(f"; {unusable[symbol]}" for symbol in unsupported if symbol in unusable)
        known = ", ".join(supported or ())
        raise InputError(f"reference: {name} cannot treat {', '.join(unsupported)}; it knows {known}{reasons}")
