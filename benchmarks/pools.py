"""Where a campaign on many workers gives way: memory, load of the server, and how long workers wait for a label.

The workers are simulated: up to 256 of them in a process, whose labels sleep with a lognormal latency and compute
nothing. All else is real: the campaign with its keys, label store and events, Prefect's tasks and server, the pool and
its scheduler, each in a process of its own. Time is compressed: latencies are such that all workers together could end
`--rate` labels a second, whatever their number. Run by hand:

    python benchmarks/pools.py [--workers 64 256 1024] [--labels 10000] [--rate 100] [--databases sqlite postgresql]

The path "Dask" submits the latencies alone to the same workers. "labels" labels structures as the bootstrap does, and
"generation" lets as many walkers as workers move on, with a label for each sample. "Ideal" is what a schedule without
any delay would take. A gap is the time on one worker from the end of a label to the beginning of the next one. The rest
is the time from the end of the last label to the end of the flow's process, in which it tells the server what it has
not told it yet. Processor times, unlike wall times, hardly depend on what else the machine does.

PostgreSQL must be installed for its database (Debian package postgresql).
"""

import argparse
import asyncio
import heapq
import json
import logging
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, astuple, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import ase.io
import dask
import httpx
import numpy as np
import psutil
from ase import Atoms
from distributed import Client, Worker, as_completed
from prefect import flow

from surveyor.dataset import DataSets
from surveyor.flows.following import followed
from surveyor.flows.labels import label_all
from surveyor.flows.pool_checks import PoolChecks
from surveyor.flows.stopwatch import Stopwatch
from surveyor.flows.survey import Survey
from surveyor.labels import Label, LevelOfTheory
from surveyor.pools.scheduler import SETTINGS, PoolScheduler
from surveyor.run_directory import Generation
from surveyor.sampling.walkers import save_walker
from surveyor.works.campaign import CAMPAIGN, Campaign, CampaignParameters

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "tests" / "support")]

from overhead import server  # noqa: E402 (beside this file)
from postgresql import postgresql_server  # noqa: E402 (support of the tests)

THEORY = LevelOfTheory(name="nothing", content={"reference": "nothing"})
N_CHECKS = 2  # tasks that ask the pools: for the level of theory, and whether they have the model's engine
SPREAD = 0.5  # of the logarithm of the latency
WORKERS_PER_PROCESS = 256
LOOK_S = 0.5  # how often memory is looked at
ROWS_S = 30.0  # what the server records so long after the end of the flow shows how far it is behind
MB = 1e6

# A worker looks after itself many times a second, which a thousand in a few processes cannot all do.
CHEAP = {
    **SETTINGS,
    "distributed.admin.tick.interval": "1h",
    "distributed.admin.tick.cycle": "1h",
    "distributed.admin.system-monitor.interval": "1h",
    "distributed.comm.timeouts.connect": "120s",
}


@dataclass(frozen=True)
class Sleep:
    """A reference that computes nothing, and takes its time for it.

    Attributes:
        median_s: median of the time that it takes, which depends on the structure alone.
    """

    median_s: float

    def resolve(self) -> LevelOfTheory:
        """Return a level of theory without content."""
        return THEORY

    def latency_s(self, atoms: Atoms) -> float:
        """Return how long the label of a structure takes."""
        generator = np.random.default_rng(zlib.crc32(atoms.positions.round(6).tobytes()))
        return float(self.median_s * generator.lognormal(sigma=SPREAD))

    def compute(self, atoms: Atoms, directory: Path) -> Label:
        """Return zeros, and in the provenance where and when they were computed."""
        begin = time.time()
        time.sleep(self.latency_s(atoms))
        worker = f"{os.getpid()}-{threading.get_ident()}"  # a worker has one thread for what it computes
        provenance = {"worker": worker, "begin": begin, "end": time.time(), "latency": self.latency_s(atoms)}
        return Label(0.0, np.zeros((len(atoms), 3)), None, provenance)


@dataclass(frozen=True)
class Load:
    """What one path is to do.

    Attributes:
        path: "Dask", "labels" or "generation".
        address: of the scheduler.
        workers: how many it has.
        labels: how many are wanted.
        median_s: median latency of a label.
        folder: for the run directory and the labels.
    """

    path: str
    address: str
    workers: int
    labels: int
    median_s: float
    folder: str


