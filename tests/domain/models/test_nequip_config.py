"""Configurations of NequIP: those of users, as its tutorials have them, and that of the fields."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from foundations import ALL, check_energies_beside, check_energies_left_open, founded
from networks import SHIFTS, shifted

from surveyor.dataset import STRESS, Dataset
from surveyor.dataset.metrics import errors_of
from surveyor.errors import InputError, TrainingFailed
from surveyor.models.choice import (
    CommitteeParameters,
    MemberParameters,
    ModelParameters,
    check_model_parameters,
    load_model,
    make_model,
    with_contents,
)
from surveyor.models.history import history_of
from surveyor.models.model import Model
from surveyor.models.nequip import NequIPModel
from surveyor.models.nequip_check import check_nequip
from surveyor.models.nequip_config import Network, Supplied, configuration
from surveyor.models.nequip_parameters import NequIPParameters
from surveyor.models.shared_fields import ContinuedTraining

pytestmark = pytest.mark.nequip

CONFIG = """
run: [train]
cutoff_radius: 4.0
symbols: [Cu, Au]
data:
  train_dataloader: {_target_: torch.utils.data.DataLoader, batch_size: 3, shuffle: true}
  val_dataloader: {_target_: torch.utils.data.DataLoader, batch_size: 6}
trainer:
  _target_: lightning.Trainer
  max_epochs: 6
  accelerator: cpu
  gradient_clip_val: 10.0
  callbacks:
    - _target_: lightning.pytorch.callbacks.EarlyStopping
      monitor: val0_epoch/weighted_sum
      min_delta: 1e-4
      patience: 3
training_module:
  _target_: nequip.train.EMALightningModule
  loss:
    _target_: nequip.train.EnergyForceStressLoss
    per_atom_energy: true
    coeffs: {total_energy: 1.0, forces: 1.0, stress: 1.0}
  val_metrics:
    _target_: nequip.train.EnergyForceStressMetrics
    coeffs: {total_energy_mae: 1.0, forces_mae: 1.0, stress_mae: null}
  optimizer: {_target_: torch.optim.AdamW, lr: 3e-2}
  model:
    _target_: nequip.model.NequIPGNNModel
    model_dtype: float64
    type_names: ${symbols}
    r_max: ${cutoff_radius}
    num_layers: 1
    l_max: 1
    parity: false
    num_features: 4
    radial_mlp_width: 8
    avg_num_neighbors: ${training_data_stats:num_neighbors_mean}
    per_type_energy_scales: ${training_data_stats:per_type_forces_rms}
