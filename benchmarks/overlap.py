"""Makespan of an overlapped campaign against its lower bound: the real flow, on real Dask pools.

Walkers, labels and trainings take times that are drawn beforehand, as on a cluster, but shorter by a factor: what
their small models compute is part of that time, and workers sleep for the rest of it. The evaluation of a new model
belongs to its training, and gives zeros. All else is real: Prefect tasks, pools, label store, journal, files.

    python benchmarks/overlap.py [--places 16 64] [--states 2] [--ahead 1 2] [--slow 0 0.01] [--generations 20]
        [--scale 20]

The time is that from the first decision of the survey to the last model. Bootstrap and conclusion (final evaluation,
last reports) are not part of it; the column `rest` holds the remaining time of the flow. The lower bound is the time
that no schedule of the same work can beat (`surveyor.testing.simulation.lower_bound`), and the ratio is time / bound.
`ideal` is the ratio of surveyor's schedule in a simulation with the same times, in which the flow itself takes no time:
the difference is what the flow, Prefect and the pools cost. The lag is the mean number of unlearned samples when a
sample begins, in units of a generation's samples.
"""

import argparse
import itertools
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase.build import bulk
from distributed import Client, LocalCluster
from overhead import server

from surveyor.flows.online_learning import online_learning
from surveyor.learning.entries import GenerationEnds, RunBegins
from surveyor.learning.journal import Journal, first_difference
from surveyor.potentials import Prediction
from surveyor.run_directory import RunDirectory
from surveyor.testing.simulation import Latencies, Simulation, lower_bound

# Medians in seconds, before they are divided, and widths of their lognormal distributions.
MEDIANS = {"sample": (30.0, 0.1), "label": (60.0, 0.6), "training": (60.0, 0.0)}
SLOWER = 10  # times, of labels that are slow


@dataclass(frozen=True)
class Pace:
    """Durations of the work of a worker.

    Attributes:
        log: file of the drawn times.
        scale: by which all times are divided.
        slow: fraction of the labels that are slow.
    """

    log: str
    scale: float
    slow: float

    def take(self, kind: str, name: str, work: Callable[[], Any]) -> Any:  # Any: what the work returns
        """Do work of a kind, sleep until its drawn time is over, and note that time."""
        begin = time.monotonic()
        median, width = MEDIANS[kind]
        chance = np.random.default_rng(int(sha256(name.encode()).hexdigest()[:8], 16))
        seconds = median * float(chance.lognormal(0, width)) / self.scale
        if kind == "label" and chance.random() < self.slow:
            seconds *= SLOWER
        with Path(self.log).open("a") as log:
            log.write(json.dumps([kind, name, seconds]) + "\n")
        result = work()
        time.sleep(max(0.0, begin + seconds - time.monotonic()))
        return result


