"""The decisions of online learning: pure functions, so that the same data give the same campaign."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from surveyor.dataset import KEY, Dataset, DataSets
from surveyor.dataset.metrics import StructureError
from surveyor.learning.audits import Examined
from surveyor.learning.parameters import Bootstrap, Learning
from surveyor.learning.trust import has_targets, missing_evidence
from surveyor.sampling.perturbation import perturb
from surveyor.sampling.walkers import Walker
from surveyor.words import number_of

FORMER_REASON = "the error before training is below its target"
TARGETS_MET = "audits show that the targets are met"


def without_repetitions(structures: Dataset, known: Sequence[str]) -> Dataset:
    """Return the structures whose keys are neither known nor repeated, in order."""
    seen = set(known)
    fresh = []
    for atoms in structures:
        key = str(atoms.info[KEY])
        if key not in seen:
            fresh.append(atoms)
            seen.add(key)
    return Dataset(fresh)


def decide_membership(
    structures: Dataset,
    errors: Mapping[str, StructureError],
    data: DataSets,
    learning: Learning,
    audits: Collection[str] | None = None,
) -> DataSets:
    """Return the sets that new structures join permanently.

    Structures are ordered by the hash in their key. Validation and test set are filled to their fractions of all
    structures so far, and each gets at least one of three or more new structures. At least one of the first structures,
    and of three or more, is left for training. What a selector has chosen is for training only: validation and test set
    are filled from audits alone, as far as these suffice.

    Args:
        structures: new structures, labelled or failed, with their keys.
        errors: errors of the model before training on them, by key; empty without a model.
        data: the sets of the campaign so far.
        learning: fractions and thresholds.
        audits: keys of those that may join validation and test set; by default all.
    """
    labelled = structures.labelled().ordered_by_key()
    kept = labelled.where(lambda atoms: not _is_discarded(atoms, errors, learning))
    drawn = kept.where(lambda atoms: audits is None or atoms.info[KEY] in audits)
    n_valid, n_test = _shares(len(kept), len(drawn), data, learning)
    others = set(drawn[: n_valid + n_test].keys())
    return DataSets(
        valid=drawn[:n_valid],
        test=drawn[n_valid : n_valid + n_test],
        train=kept.where(lambda atoms: atoms.info[KEY] not in others),
        failed=structures.failed().ordered_by_key(),
        discarded=labelled.where(lambda atoms: _is_discarded(atoms, errors, learning)),
    )


def _is_discarded(atoms: Atoms, errors: Mapping[str, StructureError], learning: Learning) -> bool:
    error = errors.get(str(atoms.info[KEY]))
    return error is not None and error.exceeds(learning.discard_energy_meV_per_atom, learning.discard_forces_meV_per_A)


def _shares(n_new: int, n_drawn: int, data: DataSets, learning: Learning) -> tuple[int, int]:
    """Return how many of the new structures come to the validation and the test set, at most those that are drawn."""
    n_total = n_new + len(data.train) + len(data.valid) + len(data.test)
    least = 1 if n_new >= 3 else 0
    valid = _lacking(learning.valid_fraction, n_total, len(data.valid), least)
    test = _lacking(learning.test_fraction, n_total, len(data.test), least)
    n_free = min(n_drawn, max(0, n_new - 1) if n_new >= 3 or not data.train else n_new)
    n_valid = max(0, min(valid, n_free - min(test, least)))
    return n_valid, min(test, n_free - n_valid)


def _lacking(fraction: float, n_total: int, n_have: int, least: int) -> int:
    return 0 if fraction == 0 else max(round(fraction * n_total) - n_have, least)


def must_reset(error: StructureError, learning: Learning) -> bool:
    """Return whether the walker that returned a structure is reset to its start."""
    return error.exceeds(learning.reset_energy_meV_per_atom, learning.reset_forces_meV_per_A)


@dataclass(frozen=True, slots=True)
class LearningProgress:
    """The numbers of a campaign on which the decision to stop depends.

    Attributes:
        generation: number of the newest complete generation.
        n_labels: how many labels were requested so far.
        energy_rmse: before training on the newest generation's structures, eV/atom; None where nothing was measured.
        forces_rmse: likewise, eV/Å.
        examined: what all generations so far show; None in a campaign that keeps the former stop, which looks at the
            errors of the newest generation alone.
    """

    generation: int
    n_labels: int
    energy_rmse: float | None = None
    forces_rmse: float | None = None
    examined: tuple[Examined, ...] | None = None


def reason_to_stop(progress: LearningProgress, learning: Learning) -> str | None:
    """Return the reason why a campaign ends, or None if it continues."""
    limit = _limit_reached(progress, learning)
    if progress.examined is None or not has_targets(learning):
        return limit or (FORMER_REASON if is_converged(progress, learning) else None)
    missing = missing_evidence(progress.examined, learning)
    if not missing:
        return TARGETS_MET
    return limit and f"{limit}; the targets are not shown to be met: {'; '.join(missing)}"


def _limit_reached(progress: LearningProgress, learning: Learning) -> str | None:
    if progress.generation >= learning.n_generations:
        n = learning.n_generations
        return "the one requested generation is complete" if n == 1 else f"all {n} generations are complete"
    if learning.max_labels is not None and progress.n_labels >= learning.max_labels:
        return f"the budget of {number_of(learning.max_labels, 'label')} is used up"
    return None


def is_converged(progress: LearningProgress, learning: Learning) -> bool:
    """Return whether the error before training on the newest generation is below all targets that are given."""
    targets = (
        (progress.energy_rmse, learning.target_energy_meV_per_atom),
        (progress.forces_rmse, learning.target_forces_meV_per_A),
    )
    given = [(error, target) for error, target in targets if target is not None]
    return bool(given) and all(error is not None and 1e3 * error <= target for error, target in given)


def perturbed_starts(walkers: Sequence[Walker], bootstrap: Bootstrap, seed: int) -> list[Atoms]:
    """Return randomly perturbed starts of the walkers, which take turns.

    Args:
        walkers: at their starts.
        bootstrap: how many, and how far.
        seed: of the campaign.
    """
    return [
        perturb(
            walkers[index % len(walkers)].start,
            amplitude_A=bootstrap.amplitude_A,
            amplitude_strain=bootstrap.amplitude_strain,
            generator=np.random.default_rng([seed, 0, index]),
        )
        for index in range(bootstrap.n_structures)
    ]
