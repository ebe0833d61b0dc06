"""A campaign: its parameters as one value, what is checked before it begins, and what it works with."""

import hashlib
import json
import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from ase import Atoms
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from surveyor.dataset import FAILURE, GIVEN, KEY, Dataset, DataSets, is_labelled, label_of
from surveyor.errors import InputError
from surveyor.events import Report, ReportingExecutor
from surveyor.files import read_json, write_atomically, write_json
from surveyor.labels import LabelStore, LevelOfTheory, label_key, load_theory, save_theory
from surveyor.learning import Bootstrap, Learning, structure_error, without_repetitions
from surveyor.lease import hold_lease
from surveyor.models.choice import ModelParameters, make_model
from surveyor.models.model import Model
from surveyor.parameters import Parameters
from surveyor.pools.choice import OpenPools, Pools, open_pools
from surveyor.potentials import Prediction
from surveyor.reference.choice import Codes, ReferenceParameters, make_reference
from surveyor.reference.reference import Reference
from surveyor.run_directory import SCHEMA_VERSION, Generation, RunDirectory, check_schema
from surveyor.sampling.walkers import Walker, Walkers, check_walkers, load_walker, make_walkers
from surveyor.structures import elements_of, read_structures

logger = logging.getLogger(__name__)

# What may differ when a campaign is continued: none of it changes a structure, a label or a training that was done.
MAY_CHANGE = (
    "run_directory",
    "labels",
    "learning.n_generations",
    "learning.max_labels",
    "learning.max_failed_fraction",
    "learning.target_energy_meV_per_atom",
    "learning.target_forces_meV_per_A",
    "pools",
    "codes",
    "wandb",
)
SAME_ENERGY_MEV = 1.0  # per atom: given and computed labels of one level of theory agree better
SAME_FORCES_MEV = 5.0  # per Å
VERSIONS = ("surveyor", "prefect", "ase", "numpy", "distributed", "mace-torch", "torch", "tblite")


class WandB(Parameters):
    """Where Weights & Biases shows the campaign; needs the extra `wandb`."""

    project: str = Field("surveyor", min_length=1, title="Project", description="Project on Weights & Biases.")
    group: str | None = Field(None, title="Group", description="Group of the run, to show several campaigns together.")
    mode: Literal["online", "offline"] = Field(
        "offline", title="Mode", description="offline: written beside the campaign, to be sent later by `wandb sync`."
    )


class Origin(Parameters):
    """The generation of another campaign from which a new one begins."""

    run_directory: Path = Field(title="Run directory", description="Folder of the other campaign.")
    generation: int = Field(
        ge=0, title="Generation", description="Number of a complete generation of it; 0 is its bootstrap."
    )


class CampaignParameters(Parameters):
    """All parameters of a campaign; its fields are the parameters of the flow `online_learning`."""

    run_directory: Path = Field(
        title="Run directory", description="Folder of the campaign; the same call on the same folder continues it."
    )
    walkers: list[Walkers] = Field(
        min_length=1, title="Walkers", description="Groups of walkers, each with its own conditions."
    )
    reference: ReferenceParameters = Field(title="Reference", description="The level of theory that labels structures.")
    model: ModelParameters = Field(title="Model", description="The potential that is trained.")
    bootstrap: Bootstrap = Field(Bootstrap(), title="Bootstrap", description="From what the first model is trained.")
    learning: Learning = Field(Learning(), title="Learning", description="How the campaign learns, and when it ends.")
    pools: Pools = Field(Pools(), title="Pools", description="Where sampling, labelling and training run.")
    codes: Codes = Field(Codes(), title="Codes", description="How reference programs are run at this site.")
    labels: Path | None = Field(
        None,
        title="Label store",
        description="Folder of the label store; by default `labels` beside the run directory.",
    )
    begin_from: Origin | None = Field(
        None, title="Begin from", description="Take data, model and walkers from a generation of another campaign."
    )
    wandb: WandB | None = Field(None, title="Weights & Biases", description="Report there, too.")

    @property
    def label_store(self) -> Path:
        """Folder of the label store."""
        return self.run_directory.absolute().parent / "labels" if self.labels is None else self.labels

    def input_files(self) -> dict[str, Path]:
        """Return the files that the parameters name, by the dotted name of the field."""
        outputs = ("run_directory", "labels", "begin_from.run_directory")
        values = _flat(self.model_dump(mode="python"))
        return {name: value for name, value in values.items() if isinstance(value, Path) and name not in outputs}


