"""One point of a learning curve: choose structures, train a model on them, measure its errors on the test sets."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from surveyor.benchmark.parameters import BASELINE, COMMITTEE, Arm
from surveyor.benchmark.sets import SETS, load_sets
from surveyor.dataset import Dataset, label_of
from surveyor.dataset.metrics import errors_of
from surveyor.files import read_json, write_json
from surveyor.models.choice import (
    CommitteeParameters,
    MemberParameters,
    ModelParameters,
    load_model,
    make_model,
    without_uncertainty,
)
from surveyor.models.committee import CommitteeModel
from surveyor.models.model import Model
from surveyor.models.single_model import SingleModel
from surveyor.models.training import train_model
from surveyor.potentials import Potential, Prediction
from surveyor.run_directory import SCHEMA_VERSION, GenerationDirectory, check_schema
from surveyor.selection import choose

RECORD = "point.json"  # written last
CHOSEN = "chosen.json"
FORCES_95 = "forces_95"  # beside the fields of `Errors`


@dataclass(frozen=True)
class Point:
    """A point of a learning curve.

    Attributes:
        arm: how labels are chosen.
        seed: of the curve; the curves of all arms with the same seed begin with the same labels.
        n_labels: numbers of labels of the curve up to this point.
        n_at_end: number of labels at the end of the whole curve.
        valid_fraction: fraction of the labels that is for validation.
        model: the single model.
        n_members: number of members of the committee of the arm `committee`.
        folder: folder of the benchmark.
    """

    arm: Arm
    seed: int
    n_labels: tuple[int, ...]
    n_at_end: int
    valid_fraction: float
    model: ModelParameters
    n_members: int
    folder: Path

    @property
    def is_first(self) -> bool:
        """True if all its labels are random."""
        return len(self.n_labels) == 1

    @property
    def name(self) -> str:
        """Name, which arms share at the first point if they train the same model."""
        arm = "first" if self.is_first and self.arm != COMMITTEE else self.arm
        return f"{arm}-seed-{self.seed}-labels-{self.n_labels[-1]}"

    @property
    def files(self) -> GenerationDirectory:
        """Sets, training and model, with the names that those of a generation have."""
        return GenerationDirectory(self.folder / "points" / self.name)

    @property
    def record(self) -> Path:
        """The results, with which the point is complete."""
        return self.files.path / RECORD

    @property
    def before(self) -> "Point":
        """The previous point of the curve."""
        return replace(self, n_labels=self.n_labels[:-1])

    @property
    def n_valid(self) -> int:
        """Number of labels for validation."""
        return n_valid(self.n_labels[-1], self.valid_fraction)

    @property
    def n_train(self) -> int:
        """Number of labels for training."""
        return self.n_labels[-1] - self.n_valid

    @property
    def n_valid_at_end(self) -> int:
        """Number of labels for validation at the end of the curve."""
        return n_valid(self.n_at_end, self.valid_fraction)

    @property
    def n_train_at_end(self) -> int:
        """Number of labels for training at the end of the curve."""
        return self.n_at_end - self.n_valid_at_end

    def errors(self) -> dict[str, dict[str, Any]]:  # Any: numbers, None and one dict
        """Return the errors of a complete point, by test set."""
        record = read_json(self.record)
        check_schema(record, self.record)
        errors: dict[str, dict[str, Any]] = record["errors"]
        return errors


def n_valid(n_labels: int, fraction: float) -> int:
    """Return how many of a number of labels are for validation."""
    return max(1, round(fraction * n_labels))


@dataclass(frozen=True)
class Drawn:
    """The random order of the candidates of a seed, which all arms share.

    Attributes:
        point: a point of the curve.
        n_candidates: number of candidates.
    """

    point: Point
    n_candidates: int

    @cached_property
    def order(self) -> list[int]:
        """Indices of all candidates, in random order."""
        return [int(index) for index in np.random.default_rng(self.point.seed).permutation(self.n_candidates)]

    @property
    def valid(self) -> list[int]:
        """Indices for validation at this point."""
        return self.order[: self.point.n_valid]

    @property
    def rest(self) -> list[int]:
        """Indices from which training structures are chosen, in random order: none is ever used for validation."""
        return self.order[self.point.n_valid_at_end :]


def learn_point(point: Point) -> Path:
    """Compute a point of a learning curve; a function for the training pool.

    A repeated call continues a killed one, and does nothing if the point is complete.

    Args:
        point: the point; the one before it on its curve is complete.

    Returns:
        The file with the results.
    """
    if point.record.exists():
        return point.record
    candidates, tests = load_sets(point.folder / SETS)
    drawn = Drawn(point, len(candidates))
    begin = time.monotonic()
    chosen = _chosen(point, candidates, drawn)
    between = time.monotonic()
    train, valid = (Dataset(candidates[index] for index in each) for each in (chosen, drawn.valid))
    potential = _trained(point, train, valid)
    record = {
        "schema_version": SCHEMA_VERSION,
        "arm": point.arm,
        "seed": point.seed,
        "n_labels": point.n_labels[-1],
        "errors": {name: measured(test, potential.evaluate(test)) for name, test in tests.items()},
        "choosing_s": between - begin,
        "training_s": time.monotonic() - between,
    }
    write_json(point.record, record)
    return point.record


def _chosen(point: Point, candidates: Dataset, drawn: Drawn) -> list[int]:
    """Return the indices of the candidates for training, in the order in which they were chosen, and keep them."""
    path = point.files.path / CHOSEN
    if not path.exists():
        write_json(path, {"schema_version": SCHEMA_VERSION, "chosen": _choice(point, candidates, drawn)})
    chosen: list[int] = read_json(path)["chosen"]
    return chosen


def _choice(point: Point, candidates: Dataset, drawn: Drawn) -> list[int]:
    if point.is_first or point.arm == BASELINE:
        return drawn.rest[: point.n_train]
    before = _chosen(point.before, candidates, drawn)
    left = sorted({*drawn.rest} - {*before})
    n_new = point.n_train - len(before)
    if point.arm == "walkers":
        return before + in_order_of_time(left, n_new, point.n_train_at_end - len(before), point.seed)
    by_name = {f"{index:06d}": candidates[index] for index in left}
    chosen = choose(point.arm, _potential_to_choose_by(point.before), by_name, (), n_new, seed=point.seed)
    return before + [int(each.name) for each in chosen]


def _potential_to_choose_by(point: Point) -> Potential:
    """Return the potential of a complete point for use by selectors; a single model gets its posterior first."""
    files, model = point.files, load_model(point.files.model)
    if isinstance(model, SingleModel):
        model.compute_posterior(Dataset.load(files.set_file("train")), Dataset.load(files.set_file("valid")))
    return model.deploy()


def in_order_of_time(candidates: Sequence[int], n: int, n_at_end: int, seed: int) -> list[int]:
    """Return the next candidates that walkers would bring, if all labels of a curve were spread evenly over time.

    Args:
        candidates: candidates that are left, in the order of time.
        n: number to return.
        n_at_end: number that will be chosen until the end of the curve; a random candidate of each such part of the
            time is chosen.
        seed: seed of the choice within each part.
    """
    generator = np.random.default_rng(seed)
    return [int(generator.choice(part)) for part in np.array_split(candidates, n_at_end)[:n]]


def _trained(point: Point, train: Dataset, valid: Dataset) -> Potential:
    """Return the trained potential to measure: of the arm `committee` that of its first member."""
    files = point.files
    for name, structures in (("train", train), ("valid", valid)):
        structures.save(files.set_file(name))
    model, _ = train_model(
        _initialized(point, train),
        files.set_file("train"),
        files.set_file("valid"),
        directory=files.training,
        destination=files.model,
    )
    return (model.members[0] if isinstance(model, CommitteeModel) else model).deploy()


def _initialized(point: Point, train: Dataset) -> Model:
    """Return the untrained model: the first member of a committee is the single model of the other arms."""
    chosen = without_uncertainty(point.model)
    single = make_model(chosen).initialize(train, atomic_energies=None, seed=point.seed)
    if point.arm != COMMITTEE:
        return single
    member = MemberParameters(**{name: getattr(chosen, name) for name in MemberParameters.model_fields})
    parameters = CommitteeParameters(n_members=point.n_members, member=member)
    committee = make_model(ModelParameters(committee=parameters))
    assert isinstance(committee, CommitteeModel)
    committee = committee.initialize(train, atomic_energies=None, seed=point.seed)
    return replace(committee, members=(single, *committee.members[1:]))


def measured(test: Sequence[Atoms], predictions: Sequence[Prediction]) -> dict[str, Any]:  # Any: numbers, None, a dict
    """Return the errors on a test set: the fields of `Errors`, and the 95th percentile of the errors of forces.

    Args:
        test: labelled structures.
        predictions: one for each structure, in the same order.
    """
    pairs = zip(test, predictions, strict=True)
    differences = np.concatenate([prediction.forces - label_of(atoms).forces for atoms, prediction in pairs])
    largest = float(np.percentile(np.linalg.norm(differences, axis=1), 95))
    return errors_of(test, predictions).to_dict() | {FORCES_95: largest if np.isfinite(largest) else None}
