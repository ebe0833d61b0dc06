"""A campaign whose processes are killed at random, one after the other, and what must hold of it afterwards."""

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import psutil
import yaml
from ase.build import bulk
from prefect_server import free_address, prefect_environment, prefect_server
from processes import kill_all, processes_with, wait_until

from surveyor.events.kinds import CampaignBegins
from surveyor.events.log import of_kind
from surveyor.labels import LabelStore
from surveyor.run_directory import RunDirectory

SETS = ("train", "valid", "test", "failed", "discarded")
N_BOOTSTRAP = 12
MARK = "SURVEYOR_TEST_CAMPAIGN"  # inherited by all processes of a campaign, so that none can hide
SERVERS_OWN = "PREFECT_SERVER_UI_API_URL"  # in the environment of the server, not of what talks to it
HOLDERS = ("surveyor.pools.local_process", "surveyor.pools.cluster_process")
PATIENCE_S = 600  # with each piece of work
RUN_S = 3600  # with a campaign that nobody kills, on a machine that does much else
PHASE_S = 0.5  # a kill comes at any time within it, after the progress that it waits for


@dataclass(frozen=True)
class Kill:
    """A kill.

    Attributes:
        weapon: what was killed.
        keys: of the labels that were stored before.
        n_lines: of the log of launches, after these labels were stored.
        files: that stood for finished work before, with the time at which each was written.
        journal: of its decisions, as it stood before.
    """

    weapon: str
    keys: frozenset[str]
    n_lines: int
    files: Mapping[Path, int]
    journal: bytes


@dataclass(frozen=True)
class Repeats:
    """Structures that were launched more than once.

    Attributes:
        finished: those whose first label was finished: its worker has gone on to another structure.
        in_flight: the others, each with the worker that had it.
    """

    finished: frozenset[str]
    in_flight: tuple[tuple[str, int], ...]


