"""Labelled sets of a benchmark by a teacher for which surveyor has no reference: a potential with an ASE calculator.

    python benchmarks/labels/teacher.py benchmarks/labels/silicon-teacher.yaml

Run it in an environment of its own, in which surveyor and the teacher are installed (`sevenn==0.13.0` or
`chgnet==0.4.2`). The walkers of each set move on the teacher; their frames are written with its labels, one file for
each set. `surveyor benchmark-labels` takes these files without a reference. An interrupted run continues.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

from ase import Atoms
from ase.calculators.calculator import Calculator
from pydantic import Field

from surveyor.benchmark.benchmark import name_of_sample
from surveyor.benchmark.parameters import Structures
from surveyor.benchmark.sets import frames_of, thinned
from surveyor.dataset import Dataset, with_label
from surveyor.labels import Label
from surveyor.parameters.files import load_parameters
from surveyor.potentials import Prediction, evaluate_one_by_one
from surveyor.sampling.batching import SamplePlan, propagate_together
from surveyor.sampling.checks import checked_walkers
from surveyor.works.parameters import WorkParameters


class TeacherParameters(WorkParameters):
    """Structures that a teacher labels."""

    FOLDERS: ClassVar = ()

    teacher: Literal["sevennet", "chgnet", "emt"] = Field(title="Teacher", description="Potential that labels.")
    sets: dict[str, Structures] = Field(title="Sets", description="Walkers of each set, by the name of its file.")
    output_directory: Path = Field(title="Output directory", description="Folder of the files.")
    seed: int = Field(0, title="Seed", description="Seed of all random numbers.")


def sevennet() -> Calculator:
    """Return SevenNet-0 (Park et al., J. Chem. Theory Comput. 20 (2024) 4857), whose weights are in its wheel."""
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator("7net-0", device="auto")


def chgnet() -> Calculator:
    """Return CHGNet (Deng et al., Nat. Mach. Intell. 5 (2023) 1031), whose weights are in its wheel."""
    from chgnet.model.dynamics import CHGNetCalculator

    return CHGNetCalculator()


def emt() -> Calculator:
    """Return ASE's EMT, to try this program."""
    from ase.calculators.emt import EMT

    return EMT()


TEACHERS: dict[str, Callable[[], Calculator]] = {"sevennet": sevennet, "chgnet": chgnet, "emt": emt}


@dataclass(frozen=True)
class Teacher:
    """A teacher as a potential, by its name."""

    name: str

    def calculator(self) -> Calculator:
        """Return a new ASE calculator; the network is loaded once."""
        return _loaded(self.name)

    def evaluate(self, structures: Sequence[Atoms]) -> list[Prediction]:
        """Return a prediction for each structure."""
        return evaluate_one_by_one(self, structures)


@cache
def _loaded(name: str) -> Calculator:
    return TEACHERS[name]()


def label_set(parameters: TeacherParameters, name: str, seed: int) -> Path:
    """Sample and label a set, unless that is done; return its file."""
    teacher, asked = Teacher(parameters.teacher), parameters.sets[name]
    path, samples = parameters.folder / f"{name}.extxyz", parameters.folder / "samples" / name
    if path.exists():
        return path
    walkers, _ = checked_walkers(asked.walkers, seed)
    plans = [SamplePlan(walker, (name_of_sample(walker),)) for walker in walkers]
    propagate_together(plans, teacher, directory=samples)
    frames = thinned(frames_of(samples, map(name_of_sample, walkers), asked.skip_steps), asked.n_structures)
    labels = [Label(each.energy, each.forces, each.stress) for each in teacher.evaluate(frames)]
    Dataset(with_label(atoms, None, label) for atoms, label in zip(frames, labels, strict=True)).save(path)
    return path


def main() -> None:
    """Label all sets of a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parameters", type=Path, help="file with teacher, sets and output_directory (YAML)")
    file = parser.parse_args().parameters
    parameters = load_parameters(TeacherParameters, file, "parameter file", "teacher, sets and output_directory")
    for number, name in enumerate(parameters.sets):
        print(label_set(parameters, name, parameters.seed + number))


if __name__ == "__main__":
    main()
