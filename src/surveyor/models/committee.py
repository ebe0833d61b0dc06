"""A committee: several models of one kind, whose disagreement shows where they lack data."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from surveyor.dataset import Dataset
from surveyor.dataset.isolated_atoms import without_isolated_atoms
from surveyor.dataset.metrics import typical_error
from surveyor.dataset.weights import Property, counted
from surveyor.events.kinds import CommitteeCalibrated
from surveyor.events.recording import announce
from surveyor.files import read_json, write_json
from surveyor.models.disagreement import N_MIN, Calibrations, Disagreement, calibrate, disagreement_of, mean_of
from surveyor.models.history import MEMBERS, keep_epoch, reported_epochs
from surveyor.models.model import Epoch, Model, digest_of
from surveyor.models.record import ModelRecord, versions_of
from surveyor.models.weights import weights_of_loss
from surveyor.parameters import Parameters
from surveyor.potentials import (
    Evaluator,
    Potential,
    PredictingCalculator,
    Prediction,
    Request,
    evaluates_together,
    evaluator_of,
    predict,
    results_of,
)
from surveyor.words import number_of

logger = logging.getLogger(__name__)

KIND = "committee"
SUMMARY = "committee.json"  # digests of the members, and the calibration
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class CommitteePotential:
    """The mean of several potentials, and how far they disagree.

    Attributes:
        members: at least two.
        calibration: of the disagreement; None where it is not known.
        typical_error: largest error of a force that is typical of the validation set, in eV/Å; None where it is not
            known.
    """

    members: tuple[Potential, ...]
    calibration: Calibrations | None = None
    typical_error: float | None = None

    @property
    def evaluates_together(self) -> bool:
        """True if the members are faster on many structures at once."""
        return all(evaluates_together(member) for member in self.members)

    def calculator(self) -> Calculator:
        """Return a new ASE calculator of the mean."""
        return CommitteeCalculator(self)

    def evaluate(self, structures: Sequence[Atoms]) -> list[Prediction]:
        """Return the mean prediction for each structure, with its uncertainty."""
        return [self.combine(each) for each in self._of_members(structures)]

    def evaluator(self) -> Evaluator:
        """Return an evaluator for walkers, from those of the members."""
        members = [evaluator_of(member) for member in self.members]

        def evaluate(requests: Sequence[Request]) -> list[Prediction]:
            found = zip(*(member.evaluate(requests) for member in members), strict=True)
            return [self.combine(predictions) for predictions in found]

        return Evaluator(evaluate, all(member.is_on_device for member in members))

    def combine(self, predictions: Sequence[Prediction]) -> Prediction:
        """Return the mean prediction of the members for one structure, with its uncertainty.

        The uncertainty is the disagreement of the members, scaled by the calibration if there is one.
        """
        factor = None if self.calibration is None else self.calibration.forces.factor
        disagreement = disagreement_of(predictions).forces
        return replace(mean_of(predictions), uncertainty=disagreement * (1.0 if factor is None else factor))

    def disagreement(self, structures: Sequence[Atoms]) -> list[Disagreement]:
        """Return how far the members disagree on each structure, not scaled by the calibration."""
        return [disagreement_of(each) for each in self._of_members(structures)]

    def _of_members(self, structures: Sequence[Atoms]) -> list[tuple[Prediction, ...]]:
        return list(zip(*(member.evaluate(structures) for member in self.members), strict=True))


class CommitteeCalculator(PredictingCalculator):
    """ASE calculator of the mean of several potentials.

    Its `results` also hold `energy_disagreement` (eV/atom) and `forces_disagreement` (eV/Å, for each atom), see
    `Disagreement`, and `forces_uncertainty` (eV/Å, for each atom), see `Prediction`.
    """

    def __init__(self, potential: CommitteePotential) -> None:
        super().__init__()
        self._potential = potential
        self._calculators = [member.calculator() for member in potential.members]

    def results_for(self, atoms: Atoms) -> dict[str, Any]:  # Any: numbers and arrays
        """Return the mean results of the potentials, and how far they disagree."""
        predictions = [predict(calculator, atoms) for calculator in self._calculators]
        disagreement = disagreement_of(predictions)
        of_members = {"energy_disagreement": disagreement.energy, "forces_disagreement": disagreement.forces}
        return results_of(self._potential.combine(predictions)) | of_members


@dataclass(frozen=True, slots=True)
class CommitteeModel:
    """Several models of one kind, which differ in their seeds, and in the data that they see where that is asked for.

    Attributes:
        parameters: of the committee, for the record.
        members: at least two, of one kind and with the same parameters.
        resample: whether each member is trained on a sample of the training set of its own.
        seed: from which those of the members are made.
        weights: file with the digests of the members; None before `train`.
    """

    parameters: Parameters
    members: tuple[Model, ...]
    resample: bool = False
    seed: int = 0
    weights: Path | None = None

    @property
    def atomic_energies(self) -> Mapping[str, float] | None:
        """Energies in eV of isolated atoms by chemical symbol; None before `initialize`.

        They are those of the first member. Those of others differ where they are fitted, beside a foundation model, to
        samples of their own.
        """
        return self.members[0].atomic_energies

    @property
    def takes_weights(self) -> tuple[Property, ...]:
        """Properties whose weights the members take."""
        return weights_of_loss(self.members[0])

    @property
    def is_trained(self) -> bool:
        """True if all members are trained."""
        return self.weights is not None

    @property
    def calibration(self) -> Calibrations | None:
        """Calibration of disagreement against error on the validation set; None before `train`."""
        return None if self.weights is None else Calibrations.from_json(read_json(self.weights)["calibration"])

    def initialize(self, train: Dataset, *, atomic_energies: Mapping[str, float] | None, seed: int) -> Self:
        """Return an untrained committee for these data; see `Model.initialize`."""
        # Members fit energies that are not given to the same data, and may do so again beside a foundation model.
        members = tuple(
            member.initialize(train, atomic_energies=atomic_energies, seed=_seed_of_member(seed, index))
            for index, member in enumerate(self.members)
        )
        return replace(self, members=members, seed=seed, weights=None)

    def train_member(self, index: int, train: Dataset, valid: Dataset, directory: Path) -> Model:
        """Return a member, trained; `train` finds it trained then, on the same directory."""
        member, train = self.members[index], counted(without_isolated_atoms(train))
        sample = _resampled(train, member.seed) if self.resample else train
        trained, _ = member.train(sample, valid, directory / MEMBERS / str(index))
        return trained

    def train(self, train: Dataset, valid: Dataset, directory: Path | str) -> tuple[Self, Sequence[Epoch]]:
        """Return the committee trained, one member after the other, and the mean history; see `Model.train`.

        The disagreement is calibrated on the validation set, or without one on the training set, where it is too
        small.
        """
        directory = Path(directory)
        members = tuple(self.train_member(index, train, valid, directory) for index in range(len(self.members)))
        history = _mean_history([reported_epochs(directory / MEMBERS / str(i)) for i in range(len(members))])
        for epoch in history[len(reported_epochs(directory)) :]:
            keep_epoch(directory, epoch)
        summary = directory.absolute() / SUMMARY
        if not summary.is_file():
            structures = without_isolated_atoms(valid) or without_isolated_atoms(train)
            predictions = [member.deploy().evaluate(structures) for member in members]
            calibration = calibrate(structures, predictions)
            means = [mean_of(each) for each in zip(*predictions, strict=True)]
            record = {
                "schema_version": SCHEMA_VERSION,
                "members": [digest_of(member) for member in members],
                "calibration": calibration.to_json(),
                "typical_error": typical_error(structures, means),
            }
            write_json(summary, record)
            text = _format_calibrations(calibration, len(structures))
            announce(logger, CommitteeCalibrated(message=text, **calibration.to_json()))
        return replace(self, members=members, weights=summary), history

    def deploy(self) -> CommitteePotential:
        """Return the mean of the members; `members[i].deploy()` is that of one.

        Raises:
            ValueError: the committee is not trained.
        """
        if self.weights is None:
            raise ValueError("a committee that is not trained cannot be deployed; train it first")
        members = tuple(member.deploy() for member in self.members)
        return CommitteePotential(members, self.calibration, read_json(self.weights).get("typical_error"))

    def save(self, directory: Path | str) -> None:
        """Write each member into a folder of its own, `committee.json` and `model.json` into a new directory.

        Raises:
            ValueError: the committee is not trained.
        """
        if self.weights is None or self.atomic_energies is None:
            raise ValueError("a committee that is not trained cannot be saved; train it first")
        directory = Path(directory)
        directory.mkdir(parents=True)
        for index, member in enumerate(self.members):
            member.save(_folder_of_member(directory, index))
        write_json(directory / SUMMARY, read_json(self.weights))
        versions = versions_of(["surveyor", "ase"])
        parameters = self.parameters.model_dump(mode="json")
        ModelRecord(KIND, parameters, self.atomic_energies, self.seed, versions).save(directory)

    @classmethod
    def load(
        cls,
        directory: Path,
        record: ModelRecord,
        *,
        parameters: Parameters,
        resample: bool,
        n_members: int,
        load_member: Callable[[Path], Model],
    ) -> Self:
        """Return the committee that `save` wrote."""
        members = tuple(load_member(_folder_of_member(directory, index)) for index in range(n_members))
        return cls(parameters, members, resample, record.seed, directory.absolute() / SUMMARY)

    def unsupported(self, structures: Sequence[Atoms]) -> tuple[str, ...]:
        """Return the elements that the members cannot treat."""
        return self.members[0].unsupported(structures)


def _folder_of_member(directory: Path, index: int) -> Path:
    return directory / f"member-{index}"


def _seed_of_member(seed: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0]) % 2**31


def _resampled(train: Dataset, seed: int) -> Dataset:
    """Return as many structures, drawn with replacement (Efron, Ann. Stat. 7 (1979) 1)."""
    return Dataset(train[int(i)] for i in np.random.default_rng(seed).integers(len(train), size=len(train)))


def _mean_history(histories: Sequence[Sequence[Epoch]]) -> tuple[Epoch, ...]:
    """Return the means over the members that reached an epoch."""
    by_number: dict[int, list[Epoch]] = {}
    for epoch in chain.from_iterable(histories):
        by_number.setdefault(epoch.number, []).append(epoch)
    return tuple(_mean_epoch(by_number[number]) for number in sorted(by_number))


def _mean_epoch(epochs: Sequence[Epoch]) -> Epoch:
    means: dict[str, Any] = {}  # Any: numbers and None
    for name in (each.name for each in fields(Epoch)):
        values = [value for epoch in epochs if (value := getattr(epoch, name)) is not None]
        means[name] = float(np.mean(values)) if values else None
    return Epoch(**means | {"number": epochs[0].number})


def _format_calibrations(calibrations: Calibrations, n_structures: int) -> str:
    forces = calibrations.forces
    if forces.factor is None:
        return f"the disagreement on forces is not calibrated, and is taken as it is: {forces.reason}"
    agreed = f" ({forces.n_agreed} more on which all members agree)" if forces.n_agreed else ""
    correlation = "" if forces.rank_correlation is None else f", rank correlation {forces.rank_correlation:.2f}"
    few = "; the atoms of so few structures say little of others" if n_structures < N_MIN else ""
    return (
        f"errors of forces are {forces.factor:.2f} times the disagreement, over {number_of(forces.n, 'atom')}{agreed} "
        f"of {number_of(n_structures, 'structure')}{correlation}; {_percent(forces.within)} are smaller than that, "
        f"{_percent(forces.expected_within)} expected{few}"
    )


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.0f} %"
