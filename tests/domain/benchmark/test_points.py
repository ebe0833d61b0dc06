"""Which labels each arm chooses, and how the errors of a point are measured."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from labelling_inputs import copper, labelled

from surveyor.benchmark.comparison import compare, markdown_of, table_of
from surveyor.benchmark.parameters import BenchmarkParameters
from surveyor.benchmark.points import Drawn, Point, in_order_of_time, learn_point, measured
from surveyor.benchmark.sets import check_sets, divided, frames_of, marked, save_sets, thinned
from surveyor.dataset import Dataset, label_of
from surveyor.errors import InputError
from surveyor.files import read_json
from surveyor.models.choice import ModelParameters, load_model
from surveyor.models.committee import CommitteeModel
from surveyor.models.pair import PairParameters
from surveyor.parameters.files import parse_parameters
from surveyor.potentials import Prediction

N_LABELS = (5, 10, 20)


def point(folder: Path, arm: Any, n_points: int, seed: int = 0) -> Point:
    return Point(
        arm=arm,
        seed=seed,
        n_labels=N_LABELS[:n_points],
        n_at_end=N_LABELS[-1],
        valid_fraction=0.2,
        model=ModelParameters(pair=PairParameters(n_basis=4)),
        n_members=2,
        folder=folder,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark whose curves are all complete."""
    folder = tmp_path_factory.mktemp("benchmark")
    structures = Dataset(labelled(copper(34)))
    save_sets(folder / "sets", structures[:30], {"alike": structures[30:]})
    for seed in (0, 1):
        for arm in ("random", "walkers", "farthest", "informative"):
            for n_points in (1, 2, 3):
                learn_point(point(folder, arm, n_points, seed))
    return folder


def chosen(each: Point) -> list[int]:
    found: list[int] = read_json(each.files.path / "chosen.json")["chosen"]
    return found


@pytest.mark.parametrize("arm", ["random", "walkers", "farthest", "informative"])
def test_an_arm_adds_to_what_it_has_and_never_trains_on_what_validates(folder: Path, arm: str) -> None:
    points = [point(folder, arm, n_points) for n_points in (1, 2, 3)]
    indices = [chosen(each) for each in points]
    assert [len(each) for each in indices] == [4, 8, 16]
    assert [Drawn(each, 30).valid for each in points] == [Drawn(points[-1], 30).order[:n] for n in (1, 2, 4)]
    for fewer, more in pairwise(indices):
        assert more[: len(fewer)] == fewer
    assert len({*indices[-1], *Drawn(points[-1], 30).valid}) == N_LABELS[-1]


def test_arms_begin_together_and_choose_differently(folder: Path) -> None:
    arms = ("random", "walkers", "farthest", "informative")
    assert {point(folder, arm, 1).name for arm in arms} == {"first-seed-0-labels-5"}
    assert point(folder, "committee", 1).name == "committee-seed-0-labels-5"
    assert len({tuple(sorted(chosen(point(folder, arm, 3)))) for arm in arms}) == 4
    assert chosen(point(folder, "random", 3, seed=1)) != chosen(point(folder, "random", 3))


def test_what_is_chosen_is_kept_and_a_finished_point_is_not_computed_again(folder: Path) -> None:
    last = point(folder, "farthest", 3)
    record, model = last.record.read_bytes(), last.files.model.stat().st_mtime_ns
    kept = (last.files.path / "chosen.json").stat().st_mtime_ns
    assert learn_point(last).read_bytes() == record
    last.record.unlink()  # as if it had been killed in the last moment
    assert read_json(learn_point(last))["errors"] == last.errors()
    assert last.files.model.stat().st_mtime_ns == model
    assert (last.files.path / "chosen.json").stat().st_mtime_ns == kept


def test_the_first_member_of_a_committee_is_the_single_model_of_the_other_arms(folder: Path) -> None:
    committee = point(folder, "committee", 1)
    learn_point(committee)
    model = load_model(committee.files.model)
    assert isinstance(model, CommitteeModel)
    assert model.members[0].seed == committee.seed
    assert committee.errors() == point(folder, "random", 1).errors()


def test_walkers_bring_one_label_of_each_part_of_the_time() -> None:
    found = in_order_of_time(range(100, 200), 4, 10, seed=0)
    assert [100 <= each - 10 * part < 110 for part, each in enumerate(found)] == [True] * 4
    assert found != in_order_of_time(range(100, 200), 4, 10, seed=1)


