"""Small metallic structures labelled with EMT, from which potentials learn in seconds."""

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from surveyor.dataset import Dataset, with_label
from surveyor.labels import Label
from surveyor.structures import is_periodic


def labelled(atoms: Atoms, number: int) -> Atoms:
    copy = atoms.copy()
    copy.calc = EMT()
    stress = np.array(copy.get_stress()) if is_periodic(copy) else None
    return with_label(
        atoms,
        f"v1:{number:064x}",
        Label(float(copy.get_potential_energy()), np.array(copy.get_forces()), stress),
    )


def metals(n_structures: int, seed: int) -> Dataset:
    """Perturbed copper crystals, with and without gold, and clusters of both, labelled with EMT."""
    rng = np.random.default_rng(seed)
    crystal = bulk("Cu", cubic=True)
    alloy = crystal.copy()
    alloy.symbols[0] = "Au"
    cluster = Atoms("Cu2Au2", positions=2.5 * np.array([[0, 0, 0], [1, 0, 0], [0.5, 0.87, 0], [0.5, 0.29, 0.82]]))
    structures = []
    for number in range(n_structures):
        atoms = (crystal, alloy, cluster)[number % 3].copy()
        if is_periodic(atoms):
            strain = rng.uniform(-0.03, 0.03, (3, 3))
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        structures.append(labelled(atoms, number))
    return Dataset(structures)
