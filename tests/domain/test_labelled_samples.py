import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.cluster import Octahedron

from surveyor.dataset import Dataset, with_label
from surveyor.dataset.metrics import StructureError
from surveyor.errors import NothingLearned
from surveyor.labels import Label, LabelFailure
from surveyor.learning.labelled_samples import (
    KNOWN,
    LabelledSample,
    audits_among,
    check_bootstrap,
    check_failures,
    check_new_labels,
    count_failures,
    describe,
    explore,
    good_samples,
    move_on,
    new_structures,
    why_nothing_is_new,
)
from surveyor.learning.parameters import Learning
from surveyor.sampling.collection import FRAME
from surveyor.sampling.conditions import Walkers
from surveyor.sampling.walkers import Rejection, Sample, Walker, WalkerState, make_walkers
from surveyor.testing.calculators import CalculatorPotential

SMALL, LARGE = StructureError(1.0, 10.0), StructureError(15.0, 10.0)


def walker_at(index, distance, tmp_path):
    start = molecule("H2O")
    state = WalkerState(start.positions + distance, np.zeros((3, 3)), np.zeros((3, 3)), "{}", n_steps=10)
    return Walker(index, start, Walkers(start=tmp_path / "unused.xyz"), seed=index, state=state if distance else None)


def brought(walker, key, failure=None):
    label = LabelFailure(failure, "failed", output=f"/scratch/{key}") if failure else Label(-1.0, np.zeros((3, 3)))
    atoms = with_label(walker.structure, key, label)
    return LabelledSample(
        f"sample of {walker.index}",
        Sample(walker, walker.structure, 10, observables={"temperature_K": np.array([300.0])}),
        atoms,
    )


def test_walkers_go_on_or_go_back_for_the_right_reasons(tmp_path):
    starts = [walker_at(index, 0, tmp_path) for index in range(5)]
    reached = [walker_at(index, 0.1, tmp_path) for index in range(4)]  # the last walker was not propagated
    samples = [brought(reached[0], "a"), brought(reached[1], "b"), brought(reached[2], "c", "timeout")]
    samples.append(brought(reached[3], "d"))
    walkers = move_on(starts, samples, {"a": SMALL, "b": LARGE, "d": StructureError(np.nan, 1.0)}, Learning())
    assert [walker.index for walker in walkers] == [0, 1, 2, 3, 4]
    assert [walker.state is not None for walker in walkers] == [True, False, False, False, False]
    assert [walker.n_resets for walker in walkers] == [0, 1, 1, 1, 0]


def test_a_walker_is_where_its_last_sample_ended_unless_any_of_them_went_wrong(tmp_path):
    start = walker_at(0, 0, tmp_path)
    first, second = walker_at(0, 0.1, tmp_path), walker_at(0, 0.2, tmp_path)
    samples = [brought(first, "a"), brought(second, "b")]
    (walker,) = move_on([start], samples, {"a": SMALL, "b": SMALL}, Learning())
    assert walker is second
    (walker,) = move_on([start], samples, {"a": LARGE, "b": SMALL}, Learning())
    assert walker.state is None


def test_good_labels_move_walkers_along_ramps_by_labels_and_one_of_each_place(tmp_path):
    fields = {"start": tmp_path / "unused.xyz", "final_temperature_K": 600}
    by_labels, by_steps = Walkers(**fields, ramp_by="labels", ramp_labels=2), Walkers(**fields, ramp_steps=20)
    walkers = [replace(walker_at(index, 0.1, tmp_path), conditions=by_labels) for index in range(5)]
    walkers[4] = replace(walkers[4], conditions=by_steps)
    samples = [brought(walker, key) for walker, key in zip(walkers, "abcde", strict=True)]
    samples.append(replace(brought(walkers[0], "f"), name="another"))
    samples[3] = brought(walkers[3], "d", "timeout")
    errors = {"a": SMALL, "c": LARGE, "e": SMALL, "f": SMALL}  # the campaign had the label of b
    assert good_samples(samples, errors, Learning()) == ("sample of 0", "another")
    moved = move_on(walkers, samples, errors, Learning())
    assert [walker.n_good_labels for walker in moved] == [1, 0, 0, 0, 0]
    temperatures = [walker.conditions.temperature_at(walker.progress) for walker in moved]
    assert temperatures == pytest.approx([400, 300, 300, 300, 450])


