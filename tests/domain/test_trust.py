import re
from dataclasses import replace

import numpy as np
import pytest

from surveyor.learning.audits import Audit, Examined
from surveyor.learning.decisions import FORMER_REASON, TARGETS_MET, LearningProgress, reason_to_stop
from surveyor.learning.parameters import Learning
from surveyor.learning.statement import make_statements, verdict
from surveyor.learning.trust import Evidence, missing_evidence, n_audits_expected, newest
from surveyor.sampling.conditions import Walkers

TARGET = Learning(n_generations=99, target_forces_meV_per_A=40)
BOTH = Learning(n_generations=99, target_forces_meV_per_A=40, target_energy_meV_per_atom=2)
GROUP = Walkers(start="water.xyz", n_walkers=100, temperature_K=300, timestep_fs=0.5, n_steps=100)
STOPPED = [{"reason": "force", "step": 40, "value": 50.0, "limit": 40.0}]


def audit(number=0, **changes):
    scatter = 1 + 0.2 * np.sin(7.0 * number)
    fields = {
        "group": 0,
        "energy": 1.0 * scatter,
        "forces": 30.0 * scatter,
        "forces_by_element": {"H": 20.0 * scatter, "O": 44.0 * scatter},
        "n_atoms": {"H": 2, "O": 1},
        "temperature_K": 300.0,
        "distances_A": {"H-O": 0.9 + 0.01 * number},
    }
    return Audit(f"v1:{number:03d}", **{**fields, **changes})


def sample(index=0, **changes):
    return {"index": index, "rejections": [], "stop": None, "reason": None, "n_steps": 100, **changes}


def examined(number, n_audits=15, n_samples=40, **changes):
    audits = tuple(audit(100 * number + each, **changes) for each in range(n_audits))
    return Examined(number, audits, tuple(sample(index) for index in range(n_samples)))


@pytest.fixture
def history():
    """A bootstrap and four generations of 15 audits."""
    return [Examined(0, ()), *(examined(number) for number in range(1, 5))]


def with_newest(history, **changes):
    return [*history[:-1], replace(history[-1], **changes)]


def test_the_window_holds_the_newest_generations_that_suffice(history):
    assert [each.generation for each in newest(history)] == [3, 4]
    assert [each.generation for each in newest(history, 31)] == [2, 3, 4]
    assert [each.generation for each in newest(history, 15)] == [4]
    assert len(newest(history, 1000)) == len(history)


def test_targets_that_audits_show_end_a_campaign(history):
    assert reason_to_stop(LearningProgress(4, 100, examined=tuple(history)), TARGET) == TARGETS_MET
    assert reason_to_stop(LearningProgress(4, 100, examined=tuple(history)), BOTH) == TARGETS_MET


def test_without_targets_nothing_ends_early(history):
    assert reason_to_stop(LearningProgress(4, 100, 0.0, 0.0, tuple(history)), Learning()) is None


def test_a_campaign_of_before_keeps_its_stop():
    assert reason_to_stop(LearningProgress(1, 10, 0.0, 0.039), TARGET) == FORMER_REASON
    assert reason_to_stop(LearningProgress(1, 10, 0.0, 0.039, ()), TARGET) is None


def test_too_few_audits_say_nothing(history):
    few = tuple(history[:2])
    assert reason_to_stop(LearningProgress(1, 10, 0.0, 0.0, few), TARGET) is None
    end = reason_to_stop(LearningProgress(1, 10, 0.0, 0.0, few), TARGET.model_copy(update={"n_generations": 1}))
    assert end == (
        "the one requested generation is complete; the targets are not shown to be met: "
        "too few to say: 15 audits, expected 30"
    )


def test_one_generation_is_not_enough(history):
    assert missing_evidence(history[:3], TARGET) == ["they are met in the newest generation, but not in the one before"]
    assert missing_evidence(history[:4], TARGET) == []


@pytest.mark.parametrize("target", ["target_forces_meV_per_A", "target_energy_meV_per_atom"])
def test_an_error_whose_bound_is_above_the_target_does_not_end(history, target):
    value = 31.0 if "forces" in target else 1.03  # the error is 30.5 or 1.02, its bound above
    (missing,) = missing_evidence(history, Learning(**{target: value}))
    found = re.fullmatch(r"the error of \w+ is at most ([\d.]+) meV/\w+, expected less than ([\d.]+)", missing)
    assert float(found[1]) > float(found[2]) == value


