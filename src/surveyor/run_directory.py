"""The layout of a campaign on disk, and the newest complete generation in it.

parameters.json       the kind of work and what it computes, fully resolved, with the hashes of the files it names
inputs/               copies of those files
provenance.json       what runs there were, on which host, with which versions
events.jsonl          what happened, as it happened
journal.jsonl         the decisions of the learning, and what led to them (see `surveyor.learning.journal`)
lease                 held by the process that works here
label_store.json      the folder of the label store, and its mark
level_of_theory.json  frozen when the campaign began
atomic_energies.json  likewise, in eV
model_check.json      written when the training pool has taken the model, so that it is not asked again
generations/000/      the bootstrap; generations/001/ ... follow (see `GenerationDirectory`)
pools/                pools on clusters that the campaign has opened, with the outputs of their jobs
workspace.json        the name of its part of the buckets of pools that share no disk with it
comparison.json       the models of all generations on the final test set
report.html           figures and tables of the whole campaign

Other work has a folder of the same layout, as far as it has the same files, and `summary.json`, written last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from surveyor.dataset import KEY, DataSets
from surveyor.dataset.metrics import Errors
from surveyor.dataset.weights import without_weights
from surveyor.errors import InputError
from surveyor.events.log import EventLog
from surveyor.files import read_json, write_json
from surveyor.learning.audits import Examined
from surveyor.learning.decisions import LearningProgress
from surveyor.models.choice import load_model
from surveyor.models.model import Model
from surveyor.models.record import RECORD
from surveyor.sampling.walkers import Walker, load_walker, save_walker

SCHEMA_VERSION = 1
WEIGHTS_COUNT = "weights_count"  # in parameters.json: whether weights of given structures count
FORMER_WINDOWS = "former_windows"  # in parameters.json: whether windows are placed as by surveyor of before November 28
FORMER_STOP = "former_stop"  # in parameters.json: whether targets are met as for surveyor of before November 29
SINGLE_UNCERTAINTY = "single_uncertainty"  # in parameters.json: whether a single model may state an uncertainty

Fate = Literal["train", "valid", "test", "failed", "discarded", "pending"]


@dataclass(frozen=True, slots=True)
class GenerationDirectory:
    """One generation on disk.

    Attributes:
        path: the folder, which holds

            samples/               samples of the round of this number, one file each, written when they end
            labelled.extxyz        the labelled structures of this generation
            failed.extxyz ...      train, valid, test, failed, discarded, pending: the sets, up to this generation
            before_training.npz    predictions of the previous model for `labelled.extxyz`
            training/              checkpoints and log of the training
            model/                 the trained model, in its native form
            predictions/           predictions of the model for each set
            walkers/               states of the walkers at the end
            figures/               plots of this generation
            manifest.json          written last: with it the generation is complete

            Those of an earlier surveyor also hold `plan.json` (number of samples of each walker), `duplicates.jsonl`
            (samples that are near-duplicates), and `samples-1` ... (of tries that brought nothing new).
    """

    path: Path

    @property
    def duplicates(self) -> Path:
        """File of the samples that were not labelled, as they were near to others."""
        return self.path / "duplicates.jsonl"

    @property
    def samples(self) -> Path:
        """Folder of the samples."""
        return self.path / "samples"

    @property
    def labelled(self) -> Path:
        """File with the labelled structures of this generation."""
        return self.path / "labelled.extxyz"

    @property
    def before_training(self) -> Path:
        """File with the predictions of the previous model for the labelled structures."""
        return self.path / "before_training.npz"

    @property
    def training(self) -> Path:
        """Folder in which the training works."""
        return self.path / "training"

    @property
    def model(self) -> Path:
        """Folder of the trained model."""
        return self.path / "model"

    @property
    def figures(self) -> Path:
        """Folder of the plots, written last when the generation is reported on."""
        return self.path / "figures"

    @property
    def manifest(self) -> Path:
        """File that makes the generation complete."""
        return self.path / "manifest.json"

    def planned(self) -> tuple[int, ...] | None:
        """Return the number of samples of each walker that an earlier surveyor decided when the generation began."""
        path = self.path / "plan.json"
        if not path.exists():
            return None
        record = read_json(path)
        check_schema(record, path)
        return tuple(record["n_samples"])

    def walkers_of_last_try(self, walkers: Sequence[Walker]) -> tuple[Walker, ...]:
        """Return the walkers at the beginning: after the last try that was set aside, if there is one."""
        if not (tries := self._tries()):
            return tuple(walkers)
        return tuple(load_walker(_walker_file(tries[-1], walker.index), walker) for walker in walkers)

    def _tries(self) -> list[Path]:
        """Return the folders of the tries that were set aside, in order."""
        folders = self.path.glob(f"{self.samples.name}-*")
        return sorted(folders, key=lambda path: int(path.name.rpartition("-")[2]))

    def set_file(self, name: str) -> Path:
        """Return the file of one of the sets, such as "train"."""
        return self.path / f"{name}.extxyz"

    def predictions(self, name: str) -> Path:
        """Return the file with the predictions of the model for a set."""
        return self.path / "predictions" / f"{name}.npz"

    def walker(self, index: int) -> Path:
        """Return the file of a walker's state after this generation."""
        return _walker_file(self.path, index)

    def is_complete(self) -> bool:
        """Return whether the generation has its manifest."""
        return self.manifest.exists()