@dataclass(frozen=True)
class Timing:
    """What was measured of the labels, in milliseconds.

    Attributes:
        per_label: wall time from the beginning of the first label to the end of the last one.
        ideal: the same of a schedule without any delay.
        gap_median: median time of a worker between two labels.
        gap_p99: its 99th percentile.
        threads: most threads of the process that submits.
        end: when the last label ended, in milliseconds since the epoch.
    """

    per_label: float
    ideal: float
    gap_median: float
    gap_p99: float
    threads: int
    end: float


@dataclass(frozen=True)
class Use:
    """What a process with its children used meanwhile.

    Attributes:
        memory: most resident memory, in MB.
        cpu_s: processor time.
    """

    memory: float
    cpu_s: float


def main() -> None:
    """Measure each number of workers with each database, and print a table."""
    parser = argparse.ArgumentParser(description="Campaigns on many simulated workers")
    parser.add_argument("--workers", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--labels", type=int, default=10_000, help="labels of the campaign")
    parser.add_argument("--plain", type=int, default=2_000, help="labels through Dask alone; 0 leaves this out")
    parser.add_argument("--rate", type=float, default=100.0, help="labels a second that the workers could end")
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"], choices=["sqlite", "postgresql"])
    parser.add_argument("--path", default="labels", choices=["labels", "generation"], help="what the campaign does")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    print(
        f"{'database':<11}{'workers':>7} {'path':<11}{'labels':>7}{'ms/label':>9}{'/ideal':>7}{'gap ms':>9}"
        f"{'p99 ms':>9}{'threads':>8}{'rest s':>7}   memory in MB, and processor time in ms per label, of each process"
    )
    for database in options.databases:
        for workers in options.workers:
            measure(options, database, workers)


def measure(options: argparse.Namespace, database: str, workers: int) -> None:
    """Measure plain Dask and a campaign with the same workers."""
    median_s = workers / options.rate / math.exp(SPREAD**2 / 2)
    with tempfile.TemporaryDirectory() as home, ExitStack() as opened:
        environment = opened.enter_context(prefect_server(home, database))
        address, processes = opened.enter_context(simulated_pool(workers))
        processes["server"] = process_that_runs("server", "start")
        rows = []
        for path, labels in (("Dask", options.plain), (options.path, options.labels)):
            if labels:
                load = Load(path, address, workers, labels, median_s, f"{home}/{path}")
                timing = measure_path(load, processes, environment, f"{database:<11}{workers:>7} {path:<11}{labels:>7}")
                rows.append(timing)
        if len(rows) == 2:
            ratios = [ours / theirs for ours, theirs in zip(astuple(rows[1]), astuple(rows[0]), strict=True)]
            print(f"{'':<19}{'ratio':<18}{ratios[0]:>9.2f}{'':>7}{ratios[2]:>9.2f}{ratios[3]:>9.2f}")
        tasks = N_CHECKS + options.labels + (workers if options.path == "generation" else 0)  # a task moves one walker
        print(f"{'':<19}{recorded(environment, tasks)}; load {os.getloadavg()[0]:.1f}", flush=True)


def measure_path(
    load: Load, processes: Mapping[str, psutil.Process], environment: Mapping[str, str], title: str
) -> Timing:
    """Run a path in a process of its own, and print what it took and used."""
    with (
        Path(f"{load.folder}.log").open("w+") as log,
        started(f"run_path(pools.Load(**{asdict(load)!r}))", environment, log) as process,
        watched({"flow": psutil.Process(process.pid), **processes}) as used,
    ):
        answer = process.stdout.readline()
    if not answer:
        sys.exit(Path(f"{load.folder}.log").read_text())
    timing = Timing(**json.loads(answer))
    rest = time.time() - timing.end / 1e3
    uses = "  ".join(f"{name} {use.memory:.0f} {1e3 * use.cpu_s / load.labels:.1f}" for name, use in used.items())
    print(
        f"{title}{timing.per_label:>9.1f}{timing.per_label / timing.ideal:>7.2f}{timing.gap_median:>9.1f}"
        f"{timing.gap_p99:>9.1f}{timing.threads:>8}{rest:>7.0f}   {uses}",
        flush=True,
    )
    return timing


def run_path(load: Load) -> None:
    """Do what a load says, and print the timing."""
    answer, sys.stdout = sys.stdout, sys.stderr
    with counted_threads() as threads:
        labels = plain(load) if load.path == "Dask" else campaign_labels(load)
    timing = timing_of([label.provenance for label in labels], load.workers, max(threads))
    print(json.dumps(asdict(timing)), file=answer, flush=True)


def plain(load: Load) -> list[Label]:
    """Submit the latencies alone, all of them at once."""
    with Client(load.address, set_as_default=False) as client:
        reference = Sleep(load.median_s)
        futures = [client.submit(reference.compute, atoms, Path(), pure=False) for atoms in structures(load.labels)]
        return [future.result() for future in as_completed(futures, loop=client.loop)]


def structures(number: int) -> list[Atoms]:
    """Return as many different structures."""
    return [Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.7 + 1e-5 * index]]) for index in range(number)]