def slow_down(pace: Pace) -> None:
    """Have what this worker does take its time."""
    from surveyor.models import pair, training
    from surveyor.reference import ase as reference
    from surveyor.reference import rehearsal
    from surveyor.sampling import batching

    def slower(function: Callable[..., Any], kind: str, name: Callable[..., str]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return pace.take(kind, name(*args), partial(function, *args, **kwargs))

        return call

    batching.propagate_together = slower(batching.propagate_together, "sample", lambda plans, _: plans[0].names[0])
    training.train_model = slower(training.train_model, "training", lambda _, train, __: str(train))
    vars(pair)["evaluate_one_by_one"] = lambda _, structures: [
        Prediction(0.0, np.zeros((len(atoms), 3)), np.zeros(6)) for atoms in structures
    ]
    vars(reference)["begin"] = slower(rehearsal.begin, "label", lambda _, atoms, __: rehearsal.structure_id(atoms))


@contextmanager
def pools(places: int, states: int, pace: Pace) -> Iterator[dict[str, str]]:
    """Run a scheduler for each stage, with a worker of many threads, and give their addresses.

    Like the schedulers of real clusters, they are not in the flow's process.
    """
    spawning = multiprocessing.get_context("spawn")
    here, there = spawning.Pipe()
    process = spawning.Process(target=hold_pools, args=(there, places, states, pace))
    process.start()
    try:
        yield here.recv()
    finally:
        here.send("end")
        process.join()


def hold_pools(connection: Connection, places: int, states: int, pace: Pace) -> None:
    """Run the clusters until told to end; send the addresses of their schedulers."""
    with ExitStack() as opened:
        addresses = {}
        for stage, n_threads in (("sampling", states), ("labelling", places), ("training", 1)):
            cluster = LocalCluster(n_workers=1, threads_per_worker=n_threads, dashboard_address="127.0.0.1:0")
            client = Client(opened.enter_context(cluster), set_as_default=False)
            opened.enter_context(client).run(slow_down, pace)
            addresses[stage] = cluster.scheduler_address
        connection.send(addresses)
        connection.recv()


@dataclass(frozen=True)
class Case:
    """A campaign to measure.

    Attributes:
        places: number of labels that are computed at the same time.
        states: samples of a generation.
        ahead: `labels_ahead`.
        slow: fraction of the labels that are slow.
        generations: number of generations after the bootstrap.
        scale: by which all times are divided.
    """

    places: int
    states: int
    ahead: int
    slow: float
    generations: int
    scale: float


def measure(case: Case) -> str:
    """Run a campaign, and return a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        pace = Pace(f"{folder}/times.jsonl", case.scale, case.slow)
        directory = RunDirectory(Path(folder) / "run")
        with pools(case.places, case.states, pace) as addresses:
            begin = time.monotonic()
            online_learning(**campaign(Path(folder), case, addresses), display=False)
            whole = time.monotonic() - begin
        seconds = seconds_of(directory)
        latencies = latencies_of(Path(pace.log), case.generations)
        bound = lower_bound(latencies, case.states, case.places, case.generations)
        ideal = ideal_seconds(latencies, case)
        lag = statistics.mean(lags_of(directory)) / case.states
    numbers = f"{seconds:>9.1f} {bound:>9.1f} {seconds / bound:>8.2f} {ideal / bound:>8.2f} {lag:>8.2f}"
    return f"{case.places:>6} {case.slow:>6.2f} {case.ahead / case.states:>6.2f} {numbers} {whole - seconds:>9.1f}"


def ideal_seconds(latencies: Latencies, case: Case) -> float:
    """Return the time of a campaign with the same times, of which the flow itself takes none."""
    rules = RunBegins(
        n_walkers=case.ahead, n_states=case.states, labels_ahead=case.ahead, n_generations=case.generations
    )
    # It may begin more at the end than the campaign has begun: those take as long as others.
    samples, labels = (
        [*each, *[statistics.median(each)] * case.ahead] for each in (latencies.samples, latencies.labels)
    )
    return Simulation(rules, replace(latencies, samples=samples, labels=labels), case.states, case.places).run().time


def campaign(folder: Path, case: Case, addresses: dict[str, str]) -> dict[str, Any]:
    """Return the parameters of a campaign on copper."""
    ase.io.write(folder / "copper.extxyz", bulk("Cu", cubic=True))
    loose = {"discard_energy_meV_per_atom": 1e6, "discard_forces_meV_per_A": 1e6}
    loose |= {"reset_energy_meV_per_atom": 1e6, "reset_forces_meV_per_A": 1e6, "min_difference_A": 0}
    walkers = {"start": folder / "copper.extxyz", "n_walkers": case.ahead, "n_steps": 2, "temperature_K": 600}
    return {
        "run_directory": folder / "run",
        "walkers": [walkers],
        "reference": {"emt": {"rehearsal": {}}},
        "model": {"pair": {"cutoff_A": 3.0, "n_basis": 4}},  # faster than the drawn times, with all labels, too
        "bootstrap": {"n_structures": 8},
        "learning": {
            "n_generations": case.generations,
            "n_states": case.states,
            "labels_ahead": case.ahead,
            **loose,
        },
        "pools": addresses,
    }


def seconds_of(directory: RunDirectory) -> float:
    """Return the time from the first sample to the last model; the journal must be consistent."""
    timed = Journal(directory.journal).timed()
    difference = first_difference([entry for _, entry in timed])
    if difference is not None:
        raise RuntimeError(str(difference))
    begin = min(moment for moment, entry in timed if isinstance(entry, RunBegins))
    return max(moment for moment, entry in timed if isinstance(entry, GenerationEnds)) - begin


def latencies_of(log: Path, n_generations: int) -> Latencies:
    """Return the times that were drawn, without those of the bootstrap."""
    times: dict[str, dict[str, float]] = {kind: {} for kind in MEDIANS}
    for line in log.read_text().splitlines():
        kind, name, seconds = json.loads(line)
        times[kind][name] = seconds
    n_samples = len(times["sample"])
    labels = list(times["label"].values())[-n_samples:]
    return Latencies(
        list(times["sample"].values()), labels, statistics.mean([*times["training"].values()][-n_generations:])
    )


def lags_of(directory: RunDirectory) -> list[int]:
    """Return the lag of each sample."""
    manifests = [directory.read_manifest(number) for number in range(1, directory.n_complete())]
    return [walker["lag"] for manifest in manifests for walker in manifest["details"]["walkers"]]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="Makespan of an overlapped campaign against its lower bound")
    parser.add_argument("--places", type=int, nargs="+", default=[16], help="labels computed at the same time")
    parser.add_argument("--states", type=float, default=2, help="samples of a generation, in units of --places")
    parser.add_argument("--ahead", type=float, nargs="+", default=[1, 2], help="labels_ahead, in units of --states")
    parser.add_argument("--generations", type=int, default=20)
    parser.add_argument("--scale", type=float, default=20, help="by which the times of a cluster are divided")
    parser.add_argument("--slow", type=float, nargs="+", default=[0.0], help="fractions of labels ten times slower")
    parser.add_argument("--configured-server", action="store_true", help="use the Prefect server that is configured")
    options = parser.parse_args()
    if not options.configured_server:
        with tempfile.TemporaryDirectory() as home, server(home) as environment, (Path(home) / "log").open("w+") as log:
            command = [sys.executable, *sys.argv, "--configured-server"]
            if subprocess.run(command, env=environment, stderr=log, check=False).returncode != 0:
                log.seek(0)
                sys.exit(log.read())
        return
    print(f"{options.generations} generations of {options.states:g} samples for each place")
    names = f"{'time (s)':>9} {'bound (s)':>9} {'ratio':>8} {'ideal':>8} {'lag':>8} {'rest (s)':>9}"
    print(f"{'places':>6} {'slow':>6} {'ahead':>6} {names}", flush=True)
    for places, slow, ahead in itertools.product(options.places, options.slow, options.ahead):
        states = round(options.states * places)
        case = Case(places, states, round(ahead * states), slow, options.generations, options.scale)
        print(measure(case), flush=True)


if __name__ == "__main__":
    from overlap import main as run  # as a module: what is defined here travels to workers by its name

    run()
