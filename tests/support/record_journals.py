"""Records the journals of small campaigns, one for each strategy, for the version of surveyor that is installed.

    make journals

The campaigns are real: copper by EMT, pair models, the flow, and pools of this machine. The journals go to a folder of
`tests/domain/journals` that has the name of the version. They are recorded once, when a version is about to be
released, and stay as they are.
"""

import shutil
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ase.build import bulk
from campaigns import Folder, write_starts

JOURNALS = Path(__file__).parents[1] / "domain" / "journals"

Changes = dict[str, Any]  # Any: parameters of a campaign

COMMITTEE = {"committee": {"n_members": 2, "resample": True, "member": {"pair": {"n_basis": 8}}}}
FRAMES = {"n_steps": 200, "frame_interval": 5}
SELECTED: Changes = {"n_states": 4, "n_frames": 3, "test_fraction": 0.3, "min_difference_A": 0}
PRESSURE = {"method": "npt", "timestep_fs": 2.0, "pressure_MPa": 0.1, "final_pressure_MPa": 2000.0}

# Of each campaign its runs, one after the other: fields of the walkers, and what else differs from `Folder.parameters`.
STRATEGIES: Mapping[str, list[tuple[Changes, Changes]]] = {
    "sequential": [({}, {"learning": {"n_generations": 2, "n_states": 5}})],
    "overlapped": [({}, {"learning": {"n_generations": 3, "n_states": 4, "labels_ahead": 8}})],
    "budget": [({}, {"learning": {"n_generations": 5, "n_states": 4, "labels_ahead": 8, "max_labels": 16}})],
    "failed-label": [
        (
            {},
            {
                "reference": {"emt": {"rehearsal": {"failing_fraction": 0.25}}},
                "bootstrap": {"n_structures": 16},
                "learning": {"n_generations": 3, "n_states": 6, "max_failed_fraction": 1.0},
            },
        )
    ],
    "random-overlapped": [
        (FRAMES, {"learning": {**SELECTED, "n_generations": 2, "select": "random", "labels_ahead": 8}})
    ],
    "informative": [(FRAMES, {"learning": {**SELECTED, "n_generations": 2, "select": "informative"}})],
    "informative-overlapped": [
        (FRAMES, {"learning": {**SELECTED, "n_generations": 2, "select": "informative", "labels_ahead": 8}})
    ],
    "committee": [(FRAMES, {"model": COMMITTEE, "learning": {**SELECTED, "n_generations": 2, "select": "committee"}})],
    # The model of the first run was trained without what the selector of the second one needs.
    "fallback": [
        (FRAMES, {"learning": {**SELECTED, "n_generations": 1, "select": "random"}}),
        (FRAMES, {"learning": {**SELECTED, "n_generations": 3, "select": "informative"}}),
    ],
    "temperature-ramp-by-labels": [
        (
            {"final_temperature_K": 600.0, "ramp_by": "labels", "ramp_labels": 2},
            {"learning": {"n_generations": 3, "labels_ahead": 4}},
        )
    ],
    "pressure-ramp-by-labels": [
        ({**PRESSURE, "ramp_by": "labels", "ramp_labels": 2}, {"learning": {"n_generations": 3}}),
    ],
    "pressure-ramp-by-steps": [({**PRESSURE, "ramp_steps": 40}, {"learning": {"n_generations": 3}})],
    # Long samples, of which a guard makes short ones where the model is uncertain; few in each generation.
    "on-the-fly": [
        (
            {"n_steps": 2000, "temperature_K": 900.0, "max_uncertainty_meV_per_A": "auto"},
            {"model": COMMITTEE, "learning": {"n_generations": 4, "n_states": 1, "labels_ahead": 2}},
        )
    ],
}


def record(name: str, destination: Path) -> None:
    """Run the campaign of a strategy, and keep its journal."""
    with tempfile.TemporaryDirectory() as scratch:
        for of_walkers, changes in STRATEGIES[name]:
            folder = Folder(Path(scratch) / name)
            folder.walkers |= {"start": write_starts(folder.path / "copper.extxyz", bulk("Cu", cubic=True))}
            folder.walkers |= of_walkers
            folder.run(**changes)
        destination.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder.directory.journal, destination / f"{name}.jsonl")


def main() -> None:
    """Record the journals that the version does not have yet; or those of the strategies that are named."""
    destination = JOURNALS / version("surveyor")
    for name in sys.argv[1:] or STRATEGIES:
        if not (destination / f"{name}.jsonl").exists():
            record(name, destination)


if __name__ == "__main__":
    main()