def test_a_frame_that_a_selector_has_chosen_is_a_good_label_of_its_sample(tmp_path):
    fields = {"start": tmp_path / "unused.xyz", "final_temperature_K": 600}
    walkers = [
        replace(walker_at(index, 0.1, tmp_path), conditions=Walkers(**fields, ramp_by="labels", ramp_labels=2))
        for index in range(2)
    ]
    first, second = (replace(brought(each, "v1:a"), role="candidate", structure=None) for each in walkers)
    frame = LabelledSample(f"{first.name}{FRAME}5", None, brought(walkers[0], "v1:b").structure, role="chosen")
    bad = LabelledSample(f"{second.name}{FRAME}5", None, brought(walkers[1], "v1:c").structure, role="chosen")
    errors = {"v1:b": SMALL, "v1:c": LARGE}
    assert good_samples([first, second, frame, bad], errors, Learning()) == (first.name,)


def test_structures_that_no_walker_brought_move_no_walker(tmp_path):
    walker = walker_at(0, 0.1, tmp_path)
    late = LabelledSample("late", None, with_label(molecule("H2O"), "a", LabelFailure("timeout", "too slow")))
    assert move_on([walker], [late], {}, Learning()) == (walker,)


def test_new_structures_are_those_that_are_not_known_in_the_order_of_keys(tmp_path):
    walkers = [walker_at(index, 0.1 * index, tmp_path) for index in range(4)]
    samples = [brought(walker, key) for walker, key in zip(walkers, "cabc", strict=True)]
    samples.append(LabelledSample("nothing", Sample(walkers[0], None), None))
    assert new_structures(samples, known=["b"]).keys() == ("a", "c")


def test_failures_are_counted_by_reason(tmp_path):
    walker = walker_at(0, 0.1, tmp_path)
    reasons = ["timeout", "crash", None, "timeout"]
    structures = Dataset(brought(walker, str(i), reason).structure for i, reason in enumerate(reasons))
    assert count_failures(structures) == {"crash": 1, "timeout": 2}


def test_too_many_failures_end_a_campaign_with_reasons_and_a_place_to_look(tmp_path):
    walker = walker_at(0, 0.1, tmp_path)
    structures = Dataset(brought(walker, str(i), "timeout" if i < 3 else None).structure for i in range(5))
    with pytest.raises(NothingLearned, match=r"3 of 5 labels failed \(3 timeout\), allowed are 50%; see .*/scratch/0"):
        check_failures(structures, Learning())
    check_failures(structures, Learning(max_failed_fraction=0.6))
    check_failures(Dataset(), Learning())


def test_failures_without_outputs_are_looked_for_in_the_store():
    failed = with_label(molecule("H2O"), "a", LabelFailure("crash", "no"))
    with pytest.raises(NothingLearned, match="see the output of the first in the label store"):
        check_failures(Dataset([failed]), Learning())


def test_a_bootstrap_needs_three_labels(tmp_path):
    walker = walker_at(0, 0.1, tmp_path)
    structures = Dataset(brought(walker, str(i), "crash" if i < 2 else None).structure for i in range(5))
    check_bootstrap(structures)
    with pytest.raises(NothingLearned, match="2 of 4 structures of the bootstrap got a label; expected at least"):
        check_bootstrap(structures[:4])


def test_a_description_is_json_whatever_went_wrong(tmp_path):
    walker = walker_at(0, 0.1, tmp_path)
    rejection = Rejection("force", 3, float("nan"), 40.0)
    samples = [
        brought(walker, "a"),
        brought(walker, "b", "timeout"),
        LabelledSample("nothing", Sample(walker, None, rejections=(rejection,)), None),
        LabelledSample("late", None, brought(walker, "c").structure),
    ]
    errors = {"a": StructureError(float("nan"), float("inf"))}
    details = describe(samples, new_structures(samples, ()), errors, [{"number": 0, "loss": 0.5}], Learning())
    assert json.loads(json.dumps(details, allow_nan=False)) == details
    assert [each["fate"] for each in details["walkers"]] == ["reset", "reset", "reset"]
    assert [each["reason"] for each in details["walkers"]] == [
        "error of the model",
        "label failed: timeout",
        "no sample",
    ]
    assert details["walkers"][0]["energy_error"] is None
    assert details["failures"] == {"timeout": 1}
    assert details["epochs"] == 1
    assert [each["window"] for each in details["walkers"]] == [None] * 3