def _walker_file(folder: Path, index: int) -> Path:
    return folder / "walkers" / f"{index:04d}.npz"


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """The state of a campaign at the end of a generation.

    Attributes:
        number: 0 is the bootstrap.
        data: all sets so far.
        walkers: where they are now.
        model: trained on all labels so far.
        before_training: errors of the former model on this generation's structures, before it saw them.
        errors: of the model afterwards, by set.
        details: what else the manifest keeps: `walkers` (a dict for each sample), `epochs`, `failures` (number by
            reason), `wall_time_s` (by stage; sampling and labelling overlap), `audits`.
        examined: what all generations up to this one show; None in a campaign that keeps the former stop.
    """

    number: int
    data: DataSets
    walkers: tuple[Walker, ...]
    model: Model
    before_training: Errors = field(default_factory=Errors)
    errors: Mapping[str, Errors] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)  # Any: whatever JSON holds
    examined: tuple[Examined, ...] | None = None

    @property
    def n_labels(self) -> int:
        """Number of labels that the campaign has requested so far, failed ones included."""
        return self.data.n_requested()

    @property
    def progress(self) -> LearningProgress:
        """The numbers on which the decision to stop depends."""
        errors = self.before_training
        return LearningProgress(self.number, self.n_labels, errors.energy_rmse, errors.forces_rmse, self.examined)


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """One campaign on disk.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def parameters(self) -> Path:
        """File with the resolved parameters."""
        return self.path / "parameters.json"

    @property
    def inputs(self) -> Path:
        """Folder with copies of the files that the parameters name."""
        return self.path / "inputs"

    @property
    def provenance(self) -> Path:
        """File with the runs that there were."""
        return self.path / "provenance.json"

    @property
    def events(self) -> EventLog:
        """The log of events."""
        return EventLog(self.path / "events.jsonl")

    @property
    def journal(self) -> Path:
        """File with the decisions of the learning, and the inputs on which they depend."""
        return self.path / "journal.jsonl"

    @property
    def workers(self) -> Path:
        """Folder in which functions on pools report, each in a file of its own."""
        return self.path / "events"

    @property
    def pools(self) -> Path:
        """Folder of the pools on clusters that the campaign has opened."""
        return self.path / "pools"

    @property
    def workspace(self) -> Path:
        """File with the name of its part of the buckets of pools that share no disk with it."""
        return self.path / "workspace.json"

    @property
    def scratch(self) -> Path:
        """Folder in which references compute; the output of failures stays there."""
        return self.path / "calculations"

    @property
    def lease(self) -> Path:
        """File that the process holds which works here."""
        return self.path / "lease"

    @property
    def label_store(self) -> Path:
        """File that names the label store, and its mark."""
        return self.path / "label_store.json"

    @property
    def theory(self) -> Path:
        """File with the level of theory."""
        return self.path / "level_of_theory.json"

    @property
    def atomic_energies(self) -> Path:
        """File with the energies of isolated atoms."""
        return self.path / "atomic_energies.json"

    @property
    def model_check(self) -> Path:
        """File that records the model and pool for which the check of the training pool was made."""
        return self.path / "model_check.json"

    @property
    def comparison(self) -> Path:
        """File with the errors of all generations' models on the final test set."""
        return self.path / "comparison.json"

    @property
    def summary(self) -> Path:
        """File that makes work complete which is not a campaign."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """The report of the campaign."""
        return self.path / "report.html"

    @property
    def obeys_weights(self) -> bool:
        """True if weights of given structures count: not if the campaign was begun by a surveyor without weights."""
        if not self.parameters.is_file():
            return True
        record = read_json(self.parameters)
        bootstrap = record["parameters"].get("bootstrap")
        known: bool = record.get(WEIGHTS_COUNT, bootstrap is None or "label_keys" in bootstrap)
        return known

    @property
    def has_former_windows(self) -> bool:
        """True if windows are placed by the former rule, with which the work was begun; see `place`."""
        return self.parameters.is_file() and bool(read_json(self.parameters).get(FORMER_WINDOWS, True))

    @property
    def has_former_stop(self) -> bool:
        """True if targets are met as for the surveyor that began the campaign, which did not know audits."""
        return self.parameters.is_file() and bool(read_json(self.parameters).get(FORMER_STOP, True))

    @property
    def has_single_uncertainty(self) -> bool:
        """True if a single model may state an uncertainty: not if the work was begun by a surveyor that knew none."""
        return not self.parameters.is_file() or bool(read_json(self.parameters).get(SINGLE_UNCERTAINTY, False))

    def generation(self, number: int) -> GenerationDirectory:
        """Return the folder of a generation."""
        return GenerationDirectory(self.path / "generations" / f"{number:03d}")

    def n_complete(self) -> int:
        """Return how many generations are complete, counted from the bootstrap."""
        number = 0
        while self.generation(number).is_complete():
            number += 1
        return number

    def newest_generation(self, walkers: Sequence[Walker]) -> Generation | None:
        """Load the newest complete generation, None where there is none.

        Args:
            walkers: the campaign's walkers at their starts.
        """
        number = self.n_complete() - 1
        return None if number < 0 else self.load_generation(number, walkers)

    def load_generation(self, number: int, walkers: Sequence[Walker]) -> Generation:
        """Load a complete generation.

        Args:
            number: which one.
            walkers: the campaign's walkers at their starts.

        Raises:
            InputError: it is not complete, or was written by a newer surveyor.
        """
        directory = self.generation(number)
        self.read_manifest(number)  # there is nothing to load without it
        loaded = tuple(load_walker(directory.walker(walker.index), walker) for walker in walkers)
        return self._with_manifest(Generation(number, self._data(directory), loaded, load_model(directory.model)))

    def _with_manifest(self, generation: Generation) -> Generation:
        """Return a complete generation with the contents of its manifest."""
        manifest = self.read_manifest(generation.number)
        return replace(
            generation,
            before_training=Errors(**manifest["before_training"]),
            errors={name: Errors(**errors) for name, errors in manifest["errors"].items()},
            details=manifest["details"],
            examined=None if self.has_former_stop else self.examined(generation.number),
        )

    def walkers_after(self, number: int, walkers: Sequence[Walker]) -> tuple[Walker, ...]:
        """Return walkers as they were after a complete generation, or after later tries of an earlier surveyor.

        Args:
            number: of the generation.
            walkers: at their starts.
        """
        directory = self.generation(number)
        reached = [load_walker(directory.walker(walker.index), walker) for walker in walkers]
        return self.generation(number + 1).walkers_of_last_try(reached)

    def examined(self, number: int) -> tuple[Examined, ...]:
        """Return the audits and samples of all complete generations up to this one."""
        return tuple(Examined.from_manifest(self.read_manifest(each)) for each in range(number + 1))

    def _data(self, directory: GenerationDirectory) -> DataSets:
        data = DataSets.load(directory.path)
        if self.obeys_weights:
            return data
        return DataSets(**{each.name: without_weights(getattr(data, each.name)) for each in fields(data)})

    def read_manifest(self, number: int) -> dict[str, Any]:  # Any: whatever JSON holds
        """Return the manifest of a complete generation.

        Raises:
            InputError: it is not complete, or was written by a newer surveyor.
        """
        directory = self.generation(number)
        if not directory.is_complete():
            raise InputError(
                f"generation {number} of {self.path} is not complete; complete are {self.n_complete()}, counted from 0"
            )
        manifest: dict[str, Any] = read_json(directory.manifest)
        check_schema(manifest, directory.manifest)
        return manifest

    def save_walkers(self, number: int, walkers: Sequence[Walker]) -> None:
        """Write the walkers at the end of a generation that is not complete yet."""
        for walker in walkers:
            save_walker(self.generation(number).walker(walker.index), walker)

    def complete_generation(self, generation: Generation) -> Generation:
        """Write the manifest, last of all; return the generation as it will be loaded.

        The sets, the walkers and the model were written before, by the steps that made them.

        Args:
            generation: with the sets as they are loaded.
        """
        directory = self.generation(generation.number)
        write_json(
            directory.manifest,
            {
                "schema_version": SCHEMA_VERSION,
                "number": generation.number,
                "labels": _fates(generation.data),
                "n_labels": generation.n_labels,
                "before_training": generation.before_training.to_dict(),
                "errors": {name: errors.to_dict() for name, errors in generation.errors.items()},
                "details": dict(generation.details),
            },
        )
        return self._with_manifest(generation)


def _fates(data: DataSets) -> dict[str, Fate]:
    fates: tuple[Fate, ...] = ("train", "valid", "test", "failed", "discarded", "pending")
    return {str(atoms.info[KEY]): fate for fate in fates for atoms in getattr(data, fate)}


def folder_of_model(path: Path) -> Path:
    """Return the folder of a saved model: this one, or that of the newest model of a campaign or a training.

    Raises:
        InputError: there is none.
    """
    directory = RunDirectory(path.absolute())
    newest = directory.n_complete() - 1
    folders = [path, path / "model", *([directory.generation(newest).model] if newest >= 0 else [])]
    for folder in folders:
        if (folder / RECORD).is_file():
            return folder
    raise InputError(
        f"{path}: found no model; expected the folder of a saved model, the run directory of a campaign with a "
        "complete generation, or the output directory of a training"
    )


def check_schema(record: Mapping[str, Any], path: Path) -> None:
    """Refuse a record that a newer surveyor has written.

    Raises:
        InputError: its schema version is newer.
    """
    if record["schema_version"] > SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema version {record['schema_version']}, "
            f"this surveyor reads up to {SCHEMA_VERSION}; update surveyor"
        )
