"""What the samples of a generation came to, and what follows for the walkers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms

from surveyor.dataset import FAILURE, KEY, OUTPUT, Dataset
from surveyor.errors import NothingLearned
from surveyor.learning import Learning, StructureError, must_reset, without_repetitions
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


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The outcome of one sample, or of one structure without a walker.

    Attributes:
        name: name of the sample.
        sample: the sample; None for a structure without a walker.
        structure: the structure with its label or failure; None if the walker returned none.
    """

    name: str
    sample: Sample | None
    structure: Atoms | None

    @property
    def key(self) -> str | None:
        """The key of the label."""
        return None if self.structure is None else str(self.structure.info[KEY])

    @property
    def failure(self) -> str | None:
        """Why there is no label."""
        return None if self.structure is None else self.structure.info.get(FAILURE)


def new_structures(outcomes: Sequence[Outcome], known: Sequence[str]) -> Dataset:
    """Return the structures that a campaign does not have yet, labelled and failed, in the order of their keys."""
    brought = Dataset(outcome.structure for outcome in outcomes if outcome.structure is not None)
    return without_repetitions(brought, known).ordered_by_key()


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


def check_new_labels(outcomes: Sequence[Outcome], structures: Dataset) -> None:
    """Check that a generation returned a label that the campaign does not have yet.

    Args:
        outcomes: outcomes of the generation.
        structures: new structures, labelled or failed.

    Raises:
        NothingLearned: it returned none; the message gives reasons and advice.
    """
    if structures.labelled():
        return
    reasons = why_nothing_is_new(outcomes, structures)
    told = ", ".join(f"{n} of {number_of(len(outcomes), 'sample')} {name}" for name, n in reasons.items())
    stops = [each for outcome in outcomes if outcome.sample is not None for each in outcome.sample.rejections]
    guards = f". Guards stopped {number_of(len(stops), 'try', 'tries')}: {stops_in_words(stops)}" if stops else ""
    advice = [
        f"\n  {name.replace('_', ' ').removeprefix('are ').removeprefix('have ')}: {text}"
        for name, text in ADVICE.items()
        if name in reasons or name in {each.reason for each in stops}
    ]
    raise NothingLearned(f"{told or 'no walker moved'}{guards}. What may help:{''.join(advice)}")


def why_nothing_is_new(outcomes: Sequence[Outcome], structures: Dataset) -> dict[str, int]:
    """Return the number of samples without anything new, by reason."""
    fates = [_why_not_new(outcome, structures.keys()) for outcome in outcomes]
    return dict(Counter(fate for fate in fates if fate is not None))


def _why_not_new(outcome: Outcome, new: Sequence[str]) -> str | None:
    if outcome.sample is not None and outcome.sample.structure is None:
        return NO_STRUCTURE
    if outcome.structure is None:
        return NEAR_DUPLICATES
    if outcome.failure is not None:
        return FAILED
    return None if outcome.key in new else KNOWN


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
    walkers: Sequence[Walker], outcomes: Sequence[Outcome], errors: Mapping[str, StructureError], learning: Learning
) -> tuple[Walker, ...]:
    """Return the walkers for the next generation: where they are now, or back at their starts.

    Args:
        walkers: before this generation.
        outcomes: of this generation.
        errors: of the model before training, by key of the label.
        learning: thresholds.
    """
    reached = {walker.index: walker for walker in walkers}
    to_reset = set()
    for outcome in outcomes:
        if outcome.sample is not None:
            walker = outcome.sample.walker
            reached[walker.index] = walker
            if reason_to_reset(outcome, errors, learning) is not None:
                to_reset.add(walker.index)
    return tuple(walker.reset() if index in to_reset else walker for index, walker in sorted(reached.items()))


def reason_to_reset(outcome: Outcome, errors: Mapping[str, StructureError], learning: Learning) -> str | None:
    """Return the reason why the walker of a sample is reset to its start, or None."""
    if outcome.failure is not None:
        return f"label failed: {outcome.failure}"
    error = errors.get(outcome.key or "")
    if error is not None and must_reset(error, learning):
        return "error of the model"
    return None


def describe(
    outcomes: Sequence[Outcome],
    structures: Dataset,
    errors: Mapping[str, StructureError],
    history: Sequence[Mapping[str, Any]],  # Any: numbers and None
    learning: Learning,
) -> dict[str, Any]:  # Any: whatever JSON holds
    """Return what the manifest of a generation keeps beside sets, walkers and model, ready for JSON.

    Args:
        outcomes: of this generation.
        structures: new ones, labelled or failed.
        errors: of the model before training, by key of the label.
        history: of the training.
        learning: thresholds.
    """
    return {
        "walkers": [_describe(each, each.sample, errors, learning) for each in outcomes if each.sample is not None],
        "failures": count_failures(structures),
        "epochs": len(history),
        "history": list(history),
    }


def _describe(
    outcome: Outcome, sample: Sample, errors: Mapping[str, StructureError], learning: Learning
) -> dict[str, Any]:  # Any: whatever JSON holds
    reason = "no sample" if sample.structure is None else reason_to_reset(outcome, errors, learning)
    error = errors.get(outcome.key or "")
    record = {
        "index": sample.walker.index,
        "name": outcome.name,
        "label_key": outcome.key,
        "fate": "continues" if reason is None else "reset",
        "reason": reason,
        "rejections": [_finite(asdict(rejection)) for rejection in sample.rejections],
        "stop": None if sample.stop is None else _finite(asdict(sample.stop)),
        "is_converged": sample.is_converged,
        "temperature_K": sample.temperature_K,
        "temperatures_K": np.round(sample.temperatures_K, 2).tolist(),
        "is_near_duplicate": sample.structure is not None and outcome.structure is None,
        "n_steps": sample.n_steps,
        "n_resets": sample.walker.n_resets,
        "window": sample.walker.window,
        "energy_error": None if error is None else error.energy,
        "forces_error": None if error is None else error.forces,
    }
    return _finite(record)


def _finite(record: dict[str, Any]) -> dict[str, Any]:  # Any: numbers and strings
    # JSON knows no NaN, which a guard may have found or a model may have predicted.
    return {
        name: value if not isinstance(value, float) or np.isfinite(value) else None for name, value in record.items()
    }
