"""Sampling with a given potential as a kind of work: parameters, checks, and results."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from pydantic import Field

from surveyor.dataset import Dataset
from surveyor.errors import InputError, NothingLearned
from surveyor.models.choice import load_model, why_no_uncertainty
from surveyor.pools.choice import EXPECTED, LOCAL, PoolName
from surveyor.potentials import Potential
from surveyor.reading import ReadingReport
from surveyor.run_directory import RunDirectory, folder_of_model
from surveyor.sampling.batching import SamplePlan
from surveyor.sampling.checks import check_auto_limits, checked_walkers
from surveyor.sampling.conditions import TriesPerSample, Walkers, WalkersPerBatch
from surveyor.sampling.duplicates import without_near_duplicates
from surveyor.sampling.frames import independent_frames
from surveyor.sampling.walkers import Sample, Walker
from surveyor.structures import elements_of
from surveyor.works.parameters import OutputDirectory, WorkParameters, files_of_model
from surveyor.works.summary import write_summary
from surveyor.works.work import Kind, Work

SAMPLES = "samples"
FINAL_STATES = "samples.extxyz"
FRAMES = "frames.extxyz"


class SamplingParameters(WorkParameters):
    """All parameters of walkers on a given potential; its fields are the parameters of the flow `sample_walkers`."""

    FOLDERS: ClassVar = ("potential",)

    potential: Path = Field(
        title="Potential (folder)",
        description="Folder of a saved model; or of a campaign or a training, for its newest model.",
    )
    output_directory: OutputDirectory
    walkers: list[Walkers] = Field(min_length=1, title="Walkers", description="Groups of walkers.")
    n_samples: int = Field(
        1, ge=1, le=1_000_000, title="Samples per walker", description="Number of structures that each walker returns."
    )
    n_tries: TriesPerSample = 5
    min_difference_A: float = Field(
        0.01,
        ge=0,
        le=1,
        title="Near-duplicates (Å)",
        description="Keep only one of several structures whose interatomic distances and cell differ by less; 0 "
        "keeps all.",
    )
    walkers_per_batch: WalkersPerBatch = None
    seed: int = Field(0, ge=0, lt=2**32, title="Seed", description="Seed of all random numbers.")
    pool: PoolName = Field(LOCAL, title="Pool", description=f"Pool that runs the walkers: {EXPECTED}.")

    def recorded_files(self) -> dict[str, Path]:
        """Return the files whose contents define the work, by field; those of the model stand for its folder."""
        return self.input_files() | files_of_model("potential", _folder(self.potential))


@dataclass(frozen=True, slots=True)
class CheckedSampling:
    """Results of the checks of walkers on a given potential.

    Attributes:
        potential: on which the walkers move.
        walkers: at their starts.
        reports: on the files of the starts.
    """

    potential: Potential
    walkers: tuple[Walker, ...]
    reports: tuple[ReadingReport, ...]


class Sampling(Work[SamplingParameters, CheckedSampling]):
    """Walkers on a given potential, checked and open."""

    @property
    def samples(self) -> Path:
        """Folder of the samples."""
        return self.directory.path / SAMPLES

    @property
    def plans(self) -> tuple[SamplePlan, ...]:
        """The samples that each walker is to return."""
        turns = range(self.parameters.n_samples)
        return tuple(
            SamplePlan(walker, tuple(f"w{walker.index:03d}-{turn}" for turn in turns))
            for walker in self.checked.walkers
        )


def _folder(potential: Path) -> Path:
    try:
        return folder_of_model(potential)
    except InputError as error:
        raise InputError(f"potential: {error}") from error


def _make(parameters: SamplingParameters) -> CheckedSampling:
    """Read the starts, make the walkers and load the model."""
    _check_ramps(parameters.walkers)
    by_former_rule = RunDirectory(parameters.folder).has_former_windows
    walkers, reports = checked_walkers(
        parameters.walkers, parameters.seed, has_plumed=parameters.pool == LOCAL, by_former_rule=by_former_rule
    )
    model = load_model(_folder(parameters.potential))
    unknown = model.unsupported([walker.start for walker in walkers])
    if unknown:
        raise InputError(
            f"walkers: found {', '.join(unknown)}, expected only the elements that the model knows "
            f"({', '.join(model.atomic_energies or {})}); give other starts, or a model for them"
        )
    check_auto_limits(parameters.walkers, why_no_uncertainty(model))
    return CheckedSampling(model.deploy(), walkers, reports)


def _check_ramps(groups: Sequence[Walkers]) -> None:
    for number, group in enumerate(groups):
        if group.ramp_by == "labels":
            raise InputError(
                f"walkers[{number}].ramp_by: found labels, but nothing is labelled here; expected steps, and ramp_steps"
            )


SAMPLING = Kind(
    name="sampling",
    parameters=SamplingParameters,
    work=Sampling,
    field="potential",
    expected="potential, walkers and output_directory",
    may_change=(
        "output_directory",
        "n_samples",
        "walkers_per_batch",
        "min_difference_A",
        "pool",
        "walkers.max_uncertainty_meV_per_A",  # earlier versions recorded the default as 500
    ),
    advice="choose another output directory, or restore the parameters and files",
    make=_make,
)


def write_results(work: Sampling, brought: Sequence[tuple[str, Sample]]) -> dict[str, Any]:  # Any: JSON
    """Write the final states and the independent frames of all walkers, and last the summary, which is returned."""
    tolerance_A = work.parameters.min_difference_A
    final = [_named(sample.structure, name) for name, sample in brought if sample.structure is not None]
    frames = [
        _named(frame, f"{name} step {step}")
        for name, _ in brought
        for step, frame in independent_frames(work.samples, name).items()
    ]
    kept = {FINAL_STATES: without_near_duplicates(final, tolerance_A)}
    if frames:
        kept[FRAMES] = without_near_duplicates(frames, tolerance_A)
    for file, structures in kept.items():
        Dataset(structures).save(work.directory.path / file)
    summary = {
        "elements": list(elements_of(final)),
        "n_structures": {file: len(structures) for file, structures in kept.items()},
        "samples": [_described(name, sample) for name, sample in brought],
    }
    return write_summary(work.directory, summary)


def check_yield(summary: Mapping[str, Any], directory: RunDirectory) -> None:  # Any: JSON
    """Check that at least one walker returned a structure.

    Raises:
        NothingLearned: guards stopped every try of all walkers; the message names them.
    """
    if summary["n_structures"][FINAL_STATES]:
        return
    reasons = Counter(each["reason"] for sample in summary["samples"] for each in sample["rejections"])
    counts = ", ".join(f"{n} x {reason}" for reason, n in reasons.most_common())
    raise NothingLearned(
        f"no walker brought a structure: guards stopped all tries ({counts}); see {directory.summary}. Correct the "
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
        "ramp": sample.walker.ramp,
        "is_converged": sample.is_converged,
        "stop": None if sample.stop is None else asdict(sample.stop),
        "max_uncertainty_meV_per_A": sample.max_uncertainty_meV_per_A,
        "rejections": [
            {**asdict(each), "value": each.value if np.isfinite(each.value) else None} for each in sample.rejections
        ],
    }
