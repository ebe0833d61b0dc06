"""Steps a second of many walkers on MACE: an ASE process for each, batches of surveyor, and torch-sim.

    python benchmarks/walkers.py [--system bulk] [--walkers 16 64] [--device cuda] [--torch-sim PYTHON] [--keep FOLDER]

`molecule` is ethanol (9 atoms), `bulk` a cell of 64 copper atoms. All walk by Langevin dynamics with 0.5 fs. The
network has surveyor's default architecture and is trained for one epoch, as its speed does not depend on its weights.
On a processor, as many processes as there are cores work side by side, with one thread each: `ase` has MACE's own
calculator and takes its walkers in turn, `surveyor` has its share of the walkers in lockstep, as on the local pool.
torch-sim and `surveyor, one process` have one process with all threads. On a GPU each has one process. Observables, the
stress among them, are recorded at every tenth step, as in a walk of 1,000 steps. What is timed comes in turn, after one
round that does not count. PYTHON is an interpreter (3.12 or later) with torch-sim (0.6 or later) and mace-torch.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

from ase import Atoms

ROUNDS = 3
TIMESTEP_FS = 0.5
TEMPERATURE_K = 300.0
MODEL = "mace.model"
RECORD_INTERVAL = 10  # steps


def structures(system: str, n: int) -> list[Atoms]:
    """Return structures off their equilibrium, all different."""
    from ase.build import bulk, molecule

    found = []
    for seed in range(n):
        atoms = molecule("CH3CH2OH") if system == "molecule" else bulk("Cu", cubic=True) * (2, 2, 4)
        atoms.rattle(0.02, seed=seed)
        found.append(atoms)
    return found


def train_network(folder: Path, system: str, device: str) -> None:
    """Save a network that was trained for one epoch to a folder."""
    from ase.calculators.emt import EMT

    from surveyor.dataset import Dataset, with_label
    from surveyor.labels import Label
    from surveyor.models.choice import ModelParameters, make_model
    from surveyor.potentials import predict

    labelled = []
    for atoms in structures(system, 6):
        found = predict(EMT(), atoms)
        labelled.append(with_label(atoms, None, Label(found.energy, found.forces, found.stress)))
    halves = Dataset(labelled[:3]), Dataset(labelled[3:])
    parameters = ModelParameters.model_validate({"mace": {"max_num_epochs": 1, "batch_size": 3, "device": device}})
    model = make_model(parameters).initialize(halves[0], atomic_energies=None, seed=0)
    with tempfile.TemporaryDirectory() as name:
        model.train(*halves, Path(name))[0].save(folder)


class Ase:
    """Walkers in turn, on MACE's own calculator."""

    def __init__(self, folder: Path, system: str, walkers: range, device: str) -> None:
        from ase import units
        from ase.md.langevin import Langevin
        from ase.md.velocitydistribution import thermalize_momenta
        from mace.calculators import MACECalculator

        calculator = MACECalculator(str(folder / MODEL), device=device, default_dtype="float64")
        self._dynamics = []
        for atoms in structures(system, walkers.stop)[walkers.start :]:
            atoms.calc = calculator
            thermalize_momenta(atoms, TEMPERATURE_K)
            friction = 1 / (100 * units.fs)
            options = {"temperature_K": TEMPERATURE_K, "friction": friction, "fixcm": False}
            self._dynamics.append(Langevin(atoms, TIMESTEP_FS * units.fs, **options))

    def run(self, n_steps: int) -> None:
        """Make steps."""
        for dynamics in self._dynamics:
            for _ in range(n_steps):
                dynamics.step()


class Surveyor:
    """Walkers in lockstep."""

    def __init__(self, folder: Path, system: str, walkers: range, device: str) -> None:
        import ase.io

        from surveyor.models.choice import load_model
        from surveyor.sampling.conditions import Walkers
        from surveyor.sampling.walkers import make_walkers

        self._potential = load_model(folder).deploy()
        self._folder = Path(tempfile.mkdtemp(prefix="surveyor-benchmark-"))
        start = self._folder / "start.extxyz"
        ase.io.write(start, structures(system, walkers.stop)[walkers.start :])
        # Guards watch, and stop nobody: the network knows nothing.
        guards = {"max_force_eV_per_A": 1e9, "max_temperature_factor": 1e9, "min_distance_A": 1e-3}
        self._options = {"start": start, "n_walkers": len(walkers), "min_distance_factor": 1e-3, **guards}
        self._make = lambda n_steps: make_walkers([Walkers(n_steps=n_steps, **self._options)], seed=0)
        self._n_runs = 0

    def run(self, n_steps: int) -> None:
        """Make steps."""
        from surveyor.sampling import observables
        from surveyor.sampling.batching import SamplePlan, propagate_together

        observables.N_RECORDS = -(-n_steps // RECORD_INTERVAL)  # rounded up; short walks record each step
        self._n_runs += 1
        plans = [SamplePlan(walker, (f"{walker.index}",)) for walker in self._make(n_steps)]
        propagate_together(plans, self._potential, directory=self._folder / str(self._n_runs))


class TorchSim:
    """Walkers in a batch of torch-sim."""

    def __init__(self, folder: Path, system: str, walkers: range, device: str) -> None:
        import torch
        import torch_sim as ts
        from mace.calculators.mace_torchsim import MaceTorchSimModel

        network = torch.load(folder / MODEL, map_location=device, weights_only=False)
        options = {"device": torch.device(device), "dtype": torch.float64, "compute_forces": True}
        self._model = MaceTorchSimModel(model=network, compute_stress=False, **options)
        self._ts, self._structures = ts, structures(system, walkers.stop)[walkers.start :]

    def run(self, n_steps: int) -> None:
        """Make steps."""
        self._ts.integrate(
            system=self._structures,
            model=self._model,
            integrator=self._ts.Integrator.nvt_langevin,
            n_steps=n_steps,
            temperature=TEMPERATURE_K,
            timestep=TIMESTEP_FS * 1e-3,  # ps
        )


KINDS: dict[str, type[Any]] = {"ase": Ase, "surveyor": Surveyor, "torch-sim": TorchSim}


def serve(options: argparse.Namespace) -> None:
    """Make steps whenever a line on standard input says how many, and answer with a line."""
    import torch

    torch.set_num_threads(options.threads)
    with contextlib.redirect_stdout(sys.stderr):
        work = KINDS[options.child](options.keep, options.system, range(*options.share), options.device)
    print("ready", flush=True)
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):
            work.run(int(line))
            if options.device == "cuda":
                torch.cuda.synchronize()
        print("done", flush=True)


