"""Campaigns whose walkers move along ramps by good labels."""

from itertools import pairwise
from pathlib import Path

import pytest
from ase import Atoms
from campaigns import Folder, write_starts

from surveyor.dataset import KEY
from surveyor.learning.entries import WalkerBegins
from surveyor.learning.journal import Journal, first_difference
from surveyor.report.tables import walkers_table

pytestmark = [pytest.mark.slow]

STRETCH = {"variable": "distance", "atoms": (0, 1), "centre": 1.15, "force_constant": 50.0}
MOVES = {"variable": "distance(0,1)", "minimum": 1.15, "maximum": 2.15, "moves": True}
RAMP = {"restraints": [STRETCH], "distribution": MOVES, "ramp_by": "labels", "ramp_labels": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    start = write_starts(tmp_path / "carbon_monoxide.extxyz", Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.13]]))
    folder.walkers |= {"start": start, "method": "optimisation", "n_steps": 100, "max_force_eV_per_A": 1e3, **RAMP}
    return folder


def test_a_bond_is_stretched_by_good_labels_and_a_bad_one_takes_it_back(folder: Folder) -> None:
    # The first model has seen bonds of 1.0 to 1.3 Å, and is 100 times as wrong about one of 1.65 Å.
    thresholds = {"reset_energy_meV_per_atom": 20, "reset_forces_meV_per_A": 400}
    learning = {"n_generations": 3, "min_difference_A": 0, **thresholds}
    folder.run(n_walkers=1, learning=learning, bootstrap={"n_structures": 12})
    manifests = [folder.directory.read_manifest(number) for number in (1, 2, 3)]
    (first, second, third) = (manifest["details"]["walkers"][0] for manifest in manifests)
    assert [each["fate"] for each in (first, second)] == ["continues", "reset"]
    assert [each["ramp"] for each in (first, second, third)] == [{"progress": p} for p in (0.0, 0.5, 0.0)]
    centres = [1.15, 1.65, 1.15]
    assert [each["window"]["centre"] for each in (first, second, third)] == centres
    by_key = {atoms.info[KEY]: atoms for atoms in folder.data(3).everything}
    for sample, centre in zip((first, second, third), centres, strict=True):
        structure = by_key[sample["label_key"]]
        assert structure.info["window_centre"] == centre
        assert structure.get_distance(0, 1) == pytest.approx(centre, abs=0.1)
    assert [walkers_table(manifest).rows[0][2] for manifest in manifests] == ["0 %", "50 %", "0 %"]

    entries = Journal(folder.directory.journal).read()
    begun = [(each.n_good_labels, each.is_reset) for each in entries if isinstance(each, WalkerBegins)]
    assert begun == [(0, False), (1, False), (0, True)]
    assert first_difference(entries) is None


@pytest.mark.long
def test_walkers_that_run_ahead_go_along_their_ramps_one_place_at_a_time(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.walkers |= {"final_temperature_K": 600, "ramp_by": "labels", "ramp_labels": 3}
    folder.run(n_walkers=2, learning={"n_generations": 5, "labels_ahead": 4, "min_difference_A": 0})
    entries = Journal(folder.directory.journal).read()
    assert first_difference(entries) is None
    by_walker: dict[int, list[int]] = {0: [], 1: []}
    for entry in entries:
        if isinstance(entry, WalkerBegins):
            by_walker[entry.walker].append(entry.n_good_labels)
    for places in by_walker.values():
        assert {later - earlier for earlier, later in pairwise(places)} == {0, 1}  # 0: began before a label was there
    samples = [sample for n in range(1, 6) for sample in folder.directory.read_manifest(n)["details"]["walkers"]]
    found = {sample["ramp"]["progress"]: sample["ramp"]["temperature_K"] for sample in samples}
    assert (found[0.0], found[1 / 3]) == (pytest.approx(300), pytest.approx(360))  # 1/T: 6/1800, 5/1800 ... 3/1800
