import json
import logging
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.data import chemical_symbols
from labelling_inputs import labelled
from networks import SHIFTS, NetworkTests, check_killed_three_times, replace_program, shifted
from pydantic import ValidationError

from surveyor.dataset import ENERGY, FORCES, STRESS, Dataset
from surveyor.dataset.metrics import errors_of
from surveyor.dataset.weights import has_stress
from surveyor.errors import InputError, TrainingFailed
from surveyor.models import mace_evaluation, mace_trainer, trainer
from surveyor.models.choice import CommitteeParameters, MemberParameters, ModelParameters, load_model, make_model
from surveyor.models.history import history_of, reported_epochs
from surveyor.models.mace import MACEModel, MACEPotential
from surveyor.models.mace_parameters import MACEParameters, check_options, settings_of
from surveyor.models.mace_trainer import TrainerInput, configuration
from surveyor.models.shared_fields import ContinuedTraining
from surveyor.reading.keys import LabelKeys
from surveyor.testing.models import check_model
from surveyor.testing.potentials import check_potential

pytestmark = [
    pytest.mark.mace,
    pytest.mark.slow,  # its process would end alone
    pytest.mark.skipif(find_spec("mace") is None, reason='needs MACE: pip install "surveyor[mace]"'),
]

TINY = MACEParameters(
    r_max_A=4.0,
    num_channels=4,
    max_L=0,
    correlation=1,
    num_interactions=1,
    max_num_epochs=15,
    batch_size=4,
    lr=0.03,
    continued=ContinuedTraining(max_num_epochs=12),
    device="cpu",
    options={"max_ell": 1, "num_radial_basis": 4, "radial_MLP": "[8]"},
)


@pytest.fixture(scope="module")
def trained(train: Dataset, valid: Dataset, workplace: Path) -> MACEModel:
    model = check_model(MACEModel(TINY), train, valid, directory=workplace, load=load_model)
    assert isinstance(model, MACEModel)
    return model


NARROW = """
import sys, torch
import mace.data.atomic_data
import mace.tools
from surveyor.models import mace_program
mace_program.SAVING_SHARE = 1e-9  # the time between two states is longer than the training
get_neighborhood = mace.data.atomic_data.get_neighborhood
def counted(**structure):
    print("a graph is built")
    return get_neighborhood(**structure)
mace.data.atomic_data.get_neighborhood = counted
loop = sys.modules["mace.tools.train"]
train_one_epoch = loop.train_one_epoch
def narrow(*, data_loader, epoch, **others):
    if epoch == 2 and data_loader.batch_size > int({n_fitting}):
        raise torch.OutOfMemoryError("CUDA out of memory")
    return train_one_epoch(data_loader=data_loader, epoch=epoch, **others)
loop.train_one_epoch = narrow
mace_program.main()
"""