"""


def given(**changes: Any) -> NequIPParameters:
    """The configuration with changes at places whose parts are divided by "__"."""
    tree = yaml.safe_load(CONFIG)
    for name, value in changes.items():
        *path, last = name.split("__")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        if value is None:
            del node[last]
        else:
            node[last] = value
    return NequIPParameters(config_text=yaml.safe_dump(tree), is_compiled=False)


def test_a_training_takes_the_configuration_of_a_user(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)
    parameters = ModelParameters(nequip=NequIPParameters(config=file, is_compiled=False))
    check_model_parameters(with_contents(parameters))
    model = make_model(parameters)
    file.unlink()  # the pool of the training need not see it
    model = model.initialize(train, atomic_energies=None, seed=4)
    trained, history = model.train(train, valid, tmp_path / "training")
    assert len(history) <= 6
    assert history == history_of(tmp_path / "training")
    assert all(epoch.forces_rmse is not None and epoch.energy_rmse is not None for epoch in history)
    assert all(epoch.training_loss for epoch in history)

    used = yaml.safe_load((tmp_path / "training" / "config.yaml").read_text())
    assert used["training_module"]["model"]["per_type_energy_shifts"] == model.atomic_energies
    assert used["training_module"]["model"]["seed"] == used["data"]["seed"] == 4
    assert used["trainer"]["callbacks"][0]["min_delta"] == 1e-4
    assert used["training_module"]["optimizer"]["lr"] == 3e-2

    trained.save(tmp_path / "saved")
    loaded = load_model(tmp_path / "saved")
    assert isinstance(loaded, NequIPModel)
    assert loaded.parameters.config_text == CONFIG
    assert loaded.deploy().evaluate(valid)[0].energy == trained.deploy().evaluate(valid)[0].energy
    continued, _ = loaded.train(train, valid, tmp_path / "continued")
    assert continued.deploy().evaluate(valid[:1])[0].forces.shape == (len(valid[0]), 3)


@pytest.mark.long
def test_it_begins_from_a_package_that_the_configuration_names(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    first, _ = NequIPModel(given()).initialize(train, atomic_energies=None, seed=0).train(train, valid, tmp_path / "1")
    builder = {"_target_": "nequip.model.ModelFromPackage", "package_path": str(first.weights)}
    tuned = given(
        training_module__model=builder, training_module__optimizer__lr=1e-12, trainer__max_epochs=1, symbols=None
    )
    check_nequip(tuned)
    sets = [shifted(data) for data in (train, valid)]
    energies = {symbol: energy + SHIFTS[symbol] for symbol, energy in first.energies.items()}
    second, history = (
        NequIPModel(tuned).initialize(sets[0], atomic_energies=energies, seed=0).train(*sets, tmp_path / "2")
    )
    best = min(history_of(tmp_path / "1"), key=lambda epoch: epoch.loss)
    assert history[0].forces_rmse == pytest.approx(best.forces_rmse, rel=1e-6)
    assert history[0].energy_rmse == pytest.approx(best.energy_rmse, rel=1e-6)
    error = errors_of(sets[1], second.deploy().evaluate(sets[1])).energy_rmse
    assert error == pytest.approx(best.energy_rmse, rel=1e-6)

    more = NequIPModel(tuned).initialize(sets[0], atomic_energies={**energies, "Ag": 0.0}, seed=0)
    with pytest.raises(InputError, match=r"does not know Ag; expected a network for all elements of the data"):
        more.train(*sets, tmp_path / "4")

    absurd = NequIPModel(tuned).initialize(sets[0], atomic_energies=first.energies, seed=0)
    with pytest.raises(TrainingFailed, match=r"absurd energies: before the first epoch.*give the energies of isolated"):
        absurd.train(*sets, tmp_path / "3")
    assert not history_of(tmp_path / "3")


@pytest.fixture(scope="module")
def foundation(tmp_path_factory: pytest.TempPathFactory) -> Model:
    small = given(symbols=["Cu", "Ag", "Au"], trainer__max_epochs=20, trainer__callbacks=[])
    return founded(NequIPModel(small), tmp_path_factory.mktemp("foundation"))


@pytest.fixture
def tuned(foundation: Model) -> Model:
    builder = {"_target_": "nequip.model.ModelFromPackage", "package_path": str(foundation.weights)}
    still = {"training_module__optimizer__lr": 1e-12, "trainer__max_epochs": 1}
    return NequIPModel(given(training_module__model=builder, symbols=None, **still))


@pytest.mark.long
@pytest.mark.parametrize(
    "formulas",
    [pytest.param(ALL, id="equal"), pytest.param(["Cu2Au2", "Cu3Au", "Au4"], id="smaller")],
)
def test_unknown_energies_are_fitted_beside_the_interactions_of_a_foundation_model(
    formulas: list[str], foundation: Model, tuned: Model, tmp_path: Path
) -> None:
    check_energies_beside(foundation, tuned, formulas, tmp_path)


def test_energies_that_the_data_leave_open_stay_close_to_those_of_the_foundation_model(
    foundation: Model, tuned: Model, tmp_path: Path
) -> None:
    check_energies_left_open(foundation, tuned, tmp_path)


def test_a_continued_training_has_its_own_epochs_rate_and_patience(tmp_path: Path) -> None:
    own = ContinuedTraining(max_num_epochs=7, lr=1e-3, patience=4)
    for parameters in (NequIPParameters(continued=own), given().model_copy(update={"continued": own})):
        supplied = Supplied({"Cu": 0.0, "Au": 0.0}, seed=0, device="cpu", has_stress=(True, True))
        scratch = configuration(parameters, supplied, describe)
        goes_on = configuration(parameters, replace(supplied, start=tmp_path), describe)
        assert scratch["trainer"]["max_epochs"] != 7
        assert goes_on["trainer"]["max_epochs"] == 7
        assert scratch["training_module"]["optimizer"]["lr"] > goes_on["training_module"]["optimizer"]["lr"] == 1e-3
        assert goes_on["trainer"]["callbacks"][-1]["patience"] == 4


def describe(_: Path) -> Network:
    return Network(["Cu", "Au"], 4.0)


def test_fields_are_a_configuration_that_nequip_takes() -> None:
    check_nequip(NequIPParameters())


def test_the_configuration_in_the_documentation_is_one_that_nequip_takes() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "use-nequip.md").read_text()
    block = page.partition("<!-- configuration of nequip -->\n\n```yaml\n")[2].partition("```")[0]
    check_nequip(NequIPParameters(config_text=block))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": ["train", "test"]}, r"run: expected \[train\].*found \['train', 'test'\]"),
        ({"ckpt_path": "last.ckpt"}, "ckpt_path: surveyor gives the restart; remove it"),
        ({"data__seed": 3}, "data.seed: surveyor gives the data and their seed; remove it"),
        ({"data__train_file_path": "mine.extxyz"}, "data.train_file_path: surveyor gives the data"),
        ({"data___target_": "nequip.data.datamodule.rMD17DataModule"}, "data._target_: expected .*ASEDataModule"),
        ({"trainer__default_root_dir": "x"}, "trainer.default_root_dir: surveyor gives the folders"),
        ({"training_module__model__seed": 3}, "model.seed: surveyor gives the seeds"),
        ({"training_module__model__per_type_energy_shifts": 0.0}, "surveyor gives the atomic energies"),
        (
            {
                "training_module__model": {
                    "_target_": "nequip.model.modify",
                    "modifiers": [{"modifier": "modify_PerTypeScaleShift", "shifts": {"Cu": 1.0}}],
                    "model": {"_target_": "nequip.model.ModelFromPackage", "package_path": "foundation.nequip.zip"},
                }
            },
            "surveyor gives the atomic energies; remove the shifts of modify_PerTypeScaleShift",
        ),
        ({"training_module__model": None}, "expected training_module.model, found none"),
        ({"trainer": None}, "expected trainer, found none"),
        ({"training_module__model__r_max": None}, "expected training_module.model.r_max, found none"),
        ({"training_module__val_metrics__coeffs": None}, "val_metrics: expected coefficients"),
        ({"training_module__model__num_layrs": 3}, "num_layrs"),
        ({"training_module__optimizer__learning_rate": 3}, "learning_rate"),
        ({"trainer__max_epoch": 3}, "max_epoch"),
        ({"training_module__model__r_max": "${cutoff}"}, "cutoff"),
    ],
)
def test_contradictions_and_typing_errors_are_told_before_work_starts(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_nequip(given(**deepcopy(changes)))


FEATURELESS = {"training_module__model": {"_target_": "featureless_network.scaled_pairs", "r_max": 4.0}}


def test_a_network_without_features_is_refused_where_they_are_needed_before_work_starts() -> None:
    single = ModelParameters(nequip=given(**deepcopy(FEATURELESS)))
    check_model_parameters(single)
    needs = "needs the features from which the model computes energies, but this network of NequIP has no node_features"
    for selector in ("informative", "committee"):
        with pytest.raises(InputError, match=f"learning.select: {selector} {needs}.*; choose walkers or random"):
            check_model_parameters(single, f"learning.select: {selector}")
    stating = single.with_each(nequip=given(**deepcopy(FEATURELESS)).model_copy(update={"uncertainty": True}))
    with pytest.raises(InputError, match=f"model.nequip.uncertainty: true {needs}.*; leave out uncertainty"):
        check_model_parameters(stating)
    member = MemberParameters(nequip=stating.nequip)
    check_model_parameters(ModelParameters(committee=CommitteeParameters(member=member)))  # members state none
    check_model_parameters(ModelParameters(nequip=given()), "learning.select: informative")


def test_all_contradictions_are_told_at_once() -> None:
    with pytest.raises(InputError, match=r"(?s)ckpt_path.*model\.seed.*data\.seed"):
        check_nequip(given(ckpt_path="x", data__seed=3, training_module__model__seed=3))


def test_other_elements_than_those_of_the_data_are_told(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    model = NequIPModel(given(symbols=["Cu", "Ag"])).initialize(train, atomic_energies=None, seed=0)
    with pytest.raises(InputError, match=r"type_names: expected Au, Cu, the elements of the data, found Cu, Ag"):
        model.train(train, valid, tmp_path)


def test_a_loss_on_stress_that_no_structure_has_is_told(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    sets = [data.where(lambda atoms: STRESS not in atoms.info) for data in (train, valid)]
    model = NequIPModel(given()).initialize(sets[0], atomic_energies=None, seed=0)
    with pytest.raises(InputError, match=r"training_module\.loss has stress, but no training structure has one"):
        model.train(*sets, tmp_path)


@pytest.mark.parametrize("text", ["a: [", "just words", "- a\n- list", "a: 1\na: 2"])
def test_what_is_no_configuration_is_told(text: str) -> None:
    with pytest.raises(InputError, match="the configuration of NequIP") as caught:
        check_nequip(NequIPParameters(config_text=text))
    assert "<unicode string>" not in str(caught.value)


@pytest.mark.long  # ranks wait for each other by computing: a minute and a half of CPU time
def test_two_ranks_train_together(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    ranks = given(
        trainer__devices=2,
        trainer__strategy={"_target_": "nequip.train.SimpleDDPStrategy"},
        trainer__max_epochs=3,
        trainer__callbacks=None,
    )
    check_nequip(ranks)
    model = NequIPModel(ranks).initialize(train, atomic_energies=None, seed=0)
    trained, history = model.train(train, valid, tmp_path)
    assert [epoch.number for epoch in history] == [0, 1, 2]
    log = (tmp_path / "trainer.log").read_text()
    assert "MEMBER: 2/2" in log
    assert history[-1].loss < history[0].loss
    assert trained.deploy().evaluate(valid[:1])[0].forces.shape == (len(valid[0]), 3)