def load_campaign(path: Path) -> CampaignParameters:
    """Read a campaign file (YAML); paths in it are relative to the folder it is in.

    Raises:
        InputError: the file is missing or is no YAML, or a field is wrong; then with each field, what was found and
            what is expected.
    """
    if not path.is_file():
        raise InputError(f"campaign file {path} does not exist")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}, expected fields such as walkers, reference and model")
    return absolute_paths(parse_campaign(content, str(path)), path.absolute().parent)


def parse_campaign(content: Mapping[str, Any], name: str) -> CampaignParameters:  # Any: what YAML holds
    """Return the parameters in a mapping.

    Args:
        content: fields and values.
        name: what to call it in messages.

    Raises:
        InputError: a field is wrong.
    """
    try:
        return CampaignParameters.model_validate(content)
    except ValidationError as error:
        lines = [f"  {_complaint(each)}" for each in error.errors()]
        raise InputError("\n".join([f"{name} has {len(lines)} wrong field(s):", *lines])) from error


def _complaint(error: ErrorDetails) -> str:
    """Return the dotted name of a field, what is wrong with it, what was found, and which fields there are."""
    *parents, name = error["loc"] or ("",)
    complaint = f"{'.'.join(map(str, error['loc']))}: {error['msg']} (found {_shown(error['input'])})"
    if error["type"] != "extra_forbidden":
        return complaint
    known = _fields_of(CampaignParameters, parents)
    guesses = get_close_matches(str(name), known, n=1)
    advice = f"did you mean {guesses[0]}?" if guesses else f"leave it out; there are {', '.join(known)}"
    return f"{complaint}; {advice}"


