"""An update of a MACE model after new labels: from its weights, and from scratch, with times and errors of both.

    python benchmarks/update.py [--systems ethanol copper-gold] [--seeds 3] [--device cuda --processes 3]

Four walkers move on a teacher: ethanol on GFN2-xTB, crystals of copper and gold with 8 atoms on EMT. Their frames are
labelled in the order of time. A model is trained on the first labels; the new labels are those of the last frames. Then
all labels are learned in several ways: from scratch with all epochs, and from the weights of that model with few epochs
and settings of their own. Errors are root mean squares on frames of other walkers. Each seed has its own walkers and
initial weights. Means over the seeds are geometric, with 95 % intervals; ratios are those of each seed to its training
from scratch. Times are those of whole trainings, from the call to the network: of the processor, over all processes,
and of the clock, which other programs on the machine slow down. On a CPU, the first training of a worker imports torch
and MACE, and later ones find them imported; two trainings of one epoch show how long a training takes beside its
epochs. `--keep FOLDER` keeps the trainings, and repeats none that is there.
"""

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from training import Times, forget, timed

from surveyor.benchmark.statistics import Mean, geometric_mean
from surveyor.dataset import Dataset, with_label
from surveyor.dataset.metrics import errors_of
from surveyor.labels import Label
from surveyor.models.mace import MACEModel
from surveyor.models.mace_parameters import MACEParameters
from surveyor.models.shared_fields import ContinuedTraining
from surveyor.potentials import predict
from surveyor.words import number_of

N_WALKERS = 4
N_TEST = 100
TEST_SEED = 1000  # added to that of the walkers
VALID_SHARE = 10  # one label of so many is for validation
STRAIN = 0.03
BEFORE, SCRATCH = "before the update", "from scratch"
FIRST, LATER = "one epoch, new worker", "one epoch"
BAR = "bar: at least 5 times faster, at most 1.05 times the error of forces"


@dataclass(frozen=True)
class Result:
    """Result of one training.

    Attributes:
        forces: root mean square error of forces, in meV/Å.
        energy: root mean square error of energies, in meV/atom.
        times: of the training.
    """

    forces: float
    energy: float
    times: Times


@dataclass(frozen=True)
class Chain:
    """Trainings of one seed.

    Attributes:
        results: by way.
        first: times of a training of one epoch in a new worker.
        later: times of the same training in a worker that has trained before.
    """

    results: dict[str, Result]
    first: Times
    later: Times

    def times_faster(self, way: str, n_epochs: int, kind: int) -> tuple[float, float, float]:
        """Return how many times faster a way is than a training from scratch.

        Args:
            way: its name.
            n_epochs: of the training from scratch.
            kind: 0 for times of the processor, 1 for those of the clock.

        Returns:
            For trainings in a worker that has trained before, for those in a new worker, and for the epochs alone.
        """
        scratch, update = (self.results[each].times[kind] for each in (SCRATCH, way))
        imports = self.first[kind] - self.later[kind]
        start = self.later[kind] - (scratch - self.later[kind]) / max(1, n_epochs - 1)
        return scratch / update, (scratch + imports) / (update + imports), (scratch - start) / (update - start)


@dataclass(frozen=True)
class Way:
    """Settings of an update, in place of those from scratch.

    Attributes:
        lr: learning rate at the beginning.
        last_lr: learning rate at the end, to which it falls exponentially; None for one that stays.
        with_old: whether the old labels are learned again with the new ones.
        ema: whether the result is the moving average of the weights.
    """

    lr: float
    last_lr: float | None = None
    with_old: bool = True
    ema: bool = True


WAYS = {
    "same-rate": Way(0.01),
    "lower-rate": Way(0.003),
    "lowest-rate": Way(0.001),
    "falling-rate": Way(0.01, last_lr=0.0003),
    "no-average": Way(0.003, ema=False),
    "new-labels": Way(0.003, with_old=False),
}


@dataclass(frozen=True)
class System:
    """Walkers on a teacher.

    Attributes:
        start: returns a new structure.
        teacher: returns a new calculator.
        temperature_K: of the walkers.
        timestep_fs: of the walkers.
        interval: steps between two frames.
    """

    start: Callable[[], Atoms]
    teacher: Callable[[], Calculator]
    temperature_K: float
    timestep_fs: float
    interval: int


def xtb() -> Calculator:
    """Return GFN2-xTB."""
    from tblite.ase import TBLite

    return TBLite(method="GFN2-xTB", verbosity=0)