def test_a_description_says_how_a_walker_moved_and_how_far_the_model_was_off(tmp_path):
    walker = walker_at(0, 0.1, tmp_path)
    stop = Rejection("disagreement", 7, 900.0, 500.0)
    temperatures = {"temperature_K": np.array([300.126, 299.114])}
    sample = Sample(walker, walker.structure, 10, stop=stop, observables=temperatures)
    samples = [
        LabelledSample("labelled", sample, brought(walker, "a").structure),
        LabelledSample("near", sample, None),
        LabelledSample("rejected", Sample(walker, None), None),
    ]
    labelled, near, rejected = describe(samples, Dataset(), {"a": SMALL}, [], Learning())["walkers"]
    assert (labelled["fate"], labelled["reason"]) == ("continues", None)
    assert (labelled["energy_error"], labelled["forces_error"]) == (SMALL.energy, SMALL.forces)
    assert labelled["stop"] == {"reason": "disagreement", "step": 7, "value": 900.0, "limit": 500.0}
    assert labelled["temperatures_K"] == [300.13, 299.11]
    assert [each["is_near_duplicate"] for each in (labelled, near, rejected)] == [False, True, False]
    assert (near["energy_error"], rejected["stop"]) == (None, None)


def test_a_description_has_the_window_of_each_walker(tmp_path):
    walker = walker_at(0, 0.1, tmp_path)
    walker.start.info |= {"window_variable": "d", "window_centre": 0.5}
    (record,) = describe([brought(walker, "a")], Dataset(), {}, [], Learning())["walkers"]
    assert record["window"] == {"variable": "d", "centre": 0.5}


def test_a_generation_with_a_new_label_has_brought_something(tmp_path):
    samples = [brought(walker_at(0, 0.1, tmp_path), "a"), brought(walker_at(1, 0.1, tmp_path), "b", "timeout")]
    check_new_labels(samples, new_structures(samples, ()))


def test_a_generation_without_a_new_label_says_why_and_what_may_help(tmp_path):
    walkers = [walker_at(index, 0.1, tmp_path) for index in range(5)]
    hot, torn = Rejection("temperature", 8, 1565.0, 1500.0), Rejection("distance", 10, 0.31, 0.5)
    samples = [
        LabelledSample("0", Sample(walkers[0], None, rejections=(hot, hot)), None),
        LabelledSample("1", Sample(walkers[1], None, rejections=(hot, torn)), None),
        LabelledSample("2", Sample(walkers[2], walkers[2].structure), None),  # not labelled
        brought(walkers[3], "known"),
        brought(walkers[4], "new", "timeout"),
    ]
    with pytest.raises(NothingLearned) as raised:
        check_new_labels(samples, new_structures(samples, ["known"]))
    said = str(raised.value)
    assert "2 of 5 samples were rejected, as guards stopped every try" in said
    assert "1 of 5 samples are almost the same as known structures" in said
    assert "1 of 5 samples have labels that the campaign has already" in said
    assert "1 of 5 samples have no label, as it failed" in said
    assert "Guards stopped 4 tries: " in said
    assert "3 x temperature (1565 K, at most 1500 K are allowed, at step 8)" in said
    assert "1 x distance (0.31 Å, at least 0.5 Å are allowed, at step 10)" in said
    advice = [line.strip().partition(":")[0] for line in said.splitlines()[1:]]
    assert advice[:2] == ["distance", "temperature"]
    assert advice[2:] == [
        "almost the same as known structures",
        "labels that the campaign has already",
        "no label, as it failed",
    ]
    assert "max_temperature_factor" in said
    assert "max_volume_factor" not in said  # nothing was stopped by it