def _fields_of(kind: type[BaseModel], names: Sequence[int | str]) -> list[str]:
    """Return the fields of the model that is reached from another by names of fields and indices of lists."""
    for name in names:
        if isinstance(name, str):
            kind = _model_in(kind.model_fields[name].annotation) or kind
    return list(kind.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:  # Any: a type, such as list[Walkers] or WandB | None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for each in get_args(annotation) if (model := _model_in(each))), None)


def _shown(value: Any) -> str:  # Any: what the user wrote
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def absolute_paths(parameters: CampaignParameters, folder: Path) -> CampaignParameters:
    """Return the parameters with every relative path taken as relative to a folder."""
    return _with_paths(parameters, lambda path: (folder / path.expanduser()).resolve())


def _with_paths(parameters: CampaignParameters, change: Callable[[Path], Path]) -> CampaignParameters:
    def changed(value: Any) -> Any:  # Any: whatever parameters hold
        if isinstance(value, Path):
            return change(value)
        if isinstance(value, dict):
            return {name: changed(each) for name, each in value.items()}
        return [changed(each) for each in value] if isinstance(value, list | tuple) else value

    return CampaignParameters.model_validate(changed(parameters.model_dump(mode="python")))


@dataclass(frozen=True, slots=True, eq=False)
class Campaign:
    """What a campaign works with, checked and open.

    Attributes:
        parameters: as the user gave them, with absolute paths.
        directory: the campaign on disk.
        pools: where functions run.
        store: the labels.
        walkers: at their starts.
        reference: computes labels.
        model: untrained.
    """

    parameters: CampaignParameters
    directory: RunDirectory
    pools: OpenPools
    store: LabelStore
    walkers: tuple[Walker, ...]
    reference: Reference
    model: Model

    @property
    def sampling(self) -> Executor:
        """The pool for walkers."""
        return self._reporting(self.pools.sampling)

    @property
    def labelling(self) -> Executor:
        """The pool for the reference."""
        return self._reporting(self.pools.labelling)

    @property
    def training(self) -> Executor:
        """The pool for trainings and evaluations."""
        return self._reporting(self.pools.training)

    def _reporting(self, pool: Executor) -> Executor:
        return ReportingExecutor(pool, Report.into(self.directory.workers))

    @property
    def structures(self) -> list[Atoms]:
        """The starts of the walkers."""
        return [walker.start for walker in self.walkers]

    def newest_generation(self) -> Generation | None:
        """Load the newest complete generation; None where none is complete."""
        return self.directory.newest_generation(self.walkers)


def check_campaign(parameters: CampaignParameters) -> tuple[Walker, ...]:
    """Check all that can be checked without a pool, and return the walkers at their starts.

    Raises:
        InputError: something cannot work: names the field, what was found, what was expected and what to do.
    """
    for name, path in parameters.input_files().items():
        if not path.is_file():
            raise InputError(
                f"{name}: file {path} does not exist; paths in a campaign file are relative to the folder of that file"
            )
    if parameters.run_directory.exists() and not parameters.run_directory.is_dir():
        raise InputError(f"run_directory: {parameters.run_directory} is a file; expected a folder, or a new name")
    check_walkers(parameters.walkers)
    walkers = make_walkers(parameters.walkers, parameters.learning.seed)
    make_reference(parameters.reference, parameters.codes)
    structures = [walker.start for walker in walkers]
    if parameters.bootstrap.data is not None:
        data = _labelled_data(parameters.bootstrap.data)
        _check_learnt(structures, elements_of(data), f"bootstrap.data: {parameters.bootstrap.data} holds")
        structures += data
    unsupported = make_model(parameters.model).unsupported(structures)
    if unsupported:
        raise InputError(
            f"model: it cannot treat {', '.join(unsupported)}; choose another model or leave out those structures"
        )
    _check_budget(parameters)
    if parameters.begin_from is not None:
        _check_origin(parameters.begin_from, parameters)
    return walkers


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


def _labelled_data(path: Path) -> list[Atoms]:
    structures = read_structures(path)
    missing = [index for index, atoms in enumerate(structures) if not is_labelled(atoms)]
    if missing:
        raise InputError(
            f"bootstrap.data: structure {missing[0]} of {path} has no label; "
            "expected REF_energy (eV) and REF_forces (eV/Å)"
        )
    if len(structures) < 3:
        raise InputError(
            f"bootstrap.data: {path} holds {len(structures)} structures; "
            "expected at least 3, for training, validation and test"
        )
    return structures


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


def check_elements(structures: Sequence[Atoms], supported: Sequence[str] | None, name: str) -> None:
    """Check that a level of theory can treat all elements.

    Args:
        structures: to be labelled.
        supported: symbols that it can treat; None where only the attempt tells.
        name: of the level of theory.

    Raises:
        InputError: it cannot treat one.
    """
    unsupported = [] if supported is None else [symbol for symbol in elements_of(structures) if symbol not in supported]
    if unsupported:
        raise InputError(
            f"reference: {name} cannot treat {', '.join(unsupported)}; it knows {', '.join(supported or ())}"
        )


@contextmanager
def open_campaign(parameters: CampaignParameters) -> Iterator[Campaign]:
    """Check a campaign, take its run directory and open its pools, as long as this lasts.

    Raises:
        InputError: the parameters cannot work, or are not those of the run directory.
        CampaignInUse: a live process works in the run directory.
    """
    walkers = check_campaign(parameters)
    directory = RunDirectory(parameters.run_directory.absolute())
    with hold_lease(directory.lease):
        check_continuation(directory, parameters)
        _freeze(directory, parameters)
        _record_run(directory)
        with open_pools(parameters.pools) as pools:
            yield Campaign(
                parameters=parameters,
                directory=directory,
                pools=pools,
                store=LabelStore.in_folder(parameters.label_store),
                walkers=walkers,
                reference=make_reference(parameters.reference, parameters.codes),
                model=make_model(parameters.model),
            )


def check_continuation(directory: RunDirectory, parameters: CampaignParameters) -> None:
    """Check that a run directory is new, or holds a campaign with these parameters.

    Raises:
        InputError: it holds one with other parameters: shows the difference.
    """
    if not directory.parameters.exists():
        return
    record = read_json(directory.parameters)
    check_schema(record, directory.parameters)
    # Read again, what a former version has recorded has the fields that are new, with their defaults.
    recorded = parse_campaign(record["parameters"], str(directory.parameters)).model_dump(mode="json")
    given = parameters.model_dump(mode="json")
    differences = parameter_differences(recorded, record["files"], given, _hashes(parameters))
    if differences:
        lines = [f"  {name}: {there} there, {here} here" for name, there, here in differences]
        advice = "choose another run directory, restore the parameters, or begin a new campaign with --from"
        raise InputError("\n".join([f"{directory.path} holds a campaign with other parameters:", *lines, advice]))


def _hashes(parameters: CampaignParameters) -> dict[str, str]:
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in parameters.input_files().items()}


