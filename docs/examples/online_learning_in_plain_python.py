"""Online learning of a copper cluster with a for statement and a pool of processes: no Prefect, no Dask, no server.

The reference is effective medium theory, the model a sum over pairs of atoms. It prints how far each generation's
model is off for structures that it has not seen:

    python docs/examples/online_learning_in_plain_python.py DIRECTORY
"""

import sys
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import ase.io
from ase.cluster import Icosahedron

from surveyor.dataset import DataSets, with_label
from surveyor.labels import LabelStore, label_key
from surveyor.learning import Bootstrap, Learning, decide_membership, perturbed_starts, structure_error
from surveyor.metrics import errors_of
from surveyor.models.pair import PairModel, PairParameters
from surveyor.outcomes import Outcome, move_on, new_structures
from surveyor.reference.ase import EMTReference
from surveyor.reference.labelling import label_structure
from surveyor.sampling.propagation import propagate
from surveyor.sampling.walkers import Walkers, make_walkers


def learn(directory: Path, pool: Executor) -> None:
    """Learn a potential: perturbed starts first, then what walkers find with the current model."""
    ase.io.write(directory / "start.extxyz", Icosahedron("Cu", 2))
    learning, bootstrap = Learning(n_generations=4, discard_energy_meV_per_atom=100), Bootstrap(n_structures=6)
    group = Walkers(start=directory / "start.extxyz", n_walkers=6, temperature_K=600, timestep_fs=4, n_steps=100)
    walkers, reference = make_walkers([group], learning.seed), EMTReference()
    theory, store = reference.resolve(), LabelStore.in_folder(directory / "labels")
    label = partial(label_structure, reference=reference, theory=theory, store=store, scratch=directory / "scratch")

    starts = perturbed_starts(walkers, bootstrap, learning.seed)
    labels = pool.map(label, starts)
    found = [with_label(atoms, label_key(atoms, theory), each) for atoms, each in zip(starts, labels, strict=True)]
    outcomes, data, errors, model = [Outcome("start", None, atoms) for atoms in found], DataSets(), {}, None
    for generation in range(learning.n_generations + 1):
        if model is not None:
            potential, folder = model.deploy(), directory / f"samples-{generation}"
            runs = [pool.submit(propagate, w, potential, directory=folder, name=str(w.index)) for w in walkers]
            samples = (run.result() for run in as_completed(runs))  # each is labelled as soon as its walker is there
            futures = [(s, pool.submit(label, s.structure)) for s in samples if s.structure is not None]
            keys = [label_key(s.structure, theory) for s, _ in futures]
            outcomes = [Outcome(k, s, with_label(s.structure, k, f.result())) for k, (s, f) in zip(keys, futures)]
            new = new_structures(outcomes, data.keys()).labelled()
            predictions = potential.evaluate(new)
            errors = {k: structure_error(*pair) for k, *pair in zip(new.keys(), new, predictions)}
            print(f"generation {generation}: {1e3 * errors_of(new, predictions).forces_rmse:.1f} meV/Å")
        data += decide_membership(new_structures(outcomes, data.keys()), errors, data, learning)
        walkers = move_on(walkers, outcomes, errors, learning)
        model = PairModel(PairParameters()).initialize(data.train, atomic_energies=None, seed=learning.seed)
        model, _ = model.train(data.train, data.valid, directory / f"training-{generation}")


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as processes:
        learn(Path(sys.argv[1]), processes)
