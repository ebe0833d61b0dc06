"""The progress of a campaign, read from its events and manifests, without a server and without disturbing it."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from surveyor.dataset.metrics import Errors
from surveyor.errors import InputError
from surveyor.events import kinds
from surveyor.events.kinds import Event
from surveyor.events.log import of_kind, since
from surveyor.files import read_json
from surveyor.learning.audits import BAND
from surveyor.learning.parameters import Learning
from surveyor.learning.statement import Statement, make_statements, verdict
from surveyor.lease import is_in_use
from surveyor.models.history import epoch_of
from surveyor.models.model import Epoch
from surveyor.run_directory import Generation, RunDirectory, check_schema
from surveyor.sampling.conditions import Walkers
from surveyor.words import generation_name, number_of, since_the_start

State = Literal["running", "complete", "stopped"]
Stage = Literal["sampling", "labelling", "evaluation", "training"]


@dataclass(frozen=True, slots=True)
class GenerationErrors:
    """One complete generation in numbers; errors are root mean squares, None where nothing was measured.

    Attributes:
        generation: its number; 0 is the bootstrap.
        n_labels: how many labels the campaign had requested by its end.
        n_train: how many structures its model was trained on.
        n_discarded: how many labelled structures are kept from training, as the model was too far off.
        before_energy_meV_per_atom: of the former model on this generation's structures, before it saw them.
        before_forces_meV_per_A: likewise.
        test_energy_meV_per_atom: of the new model on the test set of that time.
        test_forces_meV_per_A: likewise.
        final_energy_meV_per_atom: of the new model on the final test set.
        final_forces_meV_per_A: likewise.
        epochs: of its training.
        before_energy_95: 95 % interval of the error before training, meV/atom; None for too few structures.
        before_forces_95: likewise, meV/Å.
    """

    generation: int
    n_labels: int
    n_train: int
    n_discarded: int
    before_energy_meV_per_atom: float | None = None
    before_forces_meV_per_A: float | None = None
    test_energy_meV_per_atom: float | None = None
    test_forces_meV_per_A: float | None = None
    final_energy_meV_per_atom: float | None = None
    final_forces_meV_per_A: float | None = None
    epochs: int | None = None
    before_energy_95: tuple[float, float] | None = None
    before_forces_95: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class CampaignProgress:
    """The progress of a campaign.

    Attributes:
        state: "running" if a live process holds the lease; "stopped" if none does and work is left.
        reason: why a complete campaign ended.
        n_generations: planned number of generations after the bootstrap.
        n_labels: number of requested labels.
        errors: errors of the complete generations, the bootstrap first.
        generation: number of the current generation; None between two and at the end.
        stage: its current stage.
        n_planned: its planned number of samples.
        n_sampled: samples with a structure.
        n_rejected: samples without a structure, because guards stopped every try.
        n_duplicates: samples that are not labelled because they are near-duplicates.
        stops: number of stops of walkers, by guard.
        n_new: labels computed since the campaign was last started.
        n_found: labels found in the store.
        n_failed: failed labels.
        epoch: last epoch of its training.
        max_epochs: maximum number of epochs of a training; None if unknown.
        elapsed_s: seconds since a running campaign was last started; None if it does not run.
        waiting: what a running campaign waits for, such as a job in a queue; empty for nothing.
        failure: why the last run of the campaign failed; empty if it did not, or if unknown.
        run_labels: labels computed since the campaign was last started.
        run_isolated: number of these labels that are of isolated atoms; known once the campaign is complete.
        run_trainings: trainings begun since then.
    """

    state: State
    reason: str | None = None
    n_generations: int = 0
    n_labels: int = 0
    errors: tuple[GenerationErrors, ...] = ()
    generation: int | None = None
    stage: Stage | None = None
    n_planned: int = 0
    n_sampled: int = 0
    n_rejected: int = 0
    n_duplicates: int = 0
    stops: Mapping[str, int] = field(default_factory=dict)
    n_new: int = 0
    n_found: int = 0
    n_failed: int = 0
    epoch: Epoch | None = None
    max_epochs: int | None = None
    elapsed_s: float | None = None
    waiting: str = ""
    failure: str = ""
    run_labels: int = 0
    run_isolated: int = 0
    run_trainings: int = 0

    @property
    def n_complete(self) -> int:
        """Number of complete generations, counted from the bootstrap."""
        return len(self.errors)

    @property
    def n_labelled(self) -> int:
        """Number of structures of the current generation that have their label."""
        return self.n_new + self.n_found


def read_progress(directory: RunDirectory) -> CampaignProgress:
    """Return where a campaign stands.

    Raises:
        InputError: the folder is not the run directory of a campaign.
    """
    if not directory.parameters.is_file():
        raise InputError(
            f"{directory.path} is not the run directory of a campaign: it has no {directory.parameters.name}"
        )
    events = directory.events.in_order()
    run = since(events, kinds.CampaignBegins)
    completion = of_kind(run, kinds.CampaignComplete)
    errors = tuple(errors_table(directory))
    counts = {} if completion else _counts(directory, events, run)
    state: State = "complete" if completion else "running" if is_in_use(directory.lease) else "stopped"
    parameters = read_json(directory.parameters)["parameters"]
    computed = keys(run, kinds.Labelled, new=True)
    requested = directory.read_manifest(len(errors) - 1)["labels"] if completion and errors else computed
    n_labels = errors[-1].n_labels if errors else 0
    return CampaignProgress(
        state=state,
        reason=completion[-1].reason if completion else None,
        n_generations=parameters["learning"]["n_generations"],
        n_labels=n_labels + sum(counts.get(name, 0) for name in ("n_new", "n_found", "n_failed")),
        errors=errors,
        waiting=waiting_of(run) if state == "running" else "",
        failure=_failure_of(run),
        max_epochs=_max_epochs(parameters, is_first=counts.get("generation") == 0),
        elapsed_s=time.time() - run[0].time if run and state == "running" else None,
        run_labels=len(computed),
        run_isolated=len(computed - {*requested}),
        run_trainings=len(of_kind(run, kinds.TrainingBegins)),
        **counts,
    )


def _max_epochs(parameters: Mapping[str, Any], *, is_first: bool) -> int | None:  # Any: whatever JSON holds
    """Return how many epochs a training has at most; None where the model has no such limit, or another one later."""
    if not (is_first or parameters["learning"].get("train_from_scratch", True)):
        return None
    return max_epochs_of(parameters.get("model") or {})


def max_epochs_of(model: Mapping[str, Any]) -> int | None:  # Any: whatever JSON holds
    """Return how many epochs a training of a model has at most, by its parameters; None without such a limit."""
    chosen = (model.get("committee") or {}).get("member") or model
    limits = [given.get("max_num_epochs") for given in chosen.values() if isinstance(given, dict)]
    return next((limit for limit in limits if limit is not None), None)


def waiting_of(events: Sequence[Event]) -> str:
    """Return the current wait after the events of one run; empty for nothing."""
    last = next((event for event in reversed(events) if isinstance(event, kinds.Waiting | kinds.WaitingEnds)), None)
    waits = [last.message] if isinstance(last, kinds.Waiting) else []
    if silent := [event for event in of_kind(events, kinds.ClaimSilent) if event.until > time.time()]:
        minutes, seconds = divmod(round(silent[-1].until - time.time()), 60)
        waits.append(f"waiting for labels of {silent[-1].holder}, silent, for {minutes}:{seconds:02d} min at most")
    return "; ".join(waits)


def _failure_of(events: Sequence[Event]) -> str:
    failures = of_kind(events, kinds.CampaignFails)
    return failures[-1].message if failures else ""


def _counts(directory: RunDirectory, events: Sequence[Event], run: Sequence[Event]) -> dict[str, Any]:
    """Return the finished work of the current generation over all runs; empty without a current generation."""
    begun = of_kind(events, kinds.GenerationBegins)
    if not begun or directory.generation(begun[-1].generation).is_complete():
        return {}
    number = begun[-1].generation
    of_generation = _of_generation(events, number)
    # Repeated events (a function that ran twice) count once; a label that came in the end is no failure.
    sampled = _names(of_generation, kinds.Sampled)
    labelled = keys(of_generation, kinds.Labelled)
    new = keys(run, kinds.Labelled, new=True) & labelled
    counts: dict[str, Any] = {  # Any: numbers, and one dict
        "generation": number,
        "n_planned": begun[-1].n_samples,
        "n_sampled": len(sampled),
        "n_rejected": len(_names(of_generation, kinds.Rejected) - sampled),
        "n_duplicates": len(_names(of_generation, kinds.NearDuplicate) & sampled),
        "stops": _stops(of_generation),
        "n_new": len(new),
        "n_found": len(labelled - new),
        "n_failed": len(keys(of_generation, kinds.LabelFailed) - labelled),
    }
    begun_now = since(run, kinds.GenerationBegins)
    epochs = of_kind(since(begun_now, kinds.TrainingBegins), kinds.EpochEnds)
    happened = {type(event) for event in begun_now}
    return counts | {"stage": _stage(happened, counts), "epoch": epoch_of(epochs[-1]) if epochs else None}


def _of_generation(events: Sequence[Event], number: int) -> Sequence[Event]:
    """Return the events of a generation: from the training before it, or the last try without anything new, to its own.

    Walkers may move during a training; what arrives then belongs to the next generation.
    """
    begin = _begin_of_try(events, number)
    trainings = [position for position, event in enumerate(events) if isinstance(event, kinds.TrainingBegins)]
    before = max((position for position in trainings if position < begin), default=begin)
    failed = max((n for n, event in enumerate(events[:begin]) if isinstance(event, kinds.GenerationFails)), default=0)
    last_begin = max(n for n, event in enumerate(events) if isinstance(event, kinds.GenerationBegins))
    end = min((position for position in trainings if position > last_begin), default=len(events))
    return events[max(before, failed) : end]


def _begin_of_try(events: Sequence[Event], number: int) -> int:
    """Return the position at which a generation began, or began again after it had returned nothing."""
    begin = None
    has_failed = False
    for position, event in enumerate(events):
        if isinstance(event, kinds.GenerationBegins) and event.generation == number and (begin is None or has_failed):
            begin, has_failed = position, False
        has_failed = has_failed or isinstance(event, kinds.GenerationFails)
    return begin or 0


def _stops(events: Sequence[Event]) -> dict[str, int]:
    """Return the number of stops by guard, also of walkers that are on their way."""
    by_sample = {event.name: event.rejections for event in of_kind(events, kinds.SampleEnds)}
    on_their_way = Counter(each.reason for each in of_kind(events, kinds.TryRejected) if each.name not in by_sample)
    return dict(sum(map(Counter, by_sample.values()), Counter()) + on_their_way)


def keys(events: Sequence[Event], kind: type[kinds.LabelEnds], *, new: bool = False) -> set[str]:
    """Return the different keys of labels in events."""
    return {event.key for event in of_kind(events, kind) if event.new or not new}


def _names(events: Sequence[Event], kind: type[kinds.SampleEnds] | type[kinds.NearDuplicate]) -> set[str]:
    return {event.name for event in events if isinstance(event, kind)}


def _stage(happened: set[type[Event]], counts: Mapping[str, int]) -> Stage:
    n_outcomes = sum(counts[name] for name in ("n_new", "n_found", "n_failed", "n_rejected", "n_duplicates"))
    if kinds.TrainingEnds in happened or (n_outcomes >= counts["n_planned"] and kinds.TrainingBegins not in happened):
        return "evaluation"
    if kinds.TrainingBegins in happened:
        return "training"
    # The structures of the bootstrap are not sampled, and are there at once.
    is_sampled = counts["generation"] == 0 or counts["n_sampled"] + counts["n_rejected"] >= counts["n_planned"]
    return "labelling" if is_sampled else "sampling"


@dataclass(frozen=True, slots=True, eq=False)
class CampaignOnDisk:
    """A campaign as it stands on disk.

    Attributes:
        directory: its files.
        progress: where it stands, with the errors of all complete generations.
        newest: the newest complete generation, with its data and its model; None where none is complete.
    """

    directory: RunDirectory
    progress: CampaignProgress
    newest: Generation | None


def read_campaign(path: Path | str) -> CampaignOnDisk:
    """Return a campaign as it stands on disk, whether it runs or not.

    Args:
        path: its run directory.

    Raises:
        InputError: the folder is not the run directory of a campaign.
    """
    directory = RunDirectory(Path(path).absolute())
    return CampaignOnDisk(directory, read_progress(directory), directory.newest_generation(()))


@dataclass(frozen=True, slots=True)
class Trust:
    """Statement of how far the potential of a campaign can be trusted.

    Attributes:
        statements: one for each group of walkers; none without a complete generation after the bootstrap.
        verdict: whether audits show that the targets are met; empty without targets.
    """

    statements: tuple[Statement, ...] = ()
    verdict: str = ""

    @property
    def lines(self) -> list[str]:
        """All that is to be said, a paragraph for each group of walkers."""
        return list(filter(None, [*(each.in_words for each in self.statements), self.verdict]))


def read_trust(directory: RunDirectory, generation: int | None = None) -> Trust:
    """Return how far the potential of a campaign can be trusted; it takes a second, so it is not part of the progress.

    Args:
        directory: of the campaign.
        generation: newest one to look at; by default the newest complete one.
    """
    newest = directory.n_complete() - 1 if generation is None else generation
    if newest < 1:
        return Trust()
    parameters, history = read_json(directory.parameters)["parameters"], directory.examined(newest)
    learning = Learning.model_validate(parameters["learning"])
    groups = [Walkers.model_validate(group) for group in parameters["walkers"]]
    return Trust(make_statements(history, learning, groups), verdict(history, learning))


def errors_table(directory: RunDirectory) -> list[GenerationErrors]:
    """Return a row for each complete generation."""
    final = read_comparison(directory)
    return [
        _row(directory.read_manifest(number), final.get(number, Errors())) for number in range(directory.n_complete())
    ]


def read_comparison(directory: RunDirectory) -> dict[int, Errors]:
    """Return the errors on the final test set by generation; none where they were not compared yet.

    Raises:
        InputError: a newer surveyor wrote the comparison.
    """
    if not directory.comparison.exists():
        return {}
    record = read_json(directory.comparison)
    check_schema(record, directory.comparison)
    return {int(number): Errors(**errors) for number, errors in record["errors"].items()}


def _row(manifest: Mapping[str, Any], final: Errors) -> GenerationErrors:  # Any: whatever JSON holds
    before = Errors(**manifest["before_training"])
    test = Errors(**manifest["errors"].get("test", {}))
    return GenerationErrors(
        generation=manifest["number"],
        n_labels=manifest["n_labels"],
        n_train=list(manifest["labels"].values()).count("train"),
        n_discarded=list(manifest["labels"].values()).count("discarded"),
        before_energy_meV_per_atom=_milli(before.energy_rmse),
        before_forces_meV_per_A=_milli(before.forces_rmse),
        test_energy_meV_per_atom=_milli(test.energy_rmse),
        test_forces_meV_per_A=_milli(test.forces_rmse),
        final_energy_meV_per_atom=_milli(final.energy_rmse),
        final_forces_meV_per_A=_milli(final.forces_rmse),
        epochs=manifest["details"].get("epochs"),
        before_energy_95=_interval(manifest, "energy"),
        before_forces_95=_interval(manifest, "forces"),
    )


def _interval(manifest: Mapping[str, Any], name: str) -> tuple[float, float] | None:  # Any: whatever JSON holds
    ends = manifest["details"].get(BAND, {}).get(name)
    return None if ends is None else (ends[0], ends[1])


def _milli(value: float | None) -> float | None:
    return None if value is None else 1e3 * value


def render(progress: CampaignProgress) -> RenderableType:
    """Return a few lines for a terminal: the generation in work, its counts, its training, the errors so far."""
    lines: list[RenderableType] = [_folded(_headline(progress), "bold")]
    if reason := progress.waiting or progress.failure:
        lines.append(_folded(reason, "yellow" if progress.waiting else "red"))
    if progress.generation is not None:
        lines += [_bars(progress), *([_folded(_training_line(progress))] if progress.epoch else [])]
    if progress.errors:
        lines.append(_folded(_errors_line(progress.errors[-1]), "dim"))
    return Group(*lines)


def _folded(line: str, style: str = "") -> Text:
    """Return a line that wraps in a narrow terminal instead of being cropped by a live display."""
    return Text(line, style=style, overflow="fold", no_wrap=False)


def summary(progress: CampaignProgress) -> str:
    """Return one line on the current generation, for output that cannot be redrawn; empty if there is none."""
    if progress.generation is None:
        return ""
    if progress.epoch is not None:
        return _training_line(progress)
    sampled = f"sampled {progress.n_sampled}/{progress.n_planned}" if progress.generation else ""
    labelled = f"labelled {progress.n_labelled}/{progress.n_planned}, {progress.n_failed} failed"
    return ", ".join(filter(None, [sampled, rejections_in_words(progress), labelled]))


def rejections_in_words(progress: CampaignProgress) -> str:
    """Return how many samples of the generation in work were rejected, with the guards that stopped walkers."""
    stops = ", ".join(f"{n} x {reason.replace('_', ' ')}" for reason, n in progress.stops.items())
    rejected = f"{progress.n_rejected} rejected" if progress.n_rejected else ""
    return f"{rejected or 'stopped by guards'} ({stops})" if stops else rejected


def now(progress: CampaignProgress) -> str:
    """Return the current activity of a running campaign, such as "generation 2, labelling 7/16"."""
    if progress.generation is None:
        return "between two generations" if progress.errors else "not in its first generation yet"
    counts = {
        "sampling": f" {progress.n_sampled}/{progress.n_planned}",
        "labelling": f" {progress.n_labelled}/{progress.n_planned}",
        "training": f" epoch {progress.epoch.number + 1}" if progress.epoch else "",
    }
    return f"generation {generation_name(progress.generation)}, {progress.stage}{counts.get(progress.stage or '', '')}"


def _headline(progress: CampaignProgress) -> str:
    if progress.state == "complete":
        return f"complete: {progress.reason or 'nothing is left to do'} ({number_of(progress.n_labels, 'label')})"
    state = "" if progress.state == "running" else "stopped; "
    if progress.generation is None:
        is_complete = f"{_name(progress, progress.n_complete - 1)} is complete"
        return (
            f"{state}{is_complete if progress.n_complete else 'nothing is complete yet'} ({_labels_and_time(progress)})"
        )
    return f"{state}{_name(progress, progress.generation)}: {progress.stage} ({_labels_and_time(progress)})"


def _name(progress: CampaignProgress, generation: int) -> str:
    of_all = f" of {progress.n_generations}" if generation else ""
    return f"generation {generation_name(generation)}{of_all}"


def _labels_and_time(progress: CampaignProgress) -> str:
    labels = number_of(progress.n_labels, "label")
    if progress.elapsed_s is None:
        return labels
    return f"{labels}; {since_the_start(progress.elapsed_s)}"


def _bars(progress: CampaignProgress) -> Table:
    table = Table.grid(padding=(0, 1))
    n_asked = progress.n_planned
    if progress.generation:
        rejected = rejections_in_words(progress)
        table.add_row("sampled", _bar(progress.n_sampled, n_asked), f"{progress.n_sampled}/{n_asked}", rejected)
    found = f"{progress.n_new} new, {progress.n_found} from the store, {progress.n_failed} failed"
    if progress.n_duplicates:
        found += f", {number_of(progress.n_duplicates, 'near-duplicate')}"
    table.add_row("labelled", _bar(progress.n_labelled, n_asked), f"{progress.n_labelled}/{n_asked}", found)
    return table


def _bar(n_done: int, n_all: int) -> ProgressBar:
    return ProgressBar(total=max(n_all, 1), completed=min(n_done, n_all), width=24)


def _training_line(progress: CampaignProgress) -> str:
    epoch = progress.epoch
    if epoch is None:
        return ""
    of_all = "" if progress.max_epochs is None else f" of {progress.max_epochs}"
    errors = [
        f"{1e3 * value:.1f} {unit}"
        for value, unit in ((epoch.energy_rmse, "meV/atom"), (epoch.forces_rmse, "meV/Å"))
        if value is not None
    ]
    return ", ".join([f"epoch {epoch.number + 1}{of_all}", f"loss {epoch.loss:.4g}", *errors])


def _errors_line(row: GenerationErrors) -> str:
    before = (row.before_energy_meV_per_atom, row.before_forces_meV_per_A)
    test = (row.test_energy_meV_per_atom, row.test_forces_meV_per_A)
    texts = [
        f"{energy:.1f} meV/atom and {forces:.1f} meV/Å {when}"
        for (energy, forces), when in ((before, "before training"), (test, "on the test set"))
        if energy is not None and forces is not None
    ]
    return f"errors of generation {row.generation}: {'; '.join(texts) or 'none were measured'}"