class KilledCampaign:
    """Copper by EMT and the pair model, run by the command in a process of its own, with a server of its own.

    Args:
        folder: an empty one, for all its files.
        server: of Prefect.
        pools: of the campaign; by default the local pool.
        n_generations: beside the bootstrap.
        n_states: labels of each generation.
        labels_ahead: as in `Learning`; walkers then begin while a model is trained.
        learning: other parameters of `Learning`.
    """

    def __init__(
        self,
        folder: Path,
        server: "MortalServer",
        pools: Mapping[str, str] | None = None,
        *,
        n_generations: int = 3,
        n_states: int = 8,
        labels_ahead: int | None = None,
        **learning: str | int,
    ) -> None:
        self.folder, self.n_generations, self.n_states = folder, n_generations, n_states
        self.is_overlapped = labels_ahead is not None and labels_ahead > n_states
        self.kills: list[Kill] = []
        self.victims: set[int] = set()  # workers that died of a kill
        self._server = server
        self._stacks = folder / "stacks"
        self._stacks.mkdir()
        self._flow: subprocess.Popen[bytes] | None = None
        self._n_begins_before = 0  # runs that had begun when the last one was started
        ase.io.write(folder / "copper.extxyz", bulk("Cu", cubic=True))
        loose = {"discard_energy_meV_per_atom": 1e6, "discard_forces_meV_per_A": 1e6}
        campaign = {
            "run_directory": "run",
            "walkers": [
                {"start": "copper.extxyz", "n_walkers": 6, "n_steps": 60, "temperature_K": 600, "frame_interval": 5}
            ],
            "reference": {"emt": {"rehearsal": {"log": str(self.log), "delay_s": 0.05}}},
            "model": {"pair": {}},
            "bootstrap": {"n_structures": N_BOOTSTRAP},
            "learning": {
                "n_generations": n_generations,
                "n_states": n_states,
                "labels_ahead": labels_ahead,
                **loose,
                **learning,
            },
            "pools": dict(pools or {}),
        }
        (folder / "campaign.yaml").write_text(yaml.safe_dump(campaign))

    @property
    def log(self) -> Path:
        """The log of launches."""
        return self.folder / "launches.log"

    @property
    def directory(self) -> RunDirectory:
        """The run directory."""
        return RunDirectory(self.folder / "run")

    @property
    def undisturbed(self) -> RunDirectory:
        """That of the run without kills."""
        return RunDirectory(self.folder / "undisturbed" / "run")

    @property
    def n_labels(self) -> int:
        """The number of structures to be labelled, without the isolated atom."""
        return N_BOOTSTRAP + self.n_generations * self.n_states

    @property
    def journal(self) -> bytes:
        """The journal of its decisions so far."""
        path = self.directory.journal
        return path.read_bytes() if path.exists() else b""

    def stored_keys(self) -> frozenset[str]:
        """The keys of the labels that are stored."""
        return frozenset(LabelStore.in_folder(self.folder / "labels").keys())

    def lines(self) -> list[str]:
        """The lines of the log of launches."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def structures(self) -> dict[str, str]:
        """The names that structures with a label have in the log of launches, by the key of the label."""
        records = (json.loads(path.read_text()) for path in (self.folder / "labels" / "labels").rglob("*.json"))
        return {record["key"]: _structure_id(record["structure"]) for record in records}

    def finished_again(self) -> frozenset[str]:
        """Structures that were launched although they had a label, whether its worker was alive or dead."""
        structures, lines = self.structures(), self.lines()
        again = set(repeats_in(lines).finished)
        for kill in self.kills:
            later = {line.split()[1] for line in lines[kill.n_lines :] if line.startswith("begin ")}
            again |= later & {structures[key] for key in kill.keys & structures.keys()}
        return frozenset(again)

    def finished_work(self) -> dict[Path, int]:
        """Files that stand for finished work, with the time at which each was written."""
        patterns = (
            "labels/labels/**/*.json",
            "run/generations/*/samples/*-?.npz",
            "run/generations/*/model/model.json",
            "run/generations/*/manifest.json",
        )
        paths = [path for pattern in patterns for path in self.folder.glob(pattern) if not path.name.startswith(".")]
        return {path: path.stat().st_mtime_ns for path in paths}

    def run(self) -> None:
        """Run to the end; what had begun goes on."""
        assert self._running().wait(RUN_S) == 0, self._output()
        self._flow = None

    def run_undisturbed(self) -> int:
        """Run once without kills, put its files aside into `undisturbed`, and return the pieces of finished work."""
        self.run()
        n_finished = len(self.finished_work())
        undisturbed = self.folder / "undisturbed"
        undisturbed.mkdir()
        for name in ("run", "labels", "launches.log"):
            shutil.move(self.folder / name, undisturbed / name)
        return n_finished

    def run_and_kill(self, weapons: Mapping[str, Callable[["KilledCampaign"], None]], n_kills: int, seed: int) -> None:
        """Kill at random, at moments spread over the whole campaign, and let it come to its end."""
        n_finished, chance = self.run_undisturbed(), random.Random(seed)
        for number in range(n_kills):
            self._wait_for(number * n_finished // n_kills)
            time.sleep(PHASE_S * chance.random())
            weapon = chance.choice(sorted(weapons))
            keys, n_lines = self.stored_keys(), len(self.lines())  # in this order
            self.kills.append(Kill(weapon, keys, n_lines, self.finished_work(), self.journal))
            with (self.folder / "kills.txt").open("a") as history:  # how far a long test is
                history.write(f"{time.strftime('%H:%M:%S')} {number + 1} of {n_kills}: {weapon}\n")
            weapons[weapon](self)
        self.run()

    def kill_flow(self) -> None:
        """Kill the process of the campaign; its local pool ends with it, pools of a cluster live on."""
        flow = self._running()
        dying = self.note(self.workers()) if self.local_pools() else set()
        flow.kill()
        flow.wait()
        self._flow = None
        if dying:
            wait_until(lambda: not self.note(self.workers()), lambda: f"left: {self.workers()}")

    def kill_pool(self) -> None:
        """Kill the process that holds a pool and its workers."""
        holder = self.one_of(self.open_holders)
        self.note(self.workers())
        with suppress(psutil.NoSuchProcess):
            holder.kill()
        wait_until(lambda: not holder.is_running(), lambda: f"left: {holder}")

    def kill_worker(self) -> None:
        """Kill a worker of a pool."""
        self.one_of(self.open_holders)
        worker = self.one_of(self.workers)
        self.note({worker})
        with suppress(psutil.NoSuchProcess):
            worker.kill()

    def kill_server(self) -> None:
        """Kill the server of Prefect, and start it again; a campaign that is only starting would refuse to."""
        self._wait_for(0, lambda: self._n_begins() > self._n_begins_before)
        self._server.kill()
        self._server.start()

    def end(self) -> None:
        """Kill all its processes."""
        kill_all(self.processes)
        if self._flow is not None:
            self._flow.wait()

    def workers(self) -> set[psutil.Process]:
        """The workers of its pools."""
        return self._processes("spawn_main")

    def holders(self) -> set[psutil.Process]:
        """The processes that hold its pools."""
        return self._processes(*HOLDERS)

    def open_holders(self) -> set[psutil.Process]:
        """Those to which the campaign is connected: it ends if a pool is killed three times while it starts."""
        flow = psutil.Process(self._running().pid)
        ports = {each.raddr.port for each in flow.net_connections("tcp") if each.status == psutil.CONN_ESTABLISHED}
        return {holder for holder in self.holders() if ports & _listening_ports(holder)}

    def local_pools(self) -> set[psutil.Process]:
        """Those of them that end with the flow."""
        return self._processes(HOLDERS[0])

    def processes(self) -> set[psutil.Process]:
        """All its processes."""
        return processes_with({MARK: str(self.folder)})

    def summary(self) -> str:
        """Say what was killed, and what of it."""
        weapons = ", ".join(f"{weapon} {n}" for weapon, n in sorted(Counter(k.weapon for k in self.kills).items()))
        again = self.finished_again()
        in_flight = [structure for structure, _ in repeats_in(self.lines()).in_flight if structure not in again]
        lost = frozenset.union(*(kill.keys for kill in self.kills)) - self.stored_keys()
        return (
            f"{len(self.kills)} kills ({weapons}), {self.n_labels} labels: {len(lost)} lost, "
            f"{len(again)} finished ones computed again, {len(in_flight)} in flight computed again"
        )

    def _running(self) -> "subprocess.Popen[bytes]":
        """Return the process of the campaign, started if there is none."""
        if self._flow is None:
            self._n_begins_before = self._n_begins()
            environment = {
                **prefect_environment(self.folder / "prefect", self._server.url),
                MARK: str(self.folder),
                "PYTHONPATH": str(Path(__file__).with_name("stacks")),
                "SURVEYOR_TEST_STACKS": str(self._stacks),
            }
            command = [sys.executable, "-m", "surveyor.flows.command_line", "run", "campaign.yaml"]
            with (self.folder / "output.txt").open("ab") as output:
                self._flow = subprocess.Popen(command, env=environment, cwd=self.folder, stdout=output, stderr=output)
        return self._flow

    def _n_begins(self) -> int:
        events = self.directory.events.read()[0] if self.directory.path.exists() else []
        return len(of_kind(events, CampaignBegins))

    def _wait_for(self, n_finished: int, condition: Callable[[], bool] = lambda: True) -> None:
        """Run until so many pieces of work are finished, and a condition holds."""

        def is_there() -> bool:
            assert self._running().poll() is None, self._output()
            return len(self.finished_work()) >= n_finished and condition()

        wait_until(is_there, self._where_it_stands, PATIENCE_S)

    def _where_it_stands(self) -> str:
        """Return the last lines of the output, and what each process of a campaign that stands still is doing."""
        for process in self._processes(*HOLDERS, "spawn_main", "command_line"):
            process.send_signal(signal.SIGUSR1)
        time.sleep(2)
        stacks = "\n\n".join(
            f"{path.name}: {path.read_text()}" for path in self._stacks.iterdir() if path.stat().st_size
        )
        return f"{self._output()}\n{stacks}"

    def one_of(self, find: Callable[[], set[psutil.Process]]) -> psutil.Process:
        """Wait until there are such processes, and return any of them."""
        found: set[psutil.Process] = set()

        def is_there() -> bool:
            assert self._running().poll() is None, self._output()
            found.update(find())
            return bool(found)

        wait_until(is_there, self._output, PATIENCE_S)
        return min(found, key=lambda process: process.pid)

    def _processes(self, *words: str) -> set[psutil.Process]:
        found = set()
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                if any(word in " ".join(process.cmdline()) for word in words):
                    found.add(process)
        return found

    def note(self, workers: set[psutil.Process]) -> set[psutil.Process]:
        """Remember that workers die of a kill."""
        self.victims |= {worker.pid for worker in workers}
        return workers

    def _output(self) -> str:
        return (self.folder / "output.txt").read_text()[-5000:]


def _listening_ports(process: psutil.Process) -> set[int]:
    with suppress(psutil.NoSuchProcess):
        connections = process.net_connections("tcp")
        return {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}
    return set()


class MortalServer:
    """A Prefect server that can be killed and started again at its address, with its database.

    Args:
        home: folder for its database.
    """

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self.url = free_address()
        self._home, self._running = home, ExitStack()
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._running.enter_context(prefect_server(self._home, self.url))

    def kill(self) -> None:
        """Kill all its processes."""
        kill_all(lambda: processes_with({SERVERS_OWN: self.url}))
        self._running.close()

    def end(self) -> None:
        """End it in order."""
        self._running.close()


def repeats_in(lines: Sequence[str]) -> Repeats:
    """Return which structures were launched more than once, from the lines of a rehearsal's log."""
    launches = [(structure, int(worker)) for event, structure, worker in map(str.split, lines) if event == "begin"]
    last = {structure: index for index, (structure, _) in enumerate(launches)}
    last_of_worker = {worker: index for index, (_, worker) in enumerate(launches)}
    again = [(index, *launch) for index, launch in enumerate(launches) if last[launch[0]] > index]
    finished = frozenset(structure for index, structure, worker in again if last_of_worker[worker] > index)
    return Repeats(finished, tuple((s, worker) for _, s, worker in again if s not in finished))


def _structure_id(identity: Mapping[str, Any]) -> str:  # Any: whatever JSON holds
    """Return the name of a structure in a rehearsal's log, from the record of its label."""
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


def check_same_datasets(here: RunDirectory, there: RunDirectory) -> None:
    """Check that two campaigns have the same generations, sets, and labels."""
    assert here.n_complete() == there.n_complete()
    for number in range(here.n_complete()):
        one, other = here.generation(number), there.generation(number)
        for name in SETS:
            assert one.set_file(name).read_bytes() == other.set_file(name).read_bytes(), f"{name} {number}"
        labels = [json.loads(each.manifest.read_text())["labels"] for each in (one, other)]
        assert labels[0] == labels[1]
