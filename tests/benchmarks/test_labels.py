"""The systems of the benchmark of labels: their files are valid; a teacher labels sets; campaigns are compared."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from ase.build import bulk
from labelling_inputs import copper, labelled, written

from surveyor.benchmark import BENCHMARK, BenchmarkParameters
from surveyor.benchmark.sets import SETS, save_sets
from surveyor.dataset import Dataset
from surveyor.files import read_json
from surveyor.parameters.files import load_parameters
from surveyor.run_directory import RunDirectory

SYSTEMS = Path(__file__).parents[2] / "benchmarks" / "labels"
TEACHER, ONLINE = SYSTEMS / "teacher.py", SYSTEMS / "online.py"
REFERENCED = ("formic-acid-dimer", "alanine-dipeptide")
TAUGHT = ("silicon", "water")


@pytest.fixture(scope="module")
def teacher() -> ModuleType:
    spec = importlib.util.spec_from_file_location("teacher", TEACHER)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["teacher"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_system_is_checked_here() -> None:
    found = {path.stem for path in SYSTEMS.glob("*.yaml")}
    assert found == {*REFERENCED, *TAUGHT, *(f"{name}-teacher" for name in TAUGHT)}


@pytest.mark.parametrize("name", REFERENCED)
def test_systems_with_a_reference_can_begin(name: str) -> None:
    assert BENCHMARK.check(BENCHMARK.load(SYSTEMS / f"{name}.yaml")).walkers


@pytest.mark.parametrize("name", TAUGHT)
def test_systems_of_a_teacher_name_the_files_that_it_writes(name: str, teacher: ModuleType) -> None:
    taught = load_parameters(teacher.TeacherParameters, SYSTEMS / f"{name}-teacher.yaml", "file", "")
    parameters = BENCHMARK.load(SYSTEMS / f"{name}.yaml")
    named = [each.file for each in parameters.sets.values()]
    assert named == [taught.folder / f"{each}.extxyz" for each in taught.sets]
    for each in taught.sets.values():
        assert teacher.checked_walkers(each.walkers, 0)


def test_a_teacher_writes_labelled_sets_that_a_benchmark_takes(tmp_path: Path) -> None:
    start = written(tmp_path / "start.extxyz", [bulk("Cu", cubic=True)])
    walkers = {"start": start.name, "n_walkers": 2, "n_steps": 20, "frame_interval": 2, "timestep_fs": 4}
    sets = {"candidates": {"walkers": [walkers], "skip_steps": 4}, "hot": {"walkers": [walkers], "n_structures": 3}}
    file = tmp_path / "teacher.yaml"
    file.write_text(yaml.safe_dump({"teacher": "emt", "sets": sets, "output_directory": "sets"}))
    done = subprocess.run([sys.executable, TEACHER, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {name: Dataset.load(tmp_path / "sets" / f"{name}.extxyz").labelled() for name in sets}
    assert {name: len(each) for name, each in found.items()} == {"candidates": 16, "hot": 3}
    parameters = BenchmarkParameters(
        candidates={"file": tmp_path / "sets" / "candidates.extxyz"},
        tests=[{"name": "hot", "file": tmp_path / "sets" / "hot.extxyz"}],
        output_directory=tmp_path / "out",
        model={"pair": {}},
        arms=["random", "farthest"],
    )
    assert len(BENCHMARK.check(parameters).readings["candidates"].structures) == 16


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("prefect_api_url")
def test_arms_are_compared_in_campaigns_of_their_own(tmp_path: Path) -> None:
    start = written(tmp_path / "start.extxyz", [bulk("Cu", cubic=True)])
    walkers = {"start": start.name, "n_walkers": 3, "n_steps": 40, "frame_interval": 4, "timestep_fs": 4}
    content = {
        "output_directory": "out",
        "reference": {"emt": {}},
        "candidates": {"walkers": [walkers]},
        "tests": [{"name": "alike", "walkers": [walkers]}],
        "model": {"pair": {"n_basis": 4}},
        "arms": ["random", "walkers"],
        "n_labels": [5, 11],
        "reference_labels": 8,
    }
    file = tmp_path / "benchmark.yaml"
    file.write_text(yaml.safe_dump(content))
    (tmp_path / "out").mkdir()
    save_sets(tmp_path / "out" / SETS, Dataset(), {"alike": Dataset(labelled(copper(4)))})
    arms = ["--arms", "random", "informative", "--ahead", "1", "2"]
    command = [sys.executable, ONLINE, file, *arms, "--seeds", "2", "--states", "3", "--steps", "40"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ")[:2] for line in done.stdout.splitlines() if line.startswith("| alike")]
    assert [arm for _, arm in rows] == ["random", "random, 2 ahead", "informative", "informative, 2 ahead"]
    for number in range(2):
        directory = RunDirectory(tmp_path / "out" / "online" / f"informative-2-ahead-seed-{number}")
        assert directory.n_complete() == 3
        assert len(directory.read_manifest(2)["labels"]) == 11
        errors = read_json(directory.path / "errors-on-tests.json")
        assert errors["n_labels"][0] == 5
        assert len(errors["errors"]["alike"]["forces_rmse"]) == 3
