"""The walkers, samples and labels of a campaign that no model has learned yet, in memory and in its journal."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ase import Atoms

from surveyor.dataset import FAILURE, KEY
from surveyor.events.kinds import NearDuplicate
from surveyor.events.log import EventLog, of_kind
from surveyor.events.recording import announce
from surveyor.learning.advance import advance
from surveyor.learning.candidates import ALL_SAMPLES, Candidate, earned
from surveyor.learning.entries import (
    ChoiceBegins,
    Chosen,
    Continues,
    Entry,
    GenerationEnds,
    LabelArrived,
    LabelPlaces,
    RunBegins,
    SampleReturned,
    WalkerBegins,
)
from surveyor.learning.journal import Journal
from surveyor.learning.labelled_samples import LabelledSample, Role
from surveyor.learning.parameters import Learning
from surveyor.learning.schedule import due, frames_per_sample
from surveyor.learning.states import SampleStatus, Schedule, origin_of
from surveyor.run_directory import Generation, RunDirectory
from surveyor.sampling.batching import SamplePlan
from surveyor.sampling.collection import structures_of
from surveyor.sampling.duplicates import KnownStructures
from surveyor.sampling.propagation import SampleFiles, announce_sample
from surveyor.sampling.samples import read_sample
from surveyor.sampling.walkers import Sample, Walker

logger = logging.getLogger(__name__)


def rules_of(learning: Learning, n_walkers: int) -> RunBegins:
    """Return the parameters on which the schedule of a campaign depends."""
    n_states = learning.n_states or n_walkers
    n_ahead = learning.labels_ahead or n_states
    has_audits = learning.select != ALL_SAMPLES
    return RunBegins(
        n_walkers=n_walkers,
        n_states=n_states,
        labels_ahead=n_ahead,
        n_generations=learning.n_generations,
        max_labels=learning.max_labels,
        n_frames=learning.n_frames,
        seed=learning.seed,
        select=learning.select,
        audit_fraction=learning.valid_fraction + learning.test_fraction if has_audits else 0.0,
        one_by_one=n_ahead > n_states,
    )


class SurveyRecord:
    """The walkers of a campaign, and their samples and labels that no model has learned.

    What it is told is written to the journal first. A new record continues from the journal.

    Args:
        directory: of the campaign.
        learning: its parameters.
        starts: its walkers at their starts.
        newest: its newest complete generation.

    Attributes:
        schedule: the state on which decisions depend.
    """

    def __init__(
        self, directory: RunDirectory, learning: Learning, starts: Sequence[Walker], newest: Generation
    ) -> None:
        self.schedule = Schedule()
        self._directory, self._tolerance_A = directory, learning.min_difference_A
        self._journal = Journal(directory.journal)
        self._known = KnownStructures(newest.data.everything if self._tolerance_A else ())
        self._decisions: list[WalkerBegins | ChoiceBegins] = []
        self._samples: dict[str, Sample] = {}
        self._structures: dict[str, Atoms] = {}  # candidates, to be labelled, or labelled, by name
        self._rules = rules_of(learning, len(starts))
        self._continue_from(newest, self._rules)
        self._former = frozenset(self.schedule.samples)  # which a former run began
        self._passed_over = _passed_over(directory.generation(self.schedule.base + 1).duplicates)
        base = directory.walkers_after(self.schedule.base, starts)
        self._walkers = [self._restored_walker(walker) for walker in base]
        self._restore_samples(newest)

    def record(self, entry: Entry) -> None:
        """Write an entry to the journal, and bring the schedule up to date."""
        self._journal.append(entry)
        self.schedule = advance(entry, self.schedule)

    def decide(self) -> list[WalkerBegins | ChoiceBegins]:
        """Make all decisions that are due, and return those that have yet to be carried out."""
        self._decide()
        decisions, self._decisions = self._decisions, []
        return decisions

    def _decide(self) -> None:
        """Make all decisions that are due; no event is recorded before they are."""
        while (decision := due(self.schedule)) is not None:
            self.record(decision)
            if isinstance(decision, WalkerBegins | ChoiceBegins):
                self._decisions.append(decision)

    def begin(self, decision: WalkerBegins) -> SamplePlan:
        """Begin the samples of a walker, and return its plan."""
        walker = self._walkers[decision.walker]
        begun = walker.reset() if decision.is_reset else replace(walker, n_good_labels=decision.n_good_labels)
        self._walkers[decision.walker] = begun
        return self._plan(decision.walker)

    def moving(self) -> Iterator[tuple[int, SamplePlan, int]]:
        """Yield, for each walker that has begun, the number of the generation whose model moves it, and its plan.

        The last number is that of the samples that the walker has returned.
        """
        for index, turn in enumerate(self.schedule.walkers):
            if turn.moving:
                yield turn.generation, self._plan(index), len(turn.names) - len(turn.moving)

    def is_moving(self, plan: SamplePlan) -> bool:
        """Return whether a walker has samples to return."""
        return bool(self.schedule.walkers[plan.walker.index].moving)

    def folder_of(self, plan: SamplePlan) -> Path:
        """Return the folder of the samples of a walker that moves."""
        return self._folder(self.schedule.walkers[plan.walker.index].round)

    def take_sample(self, name: str, sample: Sample) -> dict[str, Atoms]:
        """Take a sample, and return the structures that are to be labelled, by name."""
        status = self.schedule.samples[name]
        found = structures_of(name, sample, self._folder(status.round), status.n_frames)
        new = {each: atoms for each, atoms in found.items() if self._is_new(each, atoms)}
        labels, candidates, is_audit = earned(name, tuple(new), self._rules)
        self._samples[name] = sample
        self._structures |= new
        self.record(
            SampleReturned(
                name=name,
                labels=labels,
                candidates=candidates,
                is_audit=is_audit,
                is_reset=bool(sample.rejections),
            )
        )
        if not self.schedule.walkers[sample.walker.index].moving:
            self._walkers[sample.walker.index] = sample.walker
        self._decide()
        return {each: new[each] for each in labels}

    def take_places(self, n: int) -> None:
        """Take the number of structures that the labelling pool takes at a time, if a choice depends on it."""
        is_overlapped = self._rules.labels_ahead > self._rules.n_states
        may_choose = self._rules.select != ALL_SAMPLES or bool(self.schedule.waiting)
        if is_overlapped and may_choose and n != self.schedule.n_places:
            self.record(LabelPlaces(n=n))
            self._decide()

    def take_choice(self, chosen: Chosen) -> dict[str, Atoms]:
        """Take the choice of a selector, and return the structures that are to be labelled, by name."""
        self.record(chosen)
        self._decide()
        return {name: self._structures[name] for name in chosen.labels}

    @property
    def candidates(self) -> Mapping[str, Atoms]:
        """The structures among which a selector chooses, by name."""
        return {name: self._structures[name] for name in self.schedule.candidates}

    @property
    def requested(self) -> list[Atoms]:
        """The structures whose labels are requested, and which no model has learned."""
        return [
            self._structures[label] for each in self.schedule.samples.values() for label in sorted(each.labels or ())
        ]

    def take_label(self, name: str, labelled: Atoms) -> None:
        """Take a structure with its label, or with the reason why there is none."""
        self._structures[name] = labelled
        self.record(LabelArrived(name=name, key=str(labelled.info[KEY]), failure=labelled.info.get(FAILURE)))
        self._decide()

    @property
    def outstanding(self) -> Mapping[str, Atoms]:
        """The structures whose labels have not arrived, by name."""
        samples = self.schedule.samples.values()
        return {name: self._structures[name] for each in samples for name in sorted(each.outstanding)}

    @property
    def may_train(self) -> bool:
        """True if the samples of the next generation are decided, and have all their labels."""
        training, samples = self.schedule.training, self.schedule.samples
        return training is not None and all(samples[name].has_arrived for name in training)

    @property
    def n_expected(self) -> int:
        """Least number of samples of the next generation."""
        schedule = self.schedule
        n_decided = sum(schedule.samples[name].walker is not None for name in schedule.training or ())
        n_states = 0 if schedule.rules is None else schedule.rules.n_states
        return n_decided or min(n_states, schedule.n_unlearned)

    def samples_in_training(self) -> list[LabelledSample]:
        """Return the samples of the generation that is trained, with their labels."""
        training = self.schedule.training or ()
        return [each for name in training for each in self._labelled(name, self.schedule.samples[name])]

    def _labelled(self, name: str, status: SampleStatus) -> Iterator[LabelledSample]:
        """Yield a sample, and the structures that are labelled beside it or in its stead."""
        sample, labels = self._samples.get(name), status.labels or ()
        if sample is not None:
            structure = self._structures[name] if name in labels else None
            role, score = _role_of(name, status), status.score if structure is not None else None
            yield LabelledSample(name, sample, structure, status.generation, status.lag, role, score)
        for label in labels:
            if label == name and sample is not None:
                continue
            if (chosen := status.chosen) is None:
                yield LabelledSample(label, None, self._structures[label])
            else:
                structure, moved_on = self._structures[label], chosen.generation
                yield LabelledSample(label, None, structure, moved_on, chosen.lag, "chosen", status.score)

    def walkers(self) -> tuple[Walker, ...]:
        """Return all walkers: where they are, or at their starts if they are to be reset; moving ones as they began."""
        pairs = zip(self._walkers, self.schedule.walkers, strict=True)
        return tuple(
            walker.reset()
            if turn.is_reset_due and not turn.moving
            else replace(walker, n_good_labels=turn.n_good_labels)
            for walker, turn in pairs
        )

    def end_generation(self, number: int, n_labels: int) -> None:
        """Forget the samples in training, which are learned or have brought nothing new, and expired candidates.

        Args:
            number: of the newest complete generation.
            n_labels: number of labels that it has requested.
        """
        for name in self.schedule.training or ():
            self._samples.pop(name, None)
            for label in self.schedule.samples[name].labels or ():
                self._structures.pop(label, None)
        candidates = self.schedule.candidates
        self.record(GenerationEnds(generation=number, n_labels=n_labels))
        for name in candidates.keys() - self.schedule.candidates.keys():
            expired = self._structures.pop(name)
            if self._tolerance_A:
                self._known.remove(expired)

    @property
    def is_of_former_guards(self) -> bool:
        """True if the samples in training bring nothing to label, and a former run began them, under its guards."""
        samples, training = self.schedule.samples, self.schedule.training or ()
        return bool(training) and self._former >= {*training} and not any(samples[name].labels for name in training)

    def _continue_from(self, newest: Generation, rules: RunBegins) -> None:
        entries, self.schedule = self._journal.resume()
        if self.schedule.training is not None and newest.number == self.schedule.generation + 1:
            self.record(GenerationEnds(generation=newest.number, n_labels=newest.n_labels))  # the last run was killed
        elif not entries or newest.number != self.schedule.generation:
            self.record(self._beginning(newest, rules))
        self.record(rules)

    def _beginning(self, newest: Generation, rules: RunBegins) -> Continues:
        number = max(newest.number, self.schedule.last_round)
        planned = self._directory.generation(number + 1).planned()
        return Continues(
            generation=newest.number,
            n_labels=newest.n_labels,
            round=number,
            late=tuple(f"g{newest.number + 1:03d}-late-{index}" for index in range(len(newest.data.pending))),
            n_samples=planned,
            n_frames=frames_per_sample(sum(planned or ()), rules, newest.n_labels),
            n_good_labels=tuple(walker.n_good_labels for walker in newest.walkers),
        )

    def _folder(self, number: int) -> Path:
        return self._directory.generation(number).samples

    def _plan(self, index: int) -> SamplePlan:
        return SamplePlan(self._walkers[index], self.schedule.walkers[index].names)

    def _restored_walker(self, base: Walker) -> Walker:
        """Return a walker as it was when it began its current samples, or where it is now."""
        turn = self.schedule.walkers[base.index]
        walker = base if turn.last is None else self._read(turn.last[1], turn.last[0], base).walker
        if not turn.moving:
            return walker
        return walker.reset() if turn.begins_at_start else replace(walker, n_good_labels=turn.began_with)

    def _load(self, name: str, number: int) -> Sample:
        origin = origin_of(name)
        return self._read(name, number, self._walkers[0 if origin is None else origin.walker])

    def _read(self, name: str, number: int, walker: Walker) -> Sample:
        return read_sample(SampleFiles(self._folder(number), name).sample, walker)

    def _restore_samples(self, newest: Generation) -> None:
        wanted = {*self.schedule.candidates}.union(*(each.labels or () for each in self.schedule.samples.values()))
        for name, status in self.schedule.samples.items():
            if status.walker is not None and status.labels is not None:
                self._restore_sample(name, status, wanted)
        learned = [each for each in _candidates_of(self.schedule) if each.sample not in self._samples]
        for candidate in dict.fromkeys(learned):
            sample = self._load(candidate.sample, candidate.round)
            self._restore_structures(candidate.sample, sample, candidate.round, candidate.n_frames, wanted)
        late = [name for name, status in self.schedule.samples.items() if status.walker is None]
        self._structures |= dict(zip(late, newest.data.pending, strict=True))

    def _restore_sample(self, name: str, status: SampleStatus, wanted: Collection[str]) -> None:
        sample = self._load(name, status.round)
        announce_sample(name, sample, "found on disk")
        others = self._restore_structures(name, sample, status.round, status.n_frames, wanted)
        if not (status.earns_choice or status.is_audit):  # otherwise they may be candidates that have expired
            for label in others:
                self._announce_duplicate(label)
        self._samples[name] = sample

    def _restore_structures(
        self, name: str, sample: Sample, number: int, n_frames: int, wanted: Collection[str]
    ) -> list[str]:
        """Restore those structures of a sample that are wanted, and return the names of the others."""
        found = structures_of(name, sample, self._folder(number), n_frames)
        for label in found.keys() & wanted:
            self._structures[label] = found[label]
            self._known.add(found[label])
        return sorted(found.keys() - wanted)

    def _is_new(self, name: str, structure: Atoms) -> bool:
        if not self._tolerance_A:
            return True
        if name in self._passed_over or self._known.difference_A(structure) < self._tolerance_A:
            self._announce_duplicate(name)
            return False
        self._known.add(structure)
        return True

    def _announce_duplicate(self, name: str) -> None:
        text = f"{name}: not labelled, as it differs from a known structure by less than {self._tolerance_A:g} Å"
        announce(logger, NearDuplicate(message=text, name=name))


def _role_of(name: str, status: SampleStatus) -> Role:
    if status.is_audit:
        return "audit"
    if not status.earns_choice:
        return "sample"
    return "chosen" if name in (status.labels or ()) else "candidate"


def _candidates_of(schedule: Schedule) -> list[Candidate]:
    """Return the candidates that wait, and those that were chosen and that no model has learned."""
    chosen = [each.chosen for each in schedule.samples.values() if each.chosen is not None]
    return [*chosen, *schedule.candidates.values()]


def _passed_over(path: Path) -> set[str]:
    """Return the samples that an earlier surveyor has found to be near-duplicates in a generation under way."""
    return {event.name for event in of_kind(EventLog(path).read()[0], NearDuplicate)}
