"""The decisions of online learning: pure functions, so that the same data give the same campaign."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from ase import Atoms
from pydantic import Field, model_validator

from surveyor.dataset import KEY, Dataset, DataSets, label_of
from surveyor.parameters import Fraction, Parameters
from surveyor.potentials import Prediction
from surveyor.reading.keys import REF_KEYS, LabelKeys
from surveyor.sampling.perturbation import perturb
from surveyor.sampling.walkers import Walker
from surveyor.weights import counts


class Bootstrap(Parameters):
    """Generation 0: from what the first model is trained."""

    n_structures: int = Field(
        50,
        ge=3,
        title="Structures",
        description="Number of randomly perturbed starts to label; not used if data are given.",
    )
    amplitude_A: float = Field(
        0.05,
        ge=0,
        le=2,
        title="Displacement (Å)",
        description="Standard deviation of the random displacement of each coordinate.",
    )
    amplitude_strain: float = Field(
        0.05, ge=0, le=0.5, title="Strain", description="Largest component of the random strain of periodic directions."
    )
    data: Path | None = Field(
        None,
        title="Labelled data (file)",
        description="Labelled structures to use instead of perturbed starts: an extxyz file with REF_energy, "
        "REF_forces and, for periodic structures, REF_stress or REF_virials. Use `label_keys` for "
        "other names.",
    )
    label_keys: LabelKeys = Field(
        REF_KEYS, title="Names of the labels", description="Names of energy, forces and stress in the data."
    )
    level_of_theory: str | None = Field(
        None,
        title="Level of theory of the data",
        description="Name of the level of theory of the data, as printed by `surveyor check` for the reference.",
    )

    @model_validator(mode="after")
    def _data_state_their_theory(self) -> "Bootstrap":
        if (self.data is None) != (self.level_of_theory is None):
            found = "data without level_of_theory" if self.level_of_theory is None else "level_of_theory without data"
            raise ValueError(f"expected data and level_of_theory together; found {found}")
        if self.data is None and self.label_keys != REF_KEYS:
            raise ValueError("found label_keys, which name labels in data, but no data; give both, or none")
        return self


class Learning(Parameters):
    """How a campaign learns, and when it ends."""

    n_generations: int = Field(
        10, ge=0, le=10_000, title="Generations", description="Number of generations after the bootstrap."
    )
    n_states: int | None = Field(
        None,
        ge=1,
        title="States per generation",
        description="Number of structures sampled in each generation; by default one per walker.",
    )
    max_labels: int | None = Field(
        None,
        ge=1,
        title="Budget (labels)",
        description="The campaign completes when this number of labels has been requested.",
    )
    target_energy_meV_per_atom: float | None = Field(
        None,
        gt=0,
        title="Target: energy (meV/atom)",
        description="The campaign completes when the error before training is below all given targets.",
    )
    target_forces_meV_per_A: float | None = Field(
        None,
        gt=0,
        title="Target: forces (meV/Å)",
        description="The campaign completes when the error before training is below all given targets.",
    )
    train_from_scratch: bool = Field(
        True,
        title="Train from scratch",
        description="Draw new weights and recompute scale and shift in each generation; otherwise continue from "
        "the current weights, with the settings in the model's field `continued`.",
    )
    atomic_energies: Literal["isolated_atoms", "least_squares"] = Field(
        "isolated_atoms",
        title="Atomic energies",
        description="isolated_atoms: computed by the reference. least_squares: taken from isolated atoms in the "
        "data, if any, and fitted to the bootstrap for other elements. Fixed for the campaign.",
    )
    valid_fraction: Fraction = Field(
        0.1,
        title="Validation fraction",
        description="Fraction of the labelled structures used to choose the best epoch.",
    )
    test_fraction: Fraction = Field(
        0.1, title="Test fraction", description="Fraction of the labelled structures that are never used in a training."
    )
    reset_energy_meV_per_atom: float = Field(
        10.0,
        gt=0,
        title="Reset: energy (meV/atom)",
        description="Reset a walker to its start if the error of the model on its structure is larger.",
    )
    reset_forces_meV_per_A: float = Field(
        200.0,
        gt=0,
        title="Reset: forces (meV/Å)",
        description="Reset a walker to its start if the error of the model on its structure is larger.",
    )
    discard_energy_meV_per_atom: float = Field(
        20.0,
        gt=0,
        title="Discard: energy (meV/atom)",
        description="Exclude a structure from training if the error of the model on it is larger.",
    )
    discard_forces_meV_per_A: float = Field(
        500.0,
        gt=0,
        title="Discard: forces (meV/Å)",
        description="Exclude a structure from training if the error of the model on it is larger.",
    )
    n_frames: int = Field(
        0,
        ge=0,
        le=10_000,
        title="Frames per sample",
        description="Maximum number of frames of the trajectory to label in addition to each sample; "
        "statistically independent frames are chosen. Needs `frame_interval` of the walkers.",
    )
    min_difference_A: float = Field(
        0.01,
        ge=0,
        le=1,
        title="Near-duplicates (Å)",
        description="Do not label a structure whose interatomic distances and cell differ by less from those of a"
        " structure in the campaign; 0 labels everything.",
    )
    walkers_per_batch: int | None = Field(
        None,
        ge=1,
        title="Walkers per batch",
        description="Number of walkers that move together, with one pass of the model per step; with 1 each moves"
        " alone. By default the walkers are distributed over all workers of the pool, if the model is"
        " faster in batches.",
    )
    n_tries: int = Field(
        5,
        ge=1,
        le=100,
        title="Tries per sample",
        description="Maximum number of tries per sample, if guards stop the walker.",
    )
    max_failed_fraction: float = Field(
        0.5,
        gt=0,
        le=1,
        title="Failures allowed",
        description="The campaign fails if a larger fraction of the labels of a generation fails.",
    )
    seed: int = Field(0, ge=0, lt=2**32, title="Seed", description="Seed of all random numbers in the campaign.")

    @model_validator(mode="after")
    def _something_is_left_for_training(self) -> "Learning":
        if self.valid_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"valid_fraction and test_fraction leave nothing to train on: found {self.valid_fraction} and "
                f"{self.test_fraction}, expected a sum below 1"
            )
        return self


@dataclass(frozen=True, slots=True)
class StructureError:
    """How far a model is off for one structure.

    Attributes:
        energy: absolute error of the energy, meV/atom.
        forces: root mean square error of the force components, meV/Å.
    """

    energy: float
    forces: float

    def exceeds(self, energy: float, forces: float) -> bool:
        """Return whether either error is above its threshold; NaN counts as above."""
        return not (self.energy <= energy and self.forces <= forces)


def structure_error(atoms: Atoms, prediction: Prediction) -> StructureError:
    """Return the error of a prediction against the label that a structure carries; 0 where that has weight 0."""
    label = label_of(atoms)
    energy = 1e3 * abs(prediction.energy - label.energy) / len(atoms)
    forces = 1e3 * float(np.sqrt(np.mean(np.square(prediction.forces - label.forces))))
    return StructureError(energy if counts(atoms, "energy") else 0.0, forces if counts(atoms, "forces") else 0.0)


def structure_errors(labelled: Dataset, predictions: Sequence[Prediction]) -> dict[str, StructureError]:
    """Return the errors of predictions, in the order of the structures, by the keys of their labels."""
    pairs = zip(labelled.keys(), labelled, predictions, strict=True)
    return {key: structure_error(atoms, prediction) for key, atoms, prediction in pairs}


def plan_propagations(n_walkers: int, generation: int, learning: Learning, n_labels: int) -> tuple[int, ...]:
    """Return the number of samples of each walker in a generation.

    All walkers return equally many samples; the remainder goes to randomly chosen walkers. If there are
    fewer states than walkers, the walkers take turns, continuing from the previous generation.

    Args:
        n_walkers: number of walkers.
        generation: number of the generation, from 1.
        learning: states per generation, budget, seed.
        n_labels: number of labels requested so far.
    """
    n_states = learning.n_states or n_walkers
    n_now = n_states if learning.max_labels is None else max(0, min(n_states, learning.max_labels - n_labels))
    n_turns, n_left = divmod(n_now, n_walkers)
    if n_turns:
        chosen = np.random.default_rng([learning.seed, generation]).choice(n_walkers, size=n_left, replace=False)
    else:
        chosen = ((generation - 1) * n_states + np.arange(n_left)) % n_walkers
    return tuple(int(n) for n in n_turns + np.bincount(chosen, minlength=n_walkers))


def frames_per_sample(n_samples: int, learning: Learning, n_labels: int) -> int:
    """Return how many frames are labelled beside each sample of a generation.

    Args:
        n_samples: of the generation.
        learning: frames per sample, budget.
        n_labels: how many labels the campaign has requested so far.
    """
    if learning.max_labels is None or n_samples == 0:
        return learning.n_frames
    left = max(0, learning.max_labels - n_labels - n_samples)
    return min(learning.n_frames, left // n_samples)


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
    structures: Dataset, errors: Mapping[str, StructureError], data: DataSets, learning: Learning
) -> DataSets:
    """Return the sets that new structures join permanently.

    Structures are ordered by the hash in their key. Validation and test set are filled to their fractions of all
    structures so far, and each gets at least one of three or more new structures. At least one of the first structures,
    and of three or more, is left for training.

    Args:
        structures: new structures, labelled or failed, with their keys.
        errors: errors of the model before training on them, by key; empty without a model.
        data: the sets of the campaign so far.
        learning: fractions and thresholds.
    """
    labelled = structures.labelled().ordered_by_key()
    kept = labelled.where(lambda atoms: not _is_discarded(atoms, errors, learning))
    n_valid, n_test = _shares(len(kept), data, learning)
    return DataSets(
        valid=kept[:n_valid],
        test=kept[n_valid : n_valid + n_test],
        train=kept[n_valid + n_test :],
        failed=structures.failed().ordered_by_key(),
        discarded=labelled.where(lambda atoms: _is_discarded(atoms, errors, learning)),
    )


def _is_discarded(atoms: Atoms, errors: Mapping[str, StructureError], learning: Learning) -> bool:
    error = errors.get(str(atoms.info[KEY]))
    return error is not None and error.exceeds(learning.discard_energy_meV_per_atom, learning.discard_forces_meV_per_A)


def _shares(n_new: int, data: DataSets, learning: Learning) -> tuple[int, int]:
    """Return how many of the new structures come to the validation and the test set."""
    n_total = n_new + len(data.train) + len(data.valid) + len(data.test)
    least = 1 if n_new >= 3 else 0
    valid = _lacking(learning.valid_fraction, n_total, len(data.valid), least)
    test = _lacking(learning.test_fraction, n_total, len(data.test), least)
    n_free = max(0, n_new - 1) if n_new >= 3 or not data.train else n_new
    n_valid = min(valid, n_free - min(test, least))
    return n_valid, min(test, n_free - n_valid)


def _lacking(fraction: float, n_total: int, n_have: int, least: int) -> int:
    return 0 if fraction == 0 else max(round(fraction * n_total) - n_have, least)


def must_reset(error: StructureError, learning: Learning) -> bool:
    """Return whether the walker that returned a structure is reset to its start."""
    return error.exceeds(learning.reset_energy_meV_per_atom, learning.reset_forces_meV_per_A)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a campaign stands, as far as the decision to stop is concerned.

    Attributes:
        generation: number of the newest complete generation.
        n_labels: how many labels were requested so far.
        energy_rmse: before training on the newest generation's structures, eV/atom; None where nothing was measured.
        forces_rmse: likewise, eV/Å.
    """

    generation: int
    n_labels: int
    energy_rmse: float | None = None
    forces_rmse: float | None = None


def reason_to_stop(progress: Progress, learning: Learning) -> str | None:
    """Return the reason why a campaign ends, or None if it continues."""
    if progress.generation >= learning.n_generations:
        n = learning.n_generations
        return f"all {n} generations are complete" if n > 1 else f"generation {n} is complete"
    if learning.max_labels is not None and progress.n_labels >= learning.max_labels:
        return f"the budget of {learning.max_labels} labels is used up"
    if is_converged(progress, learning):
        return "the error before training is below its target"
    return None


def is_converged(progress: Progress, learning: Learning) -> bool:
    """Say whether the error before training is below all targets that are given."""
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
