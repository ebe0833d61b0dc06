"""Weights and stresses that other people gave, on their way into trainings and campaigns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from labelling_inputs import copper, labelled, written

from surveyor.dataset import ENERGY, STRESS, Dataset, DataSets, label_of
from surveyor.dataset.metrics import Errors, errors_of, structure_error
from surveyor.dataset.weights import is_counted, weight_of, weighted_properties, without_weights
from surveyor.errors import InputError
from surveyor.files import read_json, write_json
from surveyor.learning.decisions import decide_membership
from surveyor.learning.parameters import Bootstrap, Learning
from surveyor.models.atomic_energies import fit_atomic_energies
from surveyor.models.choice import MemberParameters, ModelParameters, make_model, replay_reports
from surveyor.models.disagreement import calibrate
from surveyor.models.pair import PairModel, PairParameters
from surveyor.models.weights import check_weights
from surveyor.potentials import Prediction
from surveyor.reference.ase import EMTReference
from surveyor.run_directory import RunDirectory
from surveyor.works.campaign import CAMPAIGN, CampaignParameters, given_data
from surveyor.works.campaign.checks import labelled_data
from surveyor.works.training import TRAINING, TrainingParameters

OUTLIER = 1000.0  # eV


def with_weights(atoms: Atoms, **weights: float) -> Atoms:
    copy = atoms.copy()
    copy.info.update(weights)
    return copy


def predicted(atoms: Atoms, off: float = 0.0) -> Prediction:
    label = label_of(atoms)
    return Prediction(label.energy + off, label.forces + off, label.stress)


def test_errors_count_each_structure_once_and_labels_of_weight_0_not_at_all() -> None:
    one, other, third = labelled(copper(3))
    structures = [with_weights(one, config_weight=5.0), other, with_weights(third, config_energy_weight=0.0)]
    errors = errors_of(structures, [predicted(one, 1.0), predicted(other, 0.0), predicted(third, OUTLIER)])
    assert errors.energy_mae == pytest.approx(0.5 / 4)
    assert errors.forces_mae == pytest.approx((1.0 + 0.0 + OUTLIER) / 3)
    nothing = with_weights(one, config_energy_weight=0.0, config_forces_weight=0.0)
    assert errors_of([nothing], [predicted(one, 1.0)]).forces_rmse is None
    assert structure_error(nothing, predicted(one, 1.0)).exceeds(0.0, 0.0) is False


@pytest.mark.parametrize(("name", "other"), [("energy", "forces"), ("forces", "energy")])
def test_a_structure_counts_where_one_of_its_labels_does(name: str, other: str) -> None:
    (atoms,) = labelled(copper(1))
    atoms.info.pop(STRESS, None)
    one = with_weights(atoms, **{f"config_{name}_weight": 0.0})
    assert is_counted(one)
    assert not is_counted(with_weights(one, **{f"config_{other}_weight": 0.0}))


def test_weights_are_taken_from_copies() -> None:
    weighted = with_weights(labelled(copper(1))[0], config_weight=2.0)
    (without,) = without_weights([weighted])
    assert (weight_of(without, "energy"), weight_of(weighted, "energy")) == (1.0, 2.0)


def test_labels_of_weight_0_calibrate_nothing() -> None:
    structures = labelled(copper(4))
    members = [[predicted(atoms, off * (i + 1)) for i, atoms in enumerate(structures)] for off in (0.1, 0.2, 0.4)]
    expected = calibrate(structures[1:], [each[1:] for each in members])
    outlier = with_weights(structures[0], config_weight=0.0)
    outlier.info[ENERGY] += OUTLIER
    assert calibrate([outlier, *structures[1:]], members) == expected


def test_atomic_energies_are_fitted_with_the_weights_of_energies() -> None:
    structures = labelled(copper(3))
    twice = with_weights(structures[0], config_weight=4.0, config_energy_weight=0.5)
    expected = fit_atomic_energies([structures[0], *structures])
    assert fit_atomic_energies([twice, *structures[1:]]) == pytest.approx(expected)
    wrong = with_weights(structures[0], config_energy_weight=0.0, REF_energy=OUTLIER)
    assert fit_atomic_energies([wrong, *structures[1:]]) == fit_atomic_energies(structures[1:])
    with pytest.raises(InputError, match="all energies have weight 0; give the atomic energies"):
        fit_atomic_energies([wrong])


def test_weights_that_a_model_does_not_take_are_refused_by_name() -> None:
    data = Dataset([*labelled(copper(1)), with_weights(labelled(copper(1))[0], config_forces_weight=2.0)])
    assert weighted_properties(data) == ("forces",)
    check_weights(make_model(MemberParameters.model_validate({"pair": {}})), data, "train")
    check_weights(make_model(MemberParameters.model_validate({"mace": {}})), data, "train")
    nequip = make_model(MemberParameters.model_validate({"nequip": {}}))
    with pytest.raises(InputError, match=r"train: found config_weight, or config_forces_weight, other than 1.*NequIP"):
        check_weights(nequip, data, "train")
    check_weights(nequip, Dataset([*data[:1], with_weights(data[1], config_weight=0.0)]), "train")
    with pytest.raises(InputError, match="the loss of object"):  # a model of others, which does not tell
        check_weights(object(), data, "train")


@pytest.fixture
def outliers(tmp_path: Path) -> Path:
    """A file in which every other label is wrong and has weight 0."""
    structures = labelled(copper(12))
    for number, atoms in enumerate(structures):
        atoms.info["config_weight"] = float(number % 2)
        atoms.info[ENERGY] += OUTLIER * (1 - number % 2)
    return written(tmp_path / "outliers.extxyz", structures)


def test_training_on_a_file_leaves_out_what_has_weight_0(outliers: Path, tmp_path: Path) -> None:
    trusted = written(tmp_path / "trusted.extxyz", labelled(copper(12))[1::2])
    checked = []
    for path in (outliers, trusted):
        parameters = {"train": path, "output_directory": tmp_path / path.stem, "model": {"pair": {}}, "seed": 3}
        checked.append(TRAINING.check(TrainingParameters.model_validate(parameters)))
    one, other = checked
    for name in ("train", "valid"):
        energies = [[atoms.info[ENERGY] for atoms in getattr(each.data, name)] for each in checked]
        assert energies[0] == energies[1]
    assert one.model.atomic_energies == other.model.atomic_energies
    (warning,) = one.reports[0].warnings
    assert "left out (6 structures, the first is 0)" in warning


def test_a_training_is_refused_whose_model_does_not_take_the_weights(tmp_path: Path) -> None:
    data = [with_weights(atoms, config_weight=0.5) for atoms in labelled(copper(6))]
    parameters = {
        "train": written(tmp_path / "train.extxyz", data),
        "output_directory": tmp_path / "out",
        "model": {"nequip": {}},
    }
    with pytest.raises(InputError, match="train: found config_weight"):
        TRAINING.check(TrainingParameters.model_validate(parameters))


def test_the_label_that_is_compared_with_the_reference_counts(tmp_path: Path) -> None:
    first, *others = labelled(copper(8))
    path = written(tmp_path / "data.extxyz", [with_weights(first, config_energy_weight=0.0), *others])
    given = given_data(labelled_data(path), EMTReference().resolve(), path)
    assert given.example.info[ENERGY] == others[0].info[ENERGY]


def test_weights_stay_with_the_structures_of_a_campaign(tmp_path: Path) -> None:
    structures = labelled(copper(8))
    for number, atoms in enumerate(structures):
        atoms.info |= {"config_weight": float(number), "config_forces_weight": 3.0}
    path = written(tmp_path / "data.extxyz", structures)
    given = given_data(labelled_data(path), EMTReference().resolve(), path)
    assert len(given.structures) == 7  # the first has weight 0
    decide_membership(given.structures, {}, DataSets(), Learning()).save(tmp_path)
    data = DataSets.load(tmp_path)
    expected = {atoms.info[ENERGY]: 3.0 * number for number, atoms in enumerate(structures)}
    assert len(data.train) < 7
    for atoms in data.everything:
        assert weight_of(atoms, "forces") == expected[atoms.info[ENERGY]]


def test_a_campaign_that_was_begun_without_weights_goes_on_without_them(tmp_path: Path) -> None:
    structures = labelled(copper(8))
    structures[2].info["config_weight"] = 0.0
    structures[4].info["config_weight"] = 3.0
    written(tmp_path / "data.extxyz", structures)
    written(tmp_path / "start.extxyz", copper(1))
    parameters = CampaignParameters.model_validate(
        {
            "run_directory": tmp_path / "run",
            "walkers": [{"start": tmp_path / "start.extxyz"}],
            "reference": {"emt": {}},
            "model": {"pair": {}},
            "bootstrap": {"data": tmp_path / "data.extxyz", "level_of_theory": "EMT"},
        }
    )
    directory = RunDirectory(parameters.run_directory)
    with CAMPAIGN.open(parameters):
        assert directory.obeys_weights
    as_an_earlier_surveyor_wrote(directory, Dataset(structures))
    for _ in range(2):  # the second time, this surveyor has written the parameters
        with CAMPAIGN.open(parameters) as campaign:
            (_, report) = campaign.checked.reports
            assert "weights are passed over, as by the earlier surveyor that began this campaign" in report.warnings[0]
            data = campaign.directory.load_generation(0, ()).data
        assert not directory.obeys_weights
        assert len(data.train) == 8
        assert weighted_properties(data.train) == ()
        given = given_data(campaign.checked.data, EMTReference().resolve(), tmp_path)
        assert len(given.structures) == 8
        assert weighted_properties(given.structures) == ()
    strict = parameters.model_copy(update={"model": ModelParameters.model_validate({"nequip": {}})})
    CAMPAIGN.make(strict)  # which takes no weights


@pytest.mark.parametrize(("bootstrap", "count"), [({}, False), ({"label_keys": {}}, True), (None, True)])
def test_weights_count_in_campaigns_of_an_earlier_surveyor_that_knew_names_of_labels(
    bootstrap: dict[str, Any] | None, count: bool, tmp_path: Path
) -> None:
    directory = RunDirectory(tmp_path)
    write_json(directory.parameters, {"schema_version": 1, "parameters": {"bootstrap": bootstrap}})
    assert directory.obeys_weights == count


def as_an_earlier_surveyor_wrote(directory: RunDirectory, train: Dataset) -> None:
    """Leave a campaign as surveyor of November 27 did, with generation 0: weights of given structures meant nothing."""
    record = read_json(directory.parameters)
    del record["weights_count"]
    del record["parameters"]["bootstrap"]["label_keys"]
    write_json(directory.parameters, record)
    files = directory.generation(0)
    DataSets(train=train).save(files.path)
    model, _ = (
        PairModel(PairParameters())
        .initialize(train, atomic_energies=None, seed=0)
        .train(train, Dataset(), files.training)
    )
    model.save(files.model)
    details = {"before_training": Errors(0).to_dict(), "errors": {}, "details": {}}
    write_json(files.manifest, {"schema_version": 1, "number": 0, **details})


def test_weights_of_replay_data_are_refused_only_where_they_are_replayed(tmp_path: Path) -> None:
    gold = labelled([bulk("Au", cubic=True)])[0]
    path = written(tmp_path / "replay.extxyz", [*labelled(copper(2)), with_weights(gold, config_weight=3.0)])
    (tmp_path / "foundation.model").touch()
    mace = {"foundation_model": tmp_path / "foundation.model", "replay": path}
    parameters = ModelParameters.model_validate({"mace": mace})
    (report,) = replay_reports(parameters, ["Cu"])
    assert report.n_structures == 3
    with pytest.raises(InputError, match="replay: found config_weight"):
        replay_reports(parameters, ["Cu", "Au"])


def test_names_of_labels_belong_to_a_file() -> None:
    with pytest.raises(ValueError, match="found label_keys, which name labels in data, but no data"):
        Bootstrap.model_validate({"label_keys": {"prefix": "dft_"}})
    with pytest.raises(ValueError, match="found replay_keys, but no replay data"):
        MemberParameters.model_validate({"mace": {"replay_keys": {"prefix": "dft_"}}})


CASES: dict[str, dict[str, Any]] = {
    "nine components": {"REF_stress": np.eye(3) * 0.01},
    "virials": {"REF_virials": np.eye(3) * -0.5},
    "a slab": {"REF_stress": np.eye(3) * 0.01, "pbc": [True, True, False]},
}


@pytest.mark.parametrize("case", CASES)
def test_other_peoples_stress_is_trained_on_or_ignored_with_a_word(case: str, tmp_path: Path) -> None:
    fields = dict(CASES[case])
    crystals = [bulk("Cu", cubic=True) for _ in range(4)]
    for seed, atoms in enumerate(crystals):
        atoms.rattle(0.05, seed=seed)
    structures = labelled(crystals)
    for atoms in structures:
        del atoms.info[STRESS]
        atoms.pbc = fields.get("pbc", True)
        atoms.info |= {name: value for name, value in fields.items() if name != "pbc"}
    parameters = {
        "train": written(tmp_path / "train.extxyz", structures),
        "output_directory": tmp_path / "out",
        "model": {"pair": {}},
    }
    checked = TRAINING.check(TrainingParameters.model_validate(parameters))
    stresses = [label_of(atoms).stress for atoms in checked.data.train]
    warnings = [line for report in checked.reports for line in report.warnings if "stress" in line]
    if case == "a slab":
        assert stresses == [None] * 3
        assert len(warnings) == 1
        return
    volume = structures[0].get_volume()
    expected = {"nine components": 0.01, "virials": 0.5 / volume}[case]
    np.testing.assert_allclose(stresses, [[expected] * 3 + [0.0] * 3] * 3, atol=1e-9)
    assert warnings == []
