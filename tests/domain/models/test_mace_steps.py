"""Walkers on MACE: neighbour lists that are kept from step to step, and what rests on them."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.cluster import Octahedron
from small_mace import save_small_mace

from surveyor.models import mace_steps, neighbours
from surveyor.models.batches import MemoryLimits
from surveyor.models.committee import CommitteePotential
from surveyor.models.mace import MACEPotential
from surveyor.models.mace_cells import neighbour_list
from surveyor.models.mace_steps import MACEEvaluator
from surveyor.potentials import Request, evaluator_of
from surveyor.sampling.batching import SamplePlan, propagate_together
from surveyor.sampling.conditions import Walkers
from surveyor.sampling.guards import check_distances
from surveyor.sampling.propagation import propagate
from surveyor.sampling.walkers import make_walkers

pytestmark = [
    pytest.mark.mace,
    pytest.mark.skipif(find_spec("mace") is None, reason='needs MACE: pip install "surveyor[mace]"'),
]


@pytest.fixture(scope="module")
def potential(workplace: Path) -> MACEPotential:
    return MACEPotential(save_small_mace(workplace / "mace.model"), "cpu")


def sheared(atoms: Atoms) -> Atoms:
    atoms.set_cell(atoms.cell.array @ [[1, 0.3, 0.1], [0, 1, 0.4], [0, 0, 1]], scale_atoms=True)
    return atoms


STARTS = {
    "cluster": Octahedron("Cu", 2),
    "triclinic": sheared(bulk("Cu", cubic=True)),
    "one atom and its images": bulk("Au"),
    "slab": Atoms("Au2", positions=[[0, 0, 0], [0, 2.5, 0]], cell=[5, 15, 4], pbc=[True, False, True]),
    "two that meet": Atoms("CuAu", positions=[[0, 0, 0], [0, 0, 4.01]]),  # just beyond cutoff and skin
}


def walk(start: Atoms, *, seed: int, strains: bool) -> Iterator[Atoms]:
    """Yield the structures of a random walk, whose cell may shrink and turn, and which is wrapped on the way."""
    rng = np.random.default_rng(seed)
    atoms = start.copy()
    for step in range(60):
        if strains and atoms.pbc.all():
            deformation = 0.996 * np.eye(3) + rng.normal(0, 0.004, (3, 3))
            atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
        atoms.positions += rng.normal(0, 0.02, atoms.positions.shape)
        if start is STARTS["two that meet"]:
            atoms.positions[:, 2] = start.positions[:, 2] + step * np.array([0.02, -0.02])
        if step == 40:
            atoms.wrap()
        yield atoms.copy()


def n_wrong(potential: MACEPotential, *, strains: bool) -> tuple[int, int]:
    """Return on how many steps of walkers a graph is not that of fresh lists, and how often a list was made."""
    evaluator = MACEEvaluator(potential.calculator(), MemoryLimits("cpu"))
    wrong, made = 0, {}
    walks = [walk(start, seed=seed, strains=strains) for seed, start in enumerate(STARTS.values())]
    for structures in zip(*walks, strict=True):
        requests = [Request(atoms, place) for place, atoms in enumerate(structures)]
        graph = evaluator.graph_of(requests)
        found, _ = graph.at(requests)
        made |= {id(each): each for each in graph.lists}
        begins = np.cumsum([0, *map(len, structures[:-1])])
        fresh = [neighbour_list(atoms, 3.5) for atoms in structures]
        edges = np.concatenate([each.edges + begin for each, begin in zip(fresh, begins, strict=True)], axis=1)
        shifts = [each.unit_shifts @ atoms.cell.array for each, atoms in zip(fresh, structures, strict=True)]
        wrong += not (
            np.array_equal(found["edge_index"].numpy(), edges)
            and np.allclose(found["shifts"].numpy(), np.concatenate(shifts), rtol=0, atol=1e-9)
        )
    return wrong, len(made)


@pytest.mark.parametrize("strains", [False, True])
def test_pairs_are_those_of_a_fresh_list_at_each_step(
    potential: MACEPotential, strains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong, n_made = n_wrong(potential, strains=strains)
    assert wrong == 0
    assert n_made < 0.3 * 60 * len(STARTS)
    # The walks are such that a weaker criterion is noticed: atoms that move too far, and strain that is not counted.
    if strains:
        deformed = neighbours._deformed
        monkeypatch.setattr(neighbours, "_deformed", lambda *args: (deformed(*args)[0], 1.0))
    else:
        hold = mace_steps.still_hold
        monkeypatch.setattr(mace_steps, "still_hold", lambda *args: hold(*args[:3], 1.3 * args[3]))
    assert n_wrong(potential, strains=strains)[0] > 0


def test_predictions_are_those_of_evaluation(potential: MACEPotential) -> None:
    evaluate = evaluator_of(CommitteePotential((potential, potential))).evaluate
    for step, structures in enumerate(zip(*(walk(s, seed=9, strains=True) for s in STARTS.values()), strict=True)):
        if step % 10:
            continue
        needs_stress = step % 20 == 0
        found = evaluate([Request(atoms, place, needs_stress) for place, atoms in enumerate(structures)])
        for one, other, atoms in zip(found, potential.evaluate(structures), structures, strict=True):
            assert one.energy == pytest.approx(other.energy, abs=1e-9)
            np.testing.assert_allclose(one.forces, other.forces, rtol=0, atol=1e-9)
            assert (one.stress is not None) == (needs_stress and atoms.pbc.all())
            if one.stress is not None:
                np.testing.assert_allclose(one.stress, other.stress, rtol=0, atol=1e-9)


def test_energies_in_single_precision_are_not_rounded_with_those_of_the_atoms(workplace: Path) -> None:
    path = save_small_mace(workplace / "all-electron.model", atomic_energies=(-45000.0, -518000.0))
    crystal = bulk("Cu", cubic=True) * (2, 2, 2)
    moved = [crystal.copy() for _ in range(6)]
    for number, atoms in enumerate(moved):
        atoms.rattle(0.01 * number, seed=number)
    double, single = (
        np.array([each.energy for each in MACEPotential(path, "cpu", precision).evaluate(moved)])
        for precision in ("float64", "float32")
    )
    assert np.ptp(double) > 1e-3
    assert np.diff(single) == pytest.approx(np.diff(double), abs=1e-4)  # a sum of 32 atoms has steps of 0.125 eV


RESTRAINT = {"variable": "distance", "atoms": [0, 1], "centre": 2.6, "force_constant": 1.0}


def walkers(structure: Atoms, folder: Path, **conditions: object):
    ase.io.write(folder / "start.traj", structure)
    given = {"n_walkers": 2, "n_steps": 101, "timestep_fs": 2, "min_distance_factor": 0.1, **conditions}
    return make_walkers([Walkers(start=folder / "start.traj", max_energy_drift_meV_per_atom=1e4, **given)], seed=4)


@pytest.mark.parametrize(
    ("method", "conditions"),
    [
        ("langevin", {"frame_interval": 7, "restraints": [RESTRAINT]}),
        ("npt_flexible", {"n_steps": 40}),
    ],
)
def test_walkers_go_where_they_go_alone(
    potential: MACEPotential, method: str, conditions: dict[str, object], tmp_path: Path
) -> None:
    started = walkers(bulk("Cu", cubic=True), tmp_path, method=method, **conditions)
    plans = [SamplePlan(walker, (str(walker.index),)) for walker in started]
    together = propagate_together(plans, potential, directory=tmp_path / "together")
    name, sample = together[0]
    alone = propagate(started[0], potential, directory=tmp_path / "alone", name=name)
    assert np.abs(sample.structure.positions - alone.structure.positions).max() < 1e-8
    assert np.abs(sample.structure.cell.array - alone.structure.cell.array).max() < 1e-8
    assert sample.observables.keys() == alone.observables.keys()
    for observable, values in sample.observables.items():
        np.testing.assert_allclose(values, alone.observables[observable], rtol=1e-6, atol=1e-6, err_msg=observable)


def test_the_guard_of_distances_finds_in_the_edges_what_it_finds_in_a_list_of_its_own(
    potential: MACEPotential, tmp_path: Path
) -> None:
    (walker, *_) = walkers(bulk("Cu", cubic=True), tmp_path)
    evaluate = evaluator_of(potential).evaluate
    rng = np.random.default_rng(3)
    outcomes = set()
    for _ in range(40):
        atoms = Atoms("Cu2Au", positions=rng.uniform(0, 3.2, (3, 3)), cell=[3.2] * 3, pbc=rng.random() < 0.5)
        (found,) = evaluate([Request(atoms, 0)])
        distances = {"min_distance_A": rng.uniform(0, 2), "min_distance_factor": rng.uniform(0, 0.8)}
        conditions = walker.conditions.model_copy(update=distances)
        expected = check_distances(atoms, conditions, step=1)
        assert check_distances(atoms, conditions, step=1, contact=found.contact) == expected
        outcomes.add(expected is None)
        far = conditions.model_copy(update={"min_distance_A": 4.0})  # beyond the cutoff of the network
        assert check_distances(atoms, far, step=1, contact=found.contact) is not None or len(atoms) == 1
    assert outcomes == {True, False}
