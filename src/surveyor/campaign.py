"""A campaign: its parameters as one value, what is checked before it begins, and what it works with."""

import hashlib
import json
import logging
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import yaml
from ase import Atoms
from pydantic import Field, ValidationError

from surveyor.dataset import GIVEN, Dataset, is_labelled
from surveyor.errors import InputError
from surveyor.files import read_json, write_json
from surveyor.labels import LabelStore
from surveyor.learning import Bootstrap, Learning
from surveyor.lease import hold_lease
from surveyor.models.choice import ModelParameters, make_model
from surveyor.models.model import Model
from surveyor.parameters import Parameters
from surveyor.pools.choice import OpenPools, Pools, open_pools
from surveyor.reference.choice import Codes, ReferenceParameters, make_reference
from surveyor.reference.reference import Reference
from surveyor.run_directory import SCHEMA_VERSION, RunDirectory, check_schema
from surveyor.sampling.walkers import Walker, Walkers, check_walkers, make_walkers
from surveyor.structures import check_structures, elements_of, read_structures

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
    generation: int = Field(ge=0, title="Generation", description="Number of a complete generation of it; 0 is its bootstrap.")


class CampaignParameters(Parameters):
    """All parameters of a campaign; its fields are the parameters of the flow `online_learning`."""

    run_directory: Path = Field(
        title="Run directory", description="Folder of the campaign; the same call on the same folder continues it."
    )
    walkers: list[Walkers] = Field(min_length=1, title="Walkers", description="Groups of walkers, each with its own conditions.")
    reference: ReferenceParameters = Field(title="Reference", description="The level of theory that labels structures.")
    model: ModelParameters = Field(title="Model", description="The potential that is trained.")
    bootstrap: Bootstrap = Field(Bootstrap(), title="Bootstrap", description="From what the first model is trained.")
    learning: Learning = Field(Learning(), title="Learning", description="How the campaign learns, and when it ends.")
    pools: Pools = Field(Pools(), title="Pools", description="Where sampling, labelling and training run.")
    codes: Codes = Field(Codes(), title="Codes", description="How reference programs are run at this site.")
    labels: Path | None = Field(
        None, title="Label store", description="Folder of the label store; by default `labels` beside the run directory."
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
        InputError: the file is missing or is no YAML, or a field is wrong; then with each field, what was found and what
            is expected.
    """
    if not path.is_file():
        raise InputError(f"campaign file {path} does not exist")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
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
        lines = [f"  {'.'.join(map(str, each['loc']))}: {each['msg']} (found {_shown(each['input'])})" for each in error.errors()]
        raise InputError("\n".join([f"{name} has {len(lines)} wrong field(s):", *lines])) from error


def _shown(value: Any) -> str:  # Any: what the user wrote
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def absolute_paths(parameters: CampaignParameters, folder: Path) -> CampaignParameters:
    """Return the parameters with every relative path taken as relative to a folder."""

    def resolve(value: Any) -> Any:  # Any: whatever parameters hold
        if isinstance(value, Path):
            return folder / value.expanduser()
        if isinstance(value, dict):
            return {name: resolve(each) for name, each in value.items()}
        return [resolve(each) for each in value] if isinstance(value, list | tuple) else value

    return CampaignParameters.model_validate(resolve(parameters.model_dump(mode="python")))


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


def check_campaign(parameters: CampaignParameters) -> tuple[Walker, ...]:
    """Check all that can be checked without a pool, and return the walkers at their starts.

    Raises:
        InputError: something cannot work: names the field, what was found, what was expected and what to do.
    """
    for name, path in parameters.input_files().items():
        if not path.is_file():
            raise InputError(f"{name}: file {path} does not exist; relative paths are taken relative to the campaign file")
    check_walkers(parameters.walkers)
    walkers = make_walkers(parameters.walkers, parameters.learning.seed)
    make_reference(parameters.reference, parameters.codes)
    structures = [walker.start for walker in walkers]
    if parameters.bootstrap.data is not None:
        structures += _labelled_data(parameters.bootstrap.data)
    unsupported = make_model(parameters.model).unsupported(structures)
    if unsupported:
        raise InputError(f"model: it cannot treat {', '.join(unsupported)}; choose another model or leave out those structures")
    if parameters.begin_from is not None:
        _check_origin(parameters.begin_from, parameters.run_directory)
    return walkers


def _labelled_data(path: Path) -> list[Atoms]:
    structures = read_structures(path)
    missing = [index for index, atoms in enumerate(structures) if not is_labelled(atoms)]
    if missing:
        raise InputError(f"bootstrap.data: structure {missing[0]} of {path} has no label; expected REF_energy (eV) and REF_forces (eV/Å)")
    if len(structures) < 3:
        raise InputError(f"bootstrap.data: {path} holds {len(structures)} structures; expected at least 3, for training, validation and test")
    return structures


def _check_origin(origin: Origin, run_directory: Path) -> None:
    if origin.run_directory.absolute() == run_directory.absolute():
        raise InputError("begin_from: a new campaign needs a run directory of its own, found that of the old one")
    if not RunDirectory(origin.run_directory).parameters.is_file():
        raise InputError(f"begin_from.run_directory: {origin.run_directory} is not the run directory of a campaign")
    RunDirectory(origin.run_directory).read_manifest(origin.generation)


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
        raise InputError(f"reference: {name} cannot treat {', '.join(unsupported)}; it knows {', '.join(supported or ())}")


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


def _freeze(directory: RunDirectory, parameters: CampaignParameters) -> None:
    """Keep the parameters of a new campaign; refuse those that are not the same for one that goes on."""
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in parameters.input_files().items()}
    given = parameters.model_dump(mode="json")
    if directory.parameters.exists():
        record = read_json(directory.parameters)
        check_schema(record, directory.parameters)
        differences = parameter_differences(record["parameters"], record["files"], given, hashes)
        if differences:
            lines = [f"  {name}: {there} there, {here} here" for name, there, here in differences]
            raise InputError(
                "\n".join(
                    [
                        f"{directory.path} holds a campaign with other parameters:",
                        *lines,
                        "choose another run directory, restore the parameters, or begin a new campaign with --from",
                    ]
                )
            )
    for name, path in parameters.input_files().items():
        _copy_input(path, directory.inputs / f"{hashes[name][:12]}-{path.name}")
    write_json(directory.parameters, {"schema_version": SCHEMA_VERSION, "parameters": given, "files": hashes})


def _copy_input(path: Path, copy: Path) -> None:
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


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
    record = read_json(directory.provenance) if directory.provenance.exists() else {"schema_version": SCHEMA_VERSION, "runs": []}
    run = {"begin": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "host": platform.node(), "python": platform.python_version()}
    write_json(directory.provenance, {**record, "runs": [*record["runs"], {**run, "versions": installed_versions()}]})


def installed_versions() -> dict[str, str]:
    """Return the versions of surveyor and of what it uses, as far as it is installed."""
    versions = {}
    for name in VERSIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def given_data(path: Path, source: str) -> Dataset:
    """Return labelled structures that a user gives, marked as not bought by this campaign.

    Raises:
        InputError: a structure is unusable or has no label.
    """
    structures = _labelled_data(path)
    check_structures(structures, str(path))
    for atoms in structures:
        atoms.info[GIVEN] = source
    return Dataset(structures)


def describe(parameters: CampaignParameters) -> str:
    """Return the parameters as YAML, for people."""
    text: str = yaml.safe_dump(json.loads(parameters.model_dump_json(exclude_defaults=True)), sort_keys=False)
    return text
