"""The steps of the loop in plain Python, beside what the example of the documentation shows."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ase.cluster import Icosahedron

import surveyor as sv


def test_a_walker_that_brings_nothing_has_an_outcome_without_structure(tmp_path: Path) -> None:
    Icosahedron("Cu", 2).write(tmp_path / "start.extxyz")
    calm = sv.Walkers(start=tmp_path / "start.extxyz", n_walkers=1, method="perturbation", amplitude_A=0.01)
    mad = calm.model_copy(update={"min_distance_A": 9.0})
    walkers = sv.make_walkers([calm, mad], 0)
    label = sv.Labeller.in_folder(tmp_path, sv.EMTReference())
    data = sv.Dataset(map(label, sv.perturbed_starts(walkers, sv.Bootstrap(n_structures=3), 0)))
    model = sv.PairModel(sv.PairParameters()).initialize(data, atomic_energies=None, seed=0)
    potential = model.train(data, sv.Dataset(), tmp_path / "training")[0].deploy()
    with ThreadPoolExecutor(2) as threads:
        samples = sv.explore(threads, walkers, potential, label, tmp_path / "samples")
    brought = {each.name: each.structure for each in samples}
    assert brought["walker-1"] is None
    assert brought["walker-0"] is not None
    structures = sv.new_structures(samples, data.keys())
    assert list(sv.structure_errors(structures, potential.evaluate(structures))) == list(structures.keys())