def test_errors_far_beyond_the_target_do_not_end(history):
    far = (*history[-1].audits[1:], audit(forces=121.0))
    *_, missing = missing_evidence(with_newest(history, audits=far), TARGET)
    assert missing == "beyond 3 times a target: 1 of 30 audits, at most 15 %, expected less than 10 %"


def test_what_is_discarded_is_beyond_the_target(history):
    discarded = (*history[-1].audits[1:], audit(is_discarded=True))
    (missing,) = missing_evidence(with_newest(history, audits=discarded), TARGET)
    assert missing.startswith("beyond 3 times a target: 1 of 30")


def test_an_error_that_is_not_finite_does_not_end(history):
    diverged = (*history[-1].audits[1:], audit(forces=None))
    missing = missing_evidence(with_newest(history, audits=diverged), TARGET)
    assert missing[0] == "the error of forces is at most inf meV/Å, expected less than 40"


def test_guards_that_stop_many_walkers_do_not_end(history):
    samples = (*(sample(rejections=STOPPED) for _ in range(4)), *(sample() for _ in range(36)))
    (missing,) = missing_evidence(with_newest(history, samples=samples), TARGET)
    assert missing == "guards stopped 4 of 80 samples, expected less than 5 %"
    assert missing_evidence(with_newest(history, samples=samples[1:]), TARGET) == []


def test_a_time_limit_is_no_guard_of_the_potential(history):
    stop = {"reason": "wall_time", "step": 9, "value": 9.0, "limit": 8.0}
    samples = tuple(sample(stop=stop) for _ in range(40))
    assert missing_evidence(with_newest(history, samples=samples), TARGET) == []
    disagreed = tuple(sample(stop={**stop, "reason": "disagreement"}) for _ in range(40))
    assert missing_evidence(with_newest(history, samples=disagreed), TARGET)


def with_uncertainty(history, uncertainty, generations):
    scatter = np.random.default_rng(0).uniform(0.5, 2.0, size=(len(history), 15))
    return [
        replace(
            each,
            audits=tuple(
                replace(
                    one, largest_error=60.0, uncertainty=uncertainty * x if each.generation in generations else 60 * x
                )
                for one, x in zip(each.audits, scatter[each.generation], strict=False)
            ),
        )
        for each in history
    ]


def test_an_uncertainty_that_becomes_too_small_does_not_end(history):
    stated = with_uncertainty(history, 20.0, (3, 4))
    missing = missing_evidence(stated, TARGET)
    assert re.fullmatch(r"the stated uncertainty covers \d+ of 30 audits, expected at least \d+ %", missing[0])
    assert missing_evidence(with_uncertainty(history, 60.0, (3, 4)), TARGET) == []


def test_an_uncertainty_that_cannot_be_judged_yet_does_not_hinder(history):
    assert Evidence.of(with_uncertainty(history, 60.0, ())[:3]).coverage is None
    assert missing_evidence(with_uncertainty(history, 60.0, ())[:4], TARGET) == []


def sentence(history, learning=TARGET, group=GROUP):
    (statement,) = make_statements(history, learning, [group])
    return statement.in_words


def test_the_statement_says_what_audits_show_and_what_was_not_examined(history):
    found = re.fullmatch(
        r"300 K: forces 30\.1 meV/Å \(95 %: (.*) to (.*); 30 audits before training, generations 3 to 4\), "
        r"on H 20\.0 \(.* to .*\), O 44\.1 \(.* to .*\); energies 1\.00 meV/atom \(.* to .*\); "
        r"0 of 30 beyond 120 meV/Å \(at most 9\.5 %\); 4 ps without a guard\. "
        r"Not examined: above 300 K; compositions other than H2O; H-O below 3\.90 Å\.",
        sentence(history),
    )
    assert found is not None, sentence(history)
    assert float(found[1]) < 30.1 < float(found[2])


def test_without_targets_what_is_discarded_is_beyond_what_is_acceptable(history):
    assert "0 of 30 beyond 500 meV/Å or 20 meV/atom (at most 9.5 %)" in sentence(history, Learning())


def test_too_few_audits_are_no_statement():
    text = sentence([Examined(0, ()), examined(1, n_audits=12)])
    assert text == "300 K: too few to say (12 audits, expected 30)."


def test_the_bootstrap_is_not_among_the_generations_of_audits():
    assert "24 audits before training, generation 1)" in sentence([Examined(0, ()), examined(1, n_audits=24)])


