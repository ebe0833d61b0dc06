"""Online learning with a for statement and a pool of processes: no Prefect, no server. Starts from start.extxyz."""

from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

import surveyor as sv


def learn(directory: Path, pool: Executor, learning: sv.Learning) -> None:
    """Learn a potential: from perturbed starts, then from structures that walkers find with the current model."""
    group = sv.Walkers(start=directory / "start.extxyz", n_walkers=6, temperature_K=600, timestep_fs=4, n_steps=100)
    walkers = sv.make_walkers([group], learning.seed)
    label = sv.Labeller.in_folder(directory, sv.EMTReference())
    starts = sv.perturbed_starts(walkers, sv.Bootstrap(n_structures=6), learning.seed)
    data = sv.decide_membership(sv.Dataset(pool.map(label, starts)), {}, sv.DataSets(), learning)
    model = train(data, directory / "training-0")
    for generation in range(1, learning.n_generations + 1):
        potential = model.deploy()
        samples = sv.explore(pool, walkers, potential, label, directory / f"samples-{generation}")
        structures = sv.new_structures(samples, data.keys())
        labelled = structures.labelled()
        predictions = potential.evaluate(labelled)  # before the model is trained on them
        errors = sv.structure_errors(labelled, predictions)
        print(f"generation {generation}: {sv.errors_of(labelled, predictions).forces_rmse:.3f} eV/Å")  # noqa: T201
        data += sv.decide_membership(structures, errors, data, learning)
        walkers = sv.move_on(walkers, samples, errors, learning)
        model = train(data, directory / f"training-{generation}")


def train(data: sv.DataSets, directory: Path) -> sv.Model:
    """Return a model trained on all labels so far."""
    model = sv.PairModel(sv.PairParameters()).initialize(data.train, atomic_energies=None, seed=0)
    return model.train(data.train, data.valid, directory)[0]


if __name__ == "__main__":
    with ProcessPoolExecutor(2) as processes:
        learn(Path(), processes, sv.Learning(n_generations=4, discard_energy_meV_per_atom=100))
