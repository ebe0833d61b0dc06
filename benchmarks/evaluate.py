"""How many structures a second a potential evaluates, and MACE's own ASE calculator in a loop.

    python benchmarks/evaluate.py [--structures 500] [--device cuda] [--precision float32] [--network FILE]

The structures are ethanol molecules (9 atoms) off their equilibrium. The network is a MACE of surveyor's default
architecture, trained for one epoch, as its speed does not depend on its weights; `--keep FILE` keeps it for
`--network`. Both ways are timed in turn, after one round that does not count.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from mace.calculators import MACECalculator

from surveyor.dataset import Dataset, with_label
from surveyor.labels import Label
from surveyor.models.mace import MACEModel, MACEPotential
from surveyor.models.mace_parameters import MACEParameters
from surveyor.potentials import predict

ROUNDS = 3
N_TRAIN = 20
AMPLITUDE_A = 0.1


def molecules(n: int) -> list[Atoms]:
    """Return molecules of 9 atoms, all different."""
    frames = [molecule("CH3CH2OH") for _ in range(n)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(AMPLITUDE_A, seed=seed)
    return frames


def train_network(folder: Path) -> Path:
    """Return the file of a network that was trained for one epoch."""
    labelled = []
    for atoms in molecules(N_TRAIN):
        prediction = predict(EMT(), atoms)
        labelled.append(with_label(atoms, None, Label(prediction.energy, prediction.forces)))
    half = Dataset(labelled[: N_TRAIN // 2]), Dataset(labelled[N_TRAIN // 2 :])
    model = MACEModel(MACEParameters(max_num_epochs=1, device="cpu")).initialize(half[0], atomic_energies=None, seed=0)
    folder.mkdir()
    trained, _ = model.train(*half, folder)
    return trained.deploy().path


def measure(potential: MACEPotential, structures: list[Atoms]) -> None:
    """Print structures per second both ways, and how far the results differ."""
    calculator = MACECalculator(str(potential.path), device=potential.device, default_dtype=potential.precision)
    times: dict[str, list[float]] = {"together": [], "loop": []}
    for number in range(1 + ROUNDS):
        begin = time.perf_counter()
        together = potential.evaluate(structures)
        middle = time.perf_counter()
        loop = [predict(calculator, atoms) for atoms in structures]
        end = time.perf_counter()
        if number:
            times["together"].append(middle - begin)
            times["loop"].append(end - middle)
    for name, seconds in times.items():
        print(f"{name:<10}{len(structures) / statistics.median(seconds):>10.0f} structures/s")
    ratios = [loop / together for together, loop in zip(times["together"], times["loop"], strict=True)]
    print(f"ratio, median of {ROUNDS}: {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
    pairs = list(zip(together, loop, strict=True))
    energy = max(abs(one.energy - other.energy) for one, other in pairs)
    force = max(float(np.abs(one.forces - other.forces).max()) for one, other in pairs)
    print(f"largest differences: {1e3 * energy:.1e} meV, {1e3 * force:.1e} meV/Å")


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--structures", type=int, default=500)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float64", "float32"], default="float64")
    parser.add_argument("--network", type=Path, help="native file of MACE; by default one is trained")
    parser.add_argument("--keep", type=Path, help="where the network is kept that was trained")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        network = options.network or train_network(Path(name) / "training")
        if options.keep is not None:
            shutil.copyfile(network, options.keep)
        print(f"MACE on {options.device} in {options.precision}, {options.structures} molecules of 9 atoms")
        measure(MACEPotential(network, options.device, options.precision), molecules(options.structures))


if __name__ == "__main__":
    main()
