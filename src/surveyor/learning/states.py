"""The state of a campaign, as far as decisions depend on it: its walkers, their samples, and candidates for labels."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from surveyor.learning.candidates import Candidate
from surveyor.learning.entries import RoundPlanned, RunBegins


@dataclass(frozen=True, slots=True)
class WalkerTurn:
    """Position of a walker in its rounds.

    Attributes:
        round: the last round that it has begun.
        generation: whose model moves it, or moved it last.
        n_begun: number of samples of that round that it has begun.
        names: names of the samples that it has begun together, last.
        moving: names of those that it has yet to return.
        last: round and name of the last sample that it had returned when it began these; None for none.
        begins_at_start: whether it began these with a reset.
        is_reset_due: whether it begins the next ones with a reset.
        reset: round, and number of the sample there, that it began last with a reset.
        n_good_labels: how many good labels have moved it along its ramp.
        began_with: how many of them had when it began these samples.
    """

    round: int
    generation: int = 0
    n_begun: int = 0
    names: tuple[str, ...] = ()
    moving: tuple[str, ...] = ()
    last: tuple[int, str] | None = None
    begins_at_start: bool = False
    is_reset_due: bool = False
    reset: tuple[int, int] = (0, 0)
    n_good_labels: int = 0
    began_with: int = 0


@dataclass(frozen=True, slots=True)
class SampleStatus:
    """A sample that no model has learned.

    Attributes:
        walker: index of its walker; None for a structure whose label is late.
        round: round of the walker.
        n_frames: maximum number of frames to label beside it.
        generation: whose model moves, or moved, the walker.
        lag: number of other unlearned samples when it began.
        labels: names of the structures to be labelled; None while the walker moves.
        outstanding: names of those without a label.
        is_audit: whether its structure is labelled as an audit.
        earns_choice: whether a selector chooses the structure to be labelled.
        chosen: that structure, as a candidate; None before the choice.
        score: of that structure.
        n_good_labels: how many good labels had moved the walker along its ramp; None once its own label has counted.
    """

    walker: int | None
    round: int
    n_frames: int = 0
    generation: int = 0
    lag: int = 0
    labels: tuple[str, ...] | None = None
    outstanding: frozenset[str] = frozenset()
    is_audit: bool = False
    earns_choice: bool = False
    chosen: Candidate | None = None
    score: float | None = None
    n_good_labels: int | None = 0

    @property
    def is_waiting(self) -> bool:
        """True if a selector has yet to choose the structure to be labelled."""
        return self.earns_choice and self.chosen is None

    @property
    def has_arrived(self) -> bool:
        """True if the sample has all its labels."""
        return self.labels is not None and not self.outstanding and not self.is_waiting


@dataclass(frozen=True, slots=True)
class Schedule:
    """The state of a campaign, as far as decisions depend on it.

    Attributes:
        rules: parameters of the current run; None between runs.
        generation: number of the newest complete generation.
        n_labels: number of labels that it had requested.
        base: the generation from whose walkers all rounds began.
        last_round: number of the last round that is planned.
        rounds: planned rounds that some walkers have not begun.
        walkers: all walkers.
        samples: samples that no model has learned, by name.
        arrived: names of those that have all their labels and are in no training, in the order of their arrival.
        training: names of the samples that are learned now; None without a training.
        candidates: structures among which a selector chooses, by name, the oldest first.
        n_places: number of structures that the labelling pool takes at a time; 0 if it is not known.
        is_choosing: whether a selector chooses now.
    """

    rules: RunBegins | None = None
    generation: int = 0
    n_labels: int = 0
    base: int = 0
    last_round: int = 0
    rounds: Mapping[int, RoundPlanned] = field(default_factory=dict)
    walkers: tuple[WalkerTurn, ...] = ()
    samples: Mapping[str, SampleStatus] = field(default_factory=dict)
    arrived: tuple[str, ...] = ()
    training: tuple[str, ...] | None = None
    candidates: Mapping[str, Candidate] = field(default_factory=dict)
    n_places: int = 0
    is_choosing: bool = False

    @property
    def waiting(self) -> list[str]:
        """Names of the samples for which a selector has yet to choose a structure."""
        return [name for name, each in self.samples.items() if each.is_waiting]

    @property
    def n_unlearned(self) -> int:
        """Number of samples of walkers that are begun and that no model has learned."""
        return sum(each.walker is not None for each in self.samples.values())

    @property
    def n_moving(self) -> int:
        """Number of samples that walkers have yet to return."""
        return sum(len(walker.moving) for walker in self.walkers)


def names_of(round_: int, walker: int, n_samples: int) -> tuple[str, ...]:
    """Return the names of the samples of a walker in a round."""
    return tuple(f"g{round_:03d}-w{walker:03d}-{turn}" for turn in range(n_samples))


def n_left(walker: WalkerTurn, index: int, planned: RoundPlanned) -> int:
    """Return how many samples of a round a walker has yet to begin.

    Args:
        walker: its position.
        index: its index.
        planned: the round.
    """
    if planned.round < walker.round:
        return 0
    return planned.n_samples[index] - (walker.n_begun if planned.round == walker.round else 0)


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of a structure: a sample of a walker.

    Attributes:
        round: round of the walker.
        walker: its index.
        turn: number of the sample in the round, from 0.
    """

    round: int
    walker: int
    turn: int


def origin_of(name: str) -> Origin | None:
    """Return the origin of a sample, or of a frame of its trajectory; None for structures without a walker."""
    found = re.match(r"g(\d+)-w(\d+)-(\d+)", name)
    return None if found is None else Origin(*map(int, found.groups()))
