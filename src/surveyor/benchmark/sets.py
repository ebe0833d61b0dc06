"""The structures of a benchmark: frames of walkers on the reference, structures of files, and their labels."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from surveyor.dataset import Dataset
from surveyor.errors import InputError
from surveyor.reading.identity import copies
from surveyor.sampling.frames import without_motion
from surveyor.sampling.propagation import SampleFiles
from surveyor.structures import canonical
from surveyor.words import number_of

SETS = "sets"  # folder
SET = "set"  # atoms.info: number of the set that a structure belongs to


def frames_of(samples: Path, names: Iterable[str], skip_steps: int) -> list[Atoms]:
    """Return the frames of trajectories, in the order of time.

    Args:
        samples: folder of the samples.
        names: names of the samples, one of each walker.
        skip_steps: number of steps at the beginning whose frames are left out.
    """
    frames = [(frame.info["step"], index, frame) for index, frame in enumerate(_frames(samples, names))]
    return [without_motion(frame) for step, _, frame in sorted(frames, key=lambda each: each[:2]) if step > skip_steps]


def _frames(samples: Path, names: Iterable[str]) -> Iterator[Atoms]:
    for name in names:
        path = SampleFiles(samples, name).trajectory
        if path.exists():  # not of a walker that guards stopped in all tries
            yield from ase.io.read(path, ":")


def thinned(structures: Sequence[Atoms], n: int | None) -> list[Atoms]:
    """Return at most a given number of structures, spread evenly; all by default."""
    if n is None or n >= len(structures):
        return [*structures]
    return [structures[index] for index in np.linspace(0, len(structures) - 1, n).round().astype(int)]


def marked(structures: Sequence[Atoms], number: int) -> list[Atoms]:
    """Return canonical copies that carry the number of their set."""
    copied = [canonical(atoms) for atoms in structures]
    for atoms in copied:
        atoms.info[SET] = number
    return copied


def divided(structures: Iterable[Atoms], n_sets: int) -> list[Dataset]:
    """Return the sets of marked structures, some of which may be empty."""
    by_set = {int(number): Dataset(group) for number, group in groupby(structures, key=lambda atoms: atoms.info[SET])}
    return [by_set.get(number, Dataset()) for number in range(n_sets)]


def check_sets(candidates: Sequence[Atoms], tests: dict[str, Dataset], n_labels: int) -> None:
    """Check that there are enough labelled candidates, and that none of them is in a test set.

    Args:
        candidates: labelled candidates.
        tests: labelled structures of the test sets, by name.
        n_labels: number of labels that each arm chooses.

    Raises:
        InputError: there are too few, or some are the same.
    """
    if len(candidates) < n_labels:
        raise InputError(
            f"candidates: found {number_of(len(candidates), 'labelled structure')}, expected at least the "
            f"{n_labels} that n_labels asks for; give more frames, or end n_labels earlier"
        )
    for name, test in tests.items():
        if not test:
            raise InputError(f"tests: {name} has no labelled structure; see the reasons in `labelling/failed.extxyz`")
        first = copies([*candidates, *test])
        n_shared = int(np.sum(first[len(candidates) :] < len(candidates)))
        if n_shared:
            raise InputError(
                f"tests: {number_of(n_shared, 'structure')} of {name} are also candidates; expected none, as models "
                "would be tested on what they have learned"
            )


def load_sets(folder: Path) -> tuple[Dataset, dict[str, Dataset]]:
    """Return the candidates, and the test sets by name, which `save_sets` wrote."""
    first, *others = sorted(folder.glob("*.extxyz"))
    return Dataset.load(first), {path.stem.partition("-")[2]: Dataset.load(path) for path in others}


def save_sets(folder: Path, candidates: Dataset, tests: dict[str, Dataset]) -> None:
    """Write the candidates and the test sets by name; the folder is complete or absent."""
    aside = folder.with_name(f".{folder.name}")
    for number, (name, structures) in enumerate([("candidates", candidates), *tests.items()]):
        structures.save(aside / f"{number:02d}-{name}.extxyz")
    aside.rename(folder)
