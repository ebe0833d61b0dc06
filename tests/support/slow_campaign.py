"""A campaign whose labels take their time, run by the command in a process of its own."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import ase.io
import yaml
from ase.build import bulk
from prefect_server import post, prefect_environment
from processes import PATIENCE_S, wait_until

from surveyor.run_directory import RunDirectory
from surveyor.testing.references import launches

N_BOOTSTRAP, N_GENERATIONS, N_STATES = 12, 3, 6
N_LABELS = 1 + N_BOOTSTRAP + N_GENERATIONS * N_STATES  # one is of the isolated atom


class SlowCampaign:
    """Copper by EMT and the pair model.

    Args:
        folder: for all its files; its run directory has the name of the folder.
        api_url: of the Prefect server.
        delay_s: how long each label takes.
        labels_ahead: as in `Learning`.
    """

    def __init__(self, folder: Path, api_url: str, delay_s: float = 1.0, labels_ahead: int | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.api_url = api_url
        self.log = folder / "launches.log"
        self.output = folder / "output.txt"
        self.directory = RunDirectory(folder / folder.name)
        self.environment = prefect_environment(folder, api_url)
        ase.io.write(folder / "copper.extxyz", bulk("Cu", cubic=True))
        counting = {"log": str(self.log), "delay_s": delay_s}
        loose = {"discard_energy_meV_per_atom": 1e6, "discard_forces_meV_per_A": 1e6}
        campaign = {
            "run_directory": folder.name,
            "walkers": [{"start": "copper.extxyz", "n_walkers": 2, "n_steps": 20, "temperature_K": 600}],
            "reference": {"emt": {"rehearsal": counting}},
            "model": {"pair": {}},
            "bootstrap": {"n_structures": N_BOOTSTRAP},
            "learning": {
                "n_generations": N_GENERATIONS,
                "n_states": N_STATES,
                "labels_ahead": labels_ahead,
                **loose,
            },
        }
        (folder / "campaign.yaml").write_text(yaml.safe_dump(campaign))

    @contextmanager
    def running(self) -> Iterator["subprocess.Popen[bytes]"]:
        """Run the command as long as this lasts."""
        command = [sys.executable, "-m", "surveyor.flows.command_line", "run", "campaign.yaml"]
        with self.output.open("ab") as output:
            process = subprocess.Popen(command, env=self.environment, cwd=self.folder, stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()
            process.wait()

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Wait for something, and show what the command printed where it does not come."""
        wait_until(condition, self.output.read_text, timeout_s)

    def is_labelling(self, number: int) -> bool:
        """Say whether some labels of a generation are there, and some are not."""
        before = 1 + N_BOOTSTRAP + (number - 1) * N_STATES
        return before < len(launches(self.log, "end")) < before + N_STATES

    def runs(self) -> list[dict[str, Any]]:  # Any: whatever JSON holds
        """Return the runs of its flows, as the server has them; the first one is that of the campaign."""
        (campaign,) = self._read({"name": {"any_": [f"campaign {self.folder.name}"]}})
        return [campaign, *self._read({"parent_flow_run_id": {"any_": [campaign["id"]]}})]

    @property
    def run_id(self) -> UUID:
        """The run of the campaign."""
        return UUID(self.runs()[0]["id"])

    def _read(self, flow_runs: dict[str, Any]) -> list[dict[str, Any]]:  # Any: whatever JSON holds
        body = {"flow_runs": flow_runs, "sort": "START_TIME_ASC"}
        return list(post(self.api_url, "flow_runs/filter", body))


def stored(log: Path) -> set[str]:
    """Return the structures after which their worker began another one: their labels are in the store for sure.

    What a worker that is killed has computed a moment before may not be there yet.
    """
    last: dict[str, str] = {}
    found = set()
    for event, structure, worker in (line.split() for line in log.read_text().splitlines()):
        if event == "end":
            last[worker] = structure
        elif worker in last:
            found.add(last.pop(worker))
    return found