def _freeze(directory: RunDirectory, parameters: CampaignParameters) -> None:
    """Keep the parameters of a campaign, and copies of the files that they name."""
    hashes, given = _hashes(parameters), parameters.model_dump(mode="json")
    for name, path in parameters.input_files().items():
        _copy_input(path, _input_copy(directory, path, hashes[name]))
    write_json(directory.parameters, {"schema_version": SCHEMA_VERSION, "parameters": given, "files": hashes})


def _input_copy(directory: RunDirectory, path: Path, digest: str) -> Path:
    return directory.inputs / f"{digest[:12]}-{path.name}"


def _copy_input(path: Path, copy: Path) -> None:
    if not copy.exists():
        write_atomically(copy, path.read_bytes())


def parameter_differences(
    there: Mapping[str, Any], files_there: Mapping[str, str], here: Mapping[str, Any], files_here: Mapping[str, str]
) -> list[tuple[str, str, str]]:
    """Return the fields that differ although they may not, each with what is there and what is here.

    Args:
        there: recorded parameters, as JSON holds them.
        files_there: recorded hashes of the files they name, by field.
        here: parameters that are given now.
        files_here: hashes of the files that they name.
    """
    old = {**_flat(there), **{name: f"file with hash {digest[:12]}" for name, digest in files_there.items()}}
    new = {**_flat(here), **{name: f"file with hash {digest[:12]}" for name, digest in files_here.items()}}
    names = [name for name in sorted({*old, *new}) if not name.startswith(MAY_CHANGE)]
    return [
        (name, _shown(old.get(name, "nothing")), _shown(new.get(name, "nothing")))
        for name in names
        if old.get(name) != new.get(name)
    ]


def _flat(value: Any, name: str = "") -> dict[str, Any]:  # Any: whatever parameters hold
    if isinstance(value, Mapping) and value:
        items: Sequence[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, list | tuple) and value:
        items = list(enumerate(value))
    else:
        return {name: value}
    flat: dict[str, Any] = {}
    for key, each in items:
        flat |= _flat(each, f"{name}.{key}" if name else str(key))
    return flat


def _record_run(directory: RunDirectory) -> None:
    """Add this run to the provenance of the campaign."""
    runs: list[Any] = read_json(directory.provenance)["runs"] if directory.provenance.exists() else []  # Any: JSON
    run = {"begin": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "host": platform.node(), "python": platform.python_version()}
    runs.append({**run, "versions": installed_versions()})
    write_json(directory.provenance, {"schema_version": SCHEMA_VERSION, "runs": runs})


def installed_versions() -> dict[str, str]:
    """Return the versions of surveyor and of what it uses, as far as it is installed."""
    versions = {}
    for name in VERSIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def freeze_theory(campaign: Campaign, theory: LevelOfTheory) -> LevelOfTheory:
    """Keep the level of theory when a campaign begins; later, check that it is still the same.

    Raises:
        InputError: it is another one, or cannot treat an element of the walkers.
    """
    path = campaign.directory.theory
    if path.exists():
        frozen = load_theory(path)
        if frozen.digest != theory.digest:
            changes = parameter_differences(dict(frozen.content), {}, json.loads(json.dumps(dict(theory.content))), {})
            lines = [f"  {name}: {there} then, {here} now" for name, there, here in changes]
            raise InputError(
                "\n".join(["reference: the level of theory is not the one with which the campaign began:", *lines])
            )
        return frozen
    check_elements(campaign.structures, theory.elements, theory.name)
    for walker in campaign.walkers:
        try:
            theory.with_electrons(walker.start)
        except InputError as error:
            raise InputError(f"walkers: the start of walker {walker.index}: {error}") from error
    save_theory(path, theory)
    return load_theory(path)


