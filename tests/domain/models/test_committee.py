from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from surveyor.dataset import Dataset, label_of, with_label
from surveyor.errors import InputError
from surveyor.files import read_json
from surveyor.labels import Label
from surveyor.models.choice import CommitteeParameters, MemberParameters, ModelParameters, load_model, make_model
from surveyor.models.committee import SUMMARY, CommitteeModel
from surveyor.models.disagreement import calibrate, disagreement_of, mean_of
from surveyor.models.history import MEMBERS, report_epoch
from surveyor.models.mace_parameters import MACEParameters
from surveyor.models.model import Epoch, digest_of
from surveyor.models.pair import PairModel, PairParameters
from surveyor.potentials import Contact, Prediction, predict
from surveyor.testing.models import check_model
from surveyor.testing.potentials import check_potential

PAIRS = CommitteeParameters(n_members=3, resample=True, member=MemberParameters(pair=PairParameters()))


def committee(parameters: CommitteeParameters = PAIRS) -> CommitteeModel:
    model = make_model(ModelParameters(committee=parameters))
    assert isinstance(model, CommitteeModel)
    return model


@pytest.fixture
def trained(train: Dataset, valid: Dataset, tmp_path: Path) -> CommitteeModel:
    model = committee().initialize(train, atomic_energies=None, seed=7)
    return model.train(train, valid, tmp_path / "training")[0]


