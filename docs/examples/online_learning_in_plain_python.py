"""Online learning of a copper cluster with a for statement and a pool of processes: no Prefect, no server.

Prints how far each model is off for structures that it has not seen; run it with the name of a folder.
"""

import sys
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import ase.io
from ase import Atoms
from ase.cluster import Icosahedron

from surveyor.dataset import Dataset, DataSets, with_label
from surveyor.labels import LabelStore, LevelOfTheory, label_key
from surveyor.learning import Bootstrap, Learning, decide_membership, perturbed_starts, structure_error
from surveyor.metrics import errors_of
from surveyor.models.pair import PairModel, PairParameters
from surveyor.outcomes import Outcome, move_on, new_structures
from surveyor.reference.ase import EMTReference
from surveyor.reference.labelling import Labeller, label_structure
from surveyor.sampling.conditions import Walkers
from surveyor.sampling.propagation import propagate
from surveyor.sampling.walkers import make_walkers


def label(atoms: Atoms | None, reference: EMTReference, theory: LevelOfTheory, directory: Path) -> Atoms | None:
    """Return what a walker brought with its label; runs in the pool."""
    if atoms is None:  # the walker brought nothing
        return None
    outcome = label_structure(atoms, Labeller(reference, theory, LabelStore.in_folder(directory / "labels"), directory))
    return with_label(atoms, label_key(atoms, theory), outcome)


def learn(directory: Path, pool: Executor, learning: Learning) -> None:
    """Learn a potential: from perturbed starts, then from what walkers find with the current model."""
    ase.io.write(directory / "start.extxyz", Icosahedron("Cu", 2))
    group = Walkers(start=directory / "start.extxyz", n_walkers=6, temperature_K=600, timestep_fs=4, n_steps=100)
    walkers, reference = make_walkers([group], learning.seed), EMTReference()
    label_it = partial(label, reference=reference, theory=reference.resolve(), directory=directory)

    starts = perturbed_starts(walkers, Bootstrap(n_structures=6), learning.seed)
    data = decide_membership(Dataset(pool.map(label_it, starts)), {}, DataSets(), learning)
    model = train(data, directory / "training-0")
    for generation in range(1, learning.n_generations + 1):
        potential, folder = model.deploy(), directory / f"samples-{generation}"
        runs = [pool.submit(propagate, w, potential, directory=folder, name=f"walker-{w.index}") for w in walkers]
        samples = (run.result() for run in as_completed(runs))  # a label begins as soon as its walker is there
        futures = [(sample, pool.submit(label_it, sample.structure)) for sample in samples]
        outcomes = [Outcome(str(sample.walker.index), sample, future.result()) for sample, future in futures]

        structures = new_structures(outcomes, data.keys())
        labelled = structures.labelled()
        predictions = potential.evaluate(labelled)  # before the model is trained on them
        pairs = zip(labelled.keys(), labelled, predictions, strict=True)
        errors = {key: structure_error(atoms, prediction) for key, atoms, prediction in pairs}
        print(f"generation {generation}: {errors_of(labelled, predictions).forces_rmse:.3f} eV/Å")  # noqa: T201

        data += decide_membership(structures, errors, data, learning)
        walkers = move_on(walkers, outcomes, errors, learning)
        model = train(data, directory / f"training-{generation}")


def train(data: DataSets, directory: Path) -> PairModel:
    """Return a model trained on all labels so far."""
    model = PairModel(PairParameters()).initialize(data.train, atomic_energies=None, seed=0)
    return model.train(data.train, data.valid, directory)[0]


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(2) as processes:
        learn(Path(sys.argv[1]), processes, Learning(n_generations=4, discard_energy_meV_per_atom=100))
