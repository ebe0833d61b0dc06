"""Propagation of one walker, for the sampling pool: idempotent, and resumable at any moment.

Walkers advance in segments. Each begins from plain arrays alone, with a calculator that has forgotten what it computed
before, so a propagation that was killed and continues from its last segment is the undisturbed one, bit for bit, even
with calculators whose neighbour lists or orbitals carry a history. PLUMED alone lives as long as a try, because it may
start slowly: its history, which is in the arrays too, is text with all digits of its numbers, from which another PLUMED
continues in the same way.
"""

import logging
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ase.calculators.calculator import Calculator

from surveyor.events.kinds import Rejected, Sampled, TryRejected
from surveyor.events.recording import announce
from surveyor.files import write_atomically
from surveyor.potentials import Potential
from surveyor.sampling.guards import check_distances, uncertainty_limit
from surveyor.sampling.observables import append_frames, files_of_bias, keep_last_good
from surveyor.sampling.perturbation import perturb
from surveyor.sampling.samples import Attempt, load_attempt, load_sample, save_attempt, save_sample
from surveyor.sampling.segments import LastingPlumed, run_segment
from surveyor.sampling.states import generator_of, state_of
from surveyor.sampling.walkers import Rejection, Sample, Walker, stops_in_words
from surveyor.words import number_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SampleFiles:
    """The files of one sample.

    Attributes:
        directory: of one generation, so of one potential.
        name: of the sample; unique in the directory.
    """

    directory: Path
    name: str

    @property
    def sample(self) -> Path:
        """The finished sample."""
        return self.directory / f"{self.name}.npz"

    @property
    def checkpoint(self) -> Path:
        """The try under way."""
        return self.directory / f"{self.name}.checkpoint.npz"

    @property
    def trajectory(self) -> Path:
        """Frames of the try that counted, in ASE's format."""
        return self.directory / f"{self.name}.traj"

    def plain(self, name: str) -> Path:
        """A text file of the bias, such as HILLS or COLVAR."""
        return self.directory / f"{self.name}.{name}"

    @property
    def rejected(self) -> Path:
        """The last good structure of each rejected try."""
        return self.directory / f"{self.name}.rejected.extxyz"


def propagate(
    walker: Walker,
    potential: Potential | None,
    *,
    directory: Path | str,
    name: str,
    n_tries: int = 5,
    checkpoint_steps: int = 100,
    calculator: Calculator | None = None,
) -> Sample:
    """Propagate a walker until it returns one structure, and write the sample before returning it.

    A walker that a guard stops is reset to its start with another seed and tries again; the last structure that passed
    the guards is saved. A walker that is stopped because the uncertainty is too large, or by its time limit, returns
    its current structure. A repeated call with the same directory and name returns a finished sample from its
    file, and continues an unfinished one from its last checkpoint. Constraints of the start apply while the walker
    moves; the structure of the sample has none.

    Args:
        walker: the walker, which continues from its state.
        potential: the potential; None for walkers that perturb.
        directory: folder of the sample and its checkpoint; it belongs to one generation, and so to one potential.
        name: name of the sample's file, unique in the directory.
        n_tries: maximum number of tries; after the last, the sample has no structure.
        checkpoint_steps: steps between two checkpoints.
        calculator: calculator of the potential, if it exists already.

    Returns:
        The sample, with the walker in its new state.

    Raises:
        ValueError: the files under this name belong to another walker or another state of it.
    """
    files, began = SampleFiles(Path(directory), name), time.monotonic()
    if files.sample.exists():
        sample = load_sample(files.sample, origin=walker)
        announce_sample(name, sample, "found on disk")
        return sample
    attempt = (
        load_attempt(files.checkpoint, origin=walker) if files.checkpoint.exists() else Attempt(Sample(walker, None))
    )
    if calculator is None and potential is not None and walker.conditions.method != "perturbation":
        calculator = potential.calculator()
    if walker.conditions.method != "perturbation":
        limit = uncertainty_limit(walker.conditions, potential)
        attempt = replace(attempt, sample=replace(attempt.sample, max_uncertainty_meV_per_A=limit))
    with LastingPlumed() as plumed:
        while attempt.sample.structure is None and len(attempt.sample.rejections) < n_tries:
            attempt = _advance(attempt, calculator, files, plumed, n_steps=checkpoint_steps, began=began)
            save_attempt(files.checkpoint, attempt, origin=walker)
    for file, text in files_of_bias(attempt.sample).items():
        write_atomically(files.plain(file), text)
    save_sample(files.sample, attempt.sample, origin=walker)
    files.checkpoint.unlink(missing_ok=True)
    announce_sample(name, attempt.sample, f"in {time.monotonic() - began:.1f} s")
    return attempt.sample