def freeze_atomic_energies(campaign: Campaign, compute: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
    """Compute the atomic energies when a campaign begins and keep them; later, return what was kept."""
    path = campaign.directory.atomic_energies
    if not path.exists():
        write_json(path, {"schema_version": SCHEMA_VERSION, "energies_eV": dict(compute())})
    record = read_json(path)
    check_schema(record, path)
    energies: Mapping[str, float] = record["energies_eV"]
    return energies


def given_data(path: Path, stated: str, theory: LevelOfTheory) -> Dataset:
    """Return labelled structures that a user gives, with their keys, marked as not requested by this campaign.

    Args:
        path: extxyz file.
        stated: name of the level of theory at which the user says that they were labelled.
        theory: that of the campaign.

    Raises:
        InputError: a structure is unusable or has no label, or the levels of theory differ.
    """
    if stated != theory.name:
        raise InputError(
            f"bootstrap.level_of_theory: found {stated!r}, expected that of the reference, {theory.name!r}"
        )
    structures = _labelled_data(path)
    check_elements(structures, theory.elements, theory.name)
    for atoms in structures:
        atoms.info[KEY] = label_key(atoms, theory)
        atoms.info[GIVEN] = str(path)
    return without_repetitions(Dataset(structures), ())


def check_given_label(given: Atoms, computed: Atoms) -> None:
    """Check a given label against one that the reference computed for the same structure.

    Different levels of theory, units or zeros of energy (shifted by atomic energies, say) show at once.

    Raises:
        InputError: they differ.
    """
    if not is_labelled(computed):
        raise InputError(
            f"bootstrap.data: the reference fails ({computed.info[FAILURE]}) on a structure that has a label"
        )
    error = structure_error(
        given, Prediction(**{name: getattr(label_of(computed), name) for name in ("energy", "forces")})
    )
    if error.exceeds(SAME_ENERGY_MEV, SAME_FORCES_MEV):
        raise InputError(
            f"bootstrap.data: the reference disagrees with the label given for {given.symbols}: "
            f"by {error.energy:.3g} meV/atom and {error.forces:.3g} meV/Å; "
            "expected unshifted total energies (eV) and forces (eV/Å) of the same level of theory"
        )


def inherit(campaign: Campaign, origin: Origin) -> Generation:
    """Return the generation of another campaign, as the first of this one.

    Walkers go on from where they were, as far as this campaign has a walker of the same number and atoms.

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
        if walker.index in starts and starts[walker.index].numbers.tolist() == walker.start.numbers.tolist()
        else walker
        for walker in campaign.walkers
    )


def recorded_parameters(directory: RunDirectory) -> CampaignParameters:
    """Return the parameters of a campaign on disk, with the copies of the files that they name.

    Raises:
        InputError: a newer surveyor wrote them.
    """
    record = read_json(directory.parameters)
    check_schema(record, directory.parameters)
    recorded = CampaignParameters.model_validate(record["parameters"])
    copies = {
        path: _input_copy(directory, path, record["files"][name]) for name, path in recorded.input_files().items()
    }
    return _with_paths(recorded, lambda path: copies.get(path, path))


def _marked(atoms: Atoms, source: str) -> Atoms:
    marked = atoms.copy()
    marked.info[GIVEN] = source
    return marked


def describe(parameters: CampaignParameters) -> str:
    """Return the parameters as YAML, for people."""
    text: str = yaml.safe_dump(json.loads(parameters.model_dump_json(exclude_defaults=True)), sort_keys=False)
    return text
