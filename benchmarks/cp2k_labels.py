"""What a warm start saves, and what a label costs beside CP2K itself, over frames of one walker.

Usage: python benchmarks/cp2k_labels.py [--frames 12] [--spacing-fs 50] [--input FILE] [--command COMMAND]

The frames are a water molecule in a periodic box, moved by Langevin dynamics at 300 K with GFN2-xTB (extra xtb). Each
is labelled in turn by the bare program, by surveyor, and by surveyor with warm starts; so all three have the same share
of a machine that does other work. The first frame, for which there is no earlier one, is left out of all figures.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

from surveyor.labels import Label, LabelFailure, LabelStore, LevelOfTheory
from surveyor.programs.program import run_program
from surveyor.reference.cp2k import CP2KReference
from surveyor.reference.cp2k_code import CP2KCode
from surveyor.reference.cp2k_input import read_input, write_input
from surveyor.reference.labelling import Labeller, label_structure

INPUT = Path(__file__).parent.parent / "deployments" / "cp2k" / "water-demo.inp"
EDGE_A, TEMPERATURE_K, TIMESTEP_FS, FRICTION_FS = 5.0, 300.0, 0.5, 100.0
ENERGY_BOUND_MEV, FORCES_BOUND_MEV_A = 0.1, 1.0  # per atom; largest component
OVERHEAD_BOUND, OVERHEAD_BOUND_S = 0.02, 0.05  # whichever is larger
THEORY = LevelOfTheory("benchmark", {})


@dataclass(frozen=True)
class Measured:
    """A frame, labelled in three ways.

    Attributes:
        bare_s: wall time of the bare program.
        cold_s: wall time of the label.
        warm_s: wall time of the label with warm starts.
        cold: the label.
        warm: the label with warm starts.
    """

    bare_s: float
    cold_s: float
    warm_s: float
    cold: Label
    warm: Label


def frames_of_a_walker(n_frames: int, spacing_fs: float) -> list[Atoms]:
    """Return frames of a molecule that moves, in a periodic box."""
    from tblite.ase import TBLite

    atoms = molecule("H2O")
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    generator = np.random.default_rng(1)
    thermalize_momenta(atoms, temperature_K=TEMPERATURE_K, rng=generator)
    dynamics = Langevin(
        atoms,
        TIMESTEP_FS * units.fs,
        temperature_K=TEMPERATURE_K,
        friction=1 / (FRICTION_FS * units.fs),
        fixcm=False,
        rng=generator,
    )
    frames = []
    for _ in range(n_frames):
        dynamics.run(round(spacing_fs / TIMESTEP_FS))
        frame = Atoms(atoms.symbols, atoms.positions + EDGE_A / 2, cell=[EDGE_A] * 3, pbc=True)
        frames.append(THEORY.with_electrons(frame))
    return frames


def time_of_the_bare_program(reference: CP2KReference, atoms: Atoms, folder: Path) -> float:
    """Return the wall time in seconds of CP2K with the input of a label."""
    folder.mkdir(parents=True)
    (folder / "input.inp").write_text(write_input(reference.input, atoms, keeps_wavefunction=True))
    begin = time.perf_counter()
    with (folder / "output.txt").open("wb") as output:
        subprocess.run(
            [*reference.code.words, "-i", "input.inp"],
            cwd=folder,
            env={**os.environ, **reference.code.variables},
            stdout=output,
            stderr=subprocess.STDOUT,
            check=True,
        )
    return time.perf_counter() - begin


def timed_label(reference: CP2KReference, atoms: Atoms, folder: Path) -> tuple[float, Label]:
    """Return the wall time in seconds of a label, as a worker computes it, and the label."""
    begin = time.perf_counter()
    label = label_structure(
        atoms, Labeller(reference, THEORY, LabelStore.in_folder(folder / "labels"), folder / "calculations")
    )
    wall_time_s = time.perf_counter() - begin
    if isinstance(label, LabelFailure):
        raise SystemExit(f"a label failed ({label.reason}): {label.message}")
    return wall_time_s, label


def measure(reference: CP2KReference, frames: Sequence[Atoms], folder: Path) -> list[Measured]:
    """Label each frame in three ways, in turns, and print a row for each."""
    warm_reference = CP2KReference(reference.input, reference.code, begins_warm=True)
    found = []
    print("| frame | bare (s) | cold (s) | warm (s) | SCF steps cold | warm |\n|---|---|---|---|---|---|", flush=True)
    for number, frame in enumerate(frames):
        bare_s = time_of_the_bare_program(reference, frame, folder / "bare" / f"{number}")
        cold_s, cold = timed_label(reference, frame, folder / "cold")
        warm_s, warm = timed_label(warm_reference, frame, folder / "warm")
        found.append(Measured(bare_s, cold_s, warm_s, cold, warm))
        steps = f"{cold.provenance['scf_steps']} | {warm.provenance['scf_steps']}"
        print(f"| {number} | {bare_s:.2f} | {cold_s:.2f} | {warm_s:.2f} | {steps} |", flush=True)
    return found[1:]


def report_warm_starts(found: Sequence[Measured]) -> None:
    """Print what warm starts save, and how far their labels are from those of cold ones."""
    n_warm = sum("began_from" in each.warm.provenance for each in found)
    print(f"\nWarm starts: {n_warm} of {len(found)} frames began from an earlier one.")
    for what, cold, warm in (
        ("SCF steps", *([getattr(each, how).provenance["scf_steps"] for each in found] for how in ("cold", "warm"))),
        ("wall time (s)", [each.cold_s for each in found], [each.warm_s for each in found]),
    ):
        medians = statistics.median(cold), statistics.median(warm)
        print(f"{what}: median {medians[0]:.2f} cold, {medians[1]:.2f} warm, ratio {medians[1] / medians[0]:.2f}")
    energy = max(1000 * abs(each.warm.energy - each.cold.energy) / len(each.cold.forces) for each in found)
    forces = max(1000 * np.abs(each.warm.forces - each.cold.forces).max() for each in found)
    is_good = energy <= ENERGY_BOUND_MEV and forces <= FORCES_BOUND_MEV_A
    print(
        f"Largest differences: {energy:.1e} meV/atom (bound {ENERGY_BOUND_MEV}), {forces:.1e} meV/Å (bound "
        f"{FORCES_BOUND_MEV_A}): {'within' if is_good else 'NOT within'} the bounds"
    )


def report_overhead(found: Sequence[Measured], scratch: Path) -> None:
    """Print what a label costs beside the program, and where that time goes."""
    bare_s = statistics.median(each.bare_s for each in found)
    paired_s = statistics.median(each.cold_s - each.bare_s for each in found)
    own_s = statistics.median(each.cold_s - each.cold.provenance["wall_time_s"] for each in found)
    launch_s = launcher_time(scratch)
    bound_s = max(OVERHEAD_BOUND_S, OVERHEAD_BOUND * bare_s)
    print(f"\nA label beside the bare program, median {bare_s:.2f} s:")
    print(f"label minus program, median of pairs: {1000 * paired_s:.0f} ms (as uncertain as the load of the machine)")
    print(
        f"by its parts: {1000 * own_s:.0f} ms before and after the program, {1000 * launch_s:.0f} ms to start it, "
        f"together {1000 * (own_s + launch_s):.0f} ms; bound {1000 * bound_s:.0f} ms"
    )


def launcher_time(folder: Path, n_times: int = 20) -> float:
    """Return how much longer, in seconds, a program takes as surveyor starts it: median of pairs with the bare one."""
    differences = []
    for _ in range(n_times):
        begin = time.perf_counter()
        subprocess.run(["true"], cwd=folder, check=True)
        bare_s = time.perf_counter() - begin
        begin = time.perf_counter()
        run_program(["true"], directory=folder, output=folder / "true.txt", timeout_s=60.0)
        differences.append(time.perf_counter() - begin - bare_s)
    return statistics.median(differences)


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--spacing-fs", type=float, default=50.0, help="time between two frames")
    parser.add_argument("--input", type=Path, default=INPUT, help="input of CP2K, with kinds H and O")
    parser.add_argument("--command", default="cp2k.psmp", help="starts CP2K")
    options = parser.parse_args()
    begin = time.perf_counter()
    reference = CP2KReference(read_input(options.input.read_text()), CP2KCode(command=options.command))
    frames = frames_of_a_walker(options.frames, options.spacing_fs)
    write_input(reference.input, frames[0])  # reads the description of CP2K's input, once in each process
    print(f"{options.frames} frames, {options.spacing_fs:g} fs apart; to begin: {time.perf_counter() - begin:.1f} s\n")
    with tempfile.TemporaryDirectory(prefix="surveyor-") as folder:
        found = measure(reference, frames, Path(folder))
        report_warm_starts(found)
        report_overhead(found, Path(folder))


if __name__ == "__main__":
    main()
