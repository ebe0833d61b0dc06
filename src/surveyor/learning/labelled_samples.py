"""The samples of a generation with their labels: checks, and consequences for the walkers."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms

from surveyor.dataset import FAILURE, KEY, OUTPUT, Dataset
from surveyor.dataset.metrics import StructureError
from surveyor.errors import NothingLearned
from surveyor.learning.decisions import must_reset, without_repetitions
from surveyor.learning.parameters import Learning
from surveyor.potentials import Potential
from surveyor.sampling.collection import FRAME
from surveyor.sampling.propagation import propagate
from surveyor.sampling.walkers import Sample, Walker, stops_in_words
from surveyor.words import number_of

NO_STRUCTURE = "were rejected, as guards stopped every try"
NEAR_DUPLICATES = "are almost the same as known structures"
KNOWN = "have labels that the campaign has already"
FAILED = "have no label, as it failed"

_MORE_DATA = (
    "if the model knows too little, begin a new campaign with a larger bootstrap (n_structures, amplitude_A); the "
    "label store keeps what is paid for"
)
_OTHERWISE = "begin a new campaign from this one (--from) with {}"
# What may help, by what brought nothing; what stands in a campaign's file under these names may be changed.
ADVICE = {
    "force": f"raise max_force_eV_per_A if such forces are right; {_MORE_DATA}",
    "distance": "lower min_distance_factor or min_distance_A if such distances are right; look at the starts; "
    f"{_MORE_DATA}",
    "temperature": "raise max_temperature_factor if there are few atoms, or starts that are not relaxed; "
    f"{_OTHERWISE.format('a shorter timestep_fs')}; {_MORE_DATA}",
    "not_finite": f"{_OTHERWISE.format('a shorter timestep_fs')}; {_MORE_DATA}",
    "volume": f"raise max_volume_factor; see whether pressure_MPa is meant; {_MORE_DATA}",
    "energy_drift": f"raise max_energy_drift_meV_per_atom; {_OTHERWISE.format('a shorter timestep_fs')}",
    NEAR_DUPLICATES: "lower learning.min_difference_A; "
    + _OTHERWISE.format("more n_steps or a higher temperature_K, if there is something left to learn"),
    KNOWN: _OTHERWISE.format("more n_steps, a higher temperature_K or other starts"),
    FAILED: "remove the cause, then give: surveyor labels retry STORE, with the folder of the label store",
}


# Why a structure has a label: because every sample has one, to examine the model, or because a selector has chosen it.
# A "candidate" has none: the label of the sample was spent on another structure.
Role = Literal["sample", "audit", "chosen", "candidate"]


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSample:
    """A sample with its label, or a labelled structure without a walker.

    Attributes:
        name: name of the sample.
        sample: the sample; None for a structure without a walker.
        structure: the structure with its label or failure; None if the walker returned none, or a near-duplicate.
        moved_on: number of the generation whose model moved the walker; None if unknown.
        lag: number of other samples that this model had not learned, though they were begun.
        role: why the structure has a label, or, with "candidate", why it has none.
        score: of the selector that has chosen it.
    """

    name: str
    sample: Sample | None
    structure: Atoms | None
    moved_on: int | None = None
    lag: int = 0
    role: Role = "sample"
    score: float | None = None

    @property
    def key(self) -> str | None:
        """The key of the label."""
        return None if self.structure is None else str(self.structure.info[KEY])

    @property
    def failure(self) -> str | None:
        """Reason why the label failed, if it did."""
        return None if self.structure is None else self.structure.info.get(FAILURE)


def explore(
    pool: Executor,
    walkers: Sequence[Walker],
    potential: Potential,
    label: Callable[[Atoms], Atoms],
    directory: Path | str,
) -> list[LabelledSample]:
    """Propagate each walker until it returns a structure, and label the structure at once.

    Args:
        pool: executor for walkers and labels.
        walkers: walkers in their current states.
        potential: the potential.
        label: returns a structure with its label, such as a `Labeller`.
        directory: folder of this generation; existing samples are not repeated.
    """
    runs = [
        pool.submit(propagate, walker, potential, directory=directory, name=f"walker-{walker.index}")
        for walker in walkers
    ]
    samples = (run.result() for run in as_completed(runs))
    futures = [(each, None if each.structure is None else pool.submit(label, each.structure)) for each in samples]
    return [LabelledSample(f"walker-{each.walker.index}", each, future and future.result()) for each, future in futures]


def new_structures(samples: Sequence[LabelledSample], known: Sequence[str]) -> Dataset:
    """Return the structures that a campaign does not have yet, labelled and failed, in the order of their keys."""
    brought = Dataset(each.structure for each in samples if each.structure is not None)
    return without_repetitions(brought, known).ordered_by_key()


def audits_among(samples: Sequence[LabelledSample]) -> frozenset[str] | None:
    """Return the keys of the labels that are audits; None if no selector has chosen, so that any label may be one."""
    if all(each.role == "sample" for each in samples):
        return None
    return frozenset(each.key for each in samples if each.role == "audit" and each.key is not None)


def count_failures(structures: Dataset) -> dict[str, int]:
    """Return how many structures have no label, by reason."""
    return dict(sorted(Counter(str(atoms.info[FAILURE]) for atoms in structures.failed()).items()))


def check_failures(structures: Dataset, learning: Learning) -> None:
    """Check that not too many labels failed.

    Raises:
        NothingLearned: a larger fraction failed than the campaign allows; the message gives reasons and outputs.
    """
    failures = count_failures(structures)
    n_failed = sum(failures.values())
    if structures and n_failed > learning.max_failed_fraction * len(structures):
        reasons = ", ".join(f"{n} {reason}" for reason, n in failures.items())
        outputs = sorted({str(atoms.info[OUTPUT]) for atoms in structures.failed() if OUTPUT in atoms.info})
        raise NothingLearned(
            f"{n_failed} of {number_of(len(structures), 'label')} failed ({reasons}), "
            f"allowed are {learning.max_failed_fraction:.0%}; "
            f"see the output of the first in {outputs[0] if outputs else 'the label store'}. Failures are kept and not "
            "tried again: once the cause is removed, give: surveyor labels retry STORE, with the label store's folder"
        )


def check_new_labels(samples: Sequence[LabelledSample], structures: Dataset) -> None:
    """Check that a generation returned a label that the campaign does not have yet.

    Raises:
        NothingLearned: it returned none; the message gives reasons and advice.
    """
    if structures.labelled():
        return
    reasons = why_nothing_is_new(samples, structures)
    counts = ", ".join(f"{n} of {number_of(len(samples), 'sample')} {name}" for name, n in reasons.items())
    stops = [stop for each in samples if each.sample is not None for stop in each.sample.rejections]
    guards = f". Guards stopped {number_of(len(stops), 'try', 'tries')}: {stops_in_words(stops)}" if stops else ""
    advice = [
        f"\n  {name.replace('_', ' ').removeprefix('are ').removeprefix('have ')}: {text}"
        for name, text in ADVICE.items()
        if name in reasons or name in {stop.reason for stop in stops}
    ]
    raise NothingLearned(f"{counts or 'no walker moved'}{guards}. What may help:{''.join(advice)}")


def why_nothing_is_new(samples: Sequence[LabelledSample], structures: Dataset) -> dict[str, int]:
    """Return the number of samples without anything new, by reason."""
    fates = [_why_not_new(each, structures.keys()) for each in samples]
    return dict(Counter(fate for fate in fates if fate is not None))


def _why_not_new(labelled: LabelledSample, new: Sequence[str]) -> str | None:
    if labelled.sample is not None and labelled.sample.structure is None:
        return NO_STRUCTURE
    if labelled.role == "candidate":
        return None
    if labelled.structure is None:
        return NEAR_DUPLICATES
    if labelled.failure is not None:
        return FAILED
    return None if labelled.key in new else KNOWN


def check_bootstrap(structures: Dataset) -> None:
    """Check that there is enough for a first training, validation and test set.

    Raises:
        NothingLearned: fewer than three structures have a label.
    """
    n_labelled = len(structures.labelled())
    if n_labelled < 3:
        raise NothingLearned(
            f"{n_labelled} of {number_of(len(structures), 'structure')} of the bootstrap got a label; expected at "
            "least 3, for training, validation and test; ask for more structures, or correct what makes labels fail"
        )


def move_on(
    walkers: Sequence[Walker],
    samples: Sequence[LabelledSample],
    errors: Mapping[str, StructureError],
    learning: Learning,
) -> tuple[Walker, ...]:
    """Return the walkers for the next generation: where they are now, or back at their starts.

    Good labels move walkers along their ramps, if these are by labels.

    Args:
        walkers: before this generation.
        samples: of this generation.
        errors: of the model before training, by key of the label.
        learning: thresholds.
    """
    returned = {each.name: each.sample.walker for each in samples if each.sample is not None}
    reached = {walker.index: walker for walker in [*walkers, *returned.values()]}
    to_reset = {returned[name].index for name in samples_to_reset(samples, errors, learning)}
    good = {(returned[name].index, returned[name].n_good_labels) for name in good_samples(samples, errors, learning)}
    return tuple(
        _moved_on(walker, is_reset=index in to_reset, is_good=(index, walker.n_good_labels) in good)
        for index, walker in sorted(reached.items())
    )


def _moved_on(walker: Walker, *, is_reset: bool, is_good: bool) -> Walker:
    if is_reset:
        return walker.reset()
    return replace(walker, n_good_labels=walker.n_good_labels + 1) if is_good else walker


def samples_to_reset(
    samples: Sequence[LabelledSample], errors: Mapping[str, StructureError], learning: Learning
) -> tuple[str, ...]:
    """Return the names of the samples whose walkers are to be reset; see `move_on`."""
    of_walkers = [each for each in samples if each.sample is not None or each.role == "chosen"]
    return tuple(each.name for each in of_walkers if reason_to_reset(each, errors, learning) is not None)


def good_samples(
    samples: Sequence[LabelledSample], errors: Mapping[str, StructureError], learning: Learning
) -> tuple[str, ...]:
    """Return the names of the samples whose labels are within the reset thresholds, if these move their walkers.

    A frame that a selector has chosen counts for its sample.
    """
    moved_by_labels = {
        each.name for each in samples if each.sample is not None and each.sample.walker.conditions.ramp_by == "labels"
    }
    good = (
        each.name.partition(FRAME)[0]
        for each in samples
        if (each.sample is not None or each.role == "chosen")
        and each.key in errors
        and reason_to_reset(each, errors, learning) is None
    )
    return tuple(dict.fromkeys(name for name in good if name in moved_by_labels))


def reason_to_reset(labelled: LabelledSample, errors: Mapping[str, StructureError], learning: Learning) -> str | None:
    """Return the reason why the walker of a sample is reset to its start, or None."""
    if labelled.failure is not None:
        return f"label failed: {labelled.failure}"
    error = errors.get(labelled.key or "")
    if error is not None and must_reset(error, learning):
        return "error of the model"
    return None


def describe(
    samples: Sequence[LabelledSample],
    structures: Dataset,
    errors: Mapping[str, StructureError],
    history: Sequence[Mapping[str, Any]],  # Any: numbers and None
    learning: Learning,
) -> dict[str, Any]:  # Any: whatever JSON holds
    """Return the details that a generation's manifest keeps beside sets, walkers and model, ready for JSON.

    Args:
        samples: of this generation.
        structures: new ones, labelled or failed.
        errors: of the model before training, by key of the label.
        history: of the training.
        learning: thresholds.
    """
    return {
        "walkers": [_describe(each, each.sample, errors, learning) for each in samples if each.sample is not None],
        **_describe_chosen(samples, errors),
        "failures": count_failures(structures),
        "epochs": len(history),
        "history": list(history),
    }


def _describe(
    labelled: LabelledSample, sample: Sample, errors: Mapping[str, StructureError], learning: Learning
) -> dict[str, Any]:  # Any: whatever JSON holds
    reason = "no sample" if sample.structure is None else reason_to_reset(labelled, errors, learning)
    error = errors.get(labelled.key or "")
    record = {
        "index": sample.walker.index,
        "name": labelled.name,
        "label_key": labelled.key,
        "fate": "continues" if reason is None else "reset",
        "reason": reason,
        "rejections": [_finite(asdict(rejection)) for rejection in sample.rejections],
        "stop": None if sample.stop is None else _finite(asdict(sample.stop)),
        "max_uncertainty_meV_per_A": sample.max_uncertainty_meV_per_A,
        "is_converged": sample.is_converged,
        "temperature_K": sample.temperature_K,
        "temperatures_K": np.round(sample.temperatures_K, 2).tolist(),
        "is_near_duplicate": sample.structure is not None
        and labelled.structure is None
        and labelled.role != "candidate",
        "role": labelled.role,
        "n_steps": sample.n_steps,
        "moved_on": labelled.moved_on,
        "lag": labelled.lag,
        "n_resets": sample.walker.n_resets,
        "window": sample.walker.window,
        "ramp": sample.walker.ramp,
        "energy_error": None if error is None else error.energy,
        "forces_error": None if error is None else error.forces,
    }
    return _finite(record)


def _describe_chosen(
    samples: Sequence[LabelledSample], errors: Mapping[str, StructureError]
) -> dict[str, Any]:  # Any: whatever JSON holds
    """Return the record of the labels chosen by a selector; empty without one."""
    if all(each.role == "sample" for each in samples):
        return {}
    chosen = [each for each in samples if each.role == "chosen"]
    return {"chosen": [_describe_label(each, errors.get(each.key or "")) for each in chosen]}


def _describe_label(
    labelled: LabelledSample, error: StructureError | None
) -> dict[str, Any]:  # Any: whatever JSON holds
    record = {
        "name": labelled.name,
        "label_key": labelled.key,
        "score": labelled.score,
        "moved_on": labelled.moved_on,
        "lag": labelled.lag,
        "energy_error": None if error is None else error.energy,
        "forces_error": None if error is None else error.forces,
    }
    return _finite(record)


def _finite(record: dict[str, Any]) -> dict[str, Any]:  # Any: numbers and strings
    # JSON knows no NaN, which a guard may have found or a model may have predicted.
    return {
        name: value if not isinstance(value, float) or np.isfinite(value) else None for name, value in record.items()
    }