def test_campaigns_of_before_are_no_statement():
    assert sentence([Examined(0, ()), examined(1, n_audits=0)]) == "300 K: too few to say (0 audits, expected 30)."


def test_the_statement_says_what_guards_did_and_what_brought_no_label(history):
    samples = (
        *(sample(rejections=STOPPED, n_steps=100) for _ in range(2)),
        sample(rejections=STOPPED, n_steps=0, reason="no sample"),
        sample(reason="label failed: scf_not_converged"),
        sample(is_near_duplicate=True),
    )
    text = sentence(with_newest(history, samples=samples))
    assert "guards stopped 3 of 45 samples (at most 16 %) in 2.26 ps" in text
    without = "1 rejected by guards, 1 with a failed label, 1 almost the same as a known structure"
    assert f"Samples without a new label: {without}." in text


def test_the_statement_tells_of_the_stated_uncertainty(history):
    assert "stated uncertainty: too few to say" in sentence(with_uncertainty(history, 60.0, ())[:3])
    text = sentence(with_uncertainty(history, 60.0, ()))
    expected = r"\(expected 90 %, by chance \d+ % to 100 %\)"
    assert re.search(rf"stated uncertainty, scaled by earlier audits, covered \d+ % {expected}", text)


def test_a_bound_that_is_stated_needs_no_earlier_audits():
    def bounded(uncertainty):
        changes = {"largest_error": 60.0, "uncertainty": uncertainty, "coverage": 0.9}
        return [Examined(0, ()), examined(1, n_audits=30), examined(2, n_audits=30, **changes)]

    assert "stated uncertainty covered 100 % (expected 90 %, by chance 77 % to 100 %)" in sentence(bounded(61.0))
    assert missing_evidence(bounded(61.0), TARGET) == []
    assert missing_evidence(bounded(59.0), TARGET)[0].startswith("the stated uncertainty covers 0 of 30 audits")


def test_each_group_has_a_statement_of_its_own():
    pressure = {"method": "npt", "pressure_MPa": 5.0, "final_pressure_MPa": 500.0, "ramp_steps": 10}
    hot = GROUP.model_copy(update={"n_walkers": 20, "temperature_K": 400.0, **pressure})
    cold = GROUP.model_copy(update={"n_walkers": 20, "final_temperature_K": 350.0, "ramp_steps": 10})
    generation = examined(1, n_audits=30)
    second = tuple(audit(each, group=1, volume_A3=10.0 + each / 10) for each in range(40, 50))
    generation = replace(generation, audits=(*generation.audits, *second))
    first, other = make_statements([Examined(0, ()), generation], TARGET, [cold, hot])
    assert first.in_words.startswith("group 1, 300 to 350 K: forces 30.")
    assert other.in_words.startswith("group 2, 400 K, 5 to 500 MPa: too few to say (10 audits, expected 30)")
    of_each = [[sample["index"] for sample in each.evidence.samples] for each in (first, other)]
    assert of_each == [[*range(20)], [*range(20, 40)]]


def test_volumes_that_were_examined_are_told():
    generation = Examined(1, tuple(audit(each, volume_A3=10.0 + each / 10) for each in range(30)))
    assert "volumes below 10 or above 12.9 Å³ per atom" in sentence([generation])


def test_the_verdict_is_on_the_targets(history):
    assert verdict(history, Learning()) == ""
    assert verdict(history, TARGET) == "Audits show that the targets are met, in two successive generations."
    assert verdict(history[:2], TARGET).startswith("Audits do not show that the targets are met: too few to say")


@pytest.mark.parametrize(
    ("learning", "n_audits"),
    [
        (Learning(n_generations=10, n_states=20), 36),
        (Learning(n_generations=10, n_states=4), 18),  # one for each of both sets
        (Learning(n_generations=10, n_states=2), 0),
        (Learning(n_generations=10, n_states=20, max_labels=150), 16),  # 50 of the bootstrap, five generations
        (Learning(n_generations=10, n_states=5, n_frames=3), 36),
        (Learning(n_generations=10, n_states=20, valid_fraction=0.3, test_fraction=0.3), 108),
        (Learning(n_generations=0), 0),
    ],
)
def test_the_number_of_audits_can_be_told_beforehand(learning, n_audits):
    assert n_audits_expected(learning, 8, 50) == n_audits