class Contender:
    """Processes that make steps at the same time."""

    def __init__(self, kind: str, python: str, options: argparse.Namespace, n_walkers: int, n_processes: int) -> None:
        self.n_walkers = n_walkers
        threads = max(1, (os.cpu_count() or 1) // n_processes)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
        bounds = [n_walkers * number // n_processes for number in range(n_processes + 1)]
        command = [python, __file__, "--child", kind, "--keep", options.keep, "--system", options.system]
        command += ["--device", options.device, "--threads", str(threads), "--share"]
        self._processes = [
            subprocess.Popen(
                [*command, str(begin), str(end)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
            for begin, end in pairwise(bounds)
        ]
        self._hear("ready")

    def _hear(self, word: str) -> None:
        for process in self._processes:
            if process.stdout.readline().strip() != word:
                raise SystemExit(f"{process.args!r} has failed")

    def steps_per_second(self, n_steps: int) -> float:
        """Return the steps of all walkers a second."""
        begin = time.perf_counter()
        for process in self._processes:
            process.stdin.write(f"{n_steps}\n")
            process.stdin.flush()
        self._hear("done")
        return n_steps * self.n_walkers / (time.perf_counter() - begin)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.stdin.close()
            process.wait()


def compare(options: argparse.Namespace, n_walkers: int) -> None:
    """Print the figures for a number of walkers."""
    n_processes = 1 if options.device == "cuda" else min(n_walkers, os.cpu_count() or 1)
    wanted = {"ase": ("ase", sys.executable, n_processes), "surveyor": ("surveyor", sys.executable, n_processes)}
    if n_processes > 1:
        wanted["surveyor, one process"] = ("surveyor", sys.executable, 1)
    if options.torch_sim:
        wanted["torch-sim"] = ("torch-sim", options.torch_sim, 1)
    contenders = {name: Contender(kind, python, options, n_walkers, n) for name, (kind, python, n) in wanted.items()}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(1 + ROUNDS):
        for name, contender in contenders.items():
            rate = contender.steps_per_second(options.ase_steps if name == "ase" else options.steps)
            if number:
                rates[name].append(rate)
    for contender in contenders.values():
        contender.close()
    for name, found in rates.items():
        ratios = [rate / base for rate, base in zip(found, rates["ase"], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{n_walkers:>4} walkers  {name:<22}{statistics.median(found):>9.1f} steps/s  ", end="")
        print(f"{statistics.median(ratios):>6.2f} of ase ({spread})", flush=True)


def profile(options: argparse.Namespace, n_walkers: int) -> None:
    """Print where the time of a step goes in one process."""
    import torch

    from surveyor.models import mace_steps

    spent = {"neighbours": 0.0, "graphs": 0.0, "network": 0.0}

    def timed(function, name):
        def call(*args, **kwargs):
            begin = time.perf_counter()
            found = function(*args, **kwargs)
            if options.device == "cuda":
                torch.cuda.synchronize()
            spent[name] += time.perf_counter() - begin
            return found

        return call

    work = Surveyor(options.keep, options.system, range(n_walkers), options.device)
    work.run(2)
    for owner, name, part in (
        (mace_steps, "neighbour_list", "neighbours"),
        (mace_steps.MACEEvaluator, "graph_of", "graphs"),
        (mace_steps.PairGraph, "at", "graphs"),
        (mace_steps, "forward", "network"),
    ):
        setattr(owner, name, timed(getattr(owner, name), part))
    begin = time.perf_counter()
    work.run(options.steps)
    whole = time.perf_counter() - begin
    spent["graphs"] -= spent["neighbours"]
    spent["all else (ASE, guards, switching)"] = whole - sum(spent.values())
    print(f"a step of {n_walkers} walkers in one process: {1e3 * whole / options.steps:.1f} ms")
    for name, seconds in spent.items():
        print(f"    {name:<36}{1e3 * seconds / options.steps:>8.2f} ms {seconds / whole:>6.1%}")


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--system", choices=["molecule", "bulk"], default="molecule")
    parser.add_argument("--walkers", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--ase-steps", type=int, help="fewer steps for ASE alone, which takes long")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--torch-sim", metavar="PYTHON", help="interpreter with torch-sim >= 0.6 and mace-torch")
    parser.add_argument("--keep", type=Path, help="folder of the network; it is trained if there is none")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--share", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.ase_steps = options.ase_steps or options.steps
    if options.child:
        serve(options)
        return
    with tempfile.TemporaryDirectory() as name:
        options.keep = options.keep or Path(name) / "model"
        if not options.keep.exists():
            train_network(options.keep, options.system, options.device)
        print(f"{options.system} on {options.device}, {os.cpu_count()} cores, median of {ROUNDS} rounds")
        for n_walkers in options.walkers:
            compare(options, n_walkers)
        for n_walkers in options.walkers:
            profile(options, n_walkers)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
