"""Walkers on a given potential as work of its own: its parameters, and what stays the same in it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from pydantic import Field

from surveyor.campaign.checks import check_writable
from surveyor.dataset import Dataset
from surveyor.errors import InputError, NothingLearned
from surveyor.events import Report, ReportingExecutor
from surveyor.files import naming_full_disks, read_json, write_json
from surveyor.lease import hold_lease
from surveyor.models.choice import load_model
from surveyor.models.export import folder_of_model
from surveyor.models.record import RECORD
from surveyor.parameter_files import check_files_exist, check_no_file, files_named, load_parameters
from surveyor.parameters import Parameters
from surveyor.pools.choice import EXPECTED, LOCAL, PoolName, Pools, open_pools
from surveyor.pools.pool import Pool
from surveyor.pools.sites import Site
from surveyor.potentials import Potential
from surveyor.reading import ReadingReport
from surveyor.run_directory import FORMER_WINDOWS, SCHEMA_VERSION, RunDirectory, check_schema
from surveyor.sampling.batching import Itinerary
from surveyor.sampling.checks import check_walkers
from surveyor.sampling.conditions import Walkers
from surveyor.sampling.duplicates import without_near_duplicates
from surveyor.sampling.frames import independent_frames
from surveyor.sampling.walkers import Sample, Walker, make_walkers
from surveyor.structures import elements_of
from surveyor.works.continuation import check_same_parameters, record_parameters
from surveyor.works.provenance import record_run

MAY_CHANGE = ("output_directory", "n_samples", "walkers_per_batch", "min_difference_A", "pool")
SAMPLES = "samples"
FINAL_STATES = "samples.extxyz"
FRAMES = "frames.extxyz"
SUMMARY = "summary.json"


class ExplorationParameters(Parameters):
    """All parameters of walkers on a given potential; its fields are the parameters of the flow `sample_walkers`."""

    potential: Path = Field(
        title="Potential (folder)",
        description="Folder of a saved model; or of a campaign or a training, for its newest model.",
    )
    output_directory: Path = Field(
        title="Output directory",
        description="Folder of the results; the same call on the same folder continues where it stopped.",
    )
    walkers: list[Walkers] = Field(min_length=1, title="Walkers", description="Groups of walkers.")
    n_samples: int = Field(
        1, ge=1, le=1_000_000, title="Samples per walker", description="How many structures each walker brings."
    )
    n_tries: int = Field(
        5,
        ge=1,
        le=100,
        title="Tries of sampling",
        description="How often a walker may be stopped by a guard before it gives no sample.",
    )
    min_difference_A: float = Field(
        0.01,
        ge=0,
        le=1,
        title="Near-duplicates (Å)",
        description="Of structures whose interatomic distances and cell differ by less, one is kept; 0: all are.",
    )
    walkers_per_batch: int | None = Field(
        None,
        ge=1,
        title="Walkers per batch",
        description="How many walkers move together, with one pass of the model for all at each step; 1: each moves "
        "alone. By default as many as keep all workers of the pool busy, if the model is faster so.",
    )
    seed: int = Field(0, ge=0, lt=2**32, title="Seed", description="Everything random follows from it.")
    pool: PoolName = Field(LOCAL, title="Pool", description=f"Where the walkers move: {EXPECTED}.")

    def input_files(self) -> dict[str, Path]:
        """Return the files that the parameters name, by the name of the field."""
        return files_named(self, folders=("output_directory", "potential"))


def load_exploration(path: Path) -> ExplorationParameters:
    """Read a file of parameters (YAML); paths in it are relative to the folder it is in.

    Raises:
        InputError: the file is missing or is no YAML, or a field is wrong.
    """
    return load_parameters(ExplorationParameters, path, "parameter file", "potential, walkers and output_directory")


@dataclass(frozen=True, slots=True, eq=False)
class Exploration:
    """What walkers on a given potential work with, checked and open.

    Attributes:
        parameters: with absolute paths.
        directory: its folder, which has the layout of a campaign's as far as it has the same files.
        potential: on which the walkers move.
        walkers: at their starts.
        pool: where they move.
        reports: on the files of the starts.
    """

    parameters: ExplorationParameters
    directory: RunDirectory
    potential: Potential
    walkers: tuple[Walker, ...]
    pool: Pool
    reports: tuple[ReadingReport, ...] = ()

    @property
    def executor(self) -> Executor:
        """The pool, whose functions report."""
        return ReportingExecutor(self.pool, Report.into(self.directory.workers))

    @property
    def samples(self) -> Path:
        """Folder of what the walkers bring."""
        return self.directory.path / SAMPLES

    @property
    def itineraries(self) -> tuple[Itinerary, ...]:
        """What each walker is to bring."""
        turns = range(self.parameters.n_samples)
        return tuple(
            Itinerary(walker, tuple(f"w{walker.index:03d}-{turn}" for turn in turns)) for walker in self.walkers
        )


@contextmanager
def open_exploration(
    parameters: ExplorationParameters, sites: Mapping[str, Site] | None = None, pools_by_hand: Path | None = None
) -> Iterator[Exploration]:
    """Check parameters, take their folder and give their pool, as long as this lasts.

    Args:
        parameters: with absolute paths.
        sites: where the pool is, by name, if the parameters name it by a block.
        pools_by_hand: folder of the pools that the user has opened by hand, which are used where they are open.

    Raises:
        InputError: the parameters cannot work, or are not those of the folder.
        CampaignInUse: a live process works in the folder.
    """
    checked = check_exploration(parameters)
    directory = checked.directory
    check_writable("output_directory", directory.path)
    with naming_full_disks(directory.path), hold_lease(directory.lease):
        _check_continuation(directory, parameters)
        marks = {FORMER_WINDOWS: directory.has_former_windows}
        record_parameters(directory.parameters, parameters, _recorded_files(parameters), **marks)
        record_run(directory)
        pools = Pools(sampling=parameters.pool, labelling=parameters.pool, training=parameters.pool)
        potential = load_model(folder_of_model(parameters.potential)).deploy()
        with open_pools(pools, sites, directory.pools, pools_by_hand) as opened:
            yield Exploration(parameters, directory, potential, checked.walkers, opened.sampling, checked.reports)


@dataclass(frozen=True, slots=True)
class CheckedExploration:
    """Results of the checks of walkers on a given potential.

    Attributes:
        directory: the folder.
        walkers: at their starts.
        reports: on the files of the starts.
    """

    directory: RunDirectory
    walkers: tuple[Walker, ...]
    reports: tuple[ReadingReport, ...]


def check_exploration(parameters: ExplorationParameters) -> CheckedExploration:
    """Check what can be checked without a pool; return what was found and read.

    Raises:
        InputError: something cannot work: names the field, what was found, what was expected and what to do.
    """
    check_files_exist(parameters.input_files(), "parameter file")
    check_no_file("output_directory", parameters.output_directory)
    directory = RunDirectory(parameters.output_directory.absolute())
    _check_continuation(directory, parameters)
    by_former_rule, has_plumed = directory.has_former_windows, parameters.pool == LOCAL
    reports = check_walkers(parameters.walkers, has_plumed=has_plumed, by_former_rule=by_former_rule)
    model = load_model(folder_of_model(parameters.potential))
    walkers = make_walkers(parameters.walkers, parameters.seed, by_former_rule=by_former_rule)
    unknown = model.unsupported([walker.start for walker in walkers])
    if unknown:
        raise InputError(
            f"walkers: found {', '.join(unknown)}, expected only the elements that the model knows "
            f"({', '.join(model.atomic_energies or {})}); give other starts, or a model for them"
        )
    return CheckedExploration(directory, walkers, reports)


def _check_continuation(directory: RunDirectory, parameters: ExplorationParameters) -> None:
    advice = "choose another output directory, or restore the parameters and files"
    check_same_parameters(directory, parameters, _recorded_files(parameters), MAY_CHANGE, "sampling", advice)


def _recorded_files(parameters: ExplorationParameters) -> dict[str, Path]:
    """Return the files whose contents make this what it is, by field; those of the model stand for its folder."""
    folder = folder_of_model(parameters.potential)
    weights = load_model(folder).weights
    if weights is None or not weights.is_file():
        raise InputError(f"potential: {folder} has no weights; give a folder that surveyor saved a model to")
    return {**parameters.input_files(), "potential": weights, "potential.record": folder / RECORD}


def write_results(exploration: Exploration, brought: Sequence[tuple[str, Sample]]) -> dict[str, Any]:  # Any: JSON
    """Write the final states and the independent frames of all walkers, and last the summary, which is returned.

    Args:
        exploration: open.
        brought: all samples, with their names.
    """
    tolerance_A = exploration.parameters.min_difference_A
    final = [_named(sample.structure, name) for name, sample in brought if sample.structure is not None]
    frames = [
        _named(frame, f"{name} step {step}")
        for name, _ in brought
        for step, frame in independent_frames(exploration.samples, name).items()
    ]
    kept = {FINAL_STATES: without_near_duplicates(final, tolerance_A)}
    if frames:
        kept[FRAMES] = without_near_duplicates(frames, tolerance_A)
    for file, structures in kept.items():
        Dataset(structures).save(exploration.directory.path / file)
    summary = {
        "schema_version": SCHEMA_VERSION,
        "elements": list(elements_of(final)),
        "n_structures": {file: len(structures) for file, structures in kept.items()},
        "samples": [_described(name, sample) for name, sample in brought],
    }
    write_json(exploration.directory.path / SUMMARY, summary)
    return summary


def check_yield(summary: Mapping[str, Any], folder: Path) -> None:  # Any: JSON
    """Check that some walker brought a structure.

    Args:
        summary: of the walkers, see `write_results`.
        folder: of the results.

    Raises:
        NothingLearned: guards stopped every try of all walkers; says which.
    """
    if summary["n_structures"][FINAL_STATES]:
        return
    reasons = Counter(each["reason"] for sample in summary["samples"] for each in sample["rejections"])
    counts = ", ".join(f"{n} x {reason}" for reason, n in reasons.most_common())
    raise NothingLearned(
        f"no walker brought a structure: guards stopped all tries ({counts}); see {folder / SUMMARY}. Correct the "
        "starts, shorten the time step or raise the limits of the guards, and choose another output directory"
    )


def _named(atoms: Atoms, name: str) -> Atoms:
    copy = atoms.copy()
    copy.info["walker"] = name
    return copy


def _described(name: str, sample: Sample) -> dict[str, Any]:  # Any: JSON
    return {
        "name": name,
        "n_steps": sample.n_steps,
        "temperature_K": sample.temperature_K,
        "window": sample.walker.window,
        "is_converged": sample.is_converged,
        "stop": None if sample.stop is None else asdict(sample.stop),
        "rejections": [
            {**asdict(each), "value": each.value if np.isfinite(each.value) else None} for each in sample.rejections
        ],
    }


def read_exploration_summary(directory: RunDirectory) -> dict[str, Any]:  # Any: whatever JSON holds
    """Return the summary that `write_results` wrote.

    Raises:
        InputError: the walkers have not ended, or a newer surveyor wrote it.
    """
    path = directory.path / SUMMARY
    if not path.exists():
        raise InputError(f"the walkers in {directory.path} have not ended; the same call continues")
    summary: dict[str, Any] = read_json(path)
    check_schema(summary, path)
    return summary


def is_exploration(directory: RunDirectory) -> bool:
    """Say whether a folder is that of walkers on a given potential."""
    return directory.parameters.is_file() and "potential" in read_json(directory.parameters)["parameters"]
