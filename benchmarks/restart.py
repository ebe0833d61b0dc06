"""How long a killed campaign takes, once it is started again, until it launches its next label.

A small campaign (copper by EMT, the pair model, the local pool) is killed while it labels its first generation, and the
command is given again, round after round. Run by hand:

    python benchmarks/restart.py [--rounds 3] [--without-server]

By default a Prefect server runs already; `--without-server` has each start begin its own one, as `surveyor run` does
where none is configured, on a database that exists. Wall times are from the start of the process: until the server
answers ("server"), until the campaign is open ("open"), and until a worker begins a label that is not yet computed
("launch"). Processor times until then, which hardly depend on what else the machine does, are of the command, of its
pool, and of the server where the command has started it.
"""

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import ase.io
import psutil
import yaml
from ase.build import bulk

sys.path += [str(Path(__file__).resolve().parent)]

from overhead import free_port, server

from surveyor.events.kinds import CampaignBegins
from surveyor.events.log import EventLog, of_kind
from surveyor.run_directory import RunDirectory
from surveyor.testing.references import launches

TARGET_S = 10.0
PATIENCE_S = 300.0
LOOK_S = 0.02
DELAY_S = 0.5  # of each label
N_BOOTSTRAP = 10
# A server that was begun elsewhere on the machine must not be taken for the campaign's.
COMMAND = """
import sys
from surveyor.flows import command_line, server
server.PORT = int(sys.argv.pop(1))
sys.exit(command_line.main())
"""


@dataclass(frozen=True)
class Start:
    """Measurements of one start, in seconds.

    Attributes:
        server: wall time until the server answers.
        open: wall time until the campaign is open.
        launch: wall time until a worker begins a new label.
        cpu_command: processor time of the process of the command until then.
        cpu_pool: of the processes of the pool.
        cpu_server: of the server, where the command has started it.
    """

    server: float
    open: float
    launch: float
    cpu_command: float
    cpu_pool: float
    cpu_server: float


def main() -> None:
    """Start, kill and start again; print a table."""
    parser = argparse.ArgumentParser(description="Time from a restart to the first new launch")
    parser.add_argument("--rounds", type=int, default=3, help="restarts")
    parser.add_argument("--without-server", action="store_true", help="have each start begin a server of its own")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    names = [field.name.replace("_", " ") for field in fields(Start)]
    print(f"{'':<10}" + "".join(f"{name:>13}" for name in names) + "   (s)")
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        if options.without_server:
            environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": ""}
        else:
            environment = opened.enter_context(server(str(folder / "prefect")))
        write_campaign(folder, options.rounds)
        report("first", measure(folder, environment))
        restarts = [measure(folder, environment) for _ in range(options.rounds)]
    for number, start in enumerate(restarts, 1):
        report(f"restart {number}", start)
    typical = statistics.median(start.launch for start in restarts)
    verdict = "met" if typical <= TARGET_S else "missed"
    print(f"restart to first new launch, median: {typical:.1f} s; target of {TARGET_S:.0f} s: {verdict}", flush=True)


def report(title: str, start: Start) -> None:
    """Print the row of a start."""
    print(f"{title:<10}" + "".join(f"{value:>13.1f}" for value in astuple(start)), flush=True)


def write_campaign(folder: Path, rounds: int) -> None:
    """Write a campaign that has labels left after as many kills."""
    ase.io.write(folder / "copper.extxyz", bulk("Cu", cubic=True))
    loose = {"discard_energy_meV_per_atom": 1e6, "discard_forces_meV_per_A": 1e6, "min_difference_A": 0.0}
    campaign = {
        "run_directory": "campaign",
        "walkers": [{"start": "copper.extxyz", "n_walkers": 4, "n_steps": 5, "temperature_K": 600}],
        "reference": {"emt": {"rehearsal": {"log": str(folder / "launches.log"), "delay_s": DELAY_S}}},
        "model": {"pair": {}},
        "bootstrap": {"n_structures": N_BOOTSTRAP},
        "learning": {"n_generations": 1, "n_states": 12 * (rounds + 2), **loose},
    }
    (folder / "campaign.yaml").write_text(yaml.safe_dump(campaign))


def measure(folder: Path, environment: Mapping[str, str]) -> Start:
    """Start the campaign, and kill it when it has launched a new label of its first generation."""
    log, directory = folder / "launches.log", RunDirectory(folder / "campaign")
    known, since, before = set(launches(log)), events_size(directory), {"begin": time.time()}
    with campaign_process(folder, environment) as (process, output):
        wait_for(lambda: "Prefect UI:" in output.read_text(), output)
        before["server"] = time.time()
        wait_for(lambda: set(launches(log)) - known, output)
        before["launch"] = time.time()
        spent = processor_times(process)
        wait_for(lambda: len(set(launches(log, "end"))) > max(N_BOOTSTRAP + 4, len(known) + 2), output)
        (begun,) = [each.time for each in of_kind(directory.events.read(since)[0], CampaignBegins)]
    return Start(
        before["server"] - before["begin"], begun - before["begin"], before["launch"] - before["begin"], *spent
    )


def events_size(directory: RunDirectory) -> int:
    """Return how many bytes of events there are."""
    return EventLog(directory.events.path).read()[1]


@contextmanager
def campaign_process(folder: Path, environment: Mapping[str, str]) -> Iterator[tuple[psutil.Process, Path]]:
    """Run the campaign as long as this lasts, then kill it, and a server that it has started."""
    output = folder / "output.txt"
    command = [sys.executable, "-c", COMMAND, str(free_port()), "run", "campaign.yaml"]
    with output.open("wb") as written:
        process = psutil.Popen(command, env={**environment}, cwd=folder, stdout=written, stderr=written)
    try:
        yield process, output
    finally:
        servers = servers_of(process) if process.is_running() else []
        process.kill()
        process.wait()
        for each in servers:
            each.terminate()
        psutil.wait_procs(servers, 30)


def servers_of(process: psutil.Process) -> list[psutil.Process]:
    """Return the Prefect server that a process has started, if any."""
    return [child for child in process.children() if {"server", "start"} <= {*child.cmdline()}]


def processor_times(process: psutil.Process) -> tuple[float, float, float]:
    """Return the processor times of a command, of its pool, and of a server that it has started."""
    servers = servers_of(process)
    pools = [child for child in process.children() if child not in servers]
    return cpu_s(process), sum(map(tree_cpu_s, pools)), sum(map(tree_cpu_s, servers))


def cpu_s(process: psutil.Process) -> float:
    """Return the processor time of a process."""
    return sum(process.cpu_times()[:2])


def tree_cpu_s(process: psutil.Process) -> float:
    """Return the processor time of a process and its descendants."""
    return sum(map(cpu_s, (process, *process.children(recursive=True))))


def wait_for(condition: Callable[[], object], output: Path) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"no progress within {PATIENCE_S:.0f} s\n{output.read_text()}")
        time.sleep(LOOK_S)


if __name__ == "__main__":
    main()
