"""What a label costs in a labelling of thousands of structures, at its beginning and at its end, and in what memory.

Run by hand, with the default of 2,000 structures, or with others:

    python benchmarks/labelling.py [--structures 10000] [--chunk-size N]

It runs with a temporary Prefect server, whose database is empty. The reference computes nothing, or sleeps. Beside the
labelling stand, in the same run, a plain loop over the reference, and one that puts each label into a store. A label's
time is taken from when it was reported; the first and the last thousand are compared (or quarters of fewer).
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import ase.io
import psutil
from ase import Atoms
from overhead import Nothing, server, structures
from prefect import flow

from surveyor.events.kinds import Labelled
from surveyor.events.log import of_kind
from surveyor.flows.label_dataset import label_everything
from surveyor.flows.opening import relayed
from surveyor.labels import LabelStore, label_key
from surveyor.reference.labelling import Labeller, label_structure
from surveyor.works.labelling import LABELLING, Labelling, LabellingParameters
from surveyor.works.summary import read_summary

LOCKED = "database is locked"
MB = 1e6
SAMPLE_S = 1.0
GROWTH = 1.5  # so much longer may a label of the last thousand take than one of the first


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description="Time and memory of a labelling with a reference that does nothing")
    parser.add_argument("--structures", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=0.0, help="how long each label takes")
    parser.add_argument("--chunk-size", type=int, help="structures in a task; by default as the flow chooses")
    parser.add_argument("--configured-server", action="store_true", help="use the Prefect server that is configured")
    options = parser.parse_args()
    if options.configured_server:
        measure(options)
    else:
        measure_with_temporary_server()


def measure_with_temporary_server() -> None:
    """Run this again with a server of its own, and count how often its database was locked."""
    with tempfile.TemporaryDirectory() as home, (Path(home) / "stderr").open("w+") as log:
        with server(home) as environment:
            command = [sys.executable, *sys.argv, "--configured-server"]
            status = subprocess.run(command, env=environment, stderr=log, check=False).returncode
        log.seek(0)
        said = log.read()
        if status != 0:
            sys.exit(said)
        print(f"answers of the server that its database is locked: {said.count(LOCKED)}")


def measure(options: argparse.Namespace) -> None:
    """Time the same labels three ways."""
    frames, reference = structures(options.structures), Nothing(options.seconds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = time_plain_loop(frames, reference, folder)
        stored = time_loop_with_store(frames, reference, folder / "loop")
        ase.io.write(folder / "frames.extxyz", frames)
        parameters = LabellingParameters(
            structures=folder / "frames.extxyz",
            output_directory=folder / "labelling",
            reference={"emt": {}},
            chunk_size=options.chunk_size,
        )
        with LABELLING.open(parameters) as opened:
            opened.pools.labelling.open()
            checked = replace(opened.checked, reference=reference)
            report(replace(opened, checked=checked), plain, stored)  # type: ignore[arg-type]  # which its type leaves open


def report(labelling: Labelling, plain_s: float, stored_s: float) -> None:
    """Run the labelling, and print what it took."""
    n = len(labelling.structures)
    with memory() as rss:
        begin = time.monotonic()
        run_labelling(labelling)
        seconds = time.monotonic() - begin
    summary = read_summary(labelling.directory)
    if summary["n_labelled"] != n:
        sys.exit(f"found {summary['n_labelled']} labels, expected {n}")
    times = sorted(each.time for each in of_kind(labelling.directory.events.read()[0], Labelled) if each.new)
    some = min(1000, n // 4)
    first, last = (times[some - 1] - times[0]) / (some - 1), (times[-1] - times[-some]) / (some - 1)
    print(f"{n} structures, {labelling.pools.labelling.size} workers; per label, in ms:")
    for name, value in (("plain loop", plain_s), ("loop with store", stored_s), ("labelling", seconds)):
        print(f"  {name:<18}{1e3 * value / n:>8.2f}")
    print(f"  first {some:<12}{1e3 * first:>8.2f}")
    print(f"  last {some:<13}{1e3 * last:>8.2f}   (ratio {last / first:.2f}, expected at most {GROWTH})")
    print(f"ratio of the labelling to the loop with store: {seconds / stored_s:.2f}")
    middle = rss[len(rss) // 2 :]
    print(f"memory of the flow: {rss[0]:.0f} MB at its begin, {rss[-1]:.0f} MB at its end, {max(rss):.0f} MB at most")
    print(f"growth in its second half: {max(middle) - statistics.median(middle[:3]):.0f} MB", flush=True)


def time_plain_loop(frames: Sequence[Atoms], reference: Nothing, folder: Path) -> float:
    """Return the seconds that the computations alone take."""
    begin = time.monotonic()
    for atoms in frames:
        reference.compute(atoms, folder)
    return time.monotonic() - begin


def time_loop_with_store(frames: Sequence[Atoms], reference: Nothing, folder: Path) -> float:
    """Return the seconds that they take when each label is kept, without pool and Prefect."""
    store, theory = LabelStore.in_folder(folder / "labels"), reference.resolve()
    begin = time.monotonic()
    for atoms in frames:
        label_key(atoms, theory)
        label_structure(atoms, Labeller(reference, theory, store, folder / "scratch"))
    return time.monotonic() - begin


@flow(name="labelling", validate_parameters=False)
def run_labelling(labelling: Labelling) -> Path:
    """Do what `label_dataset` does."""
    with relayed(labelling.directory, labelling.pools, passed_over=(Labelled,)):
        return label_everything(labelling)


@contextmanager
def memory() -> Iterator[list[float]]:
    """Collect the resident memory of this process in MB, again and again, as long as this lasts."""
    process, stop = psutil.Process(), threading.Event()
    found = [process.memory_info().rss / MB]

    def watch() -> None:
        for _ in itertools.takewhile(lambda _: not stop.wait(SAMPLE_S), itertools.count()):
            found.append(process.memory_info().rss / MB)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()
        found.append(process.memory_info().rss / MB)


if __name__ == "__main__":
    main()