def announce_sample(name: str, sample: Sample, how: str) -> None:
    """Report the sample of a walker, or that it has none, and the guards that stopped it."""
    reasons = Counter(rejection.reason for rejection in sample.rejections)
    stop = None if sample.stop is None else sample.stop.reason
    details = {"name": name, "walker": sample.walker.index, "rejections": dict(reasons), "stop": stop}
    remarks = f"; stopped by guards: {stops_in_words(sample.rejections)}" if reasons else ""
    if sample.structure is None:
        announce(logger, Rejected(message=f"{name}: no sample {how}{remarks}", **details))
        return
    at = "" if sample.temperature_K is None else f" at {sample.temperature_K:.0f} K"
    if stop is not None:
        remarks += f"; ended early by its guard of {stop.replace('_', ' ')}"
    if sample.is_converged is False and stop is None:
        remarks += "; not converged"
    announce(logger, Sampled(message=f"{name}: {number_of(sample.n_steps, 'step')}{at} {how}{remarks}", **details))


def _advance(
    attempt: Attempt,
    calculator: Calculator | None,
    files: SampleFiles,
    plumed: LastingPlumed,
    *,
    n_steps: int,
    began: float,
) -> Attempt:
    """Return the try after some more steps, with a structure where it is finished; or the next try."""
    walker = attempt.sample.walker
    if walker.conditions.method == "perturbation":
        outcome = _perturbed(attempt.sample)
        return _next_try(attempt, outcome, files.name) if isinstance(outcome, Rejection) else Attempt(outcome)
    if calculator is None:
        raise ValueError(f"walker {walker.index} moves by {walker.conditions.method}, which needs a potential")
    segment = run_segment(attempt, calculator, n_steps=n_steps, began=began, plumed=plumed)
    if segment.rejection is None:
        append_frames(files.trajectory, segment.recorder.frames, n_before=attempt.n_frames)
        return segment.reached()
    plumed.end()
    if segment.last_good is not None:
        keep_last_good(files.rejected, segment.last_good, asdict(segment.rejection))
    return _next_try(attempt, segment.rejection, files.name)


def _next_try(attempt: Attempt, rejection: Rejection, name: str) -> Attempt:
    sample = attempt.sample
    n, walker = len(sample.rejections) + 1, sample.walker.index
    text = f"{name}: try {n} was stopped by a guard: {stops_in_words([rejection])}"
    announce(logger, TryRejected(message=text, name=name, walker=walker, reason=rejection.reason))
    return Attempt(
        Sample(
            sample.walker.reset(),
            None,
            rejections=(*sample.rejections, rejection),
            max_uncertainty_meV_per_A=sample.max_uncertainty_meV_per_A,
        )
    )


def _perturbed(sample: Sample) -> Sample | Rejection:
    walker, conditions = sample.walker, sample.walker.conditions
    generator = generator_of(walker.seed, walker.state)
    structure = perturb(
        walker.start,
        amplitude_A=conditions.amplitude_A,
        amplitude_strain=conditions.amplitude_strain,
        generator=generator,
    )
    rejection = check_distances(structure, conditions, step=0)
    if rejection is not None:
        return rejection
    return replace(sample, walker=replace(walker, state=state_of(structure, generator, n_steps=0)), structure=structure)