def test_errors_of_a_point() -> None:
    (atoms,) = labelled([bulk("Cu", cubic=True)])
    label = label_of(atoms)
    forces = np.array(label.forces)
    forces[0] += [0.3, 0.4, 0.0]
    found = measured([atoms], [Prediction(label.energy + 0.4, forces)])
    assert found["energy_rmse"] == pytest.approx(0.1)
    assert found["forces_rmse"] == pytest.approx(0.5 / math.sqrt(12))
    assert found["forces_95"] == pytest.approx(np.percentile([0.5, 0, 0, 0], 95))
    assert measured([atoms], [Prediction(math.nan, np.full((4, 3), math.nan))])["forces_95"] is None


def test_sets_are_divided_as_they_were_marked_and_may_be_empty() -> None:
    structures = copper(4)
    sets = divided([*marked(structures[:3], 0), *marked(structures[3:], 2)], 3)
    assert [len(each) for each in sets] == [3, 0, 1]
    assert [int(each.positions[0, 0] * 1e6) for each in thinned(structures, 2)] == [
        int(each.positions[0, 0] * 1e6) for each in (structures[0], structures[3])
    ]


def test_too_few_candidates_and_leaks_are_refused(tmp_path: Path) -> None:
    structures = labelled(copper(6))
    with pytest.raises(InputError, match="found 4 labelled structures, expected at least the 5"):
        check_sets(structures[:4], {"hot": Dataset(structures[4:])}, 5)
    with pytest.raises(InputError, match="tests: hot has no labelled structure"):
        check_sets(structures[:4], {"hot": Dataset()}, 4)
    with pytest.raises(InputError, match="tests: 1 structure of hot are also candidates"):
        check_sets(structures[:4], {"hot": Dataset(structures[3:])}, 4)
    assert frames_of(tmp_path, ["w000"], 0) == []


VALID: dict[str, Any] = {
    "candidates": {"file": "candidates.extxyz"},
    "tests": [{"name": "hot", "file": "hot.extxyz"}],
    "output_directory": "out",
    "model": {"pair": {}},
    "arms": ["random", "farthest"],
}
MOVING = {"start": "start.extxyz", "frame_interval": 10}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"arms": ["farthest", "walkers"]}, "arms: found farthest, walkers; expected random and others"),
        ({"arms": ["random", "random"]}, "each once"),
        ({"arms": ["random", "committee"]}, "committee with the pair model"),
        ({"n_labels": [10, 10, 90]}, "n_labels: found .* expected increasing numbers"),
        ({"reference_labels": 500}, "reference_labels: found 500; expected a number between .* 10 and 160"),
        ({"candidates": {}}, "expected exactly one of file and walkers; found neither"),
        ({"candidates": {"walkers": [MOVING]}}, "found walkers without a reference"),
        ({"candidates": {"walkers": [{"start": "a.xyz"}]}, "reference": {"emt": {}}}, "found no frame_interval"),
        ({"candidates": {"walkers": [{**MOVING, "method": "optimisation"}]}}, "expected molecular dynamics"),
        ({"candidates": {"walkers": [MOVING], "skip_steps": 100}}, "expected less than n_steps 100"),
        ({"tests": [VALID["tests"][0]] * 2}, "expected each name once"),
        ({"tests": [{"name": "../x", "file": "x"}]}, "name"),
        ({"model": {"committee": {"member": {"pair": {}}}}}, "model: found committee; expected a single model"),
    ],
)
def test_wrong_parameters_are_refused_with_the_remedy(change: dict[str, Any], complaint: str) -> None:
    assert parse_parameters(BenchmarkParameters, VALID, "file").n_seeds == 5
    with pytest.raises(InputError, match=complaint):
        parse_parameters(BenchmarkParameters, VALID | change, "file")


def test_the_table_shows_errors_and_ratios() -> None:
    halved = {"random": [[4.0, 2.0, 1.0]] * 2, "farthest": [[4.0, 1.0, 0.5]] * 2}  # a power law, and twice as steep
    never = {"random": [[4.0, 2.0, 1.0]] * 2, "farthest": [[4.0, 4.0, 4.0], [4.0, 2.0, 1.0]]}
    fields = ("forces_rmse", "forces_95", "energy_rmse", "energy_rmse_without_offset")
    comparisons = compare({"hot": dict.fromkeys(fields, halved), "cold": dict.fromkeys(fields, never)}, N_LABELS, 10)
    header, *rows = table_of(comparisons, 10)
    assert header[:4] == ["test set", "arm", "forces RMSE at 10 labels (meV/Å)", "ratio: forces RMSE"]
    assert rows[0][:4] == ["hot", "random", "2", "1"]
    assert rows[1][:4] == ["hot", "farthest", "1", "1.41 (1.41 to 1.41)"]
    assert rows[3][3].startswith("≤ 0.71 (")
    assert rows[3][3].endswith(", 1 of 2 not reached")
    assert markdown_of([["a", "b"], ["1", "2"]]) == "| a | b |\n| -- | -- |\n| 1 | 2 |"