def campaign_labels(load: Load) -> list[Label]:
    """Label in an open campaign, within a flow."""
    with CAMPAIGN.open(campaign_parameters(load)) as opened:
        campaign = replace(opened, checked=replace(opened.checked, reference=Sleep(load.median_s)))  # type: ignore[arg-type]  # which its type leaves open

        @flow(name=load.path, validate_parameters=False, persist_result=False)
        def labelling() -> None:
            with followed(campaign):
                if load.path == "labels":
                    label_all(campaign, PoolChecks(campaign).begun(), structures(load.labels), 0)
                else:
                    generation(campaign)

        labelling()
        keys = campaign.store.keys()
        return [label for key in keys if (label := campaign.store.get(key)) is not None]


def generation(campaign: Campaign) -> None:
    """Sample and label, as a generation does."""
    previous = Generation(0, DataSets(), campaign.checked.walkers, campaign.checked.model)
    for walker in previous.walkers:
        save_walker(campaign.directory.generation(0).walker(walker.index), walker)
    with Survey(campaign, PoolChecks(campaign).begun(), previous) as survey:
        survey.samples(previous, None, Stopwatch())


def campaign_parameters(load: Load) -> CampaignParameters:
    """Return a campaign whose walkers perturb one molecule, as many of them as there are workers."""
    folder = Path(load.folder)
    folder.mkdir()
    ase.io.write(folder / "start.extxyz", structures(1))
    group = {"start": folder / "start.extxyz", "n_walkers": load.workers, "method": "perturbation"}
    return CampaignParameters(
        run_directory=folder / "campaign",
        walkers=[group],
        reference={"emt": {}},
        model={"pair": {}},
        learning={"n_states": load.labels, "min_difference_A": 0.0},  # one molecule makes near-duplicates
        pools=dict.fromkeys(("sampling", "labelling", "training"), load.address),
    )