def test_committee_fulfils_what_is_asked_of_models(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    check_model(committee(), train, valid, directory=tmp_path, load=load_model)


def test_mean_fulfils_what_is_asked_of_potentials(trained: CommitteeModel, valid: Dataset) -> None:
    check_potential(trained.deploy(), [*valid[:3], Atoms("CuAu", positions=[[0, 0, 0], [0, 0, 2.5]])])


def test_the_mean_is_that_of_the_members_and_each_can_be_deployed(trained: CommitteeModel, valid: Dataset) -> None:
    mean = trained.deploy().evaluate(valid)
    members = [member.deploy().evaluate(valid) for member in trained.members]
    for index, atoms in enumerate(valid):
        assert mean[index].energy == pytest.approx(np.mean([each[index].energy for each in members]))
        np.testing.assert_allclose(mean[index].forces, np.mean([each[index].forces for each in members], axis=0))
        assert (mean[index].stress is None) == (label_of(atoms).stress is None)


def test_members_differ_in_their_seeds_and_data_but_not_in_atomic_energies(
    train: Dataset, trained: CommitteeModel
) -> None:
    assert len({member.seed for member in trained.members}) == 3
    assert len({digest_of(member) for member in trained.members}) == 3
    assert {tuple(dict(member.atomic_energies or {}).items()) for member in trained.members} == {
        tuple(dict(trained.atomic_energies or {}).items())
    }
    other = committee().initialize(train, atomic_energies=None, seed=8)
    assert not {member.seed for member in other.members} & {member.seed for member in trained.members}


def test_without_resampling_members_that_draw_nothing_agree(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    parameters = PAIRS.model_copy(update={"resample": False})
    model = committee(parameters).initialize(train, atomic_energies=None, seed=0)
    model, _ = model.train(train, valid, tmp_path)
    assert max(each.energy for each in model.deploy().disagreement(valid)) == pytest.approx(0, abs=1e-12)


def test_a_member_that_was_trained_on_its_own_is_not_trained_again(
    train: Dataset, valid: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = committee().initialize(train, atomic_energies=None, seed=7)
    alone = [model.train_member(index, train, valid, tmp_path) for index in (2, 0, 1)]
    monkeypatch.setattr(PairModel, "_fit", None)
    together, _ = model.train(train, valid, tmp_path)
    assert {digest_of(member) for member in together.members} == {digest_of(member) for member in alone}


def test_disagreement_is_that_of_the_predictions() -> None:
    forces = np.array([[[1.0, 0, 0], [0, 0, 0]], [[-1.0, 0, 0], [0, 0, 0]]])
    predictions = [Prediction(energy, each) for energy, each in zip((3.0, 5.0), forces, strict=True)]
    disagreement = disagreement_of(predictions)
    assert disagreement.energy == pytest.approx(2**0.5 / 2)
    np.testing.assert_allclose(disagreement.forces, [2**0.5, 0])
    assert mean_of(predictions).energy == 4
    assert mean_of(predictions).stress is None


def test_the_contact_that_a_member_states_is_that_of_the_committee() -> None:
    contact = Contact(distance_A=1.5, in_radii=0.8, reach_A=5.0)
    members = [Prediction(energy, np.zeros((2, 3)), contact=contact) for energy in (3.0, 5.0)]
    assert mean_of(members).contact == contact


def test_calculator_says_how_far_the_members_disagree(trained: CommitteeModel, valid: Dataset) -> None:
    atoms = valid[0].copy()
    atoms.calc = trained.deploy().calculator()
    atoms.get_potential_energy()
    (expected,) = trained.deploy().disagreement([atoms])
    assert atoms.calc.results["energy_disagreement"] == pytest.approx(expected.energy)
    np.testing.assert_allclose(atoms.calc.results["forces_disagreement"], expected.forces)


def test_the_uncertainty_of_forces_is_the_calibrated_disagreement(trained: CommitteeModel, valid: Dataset) -> None:
    potential = trained.deploy()
    assert potential.calibration is not None
    factor = potential.calibration.forces.factor
    expected = factor * potential.disagreement(valid[:1])[0].forces
    (prediction,) = potential.evaluate(valid[:1])
    assert prediction.uncertainty == pytest.approx(expected)
    assert predict(potential.calculator(), valid[0]).uncertainty == pytest.approx(expected)
    uncalibrated = replace(potential, calibration=None)
    assert uncalibrated.evaluate(valid[:1])[0].uncertainty == pytest.approx(expected / factor)


def test_calibration_is_kept_with_the_model(trained: CommitteeModel, valid: Dataset, tmp_path: Path) -> None:
    expected = calibrate(valid, [member.deploy().evaluate(valid) for member in trained.members])
    assert trained.calibration == expected
    trained.save(tmp_path / "saved")
    loaded = load_model(tmp_path / "saved")
    assert isinstance(loaded, CommitteeModel)
    assert loaded.calibration == expected
    assert loaded.deploy().calibration == expected
    assert digest_of(loaded) == digest_of(trained)
    record = read_json(tmp_path / "saved" / SUMMARY)
    assert record["members"] == [digest_of(member) for member in trained.members]
    # Each member is a saved model of its own.
    assert digest_of(load_model(tmp_path / "saved" / "member-1")) == digest_of(trained.members[1])


def test_the_history_has_mean_learning_rates_and_losses(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    for index, rate in enumerate((0.01, 0.03, None)):
        report_epoch(tmp_path / MEMBERS / str(index), Epoch(7, 1.0, learning_rate=rate, training_loss=rate))
    _, history = committee().initialize(train, atomic_energies=None, seed=7).train(train, valid, tmp_path)
    assert history[-1].number == 7
    assert history[-1].learning_rate == history[-1].training_loss == pytest.approx(0.02)


def test_the_log_tells_the_calibration(
    train: Dataset, valid: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    untrained = committee().initialize(train, atomic_energies=None, seed=7)
    model, _ = untrained.train(train, valid, tmp_path / "some")
    assert model.calibration is not None
    forces = model.calibration.forces
    assert f"errors of forces are {forces.factor:.2f} times the disagreement, over {forces.n} atoms" in caplog.text
    assert "are smaller than that, 55 % expected" in caplog.text
    assert "so few structures" not in caplog.text

    untrained.train(train, valid[:1], tmp_path / "one")
    assert "the atoms of so few structures say little of others" in caplog.text

    alike = committee(PAIRS.model_copy(update={"resample": False})).initialize(train, atomic_energies=None, seed=0)
    model, _ = alike.train(train, valid, tmp_path / "alike")
    assert "the disagreement on forces is not calibrated, and is taken as it is: found 0 values" in caplog.text
    assert model.deploy().evaluate(valid[:1])[0].uncertainty == pytest.approx(0, abs=1e-9)


def test_isolated_atoms_are_passed_over(
    train: Dataset, valid: Dataset, tmp_path: Path, trained: CommitteeModel
) -> None:
    atom = with_label(Atoms("Cu"), None, Label(-3.0, np.zeros((1, 3))))
    untrained = committee().initialize(train, atomic_energies=None, seed=7)
    found, _ = untrained.train(Dataset([*train, atom]), Dataset([*valid, atom]), tmp_path)
    assert [digest_of(member) for member in found.members] == [digest_of(member) for member in trained.members]
    assert found.calibration == trained.calibration


@pytest.mark.parametrize("n_members", [0, 1])
def test_one_member_is_no_committee(n_members: int) -> None:
    with pytest.raises(ValueError, match="n_members"):
        CommitteeParameters(n_members=n_members, member=PAIRS.member)


def test_a_committee_has_no_committee_as_member() -> None:
    with pytest.raises(ValueError, match="committee"):
        ModelParameters.model_validate({"committee": {"member": {"committee": {"member": {"pair": {}}}}}})


@pytest.mark.mace
@pytest.mark.skipif(find_spec("mace") is None, reason='needs MACE: pip install "surveyor[mace]"')
def test_options_of_members_are_checked() -> None:
    from surveyor.models.choice import check_model_parameters

    member = MemberParameters(mace=MACEParameters(options={"batch_sise": 3}))
    with pytest.raises(InputError, match="batch_sise"):
        check_model_parameters(ModelParameters(committee=CommitteeParameters(member=member)))
