"""Cost of a training of MACE, beside MACE's own program (`mace_run_train`) on the same data with the same options.

    python benchmarks/training.py [--structures 72] [--epochs 1] [--rounds 3]

The structures are ethanol molecules (9 atoms) off their equilibrium. With one epoch, most of the time is what a
training costs beyond its epochs: imports, the making of the network, reading, saving. Times are those of the processor,
over all processes that take part, and of the clock. The contenders run in turn; the first round is a warm-up. A
training of surveyor is the first one of its worker, or a later one, which finds MACE imported.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
from ase.build import molecule
from ase.calculators.emt import EMT

from surveyor.dataset import Dataset, with_label
from surveyor.labels import Label
from surveyor.models import preloaded
from surveyor.models.mace import MACEModel
from surveyor.models.mace_parameters import MACEParameters
from surveyor.models.mace_trainer import CONFIGURATION
from surveyor.models.trainer import TRAIN_FILE, VALID_FILE
from surveyor.potentials import predict

AMPLITUDE_A = 0.1
N_VALID = 8

Times = tuple[float, float]  # s: of the processor, of the clock


def labelled(n: int) -> Dataset:
    """Return molecules of 9 atoms, all different, labelled with EMT."""
    structures = []
    for seed in range(n):
        atoms = molecule("CH3CH2OH")
        atoms.rattle(AMPLITUDE_A, seed=seed)
        prediction = predict(EMT(), atoms)
        structures.append(with_label(atoms, None, Label(prediction.energy, prediction.forces)))
    return Dataset(structures)


def processor_s() -> float:
    """Return the processor time of this process, of its children that have ended, and of what is kept for trainings."""
    kept = [psutil.Process(each.process.pid).cpu_times() for each in preloaded._kept]
    return sum(sum(each[:4]) for each in (os.times(), *kept))  # both begin with: user, system, and these of children


def timed(act: Callable[[], object]) -> Times:
    """Return how long something takes."""
    processor, clock = processor_s(), time.monotonic()
    act()
    return processor_s() - processor, time.monotonic() - clock


def forget() -> None:
    """End what is kept for further trainings, as if the worker were new."""
    while preloaded._kept:
        preloaded._kept.pop().end()


def by_mace(options: Path, folder: Path) -> None:
    """Train with MACE's own program, on the data and with the options of a training of surveyor's."""
    folder.mkdir()
    for name in (TRAIN_FILE, VALID_FILE, CONFIGURATION):
        shutil.copyfile(options / name, folder / name)
    command = [sys.executable, "-m", "mace.cli.run_train", "--config", CONFIGURATION]
    with (folder / "log").open("wb") as log:
        subprocess.run(command, check=True, cwd=folder, stdout=log, stderr=subprocess.STDOUT)


def main() -> None:
    """Time the contenders in turn, and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=int, default=72)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    parameters = MACEParameters(num_channels=16, max_L=0, max_num_epochs=arguments.epochs, device="cpu")
    data = labelled(arguments.structures + N_VALID)
    train, valid = data[N_VALID:], data[:N_VALID]
    model = MACEModel(parameters).initialize(train, atomic_energies=None, seed=0)
    times: dict[str, list[Times]] = {"mace_run_train": [], "surveyor, first": [], "surveyor, later": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(arguments.rounds + 1):
            forget()
            places = [folder / f"{number}-{what}" for what in ("first", "later", "mace")]
            taken = [timed(partial(model.train, train, valid, place)) for place in places[:2]]
            taken.insert(0, timed(partial(by_mace, places[0], places[2])))
            for contender, each in zip(times, taken, strict=True):
                times[contender] += [each] if number else []
    forget()
    reference = statistics.median(processor for processor, _ in times["mace_run_train"])
    print(f"{arguments.structures} structures, {arguments.epochs} epoch(s), medians of {arguments.rounds} rounds")
    for contender, taken in times.items():
        processor, clock = (statistics.median(each) for each in zip(*taken, strict=True))
        print(f"{contender:16} {processor:6.2f} s of CPU ({processor / reference:4.2f}) {clock:6.2f} s of the clock")


if __name__ == "__main__":
    main()
