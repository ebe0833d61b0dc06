"""How many structures a second a potential evaluates, and the engine's own ASE calculator in a loop.

    python benchmarks/evaluate.py [--engine nequip] [--structures 500] [--device cuda] [--precision float32]

The structures are ethanol molecules (9 atoms) off their equilibrium. The network has surveyor's default architecture,
and is trained for one epoch, as its speed does not depend on its weights; `--keep FOLDER` keeps it for `--network
FOLDER`. All ways are timed in turn, after one round that does not count. On a GPU, the loop takes 40 times as long;
`--in-loop N` times it on the first N structures alone. For NequIP, both are timed with the network as it is and
compiled; what NequIP compiles for its calculator stays beside the network.
"""

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT

from surveyor.dataset import Dataset, with_label
from surveyor.labels import Label
from surveyor.models.choice import ModelParameters, load_model, make_model
from surveyor.models.nequip import NequIPPotential
from surveyor.models.nequip_trainer import compiling
from surveyor.potentials import Potential, Prediction, predict

ROUNDS = 3
N_TRAIN = 20
AMPLITUDE_A = 0.1


def molecules(n: int) -> list[Atoms]:
    """Return molecules of 9 atoms, all different."""
    frames = [molecule("CH3CH2OH") for _ in range(n)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(AMPLITUDE_A, seed=seed)
    return frames


def train_network(folder: Path, parameters: ModelParameters) -> None:
    """Save a network that was trained for one epoch to a folder."""
    labelled = []
    for atoms in molecules(N_TRAIN):
        prediction = predict(EMT(), atoms)
        labelled.append(with_label(atoms, None, Label(prediction.energy, prediction.forces)))
    half = Dataset(labelled[: N_TRAIN // 2]), Dataset(labelled[N_TRAIN // 2 :])
    model = make_model(parameters).initialize(half[0], atomic_energies=None, seed=0)
    with tempfile.TemporaryDirectory() as name:
        trained, _ = model.train(*half, Path(name))
        trained.save(folder)


def calculators(network: Path, engine: str, device: str, precision: str) -> Mapping[str, Calculator]:
    """Return the calculators of the engine, as a user would make them of its files."""
    if engine == "mace":
        from mace.calculators import MACECalculator

        return {"loop": MACECalculator(str(network), device=device, default_dtype=precision)}
    from nequip.integrations.ase import NequIPCalculator

    symbols = {"chemical_species_to_atom_type_map": True, "device": device}
    compiled = network.with_name(f"ase-{device}.nequip.pt2")
    if not compiled.is_file():
        subprocess.run(compiling(network, compiled, device, "ase"), check=True, capture_output=True)
    return {
        "loop": NequIPCalculator._from_saved_model(network, **symbols),
        "loop, compiled": NequIPCalculator.from_compiled_model(compiled, **symbols),
    }


def in_loop(calculator: Calculator, structures: list[Atoms]) -> list[Prediction]:
    """Return the predictions of a calculator."""
    return [predict(calculator, atoms) for atoms in structures]


def ways_of(
    potential: Potential, loops: Mapping[str, Calculator], structures: list[Atoms], n_in_loop: int
) -> Mapping[str, Callable[[], list[Prediction]]]:
    """Return the ways to evaluate structures; the first one is surveyor's."""
    ways = {"together": partial(potential.evaluate, structures)}
    if isinstance(potential, NequIPPotential):
        plain = replace(potential, is_compiled=False)
        ways["together, plain"] = partial(plain.evaluate, structures)
    return ways | {name: partial(in_loop, loop, structures[:n_in_loop]) for name, loop in loops.items()}


def measure(ways: Mapping[str, Callable[[], list[Prediction]]]) -> None:
    """Print structures per second in all ways, and how far the results differ from those of the first one."""
    times: dict[str, list[float]] = {name: [] for name in ways}  # s for each structure
    for number in range(1 + ROUNDS):
        results = {}
        for name, evaluate in ways.items():
            begin = time.perf_counter()
            results[name] = evaluate()
            if number:
                times[name].append((time.perf_counter() - begin) / len(results[name]))
    for name, seconds in times.items():
        print(f"{name:<16}{1 / statistics.median(seconds):>10.0f} structures/s")
    for name in [*ways][1:]:
        ratios = [other / together for together, other in zip(times["together"], times[name], strict=True)]
        spread = f"{min(ratios):.1f} to {max(ratios):.1f}"
        print(f"together against {name}, median of {ROUNDS}: {statistics.median(ratios):.1f} ({spread})")
        pairs = list(zip(results["together"], results[name], strict=False))
        energy = max(abs(one.energy - other.energy) for one, other in pairs)
        force = max(float(np.abs(one.forces - other.forces).max()) for one, other in pairs)
        print(f"largest differences: {1e3 * energy:.1e} meV, {1e3 * force:.1e} meV/Å")


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engine", choices=["mace", "nequip"], default="mace")
    parser.add_argument("--structures", type=int, default=500)
    parser.add_argument("--in-loop", type=int, metavar="N", help="structures of the loop; by default all")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float64", "float32"], default="float64")
    parser.add_argument("--network", type=Path, help="folder of a saved model; by default one is trained")
    parser.add_argument("--keep", type=Path, help="folder in which the model is kept that was trained")
    options = parser.parse_args()
    settings = {"max_num_epochs": 1, "device": options.device, "precision": options.precision}
    with tempfile.TemporaryDirectory() as name:
        folder = options.network or options.keep or Path(name) / "model"
        if options.network is None:
            train_network(folder, ModelParameters.model_validate({options.engine: settings}))
        model = load_model(folder)
        print(f"{options.engine} on {options.device} in {options.precision}, {options.structures} molecules of 9 atoms")
        loops = calculators(model.weights, options.engine, options.device, options.precision)
        n_in_loop = options.in_loop or options.structures
        measure(ways_of(model.deploy(), loops, molecules(options.structures), n_in_loop))


if __name__ == "__main__":
    main()
