"""The datasets of the sequential loop, which are those that it gave before walkers could run ahead."""

import json
from pathlib import Path

import pytest
from campaigns import LOOSE, Folder

pytestmark = [pytest.mark.slow]

# Recorded with commit fc06ec3, the last one before `labels_ahead`. The walkers perturb their starts by random numbers,
# so that structures, keys and sets depend neither on a machine's arithmetic nor on a model.
RECORDED = Path(__file__).with_name("sequential_loop.json")
SETS = ("train", "valid", "test")


def test_the_sequential_loop_gives_the_datasets_that_it_always_gave(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.walkers = {"start": folder.walkers["start"], "method": "perturbation", "amplitude_A": 0.1}
    resets = {"reset_energy_meV_per_atom": 1e-6, "reset_forces_meV_per_A": 1e-6}
    sets = {"valid_fraction": 0.2, "test_fraction": 0.2}
    learning = {"n_generations": 4, "n_states": 5, "max_labels": 18, "seed": 7, **sets, **LOOSE, **resets}
    folder.run(n_walkers=3, learning=learning)
    assert [datasets_of(folder, number) for number in range(4)] == json.loads(RECORDED.read_text())
    assert folder.directory.n_complete() == 4  # the last one is smaller, by the budget


def datasets_of(folder: Folder, number: int) -> dict[str, object]:
    """Return the beginning of the key of each sample, and what became of its walker; and the keys in each set."""
    manifest = folder.directory.read_manifest(number)
    samples = {
        each["name"]: f"{shortened(each['label_key'])} {each['fate']}"
        for each in manifest["details"].get("walkers", [])
    }
    labels = manifest["labels"]
    return {
        "samples": samples,
        **{name: sorted(shortened(key) for key in labels if labels[key] == name) for name in SETS},
    }


def shortened(key: str) -> str:
    return key.removeprefix("v1:")[:12]
