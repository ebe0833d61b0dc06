"""Cost of a training of MACE, beside MACE's own program (`mace_run_train`) on the same data with the same options.

    python benchmarks/training.py [--structures 72] [--epochs 1] [--rounds 3] [--device cuda] [--channels 64 --max-L 1]

The structures are ethanol molecules (9 atoms) off their equilibrium. With one epoch, most of the time is what a
training costs beyond its epochs: imports, the making of the network, reading, saving. Times are those of the processor,
over all processes that take part, and of the clock. A training of surveyor is the first one of its worker, or a later
one, which on a CPU finds MACE imported. With several epochs, the time of one epoch is shown, too: that of the clock
from its end to the end of the next one, as MACE logs them, with validation, checkpoint and saved state. The order is
reversed from round to round; the first round is a warm-up.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from itertools import pairwise
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
from surveyor.models.trainer import LOG, TRAIN_FILE, VALID_FILE
from surveyor.potentials import predict

AMPLITUDE_A = 0.1
N_VALID = 8
MACE, FIRST, LATER = "mace_run_train", "surveyor, first", "surveyor, later"

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
    kept = [psutil.Process(each.process.pid) for each in preloaded._kept]
    while any(each.children() for each in kept):  # one that has ended counts when its parent has noticed
        time.sleep(0.05)
    times = [each.cpu_times() for each in kept]
    return sum(sum(each[:4]) for each in (os.times(), *times))  # both begin with: user, system, and these of children


def timed(act: Callable[[], object]) -> Times:
    """Return how long something takes."""
    processor, begin = processor_s(), time.monotonic()
    act()
    clock = time.monotonic() - begin
    return processor_s() - processor, clock


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
    with (folder / LOG).open("wb") as log:
        subprocess.run(command, check=True, cwd=folder, stdout=log, stderr=subprocess.STDOUT)


def epochs_s(folder: Path) -> list[float]:
    """Return the seconds from the end of each epoch to the end of the next one, as the log of MACE has them."""
    ends = re.findall(r"^(\S+ \S+) INFO: Epoch \d+:", (folder / LOG).read_text(), re.MULTILINE)
    return [(end - begin).total_seconds() for begin, end in pairwise(map(datetime.fromisoformat, ends))]


def one_round(model: MACEModel, sets: tuple[Dataset, Dataset], options: Path | None, folder: Path) -> dict[str, Times]:
    """Return the times of the contenders, that of MACE first if there are options that a training has left."""
    forget()
    trainings: dict[str, Callable[[], object]] = {
        name: partial(model.train, *sets, folder / name) for name in (FIRST, LATER)
    }
    by_program: dict[str, Callable[[], object]] = {MACE: partial(by_mace, options or folder / FIRST, folder / MACE)}
    in_turn = {**trainings, **by_program} if options is None else {**by_program, **trainings}
    return {name: timed(act) for name, act in in_turn.items()}


def report(rounds: list[dict[str, Times]], folders: list[Path]) -> None:
    """Print medians over the rounds."""
    reference = statistics.median(each[MACE][0] for each in rounds)
    for name in (MACE, FIRST, LATER):
        processor, clock = (statistics.median(each) for each in zip(*(each[name] for each in rounds), strict=True))
        print(f"{name:16} {processor:6.2f} s of CPU ({processor / reference:4.2f}) {clock:6.2f} s of the clock")
    epochs = {name: [s for folder in folders for s in epochs_s(folder / name)] for name in (MACE, FIRST, LATER)}
    if len(epochs[MACE]) < 2:
        return
    reference = statistics.median(epochs[MACE])
    for name, each in epochs.items():
        low, middle, high = statistics.quantiles(each)
        spread = f"half of {len(each)} between {low:.3f} and {high:.3f}"
        print(f"one epoch, {name:16} {middle:6.3f} s of the clock ({middle / reference:5.3f}), {spread}")


def main() -> None:
    """Time the contenders in turn, and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=int, default=72)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--max-L", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    parameters = MACEParameters(
        num_channels=arguments.channels,
        max_L=arguments.max_L,
        max_num_epochs=arguments.epochs,
        device=arguments.device,
    )
    data = labelled(arguments.structures + N_VALID)
    train, valid = data[N_VALID:], data[:N_VALID]
    model = MACEModel(parameters).initialize(train, atomic_energies=None, seed=0)
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / str(number) for number in range(arguments.rounds + 1)]
        for number, folder in enumerate(folders):
            folder.mkdir()
            options = folders[0] / FIRST if number % 2 else None
            rounds.append(one_round(model, (train, valid), options, folder))
        forget()
        print(f"{arguments.structures} structures, {arguments.epochs} epoch(s), medians of {arguments.rounds} rounds")
        report(rounds[1:], folders[1:])


if __name__ == "__main__":
    main()