def test_guards_are_not_named_where_they_stopped_nothing(tmp_path):
    walker = walker_at(0, 0.1, tmp_path)
    with pytest.raises(NothingLearned) as raised:
        check_new_labels([LabelledSample("0", Sample(walker, walker.structure), None)], Dataset())
    assert "Guards stopped" not in str(raised.value)


def test_a_sample_with_a_new_label_is_not_counted_among_those_that_brought_nothing(tmp_path):
    samples = [brought(walker_at(index, 0.1 * index, tmp_path), key) for index, key in enumerate("ab")]
    assert why_nothing_is_new(samples, new_structures(samples, ["b"])) == {KNOWN: 1}


def test_each_walker_is_propagated_and_what_it_brings_is_labelled(tmp_path):
    ase.io.write(tmp_path / "start.extxyz", Octahedron("Cu", 2))
    common = {"start": tmp_path / "start.extxyz", "n_steps": 5}
    groups = [
        Walkers(**common, n_walkers=2),
        Walkers(**common, n_walkers=1, max_force_eV_per_A=0.01),
    ]  # the last one is stopped
    labelled, walkers = [], make_walkers(groups, seed=1)

    def label(atoms):
        labelled.append(atoms)
        return with_label(atoms, "v1:a", Label(-1.0, 0 * atoms.positions))

    with ThreadPoolExecutor() as pool:
        rounds = [
            explore(pool, walkers, CalculatorPotential("ase.calculators.emt.EMT"), label, tmp_path / "samples")
            for _ in range(2)
        ]
    first, second = ({each.name: each for each in samples} for samples in rounds)
    assert sorted(first) == sorted(second) == ["walker-0", "walker-1", "walker-2"]
    assert [first[f"walker-{index}"].sample.walker.index for index in range(3)] == [0, 1, 2]
    assert [first[name].key for name in sorted(first)] == ["v1:a", "v1:a", None]
    assert len(labelled) == 4
    assert all((tmp_path / "samples" / f"{name}.npz").exists() for name in first)
    assert not np.allclose(first["walker-0"].structure.positions, first["walker-1"].structure.positions)
    for name in ("walker-0", "walker-1"):
        assert first[name].structure.positions.tolist() == first[name].sample.structure.positions.tolist()
        assert first[name].sample.structure == second[name].sample.structure  # as it was on disk


def with_roles(tmp_path):
    """The samples of a generation in which a selector has chosen."""
    walkers = [walker_at(index, 0.1 * index, tmp_path) for index in range(4)]
    audit, candidate, lost = (
        brought(walker, key) for walker, key in zip(walkers[:3], ("v1:a", "v1:b", "v1:c"), strict=True)
    )
    frame = LabelledSample("frame", None, brought(walkers[3], "v1:d").structure, 2, 5, "chosen", 0.25)
    return [
        replace(audit, role="audit"),
        replace(candidate, role="candidate", structure=None),
        replace(lost, role="audit", structure=None),
        frame,
        replace(frame, name="unlike", structure=brought(walkers[0], "v1:e").structure, score=float("nan")),
    ]


def test_audits_are_those_of_samples_that_were_drawn_if_a_selector_has_chosen(tmp_path):
    samples = with_roles(tmp_path)
    assert audits_among(samples) == {"v1:a"}
    assert audits_among(samples[1:2]) == frozenset()
    assert audits_among([brought(walker_at(0, 0.1, tmp_path), "v1:a")]) is None


def test_a_description_has_what_a_selector_has_chosen(tmp_path):
    samples = with_roles(tmp_path)
    details = describe(samples, Dataset(), {"v1:d": LARGE}, [], Learning())
    assert [each["role"] for each in details["walkers"]] == ["audit", "candidate", "audit"]
    assert [each["is_near_duplicate"] for each in details["walkers"]] == [False, False, True]
    common = {"moved_on": 2, "lag": 5}
    assert details["chosen"] == [
        {"name": "frame", "label_key": "v1:d", "score": 0.25, "energy_error": 15.0, "forces_error": 10.0, **common},
        {"name": "unlike", "label_key": "v1:e", "score": None, "energy_error": None, "forces_error": None, **common},
    ]
    assert "chosen" not in describe([brought(walker_at(0, 0.1, tmp_path), "v1:a")], Dataset(), {}, [], Learning())
