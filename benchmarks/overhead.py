"""What a label costs beside its own computation: Prefect task, pool and store, against plain Dask tasks.

Run by hand, with the default of 200 and 1,000 labels, or with other numbers:

    python benchmarks/overhead.py [--labels 200 1000] [--seconds 0] [--in-flight N]

It runs with a temporary Prefect server, whose database is empty. What Prefect logs goes to a file that is shown when
the benchmark fails. The reference does nothing,
or sleeps, and notes when it began and ended. Per label stands the wall time of all divided by their number. The gap
is the time on one worker from the end of one computation to the beginning of the next.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from ase import Atoms
from distributed import Client, LocalCluster
from prefect import flow

from surveyor.flows.server import answers, server_environment
from surveyor.flows.task_queue import LEAST_AT_ONCE, TaskQueue
from surveyor.labels import Label, LabelStore, LevelOfTheory
from surveyor.pools.local import local_pool
from surveyor.pools.pool import Pool
from surveyor.reference.labelling import Labeller
from surveyor.tasks.label import label

TARGET_PER_LABEL_MS = 40.0
TARGET_GAP_MS = 60.0
SERVER_START_S = 180.0
WARM = 100  # so many computations reach every worker
THEORY = LevelOfTheory(name="nothing", content={"reference": "nothing"})


@dataclass(frozen=True)
class Nothing:
    """A reference that computes nothing, and takes its time for it.

    Attributes:
        seconds: how long it sleeps.
    """

    seconds: float

    def resolve(self) -> LevelOfTheory:
        """Return a level of theory without content."""
        return THEORY

    def compute(self, atoms: Atoms, directory: Path) -> Label:
        """Return zeros, and in the provenance where and when they were computed."""
        begin = time.time()
        time.sleep(self.seconds)
        return Label(0.0, np.zeros((len(atoms), 3)), None, {"worker": os.getpid(), "begin": begin, "end": time.time()})


@dataclass(frozen=True)
class Timing:
    """What was measured, in milliseconds.

    Attributes:
        per_label: wall time.
        cpu: processor time of the flow's process per label, which other work on the machine hardly changes.
        gap_median: median time of a worker between two computations.
        gap_p99: its 99th percentile.
    """

    per_label: float
    cpu: float
    gap_median: float
    gap_p99: float


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="Overhead of a label against a plain Dask task")
    parser.add_argument("--labels", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--seconds", type=float, default=0.0, help="how long each label takes")
    parser.add_argument("--in-flight", type=int, default=LEAST_AT_ONCE, help="tasks at once; by default as in the flow")
    parser.add_argument("--configured-server", action="store_true", help="use the Prefect server that is configured")
    options = parser.parse_args()
    if options.configured_server:
        measure(options)
    else:
        measure_with_temporary_server()


def measure_with_temporary_server() -> None:
    """Run this again with a server of its own, which must live until all that was logged has been sent to it."""
    with tempfile.TemporaryDirectory() as home, server(home) as environment, (Path(home) / "stderr").open("w+") as log:
        command = [sys.executable, *sys.argv, "--configured-server"]
        if subprocess.run(command, env=environment, stderr=log, check=False).returncode != 0:
            log.seek(0)
            sys.exit(log.read())


def measure(options: argparse.Namespace) -> None:
    """Time each number of labels both ways."""
    print(f"{'labels':>6}  {'path':<14}{'per label':>12}{'flow CPU':>11}{'gap median':>13}{'gap p99':>12}   (ms)")
    reference = Nothing(options.seconds)
    with local_pool() as pool, tempfile.TemporaryDirectory() as folder:
        # A cluster that waits takes time of this process, too; it must not count as that of labels.
        with plain_dask(pool.size) as client:
            warm_up(client.get_executor(), reference)
            plain = {number: time_plain_dask(client, reference, number, pool.capacity) for number in options.labels}
        warm_up(pool, reference)
        for number in options.labels:
            real = time_labels(pool, reference, number, Path(folder) / str(number), options.in_flight)
            report(number, plain[number], real)


def report(number: int, plain: Timing, real: Timing) -> None:
    """Print the rows of one number of labels."""
    ratio = Timing(*(ours / theirs for ours, theirs in zip(astuple(real), astuple(plain), strict=True)))
    for path, row in (("plain Dask", plain), ("label task", real), ("ratio", ratio)):
        print(
            f"{number:>6}  {path:<14}{row.per_label:>12.1f}{row.cpu:>11.1f}{row.gap_median:>13.1f}{row.gap_p99:>12.1f}"
        )
    holds = real.per_label <= TARGET_PER_LABEL_MS and real.gap_median <= TARGET_GAP_MS
    targets = f"{TARGET_PER_LABEL_MS:.0f} ms per label, {TARGET_GAP_MS:.0f} ms median gap"
    print(f"{number:>6}  target of {targets}: {'met' if holds else 'missed'}", flush=True)


def structures(number: int) -> list[Atoms]:
    """Return as many different structures."""
    return [Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.5 + 1e-4 * index]]) for index in range(number)]


@contextmanager
def plain_dask(n_workers: int) -> Iterator[Client]:
    """Run the cluster that a user of Dask would start, with as many worker processes as the pool."""
    with (
        LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def warm_up(workers: Executor, reference: Nothing) -> None:
    """Have every worker import what it needs."""
    for future in [workers.submit(reference.compute, atoms, Path()) for atoms in structures(WARM)]:
        future.result()


def time_plain_dask(client: Client, reference: Nothing, number: int, in_flight: int) -> Timing:
    """Submit the computations alone, as many at once as the pool takes."""
    with ThreadPoolExecutor(in_flight) as threads:

        def compute(atoms: Atoms) -> Label:
            result: Label = client.submit(reference.compute, atoms, Path(), pure=False).result()
            return result

        begin, cpu = time.time(), time.process_time()
        labels = list(threads.map(compute, structures(number)))
        return timing_of(labels, time.time() - begin, time.process_time() - cpu)


def time_labels(pool: Pool, reference: Nothing, number: int, folder: Path, in_flight: int) -> Timing:
    """Label through the task, the pool and the store, within a flow."""
    store = LabelStore.in_folder(folder / "labels")

    @flow(name="overhead", validate_parameters=False)
    def overhead() -> tuple[float, float]:
        begin, cpu = time.time(), time.process_time()
        queue = TaskQueue(lambda: in_flight, SimpleQueue())
        labeller = Labeller(reference, THEORY, store, folder / "scratch")
        for index, atoms in enumerate(structures(number)):
            name = f"{index:04d}"
            queue.add(name, partial(label.submit, pool, atoms, labeller=labeller, name=name))
        queue.wait()
        return time.time() - begin, time.process_time() - cpu

    seconds, cpu_seconds = overhead()
    labels = [found for key in store.keys() if (found := store.get(key)) is not None]  # noqa: SIM118 (not a mapping)
    return timing_of(labels, seconds, cpu_seconds)


def timing_of(labels: Sequence[Label], seconds: float, cpu_seconds: float) -> Timing:
    """Return the times per label, and what the labels say of when and where they were computed."""
    spans: dict[int, list[tuple[float, float]]] = {}
    for found in labels:
        spans.setdefault(found.provenance["worker"], []).append((found.provenance["begin"], found.provenance["end"]))
    gaps = []
    for on_worker in spans.values():
        on_worker.sort()
        gaps += [later[0] - earlier[1] for earlier, later in pairwise(on_worker)]
    p99 = statistics.quantiles(gaps, n=100)[-1]
    per_label = 1e3 / len(labels)
    return Timing(seconds * per_label, cpu_seconds * per_label, 1e3 * statistics.median(gaps), 1e3 * p99)


@contextmanager
def server(home: str) -> Iterator[dict[str, str]]:
    """Run a Prefect server on a free port, and give the environment in which flows use it.

    Args:
        home: folder for its database.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    environment = {**os.environ, "PREFECT_HOME": home, "PREFECT_API_URL": url}
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
        env={**server_environment(), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(url)
        yield environment
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(url: str) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + SERVER_START_S
    while not answers(url):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the Prefect server did not answer at {url} within {SERVER_START_S:.0f} s")
        time.sleep(0.5)


if __name__ == "__main__":
    # As a module: what is defined here then travels by its name, like the references of surveyor, and not as code.
    from overhead import main as run

    run()