class TestMACE(NetworkTests):
    """Tests of the networks of all engines."""

    untrained, narrow, n_repeated = MACEModel(TINY), NARROW, 1
    runner, evaluation = mace_trainer, mace_evaluation

    def test_batches_are_halved_when_memory_is_lacking(
        self, train: Dataset, valid: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        super().test_batches_are_halved_when_memory_is_lacking(train, valid, tmp_path, monkeypatch)
        # The log is that of the second process. It trained three epochs, and built the graph of each structure once.
        n_built = (tmp_path / trainer.LOG).read_text().count("a graph is built")
        assert n_built == len(train) + len(valid)


def test_graphs_are_those_of_mace(trained: MACEModel, valid: Dataset) -> None:
    import torch

    calculator = trained.deploy().calculator()
    slab = Atoms("Au2", positions=[[0, 0, 0], [0, 0, 2.5]], cell=[5, 5, 20], pbc=[True, True, False])
    structures = [valid[0], Atoms("CuAu", positions=[[0, 0, 0], [0, 0, 9.0]]), slab, valid[1]]
    fast = mace_evaluation._graphs(calculator, structures)
    general = mace_evaluation._graphs_by_mace(calculator, structures)
    for name, tensor in fast.items():
        assert tensor.dtype == general[name].dtype, name
        assert torch.equal(tensor, general[name]), name


def test_single_precision_is_close_to_double(trained: MACEModel, valid: Dataset) -> None:
    double = trained.deploy()
    single = replace(double, precision="float32")
    for one, other in zip(single.evaluate(valid), double.evaluate(valid), strict=True):
        assert one.energy == pytest.approx(other.energy, abs=1e-3)
        assert one.forces == pytest.approx(other.forces, abs=1e-3)


def test_saved_file_is_used_in_plain_ase(trained: MACEModel, workplace: Path, valid: Dataset) -> None:
    script = (
        "import sys, ase.io\n"
        "from mace.calculators import MACECalculator\n"
        "atoms = ase.io.read(sys.argv[2], index=0)\n"
        "atoms.calc = MACECalculator(model_paths=sys.argv[1], device='cpu')\n"
        "print(repr(float(atoms.get_potential_energy())), 'surveyor' in sys.modules)\n"
    )
    valid.save(workplace / "plain.extxyz")
    command = [sys.executable, "-c", script, str(workplace / "saved" / "mace.model"), str(workplace / "plain.extxyz")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    energy, uses_surveyor = output.split()
    assert float(energy) == pytest.approx(trained.deploy().evaluate(valid[:1])[0].energy, abs=1e-6)
    assert uses_surveyor == "False"


def test_training_of_a_trained_model_starts_from_its_weights(
    trained: MACEModel, workplace: Path, valid: Dataset
) -> None:
    (results,) = (workplace / "second" / "results").iterdir()
    start = json.loads(results.read_text().splitlines()[0])
    errors = errors_of(valid, trained.deploy().evaluate(valid))
    assert start["epoch"] is None  # before the first
    assert start["rmse_f"] == pytest.approx(errors.forces_rmse, rel=1e-6)
    assert start["rmse_e_per_atom"] == pytest.approx(errors.energy_rmse, rel=1e-6)
    # It has its own number of epochs.
    assert (len(history_of(workplace / "first")), len(history_of(workplace / "second"))) == (15, 12)


def test_a_continued_training_has_its_own_epochs_rate_and_patience() -> None:
    own = ContinuedTraining(max_num_epochs=7, lr=1e-3, patience=4)
    parameters = MACEParameters(continued=own, options={"patience": 50})
    names = ("max_num_epochs", "lr", "patience")
    scratch, goes_on = (settings_of(parameters, "cpu", is_continued=each) for each in (False, True))
    assert [scratch[name] for name in names] == [200, 0.01, 50]
    assert [goes_on[name] for name in names] == [7, 1e-3, 4]
    assert "continued" not in goes_on


def test_fine_tuning_begins_from_a_foundation_model_and_its_architecture(
    trained: MACEModel, train: Dataset, valid: Dataset, tmp_path: Path
) -> None:
    assert trained.weights is not None
    tuned = TINY.model_copy(update={"foundation_model": trained.weights, "num_channels": 32, "max_num_epochs": 2})
    # The same elements as the foundation model, at another level of theory: MACE's loader takes the E0s of the former.
    shifted_valid = shifted(valid)
    model = MACEModel(tuned).initialize(shifted(train), atomic_energies=None, seed=3)
    model, history = model.train(shifted(train), shifted_valid, tmp_path)
    (results,) = (tmp_path / "results").iterdir()
    first = json.loads(results.read_text().splitlines()[0])
    before = first["rmse_f"]
    assert first["rmse_e_per_atom"] < 0.5
    energies = {symbol: energy + SHIFTS[symbol] for symbol, energy in trained.energies.items()}
    assert model.energies == pytest.approx(energies, abs=0.5)
    assert of_network(model) == pytest.approx(model.energies, abs=1e-9)
    error = errors_of(shifted_valid, model.deploy().evaluate(shifted_valid)).energy_rmse
    assert error is not None
    assert error < 0.5
    errors = errors_of(valid, trained.deploy().evaluate(valid))
    assert before == pytest.approx(errors.forces_rmse, rel=1e-6)
    assert min(epoch.forces_rmse or 1e9 for epoch in history) < 1.2 * before
    assert all(0 < (epoch.training_loss or math.inf) < math.inf for epoch in history)
    # The 32 channels that were asked for are those of another network.
    linear = model.deploy().calculator().models[0].interactions[0].linear_up
    assert linear.irreps_out == trained.deploy().calculator().models[0].interactions[0].linear_up.irreps_out


def of_network(model: MACEModel) -> dict[str, float]:
    """Return the atomic energies that stand in a network's file."""
    network = model.deploy().calculator().models[0]
    symbols = [chemical_symbols[number] for number in network.atomic_numbers.tolist()]
    return dict(zip(symbols, network.atomic_energies_fn.atomic_energies.view(-1).tolist(), strict=True))


def test_foundation_with_absurd_energies_is_not_tuned(
    trained: MACEModel, train: Dataset, valid: Dataset, tmp_path: Path
) -> None:
    tuned = TINY.model_copy(update={"foundation_model": trained.weights, "max_num_epochs": 2})
    model = MACEModel(tuned).initialize(train, atomic_energies=trained.atomic_energies, seed=3)
    with pytest.raises(TrainingFailed, match=r"absurd energies: before the first epoch.*give the energies of isolated"):
        model.train(shifted(train), shifted(valid), tmp_path)
    assert not (tmp_path / mace_trainer.NETWORK).exists()
    assert not reported_epochs(tmp_path)


OTHER_ENERGIES = """
from surveyor.models import mace_program
evaluate = mace_program.Loop._validate
def and_spoil(loop, epoch, loss_function=None):
    loss = evaluate(loop, epoch, loss_function)
    loop.given.model.atomic_energies_fn.atomic_energies += 1.0
    return loss
mace_program.Loop._validate = and_spoil
mace_program.main()
"""


def test_network_with_other_atomic_energies_than_given_is_no_result(
    train: Dataset, valid: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_program(monkeypatch, mace_trainer, OTHER_ENERGIES)
    model = MACEModel(TINY.model_copy(update={"max_num_epochs": 1})).initialize(train, atomic_energies=None, seed=0)
    with pytest.raises(TrainingFailed, match=r"(?s)other atomic energies than those that were given.*Cu .* instead of"):
        model.train(train, valid, tmp_path)


def test_what_is_replayed_is_not_forgotten(trained: MACEModel, train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    new = shifted(copper_near_equilibrium(6))
    energies = {**trained.energies, "Cu": trained.energies["Cu"] + SHIFTS["Cu"]}
    train.save(tmp_path / "before.extxyz")
    tuned = TINY.model_copy(update={"foundation_model": trained.weights, "max_num_epochs": 25, "batch_size": 2})
    forgotten = {}
    for name, replay in (("without", None), ("with", tmp_path / "before.extxyz")):
        model = MACEModel(tuned.model_copy(update={"replay": replay}))
        model = model.initialize(new, atomic_energies=energies, seed=3)
        model, history = model.train(new, new, tmp_path / name)
        assert of_network(model) == pytest.approx(model.energies, abs=1e-9)
        assert errors_of(new, model.deploy().evaluate(new)).energy_rmse == pytest.approx(0, abs=0.1)
        assert len(reported_epochs(tmp_path / name)) == len(history) == 25
        assert min(epoch.forces_rmse or 1e9 for epoch in history) < 0.05
        potential = model.deploy()
        assert potential.calculator().models[0].heads == ["Default"]
        check_potential(potential, valid[:2])
        forgotten[name] = errors_of(valid, potential.evaluate(valid)).forces_rmse
    assert forgotten["with"] < 0.6 * forgotten["without"]


def test_a_foundation_model_by_name_is_the_file_that_mace_keeps(
    trained: MACEModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mace.calculators import foundations_models

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    address = foundations_models.mace_mp_urls["small"]
    kept = "".join(letter for letter in Path(address).name if letter.isalnum() or letter == "_")
    (tmp_path / "mace").mkdir()
    assert trained.weights is not None
    shutil.copyfile(trained.weights, tmp_path / "mace" / kept)
    named = TINY.model_copy(update={"foundation_name": "small", "max_num_epochs": 1})
    # Fewer elements than the foundation model has, at another level of theory.
    here, there = copper_near_equilibrium(6), shifted(copper_near_equilibrium(6))
    energies = {"Cu": trained.energies["Cu"] + SHIFTS["Cu"]}
    model = MACEModel(named).initialize(there, atomic_energies=energies, seed=3)
    model, _ = model.train(there, there, tmp_path / "training")
    (results,) = (tmp_path / "training" / "results").iterdir()
    before = json.loads(results.read_text().splitlines()[0])
    errors = errors_of(here, trained.deploy().evaluate(here))
    assert before["rmse_f"] == pytest.approx(errors.forces_rmse, rel=1e-6)
    assert before["rmse_e_per_atom"] == pytest.approx(errors.energy_rmse, rel=1e-6)
    assert of_network(model) == pytest.approx(energies, abs=1e-9)


def test_a_foundation_model_that_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mace.calculators import foundations_models

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(foundations_models, "_urlretrieve_with_timeout", no_network)
    with pytest.raises(InputError, match=r"could not download small here \(no route to host\).*give its file"):
        check_options(MACEParameters(foundation_name="small"))
    with pytest.raises(InputError, match=r"foundation_name: expected one of small, .*; found smal"):
        check_options(MACEParameters(foundation_name="smal"))
    with pytest.raises(ValidationError, match="at most one of foundation_model"):
        MACEParameters(foundation_name="small", foundation_model=tmp_path / "mace.model")


def copper_near_equilibrium(n_structures: int) -> Dataset:
    """Data of one element and small displacements."""
    structures = [bulk("Cu", cubic=True) for _ in range(n_structures)]
    for number, atoms in enumerate(structures):
        atoms.rattle(0.03, seed=number)
    return Dataset(labelled(structures))


def test_replay_needs_a_foundation_model_and_its_elements(
    trained: MACEModel, train: Dataset, valid: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(ValidationError, match="replay data, but no foundation_model"):
        MACEParameters(replay=tmp_path / "before.extxyz")
    gold = Dataset(atoms.copy() for atoms in valid)
    for atoms in gold:
        atoms.symbols[:] = "Au"
    gold.save(tmp_path / "gold.extxyz")
    replaying = {"foundation_model": trained.weights, "replay": tmp_path / "gold.extxyz"}
    pure = Dataset(atoms for atoms in train if "Au" not in atoms.symbols)
    model = MACEModel(TINY.model_copy(update=replaying)).initialize(pure, atomic_energies={"Cu": 0.0}, seed=0)
    with pytest.raises(InputError, match=r"replay: no structure of .* is of Cu alone"):
        model.train(pure, pure, tmp_path / "training")


def test_elements_that_a_foundation_model_does_not_know_are_named(
    trained: MACEModel, valid: Dataset, tmp_path: Path
) -> None:
    tuned = TINY.model_copy(update={"foundation_model": trained.weights})
    silver = Dataset(atoms.copy() for atoms in valid)
    silver[0].symbols[0] = "Ag"
    model = MACEModel(tuned).initialize(silver, atomic_energies=None, seed=0)
    with pytest.raises(InputError, match="does not know Ag"):
        model.train(silver, silver, tmp_path)


def test_walkers_of_one_process_share_the_network(trained: MACEModel) -> None:
    potential = trained.deploy()
    assert potential.calculator().models[0] is potential.calculator().models[0]


# The second stage begins within the training: with a loss, a learning rate and an average of weights of its own.
SCHEDULE = {"swa": True, "start_swa": 40}


@pytest.mark.long
def test_training_killed_three_times_is_the_one_that_was_not_disturbed(
    train: Dataset, valid: Dataset, tmp_path: Path
) -> None:
    parameters = TINY.model_copy(update={"max_num_epochs": 60, "options": SCHEDULE | TINY.options})
    model = MACEModel(parameters).initialize(train, atomic_energies=None, seed=0)

    def tear(directory: Path) -> None:
        """Leave a checkpoint, in the writing of which the trainer was killed."""
        (directory / "checkpoints" / "training_run-0_epoch-99999.pt").write_bytes(b"torn")

    sets = train, valid
    check_killed_three_times(model, sets, tmp_path, last_kill=40, after_kill=tear, saves_each_epoch=False)


def test_no_memory_for_a_single_structure_is_told(
    train: Dataset, valid: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_program(monkeypatch, mace_trainer, NARROW.format(n_fitting=0))
    model = MACEModel(TINY.model_copy(update={"batch_size": 1})).initialize(train, atomic_energies=None, seed=0)
    with pytest.raises(TrainingFailed, match="no memory to train on a single structure"):
        model.train(train, valid, tmp_path)


def test_training_ends_when_patience_does(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    options = {**TINY.options, "patience": 2}
    model = MACEModel(TINY.model_copy(update={"max_num_epochs": 5_000, "lr": 0.5, "options": options}))
    _, history = model.initialize(train, atomic_energies=None, seed=0).train(train, valid, tmp_path)
    losses = [epoch.loss for epoch in history]
    assert len(history) - 1 - losses.index(min(losses)) == 2


def test_training_that_diverges_is_told(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    model = MACEModel(TINY.model_copy(update={"precision": "float32"}))
    model = model.initialize(train, atomic_energies=dict.fromkeys(("Au", "Cu"), 0.0), seed=0)
    large = Dataset(atoms.copy() for atoms in train)
    for atoms in large:
        atoms.info[ENERGY] = 1e39  # float32 has no such number
    with pytest.raises(TrainingFailed, match="the training diverged"):
        model.train(large, valid, tmp_path)
    assert len(history_of(tmp_path)) == 1


def test_failure_of_the_trainer_is_told_with_its_last_lines(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    model = MACEModel(TINY.model_copy(update={"options": {"edge_irreps": "nonsense"}}))
    model = model.initialize(train, atomic_energies=None, seed=0)
    with pytest.raises(TrainingFailed, match=r"(?s)exit code 1:.*nonsense") as caught:
        model.train(train, valid, tmp_path)
    assert caught.value.directory == tmp_path


def test_kernels_that_a_training_refuses_are_told(
    train: Dataset, valid: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    code = "import json; open(json.load(open('job.json'))['refusal'], 'w').write('they give something else')"
    replace_program(monkeypatch, mace_trainer, code)
    with caplog.at_level(logging.WARNING, logger="surveyor"), pytest.raises(TrainingFailed, match="left no network"):
        MACEModel(TINY).initialize(train, atomic_energies=None, seed=0).train(train, valid, tmp_path)
    assert [record.getMessage() for record in caplog.records] == ["they give something else"]


def test_member_of_a_committee_killed_from_outside_is_told(
    train: Dataset, valid: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_program(monkeypatch, mace_trainer, "import os; os.kill(os.getpid(), 9)")
    parameters = CommitteeParameters(n_members=2, member=MemberParameters(mace=TINY))
    model = make_model(ModelParameters(committee=parameters)).initialize(train, atomic_energies=None, seed=0)
    with pytest.raises(
        TrainingFailed, match=r"MACE was killed by SIGKILL \(out of memory\?\); the same call continues .*members/0"
    ):
        model.train(train, valid, tmp_path)


def test_training_without_validation_data_is_refused(train: Dataset, tmp_path: Path) -> None:
    model = MACEModel(TINY).initialize(train, atomic_energies=None, seed=0)
    with pytest.raises(InputError, match="the validation set is empty"):
        model.train(train, Dataset(), tmp_path / "training")
    assert not (tmp_path / "training").exists()


def test_new_elements_in_the_data_are_named(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    model = MACEModel(TINY).initialize(
        train.where(lambda atoms: "Au" not in atoms.symbols), atomic_energies=None, seed=0
    )
    with pytest.raises(InputError, match="the training set holds Au"):
        model.train(train, valid, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_chanels": 3}, "unrecognized arguments: --num_chanels"),
        ({"loss": "square"}, "invalid choice: 'square'"),
        ({"lr_factor": "much"}, "invalid float value: 'much'"),
        ({"seed": 3}, "seed cannot be given here"),
        ({"lr": 0.1}, "lr cannot be given here"),
        ({"config_type_weights": "{'Default': 2.0}"}, "weights are config_weight in the data"),
        ({"loss": "virials"}, "loss is virials, but labels are energies, forces and stress"),
    ],
)
def test_options_that_mace_does_not_know_are_refused(options: dict[str, float | str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_options(TINY.model_copy(update={"options": options}))


def test_options_of_mace_are_accepted() -> None:
    check_options(
        TINY.model_copy(update={"options": {"swa": True, "scheduler": "ExponentialLR", "weight_decay": 1e-8}})
    )


def test_missing_mace_is_told_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "mace", None)
    with pytest.raises(InputError, match=r'pip install "surveyor\[mace\]"'):
        check_options(TINY)
    with pytest.raises(InputError, match=r'pip install "surveyor\[mace\]"'):
        MACEPotential(tmp_path / "mace.model").calculator()


def settings(train: Dataset, valid: Dataset) -> dict[str, object]:
    training = TrainerInput({"batch_size": 100, "valid_batch_size": 100, "stress_weight": 1.0}, {"Cu": 1.0}, seed=0)
    return configuration(training, train, valid)


def test_batches_are_not_larger_than_the_data(train: Dataset, valid: Dataset) -> None:
    assert settings(train, valid)["batch_size"] == len(train)
    assert settings(train, valid)["valid_batch_size"] == len(valid)


def test_stress_counts_only_where_it_is_labelled(train: Dataset, valid: Dataset) -> None:
    assert settings(train, valid)["loss"] == "stress"
    assert settings(train.where(lambda atoms: STRESS not in atoms.info), valid)["loss"] == "weighted"


def test_defaults_survive_a_round_trip_through_json() -> None:
    assert MACEParameters.model_validate_json(MACEParameters().model_dump_json()) == MACEParameters()


def test_weights_reach_mace_and_the_stress_of_a_slab_does_not(train: Dataset, tmp_path: Path) -> None:
    from mace.data.utils import KeySpecification, load_from_xyz

    weighted, slab = train[0].copy(), train[1].copy()
    weighted.info |= {"config_weight": 0.5, "config_energy_weight": 4.0, "config_type": "surface"}
    slab.pbc = (True, True, False)
    assert STRESS in slab.info
    Dataset(trainer.training_copy(atoms) for atoms in (train[0], weighted, slab)).save(tmp_path / "train.extxyz")
    names = {"energy": ENERGY, "stress": STRESS, "virials": "REF_virials", "head": "head"}
    keys = KeySpecification(info_keys=names, arrays_keys={"forces": FORCES})
    _, read = load_from_xyz(str(tmp_path / "train.extxyz"), keys)
    weights = [(each.weight * each.property_weights[name]) for each in read for name in ("energy", "forces", "stress")]
    assert weights == [1.0, 1.0, 1.0, 2.0, 0.5, 0.5, 1.0, 1.0, 0.0]


def test_structures_of_weight_0_leave_a_training_as_it_is(
    trained: MACEModel, train: Dataset, valid: Dataset, tmp_path: Path
) -> None:
    outliers = Dataset(atoms.copy() for atoms in train[:3])
    for atoms in outliers:
        atoms.info |= {"config_weight": 0.0, ENERGY: 1e4}
    data = outliers + train
    model = MACEModel(TINY).initialize(data, atomic_energies=None, seed=trained.seed)
    again, _ = model.train(data, valid + outliers, tmp_path)
    for one, other in zip(again.deploy().evaluate(valid), trained.deploy().evaluate(valid), strict=True):
        assert one.energy == pytest.approx(other.energy, abs=1e-10)
        np.testing.assert_allclose(one.forces, other.forces, rtol=0, atol=1e-10)  # sums are rounded by their order


@pytest.mark.parametrize(
    "changes", [{"options": {"loss": "universal"}}, {"foundation_model": Path("f"), "replay": Path("r")}]
)
def test_weights_are_refused_where_the_loss_does_not_take_them(
    changes: dict[str, object], train: Dataset, valid: Dataset, tmp_path: Path
) -> None:
    assert MACEModel(TINY).takes_weights == ("energy", "forces", "stress")
    (heavy,) = (atoms.copy() for atoms in train[:1])
    heavy.info["config_energy_weight"] = 2.0
    model = MACEModel(TINY.model_copy(update=changes)).initialize(train, atomic_energies=None, seed=0)
    with pytest.raises(InputError, match="found config_weight, or config_energy_weight, other than 1"):
        model.check_data(Dataset([heavy]) + train, valid)


def test_a_loss_that_takes_a_missing_stress_for_zero_needs_one_everywhere(train: Dataset, valid: Dataset) -> None:
    training = TrainerInput(
        {"batch_size": 9, "valid_batch_size": 9, "stress_weight": 1.0, "loss": "huber"}, {"Cu": 1.0}, seed=0
    )
    with pytest.raises(InputError, match="loss huber takes a stress that is missing for zero"):
        configuration(training, train, valid)
    periodic = train.where(has_stress)
    assert configuration(training, periodic, periodic)["loss"] == "huber"


def test_replay_data_have_names_of_their_own_for_labels(trained: MACEModel, valid: Dataset, tmp_path: Path) -> None:
    renamed = [atoms.copy() for atoms in valid]
    for atoms in renamed:
        atoms.info |= {"dft_energy": atoms.info.pop(ENERGY), "virials": np.arange(9.0).reshape(3, 3)}
        atoms.arrays["dft_force"] = atoms.arrays.pop(FORCES)
        atoms.info.pop(STRESS, None)
    ase.io.write(tmp_path / "replay.extxyz", renamed)
    update = {"foundation_model": trained.weights, "replay": tmp_path / "replay.extxyz"}
    model = replace(trained, parameters=TINY.model_copy(update=update), weights=None)
    with pytest.raises(InputError, match=r"replay: .*write replay_keys: \{energy: dft_energy, forces: dft_force\}"):
        model._replay()
    keys = LabelKeys(prefix="dft_", forces="dft_force")
    model = replace(model, parameters=TINY.model_copy(update={**update, "replay_keys": keys}))
    replayed = model._replay()
    assert replayed is not None
    assert [atoms.info[ENERGY] for atoms in replayed] == [atoms.info[ENERGY] for atoms in valid]
