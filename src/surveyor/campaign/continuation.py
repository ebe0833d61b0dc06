"""What makes a call the continuation of a campaign on disk: its parameters, and copies of the files they name."""

from pathlib import Path

from surveyor.campaign.parameters import CampaignParameters
from surveyor.files import read_json, write_atomically
from surveyor.parameter_files import with_paths
from surveyor.run_directory import FORMER_WINDOWS, WEIGHTS_COUNT, RunDirectory, check_schema
from surveyor.sampling.conditions import GUARDS
from surveyor.works.continuation import check_same_parameters, hashes_of, record_parameters, recorded_files

MAY_CHANGE = (
    "run_directory",
    "labels",
    "learning.n_generations",
    "learning.max_labels",
    "learning.max_failed_fraction",
    "learning.n_tries",
    "learning.min_difference_A",
    "learning.target_energy_meV_per_atom",
    "learning.target_forces_meV_per_A",
    "pools",
    "codes",
    "wandb",
    *(f"walkers.{guard}" for guard in GUARDS),
)


def check_continuation(directory: RunDirectory, parameters: CampaignParameters) -> None:
    """Check that a run directory is new, or holds a campaign with these parameters.

    Raises:
        InputError: it holds one with other parameters: shows the difference.
    """
    advice = "choose another run directory, restore the parameters, or begin a new campaign with --from"
    check_same_parameters(directory, parameters, parameters.input_files(), MAY_CHANGE, "campaign", advice)


def freeze_parameters(directory: RunDirectory, parameters: CampaignParameters) -> None:
    """Keep the parameters of a campaign, and copies of the files that they name."""
    files = parameters.input_files()
    for name, digest in hashes_of(files).items():
        _copy_input(files[name], _input_copy(directory, files[name], digest))
    marks = {WEIGHTS_COUNT: directory.obeys_weights, FORMER_WINDOWS: directory.has_former_windows}
    record_parameters(directory.parameters, parameters, files, **marks)


def _input_copy(directory: RunDirectory, path: Path, digest: str) -> Path:
    return directory.inputs / f"{digest[:12]}-{path.name}"


def _copy_input(path: Path, copy: Path) -> None:
    if not copy.exists():
        write_atomically(copy, path.read_bytes())


def recorded_parameters(directory: RunDirectory) -> CampaignParameters:
    """Return the parameters of a campaign on disk, with the copies of the files that they name.

    Raises:
        InputError: a newer surveyor wrote them.
    """
    record = read_json(directory.parameters)
    check_schema(record, directory.parameters)
    recorded = CampaignParameters.model_validate(record["parameters"])
    digests = recorded_files(record)
    copies = {path: _input_copy(directory, path, digests[name]) for name, path in recorded.input_files().items()}
    return with_paths(recorded, lambda path: copies.get(path, path))