def copper_gold() -> Atoms:
    """Return an ordered crystal of 8 atoms."""
    atoms = bulk("Cu", a=3.85, cubic=True) * (2, 1, 1)
    atoms.symbols[::2] = "Au"
    return atoms


SYSTEMS = {
    "ethanol": System(partial(molecule, "CH3CH2OH"), xtb, temperature_K=500, timestep_fs=0.5, interval=50),
    "copper-gold": System(copper_gold, EMT, temperature_K=800, timestep_fs=4, interval=20),
}


def labelled_frames(system: System, n: int, seed: int) -> Dataset:
    """Return labelled frames of walkers in the order of time."""
    walks = [_walk(system, -(-n // N_WALKERS), N_WALKERS * seed + number) for number in range(N_WALKERS)]
    return Dataset([frame for frames in zip(*walks, strict=True) for frame in frames][:n])


def _walk(system: System, n: int, seed: int) -> list[Atoms]:
    generator = np.random.default_rng(seed)
    atoms = system.start()
    if atoms.pbc.all():
        atoms.set_cell(atoms.cell @ (np.eye(3) + generator.uniform(-STRAIN, STRAIN, (3, 3))), scale_atoms=True)
    atoms.calc = system.teacher()
    MaxwellBoltzmannDistribution(atoms, temperature_K=system.temperature_K, rng=generator)
    friction = 0.02 / units.fs
    options = {"temperature_K": system.temperature_K, "friction": friction, "fixcm": False, "rng": generator}
    dynamics = Langevin(atoms, system.timestep_fs * units.fs, **options)
    frames = []
    for _ in range(n):
        dynamics.run(system.interval)
        found = predict(atoms.calc, atoms)
        frames.append(with_label(atoms.copy(), None, Label(found.energy, found.forces, found.stress)))
    return frames


def divided(labels: Dataset) -> tuple[Dataset, Dataset]:
    """Return the labels for training and for validation."""
    valid = range(VALID_SHARE - 1, len(labels), VALID_SHARE)
    train = Dataset(atoms for number, atoms in enumerate(labels) if number not in valid)
    return train, labels[valid.start :: VALID_SHARE]


def parameters_of(arguments: argparse.Namespace) -> MACEParameters:
    """Return the parameters of a training from scratch."""
    return MACEParameters(
        r_max_A=4.0,
        num_channels=arguments.channels,
        max_L=arguments.max_L,
        correlation=2,
        num_interactions=arguments.layers,
        max_num_epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        precision=arguments.precision,
        device=arguments.device,
        options={"max_ell": 2, "radial_MLP": "[16,16]"},
    )


def continued(parameters: MACEParameters, way: Way, n_epochs: int) -> MACEParameters:
    """Return the parameters of an update."""
    options = dict(parameters.options)
    if way.last_lr is not None:
        gamma = (way.last_lr / way.lr) ** (1 / max(1, n_epochs - 1))
        options |= {"scheduler": "ExponentialLR", "lr_scheduler_gamma": gamma}
    settings = ContinuedTraining(max_num_epochs=n_epochs, lr=way.lr)
    return parameters.model_copy(update={"continued": settings, "ema": way.ema, "options": options})


def trained(model: MACEModel, sets: tuple[Dataset, Dataset], folder: Path) -> tuple[MACEModel, Times]:
    """Return the trained model, and how long it took."""
    kept, found = folder / "times.json", []
    times = timed(lambda: found.append(model.train(*sets, folder)[0]))
    if not kept.exists():
        kept.write_text(json.dumps(times))
    processor, clock = json.loads(kept.read_text())
    return found[0], (processor, clock)


def chain(name: str, seed: int, arguments: argparse.Namespace, folder: Path) -> Chain:
    """Train on the first labels, learn all in each way, and return the results by way."""
    labels = labelled_frames(SYSTEMS[name], arguments.labels + arguments.new, seed)
    test = labelled_frames(SYSTEMS[name], arguments.test, TEST_SEED + seed)
    parameters, (first, new) = parameters_of(arguments), (labels[: arguments.labels], labels[arguments.labels :])

    def from_scratch(data: Dataset, way: str) -> tuple[MACEModel, Times]:
        model = MACEModel(parameters).initialize(divided(data)[0], atomic_energies=None, seed=seed)
        return trained(model, divided(data), folder / way)

    def update(way: Way, n_epochs: int, name: str) -> tuple[MACEModel, Times]:
        begin, settings = models[BEFORE][0], continued(parameters, way, n_epochs)
        model = MACEModel(settings, begin.atomic_energies, seed, begin.weights)
        train, valid = divided(labels)
        return trained(model, (train if way.with_old else divided(new)[0], valid), folder / name)

    models = {BEFORE: from_scratch(first, BEFORE), SCRATCH: from_scratch(labels, SCRATCH)}
    for way, n_epochs in product(arguments.ways, arguments.update_epochs):
        words = f"{way}, {number_of(n_epochs, 'epoch')}"
        models[words] = update(WAYS[way], n_epochs, words)
    results = {way: Result(*errors_in_milli(model, test), times) for way, (model, times) in models.items()}
    forget()
    first_times, later_times = (update(Way(0.003), 1, each)[1] for each in (FIRST, LATER))
    forget()
    return Chain(results, first_times, later_times)


def errors_in_milli(model: MACEModel, test: Dataset) -> tuple[float, float]:
    """Return the root mean square errors of forces in meV/Å and of energies in meV/atom."""
    errors = errors_of(test, replace(model.deploy(), precision="float64").evaluate(test))
    return 1e3 * errors.forces_rmse, 1e3 * errors.energy_rmse


def report(name: str, chains: list[Chain], arguments: argparse.Namespace) -> None:
    """Print the means of a system over its seeds."""
    print(f"| {name} | forces, meV/Å | ratio of forces | energy, meV/atom | ratio of energies |\n{'| -- ' * 5}|")
    for way in chains[0].results:
        pairs = [(each.results[way], each.results[SCRATCH]) for each in chains]
        columns = [
            [one.forces for one, _ in pairs],
            [one.forces / other.forces for one, other in pairs],
            [one.energy for one, _ in pairs],
            [one.energy / other.energy for one, other in pairs],
        ]
        print(f"| {way} | {' | '.join(in_words(geometric_mean(each)) for each in columns)} |")
    for kind, words in enumerate(("processor", "clock")):
        report_times(f"{name}, {words}", chains, kind, arguments.epochs)


def report_times(name: str, chains: list[Chain], kind: int, n_epochs: int) -> None:
    """Print the times of trainings, 0 for those of the processor, 1 for those of the clock."""
    print(f"\n| {name} | s | times faster | new worker | epochs alone |\n{'| -- ' * 5}|")
    for way in [each for each in chains[0].results if each != BEFORE]:
        ratios = [each.times_faster(way, n_epochs, kind) for each in chains]
        columns = [[each.results[way].times[kind] for each in chains], *map(list, zip(*ratios, strict=True))]
        print(f"| {way} | {' | '.join(in_words(geometric_mean(each)) for each in columns)} |")
    for way, times in ((FIRST, [each.first for each in chains]), (LATER, [each.later for each in chains])):
        print(f"| {way} | {in_words(geometric_mean([each[kind] for each in times]))} | | | |")
    print(flush=True)


def in_words(mean: Mean) -> str:
    """Return a mean with its interval."""
    return f"{mean.value:.3g}" + ("" if mean.low is None else f" ({mean.low:.3g} to {mean.high:.3g})")


def parsed() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=[*SYSTEMS], default=[*SYSTEMS])
    parser.add_argument("--ways", nargs="+", choices=[*WAYS], default=["lower-rate"])
    for option, default in {"labels": 100, "new": 20, "test": 100, "seeds": 3, "processes": 1}.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--epochs", type=int, default=200, help="from scratch")
    parser.add_argument("--update-epochs", type=int, nargs="+", default=[20])
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--max-L", type=int, default=0)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=5)
    parser.add_argument("--precision", choices=["float64", "float32"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--keep", type=Path, help="folder in which the trainings are kept")
    return parser.parse_args()


def main() -> None:
    """Run a chain of trainings for each system and seed, and print the means."""
    arguments = parsed()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(arguments.processes, context) as pool:
        folder = arguments.keep or Path(name)
        running = {
            system: [
                pool.submit(chain, system, seed, arguments, folder / f"{system}-{seed}")
                for seed in range(arguments.seeds)
            ]
            for system in arguments.systems
        }
        print(
            f"{arguments.labels} + {arguments.new} labels, {arguments.epochs} epochs from scratch and "
            f"fewer in an update; {BAR}"
        )
        for system, futures in running.items():
            report(system, [each.result() for each in futures], arguments)


if __name__ == "__main__":
    main()