def timing_of(marks: Sequence[Mapping[str, Any]], n_workers: int, threads: int) -> Timing:
    """Return the times per label, from what the labels say of when and where they were computed."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for mark in marks:
        spans.setdefault(mark["worker"], []).append((mark["begin"], mark["end"]))
    gaps = [later[0] - earlier[1] for each in spans.values() for earlier, later in pairwise(sorted(each))]
    p99 = statistics.quantiles(gaps, n=100)[-1]
    ideal = ideal_s([mark["latency"] for mark in sorted(marks, key=lambda mark: mark["begin"])], n_workers)
    begin, end = min(mark["begin"] for mark in marks), max(mark["end"] for mark in marks)
    per_label = 1e3 / len(marks)
    return Timing(
        (end - begin) * per_label, ideal * per_label, 1e3 * statistics.median(gaps), 1e3 * p99, threads, 1e3 * end
    )


def ideal_s(latencies: Sequence[float], n_workers: int) -> float:
    """Return when the last label ends where each worker takes the next one at once."""
    ends = [0.0] * n_workers
    for latency in latencies:
        heapq.heapreplace(ends, ends[0] + latency)
    return max(ends)


@contextmanager
def counted_threads() -> Iterator[list[int]]:
    """Give a list to which the number of threads of this process is added again and again."""
    counts, stop = [threading.active_count()], threading.Event()

    def count() -> None:
        while not stop.wait(LOOK_S):
            counts.append(threading.active_count())

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield counts
    finally:
        stop.set()
        thread.join()


@contextmanager
def watched(processes: Mapping[str, psutil.Process]) -> Iterator[dict[str, Use]]:
    """Look after processes as long as this lasts; what they used is in the dictionary afterwards."""
    used = dict.fromkeys(processes, Use(0.0, 0.0))
    stop = threading.Event()
    before = {name: total(process, cpu_s) for name, process in processes.items()}

    def look() -> None:
        while not stop.wait(LOOK_S):
            for name, process in processes.items():
                now = total(process, lambda each: each.memory_info().rss / MB)
                spent = total(process, cpu_s) - before[name]
                used[name] = Use(max(now, used[name].memory), max(spent, used[name].cpu_s))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield used
    finally:
        stop.set()
        thread.join()


def cpu_s(process: psutil.Process) -> float:
    """Return the processor time of a process so far, with that of its children that have ended."""
    return sum(process.cpu_times()[:4])


def total(process: psutil.Process, measure: Callable[[psutil.Process], float]) -> float:
    """Return the sum over a process and its children; 0 when it has ended."""
    found = 0.0
    with suppress(psutil.NoSuchProcess):
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                found += measure(each)
    return found


def process_that_runs(*words: str) -> psutil.Process:
    """Return the child of this process whose command line has these words."""
    children = psutil.Process().children()
    return next(child for child in children if {*words} <= {*child.cmdline()})


@contextmanager
def prefect_server(home: str, database: str) -> Iterator[dict[str, str]]:
    """Run a Prefect server on a new database, and give the environment in which flows use it."""
    with postgresql_server() if database == "postgresql" else nullcontext() as opened:
        url = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
        if opened is not None:
            os.environ[url] = opened.url
        try:
            with server(home) as environment:
                yield environment
        finally:
            os.environ.pop(url, None)


def recorded(environment: Mapping[str, str], expected: int) -> str:
    """Say how many task runs the server knows to be completed, when the flow has ended and somewhat later."""
    url = f"{environment['PREFECT_API_URL']}/task_runs/count"
    body = {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}

    def count() -> int:
        return int(httpx.post(url, json=body, timeout=60, trust_env=False).json())

    at_end = count()
    time.sleep(ROWS_S if at_end < expected else 0)
    return f"the server knows {at_end} of {expected} tasks to be completed at once, {count()} after {ROWS_S:.0f} s"


@contextmanager
def simulated_pool(workers: int) -> Iterator[tuple[str, dict[str, psutil.Process]]]:
    """Run a scheduler with workers; give its address, and the processes to be watched."""
    with ExitStack() as opened:
        scheduler = opened.enter_context(started("hold_scheduler()"))
        address = scheduler.stdout.readline().strip()
        numbers = [min(WORKERS_PER_PROCESS, workers - first) for first in range(0, workers, WORKERS_PER_PROCESS)]
        holders = [opened.enter_context(started(f"hold_workers({address!r}, {number})")) for number in numbers]
        for holder in holders:
            if holder.stdout.readline() != "ready\n":
                sys.exit("the simulated workers did not start")
        yield address, {"scheduler": psutil.Process(scheduler.pid)}


@contextmanager
def started(call: str, environment: Mapping[str, str] | None = None, log: Any = None) -> Iterator[Any]:
    """Run a function of this module in a process of its own until it ends, or until this does."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"import pools; pools.{call}"],
        cwd=HERE,
        env={**(environment or os.environ), "DASK_LOGGING__DISTRIBUTED": "error"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        yield process
    except BaseException:
        process.kill()
        raise
    finally:
        process.stdin.close()  # schedulers and workers end with it
        process.wait()
        process.stdout.close()


def hold_scheduler() -> None:
    """Run a scheduler as the pools of surveyor have it."""

    async def hold() -> None:
        async with PoolScheduler(host="127.0.0.1", dashboard=False, dashboard_address="127.0.0.1:0") as scheduler:
            print(scheduler.address, flush=True)
            await asyncio.to_thread(sys.stdin.read)

    with dask.config.set(SETTINGS):
        asyncio.run(hold())


def hold_workers(address: str, number: int) -> None:
    """Run workers in this process; they end with it."""

    async def hold() -> None:
        for _ in range(number):
            await Worker(address, nthreads=1, memory_limit=None, dashboard=False, dashboard_address="127.0.0.1:0")
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        os._exit(0)  # an orderly end of each of them would take long

    logging.getLogger("surveyor").propagate = False  # to what Prefect, which this module imports, prints
    with tempfile.TemporaryDirectory() as folder, dask.config.set({**CHEAP, "temporary-directory": folder}):
        asyncio.run(hold())


if __name__ == "__main__":
    main()
