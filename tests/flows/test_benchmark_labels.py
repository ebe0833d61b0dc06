"""The benchmark of labels at its smallest size: EMT as teacher, the pair model, a local pool, a real Prefect server."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from labelling_inputs import copper, labelled, written
from processes import wait_until

from surveyor.dataset import Dataset
from surveyor.errors import InputError
from surveyor.files import read_json
from surveyor.flows.benchmark_labels import benchmark_labels
from surveyor.models.choice import load_model

pytestmark = [pytest.mark.slow]


def moving(start: Path, temperature_K: float, n_steps: int = 40) -> dict[str, Any]:
    return {
        "start": start,
        "n_walkers": 2,
        "temperature_K": temperature_K,
        "n_steps": n_steps,
        "frame_interval": 4,
        "timestep_fs": 4,
    }


@pytest.fixture
def parameters(tmp_path: Path) -> dict[str, Any]:
    start = written(tmp_path / "start.extxyz", [bulk("Cu", cubic=True)])
    strained = copper(3)
    for atoms in strained:
        atoms.set_cell(atoms.cell * 0.97, scale_atoms=True)
    return {
        "candidates": {"walkers": [moving(start, 300)], "skip_steps": 8},
        "tests": [
            {"name": "hot", "walkers": [moving(start, 900)], "n_structures": 5},
            {"name": "strained", "file": written(tmp_path / "strained.extxyz", strained)},
        ],
        "output_directory": tmp_path / "out",
        "reference": {"emt": {}},
        "model": {"pair": {"n_basis": 4}},
        "arms": ["random", "walkers", "farthest", "informative"],
        "n_labels": [3, 6, 10],
        "reference_labels": 6,
        "n_seeds": 2,
    }


def test_a_call_compares_and_the_same_call_computes_nothing_again(parameters: dict[str, Any]) -> None:
    path = benchmark_labels(**parameters)
    out = path.parent
    summary = read_json(out / "summary.json")
    arms = parameters["arms"]
    assert [row[:2] for row in summary["table"][1:]] == [[test, arm] for test in ("hot", "strained") for arm in arms]
    assert path.read_text().startswith("| test set | arm | forces RMSE at 6 labels (meV/Å) |")
    assert (out / "learning-curves.png").read_bytes().startswith(b"\x89PNG")

    candidates = Dataset.load(out / "sets" / "00-candidates.extxyz").labelled()
    assert len(candidates) == 16  # of two walkers with 10 frames each, but for the first two
    assert [len(Dataset.load(each)) for each in sorted((out / "sets").glob("*"))] == [16, 5, 3]
    first = read_json(out / "points" / "first-seed-0-labels-3" / "point.json")
    for arm in arms:
        assert summary["errors"]["hot"]["forces_rmse"][arm][0][0] == 1e3 * first["errors"]["hot"]["forces_rmse"]

    point = out / "points" / "walkers-seed-1-labels-10"
    train, valid = (Dataset.load(point / f"{name}.extxyz") for name in ("train", "valid"))
    assert (len(train), len(valid)) == (8, 2)
    assert len({*train.keys(), *valid.keys()}) == 10
    test = Dataset.load(out / "sets" / "02-strained.extxyz")
    predicted = load_model(point / "model").deploy().evaluate(test)
    differences = [each.forces - atoms.arrays["REF_forces"] for each, atoms in zip(predicted, test, strict=True)]
    record = read_json(point / "point.json")["errors"]["strained"]
    assert record["forces_rmse"] == pytest.approx(np.sqrt(np.mean(np.square(differences))))
    norms = np.linalg.norm(np.concatenate(differences), axis=1)
    assert record["forces_95"] == pytest.approx(np.percentile(norms, 95))

    done = {each: each.stat().st_mtime_ns for each in out.glob("points/*/point.json")}
    labels = {each: each.stat().st_mtime_ns for each in (out.parent / "labels").rglob("*") if each.is_file()}
    assert len(done) == 18  # for each seed one that all arms share, and two of each arm
    wrong = out / "points" / "walkers-seed-2-labels-6" / "chosen.json"
    wrong.parent.mkdir()
    wrong.write_text(json.dumps({"chosen": [16]}))
    with pytest.raises(Exception, match=r"index 16|out of range"):
        benchmark_labels(**{**parameters, "n_seeds": 3})
    assert len([*out.glob("points/*/point.json")]) == 25  # all but the rest of that curve
    wrong.unlink()
    assert benchmark_labels(**{**parameters, "n_seeds": 3}) == path
    assert read_json(out / "summary.json")["n_seeds"] == 3
    now = {each: each.stat().st_mtime_ns for each in out.glob("points/*/point.json")}
    assert len(now) == 27
    assert now.items() >= done.items()
    assert labels == {each: each.stat().st_mtime_ns for each in (out.parent / "labels").rglob("*") if each.is_file()}
    with pytest.raises(InputError, match=r"(?s)holds a benchmark with other parameters:.*n_labels\[0\]: 3 there"):
        benchmark_labels(**{**parameters, "n_labels": [4, 6, 10]})


@pytest.mark.long
def test_a_killed_benchmark_repeats_no_finished_point_and_has_the_table_of_one_that_ran_at_once(
    parameters: dict[str, Any], tmp_path: Path
) -> None:
    structures = labelled(copper(40))
    given = {
        **parameters,
        "candidates": {"file": written(tmp_path / "candidates.extxyz", structures[:36])},
        "tests": [{"name": "alike", "file": written(tmp_path / "alike.extxyz", structures[36:])}],
        "arms": ["random", "farthest"],
        "n_seeds": 8,
    }
    del given["reference"]  # the files have the labels
    file, output, out = tmp_path / "benchmark.yaml", tmp_path / "output.txt", tmp_path / "out"
    file.write_text(json.dumps(given, default=str))

    def finished() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in out.glob("points/*/point.json")}

    with output.open("wb") as printed:
        command = [sys.executable, "-m", "surveyor.flows.command_line", "benchmark-labels", str(file)]
        first = subprocess.Popen(command, stdout=printed, stderr=printed)
    try:
        wait_until(lambda: len(finished()) >= 4, output.read_text)
    finally:
        first.kill()
        first.wait()
    assert not (out / "summary.json").exists()
    before = finished()
    assert 4 <= len(before) < 40
    comparison = benchmark_labels(**given)
    assert len(finished()) == 40
    assert finished().items() >= before.items()
    assert comparison.read_text() == benchmark_labels(**{**given, "output_directory": tmp_path / "at once"}).read_text()
