"""The samples of a generation as they come, and which of them are to be labelled."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ase import Atoms

from surveyor.events.kinds import NearDuplicate
from surveyor.events.log import EventLog, of_kind
from surveyor.events.recording import announce
from surveyor.sampling.batching import SamplePlan
from surveyor.sampling.duplicates import KnownStructures
from surveyor.sampling.frames import independent_frames, spread
from surveyor.sampling.propagation import SampleFiles, announce_sample
from surveyor.sampling.samples import load_sample
from surveyor.sampling.walkers import Sample, Walker

logger = logging.getLogger(__name__)


class SampleCollector:
    """Collects each sample once, and requests labels for new ones.

    Samples are found in the files of the walkers, before their batches end. A near-duplicate of a known structure, or
    of an earlier sample, is not labelled; this is recorded, so that a resumed generation labels the same samples.

    Args:
        plans: the samples to obtain from each walker.
        directory: folder of the samples.
        record: file of the samples that are not labelled.
        known: structures of the campaign.
        tolerance_A: see `KnownStructures.difference_A`; 0 labels everything.
        n_frames: maximum number of frames of each trajectory to label in addition to the sample.
        label: called with the name and the structure of each sample to label.

    Attributes:
        samples: samples collected so far, by name.
    """

    def __init__(
        self,
        plans: Sequence[SamplePlan],
        directory: Path,
        *,
        record: Path,
        known: Iterable[Atoms],
        tolerance_A: float,
        n_frames: int = 0,
        label: Callable[[str, Atoms], None],
    ) -> None:
        self.samples: dict[str, Sample] = {}
        self._plans, self._directory, self._label = plans, directory, label
        self._record, self._tolerance_A, self._n_frames = EventLog(record), tolerance_A, n_frames
        self._known = KnownStructures(known if tolerance_A else ())
        self._passed_over = {event.name for event in of_kind(self._record.read()[0], NearDuplicate)}

    def look(self) -> None:
        """Take what walkers have written since."""
        for name, walker in self._awaited():
            path = SampleFiles(self._directory, name).sample
            if path.exists():
                self._take(name, load_sample(path, origin=walker))

    def look_at_former_run(self) -> None:
        """Take what a former run has left, and tell of it, as no walker will."""
        self.look()
        for name, sample in self.samples.items():
            announce_sample(name, sample, "found on disk")

    def has_all_of(self, batch: Sequence[SamplePlan]) -> bool:
        """Say whether all samples of a batch were taken."""
        return all(name in self.samples for plan in batch for name in plan.names)

    def take(self, brought: Iterable[tuple[str, Sample]]) -> None:
        """Collect samples that were not collected before."""
        for name, sample in brought:
            if name not in self.samples:
                self._take(name, sample)

    def _awaited(self) -> Iterator[tuple[str, Walker]]:
        """Yield the names of samples that may be there, each with its walker as it was before."""
        for plan in self._plans:
            walker = plan.walker
            for name in plan.names:
                if name not in self.samples:
                    yield name, walker
                if name not in self.samples:
                    break
                walker = self.samples[name].walker

    def _take(self, name: str, sample: Sample) -> None:
        self.samples[name] = sample
        if sample.structure is None:
            return
        self._label_if_new(name, sample.structure)
        if self._n_frames:
            frames = independent_frames(self._directory, name)
            frames.pop(sample.n_steps, None)  # that is what the walker brings
            for step, frame in spread(frames, self._n_frames).items():
                self._label_if_new(f"{name}-step-{step}", frame)

    def _label_if_new(self, name: str, structure: Atoms) -> None:
        if name in self._passed_over:
            self._record_duplicate(name)
            return
        difference = self._known.difference_A(structure) if self._tolerance_A else float("inf")
        if difference < self._tolerance_A:
            self._record.append(NearDuplicate(name=name, difference_A=round(difference, 6)))
            self._record_duplicate(name)
            return
        if self._tolerance_A:
            self._known.add(structure)
        self._label(name, structure)

    def _record_duplicate(self, name: str) -> None:
        text = f"{name}: not labelled, as it differs from a known structure by less than {self._tolerance_A:g} Å"
        announce(logger, NearDuplicate(message=text, name=name))
