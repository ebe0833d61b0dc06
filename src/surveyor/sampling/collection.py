"""The samples of walkers as they come, and the structures in them that are to be labelled."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms

from surveyor.sampling.batching import SamplePlan
from surveyor.sampling.frames import independent_frames, spread
from surveyor.sampling.propagation import SampleFiles
from surveyor.sampling.samples import load_sample
from surveyor.sampling.walkers import Sample, Walker

FRAME = "-step-"  # in the name of a frame, between that of its sample and its step


@dataclass(slots=True)
class _Awaited:
    """Samples of one walker that have yet to come: the folder, their names, and the walker before the first of them."""

    directory: Path
    names: deque[str]
    walker: Walker


class SampleCollector:
    """A collector of samples, each taken once; they are found in the files of the walkers, before their batches end.

    Args:
        handle: called with the name of each sample and the sample.
    """

    def __init__(self, handle: Callable[[str, Sample], None]) -> None:
        self._handle = handle
        self._awaited: dict[str, _Awaited] = {}  # by the name of each sample

    def expect(self, plan: SamplePlan, directory: Path, n_taken: int = 0) -> None:
        """Await the samples of a walker in a folder.

        Args:
            plan: the samples.
            directory: the folder.
            n_taken: how many of them were taken already.
        """
        walker = plan.walker
        for name in plan.names[:n_taken]:
            walker = load_sample(SampleFiles(directory, name).sample, origin=walker).walker
        names = plan.names[n_taken:]
        self._awaited |= dict.fromkeys(names, _Awaited(directory, deque(names), walker))

    def look(self) -> None:
        """Collect the samples that walkers have written since the last look."""
        for awaited in {id(each): each for each in self._awaited.values()}.values():
            while awaited.names and (path := SampleFiles(awaited.directory, awaited.names[0]).sample).exists():
                self.take([(awaited.names[0], load_sample(path, origin=awaited.walker))])

    def take(self, samples: Iterable[tuple[str, Sample]]) -> None:
        """Take samples, each walker's in order, unless they were taken before."""
        for name, sample in samples:
            if (awaited := self._awaited.pop(name, None)) is not None:
                awaited.names.remove(name)
                awaited.walker = sample.walker
                self._handle(name, sample)


def structures_of(name: str, sample: Sample, directory: Path, n_frames: int) -> dict[str, Atoms]:
    """Return the structures of a sample that may be labelled, by name: its own, and independent frames.

    Args:
        name: name of the sample.
        sample: the sample; without a structure it gives nothing.
        directory: folder of the sample.
        n_frames: maximum number of frames.
    """
    if sample.structure is None:
        return {}
    found = {name: sample.structure}
    if n_frames:
        frames = independent_frames(directory, name)
        frames.pop(sample.n_steps, None)  # that is the sample itself
        found |= {f"{name}{FRAME}{step}": frame for step, frame in spread(frames, n_frames).items()}
    return found
