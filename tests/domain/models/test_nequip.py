import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from networks import NetworkTests, check_killed_three_times, replace_program

from surveyor.dataset import STRESS, Dataset
from surveyor.dataset.metrics import covered, errors_of
from surveyor.errors import InputError, TrainingFailed
from surveyor.models import batches, nequip_network, nequip_trainer
from surveyor.models.choice import load_model
from surveyor.models.nequip import NequIPModel, NequIPPotential
from surveyor.models.nequip_network import compiled_file, compiled_files
from surveyor.models.nequip_parameters import NequIPParameters
from surveyor.models.uncertainty import RIDGE
from surveyor.potentials import Prediction, Request, evaluate_one_by_one, evaluator_of, predict
from surveyor.testing.models import check_model
from surveyor.testing.potentials import check_potential

pytestmark = pytest.mark.nequip

TINY = NequIPParameters(
    r_max_A=4.0,
    num_layers=1,
    l_max=1,
    num_features=4,
    radial_mlp_width=8,
    max_num_epochs=15,
    batch_size=4,
    lr=0.03,
    lr_patience=3,
    device="cpu",
    is_compiled=False,
)


@pytest.fixture(scope="module")
def trained(train: Dataset, valid: Dataset, workplace: Path) -> NequIPModel:
    model = check_model(NequIPModel(TINY), train, valid, directory=workplace, load=load_model)
    assert isinstance(model, NequIPModel)
    return model


NARROW = """
import torch
from nequip.train import NequIPLightningModule
from surveyor.models import nequip_program
step = NequIPLightningModule.training_step
def narrow(self, batch, *others):
    if self.current_epoch == 2 and batch["num_atoms"].numel() > int({n_fitting}):
        raise torch.OutOfMemoryError("CUDA out of memory")
    return step(self, batch, *others)
NequIPLightningModule.training_step = narrow
nequip_program.main()
"""


class TestNequIP(NetworkTests):
    """Tests of the networks of all engines."""

    untrained, narrow = NequIPModel(TINY), NARROW
    runner, evaluation = nequip_trainer, nequip_network


@pytest.fixture(scope="module")
def compiled(trained: NequIPModel, train: Dataset, valid: Dataset, workplace: Path) -> NequIPModel:
    """The same model, compiled at the end of its training, saved and loaded."""
    parameters = TINY.model_copy(update={"is_compiled": True})
    same = replace(trained, parameters=parameters, weights=None)
    same, _ = same.train(train, valid, workplace / "first")  # complete but for that
    same.save(workplace / "compiled")
    loaded = load_model(workplace / "compiled")
    assert isinstance(loaded, NequIPModel)
    return loaded


def check_same(found: Sequence[Prediction], expected: Sequence[Prediction]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.energy == pytest.approx(other.energy, abs=1e-9)
        np.testing.assert_allclose(one.forces, other.forces, rtol=0, atol=1e-9)
        assert (one.stress is None) == (other.stress is None)
        if one.stress is not None:
            np.testing.assert_allclose(one.stress, other.stress, rtol=0, atol=1e-9)  # type: ignore[arg-type]


def sizes_seen(monkeypatch: pytest.MonkeyPatch, kind: type) -> list[tuple[int, int]]:
    """Return the numbers of structures and edges that go through networks of calculators of a kind from now on."""
    from nequip.data import AtomicDataDict
    from nequip.integrations.ase import NequIPCalculator

    seen, call = [], NequIPCalculator.call_model

    def watched(self: object, data: dict[str, Any]) -> dict[str, Any]:
        if isinstance(self, kind):
            seen.append((AtomicDataDict.num_frames(data), AtomicDataDict.num_edges(data)))
        return call(self, data)  # type: ignore[no-any-return]

    monkeypatch.setattr(NequIPCalculator, "call_model", watched)
    return seen


def test_what_is_compiled_is_the_same_potential(
    compiled: NequIPModel, trained: NequIPModel, valid: Dataset, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    potential, plain = compiled.deploy(), trained.deploy()
    assert [path.parent for path in compiled_files(potential.path)] == [workplace / "compiled"]
    check_potential(potential, [*valid[:3], Atoms("CuAu", positions=[[0, 0, 0], [0, 0, 2.5]])])
    far = Atoms("CuAu", positions=[[0, 0, 0], [0, 0, 9.0]])
    slab = Atoms("Au2", positions=[[0, 0, 0], [0, 0, 2.5]], cell=[5, 5, 20], pbc=[True, True, False])
    lone = Atoms("Cu", cell=[9, 9, 9], pbc=True, info={"energy": 0.0})
    mixed = [far, *valid[:3], Atoms("Cu"), *valid[3:], slab, lone]
    expected = plain.evaluate(mixed)
    seen = sizes_seen(monkeypatch, type(potential.calculator()))
    for n_atoms in (1, 7, 10_000):
        monkeypatch.setitem(batches.ATOMS_AT_ONCE, "cpu", n_atoms)
        check_same(potential.evaluate(mixed), expected)
    check_same(potential.evaluate([far, Atoms("Cu"), lone]), plain.evaluate([far, Atoms("Cu"), lone]))
    check_same(evaluate_one_by_one(potential, mixed), expected)
    assert potential.evaluate([]) == []
    fast, slow = potential.calculator(), plain.calculator()
    for atoms in (*valid[:3], lone):
        fast.calculate(atoms)
        slow.calculate(atoms)
        np.testing.assert_allclose(fast.results["energies"], slow.results["energies"], rtol=0, atol=1e-9)
    assert np.min(seen) == 2  # for fewer structures or edges, it is not exported


def test_walkers_and_evaluation_need_only_what_is_compiled(
    compiled: NequIPModel, valid: Dataset, tmp_path: Path
) -> None:
    compiled.save(tmp_path / "model")
    model = load_model(tmp_path / "model")
    model.network.write_bytes(b"no package")
    potential, expected = model.deploy(), compiled.deploy().evaluate(valid)
    check_same(evaluator_of(potential).evaluate([*map(Request, valid, range(len(valid)))]), expected)
    check_same(evaluate_one_by_one(potential, valid), expected)
    with pytest.raises(Exception, match=r"zip|package"):
        replace(potential, is_compiled=False).evaluate(valid)


def test_walkers_take_what_is_compiled_for_their_machine_and_the_package_elsewhere(
    compiled: NequIPModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    potential = compiled.deploy()
    fast, slow = potential.calculator(), replace(potential, is_compiled=False).calculator()
    assert type(fast.model) is not type(slow.model)
    monkeypatch.setattr(nequip_network, "_machine", lambda _device: "other")
    assert type(potential.calculator().model) is type(slow.model)
    of_before = potential.path.with_name("model-cpu-other.nequip.pt2")  # compiled for single structures
    of_before.write_bytes(b"")
    assert type(potential.calculator().model) is type(slow.model)
    assert of_before not in compiled_files(potential.path)


def test_without_a_compiler_walkers_take_the_package(
    trained: NequIPModel,
    train: Dataset,
    valid: Dataset,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert trained.weights is not None
    monkeypatch.setenv("PATH", str(workplace))
    monkeypatch.setattr(nequip_network, "_machine", lambda _device: "bare")
    parameters = TINY.model_copy(update={"is_compiled": True})
    model, _ = replace(trained, parameters=parameters, weights=None).train(train, valid, workplace / "first")
    assert "there is no g++ here" in caplog.text
    assert not compiled_file(trained.weights, "cpu").exists()
    check_potential(model.deploy(), valid[:1])


def test_what_cannot_be_compiled_is_told_once_with_the_reason_and_the_package_is_taken(
    trained: NequIPModel,
    train: Dataset,
    valid: Dataset,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = [sys.executable, "-c", "raise SystemExit('the network has a loop')"]
    monkeypatch.setattr(nequip_trainer, "compiling", lambda *_: failing)
    monkeypatch.setattr(nequip_network, "_machine", lambda _device: "unknown")
    parameters = TINY.model_copy(update={"is_compiled": True})
    model, _ = replace(trained, parameters=parameters, weights=None).train(train, valid, workplace / "first")
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert "could not be compiled (the network has a loop; see " in warning
    check_same(model.deploy().evaluate(valid), trained.deploy().evaluate(valid))


def test_saved_package_is_used_in_plain_ase(trained: NequIPModel, workplace: Path, valid: Dataset) -> None:
    script = (
        "import sys, ase.io\n"
        "from nequip.integrations.ase import NequIPCalculator\n"
        "atoms = ase.io.read(sys.argv[2], index=0)\n"
        "atoms.calc = NequIPCalculator._from_saved_model(sys.argv[1], chemical_species_to_atom_type_map=True)\n"
        "print(repr(float(atoms.get_potential_energy())), 'surveyor' in sys.modules)\n"
    )
    valid.save(workplace / "plain.extxyz")
    command = [sys.executable, "-c", script, str(trained.network), str(workplace / "plain.extxyz")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    energy, uses_surveyor = output.split()
    assert float(energy) == pytest.approx(trained.deploy().evaluate(valid[:1])[0].energy, abs=1e-6)
    assert uses_surveyor == "False"


def first_errors(directory: Path) -> dict[str, float]:
    return dict(json.loads((directory / "epochs.jsonl").read_text().splitlines()[0]))


def test_training_of_a_trained_model_starts_from_its_weights(
    trained: NequIPModel, train: Dataset, valid: Dataset, tmp_path: Path
) -> None:
    # With so small a step, the first epoch leaves the network as it is.
    still = replace(trained, parameters=TINY.model_copy(update={"max_num_epochs": 1, "lr": 1e-12}))
    again, history = still.train(train, valid, tmp_path)
    errors = errors_of(valid, trained.deploy().evaluate(valid))
    assert history[0].forces_rmse == pytest.approx(errors.forces_rmse, rel=1e-6)
    assert history[0].energy_rmse == pytest.approx(errors.energy_rmse, rel=1e-6)
    # What was trained from a package needs that package no more.
    moved = tmp_path / "moved"
    again.save(moved)
    del again
    loaded = load_model(moved)
    assert loaded.deploy().evaluate(valid[:1])[0].energy == pytest.approx(
        trained.deploy().evaluate(valid[:1])[0].energy, abs=1e-6
    )


def test_elements_that_the_network_does_not_know_are_named(
    trained: NequIPModel, train: Dataset, valid: Dataset, tmp_path: Path
) -> None:
    more = replace(trained, atomic_energies={**trained.energies, "Ag": 0.0})
    with pytest.raises(InputError, match="does not know Ag"):
        more.train(train, valid, tmp_path)


def test_walkers_of_one_process_share_the_network(trained: NequIPModel) -> None:
    potential = trained.deploy()
    assert potential.calculator().model is potential.calculator().model


def test_training_killed_three_times_is_the_one_that_was_not_disturbed(
    train: Dataset, valid: Dataset, tmp_path: Path
) -> None:
    parameters = TINY.model_copy(update={"max_num_epochs": 40})
    model = NequIPModel(parameters).initialize(train, atomic_energies=None, seed=0)
    check_killed_three_times(model, (train, valid), tmp_path, last_kill=30)


def test_failure_of_the_trainer_is_told_with_its_last_lines(
    train: Dataset, valid: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_program(monkeypatch, nequip_trainer, "raise SystemExit('nonsense')")
    model = NequIPModel(TINY).initialize(train, atomic_energies=None, seed=0)
    with pytest.raises(TrainingFailed, match=r"(?s)exit code 1:.*nonsense") as caught:
        model.train(train, valid, tmp_path)
    assert caught.value.directory == tmp_path


def test_trainer_killed_from_outside_is_told(
    train: Dataset, valid: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_program(monkeypatch, nequip_trainer, "import os; os.kill(os.getpid(), 9)")
    model = NequIPModel(TINY).initialize(train, atomic_energies=None, seed=0)
    with pytest.raises(
        TrainingFailed, match=r"NequIP was killed by SIGKILL \(out of memory\?\); the same call continues"
    ):
        model.train(train, valid, tmp_path)


SIGNALLED = """
import os, signal
from nequip.train import NequIPLightningModule
from surveyor.models import nequip_program
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have background jobs ignore it
step = NequIPLightningModule.training_step
def and_signal(self, batch, *others):
    if self.current_epoch == 1:
        os.kill(os.getpid(), signal.{name})
    return step(self, batch, *others)
NequIPLightningModule.training_step = and_signal
nequip_program.main()
"""


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGINT", marks=pytest.mark.long)])
def test_training_that_was_told_to_end_is_not_taken_for_complete(
    name: str, train: Dataset, valid: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_program(monkeypatch, nequip_trainer, SIGNALLED.format(name=name))
    model = NequIPModel(TINY).initialize(train, atomic_energies=None, seed=0)
    with pytest.raises(TrainingFailed, match=f"NequIP was killed by {name} .*the same call continues"):
        model.train(train, valid, tmp_path)
    assert not (tmp_path / nequip_trainer.NETWORK).exists()


def test_training_without_any_stress(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    sets = [data.where(lambda atoms: STRESS not in atoms.info) for data in (train, valid)]
    model = NequIPModel(TINY.model_copy(update={"max_num_epochs": 2})).initialize(sets[0], atomic_energies=None, seed=0)
    _, history = model.train(*sets, tmp_path)
    assert all(np.isfinite(epoch.loss) for epoch in history)


def test_missing_nequip_is_told_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "nequip", None)
    with pytest.raises(InputError, match=r'pip install "surveyor\[nequip\]"'):
        NequIPPotential(tmp_path / "model.nequip.zip").calculator()


def test_a_model_states_the_distance_of_its_features_to_the_training_data(
    compiled: NequIPModel, train: Dataset, valid: Dataset, unseen: Dataset, tmp_path: Path
) -> None:
    stating = replace(compiled, parameters=compiled.parameters.model_copy(update={"uncertainty": True}))
    stating.calibrate_uncertainty(train, valid, unseen[:30])
    assert compiled.deploy().evaluate(valid[:1])[0].uncertainty is None
    potential, test = stating.deploy(), unseen[30:]
    predictions, features = potential.evaluate(test), potential.features(test)
    of_training = np.concatenate(potential.features(train))
    moments = of_training.T @ of_training
    precision = np.linalg.inv(moments + RIDGE * np.trace(moments) / len(moments) * np.eye(len(moments)))
    distances = [np.sqrt(np.einsum("ai,ij,aj->a", each, precision, each)) for each in features]
    factors = [each.uncertainty / far for each, far in zip(predictions, distances, strict=True)]  # type: ignore[operator]
    assert np.concatenate(factors) == pytest.approx(factors[0][0], rel=1e-5)
    n_covered, n = covered(test, predictions)
    assert n_covered / n > 0.8
    # Alone, too, where a compiled potential would state none; and turned structures are as uncertain.
    turned = test[0].copy()
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    for atoms in (test[0], turned):
        found = predict(potential.calculator(), atoms).uncertainty
        np.testing.assert_allclose(found, predictions[0].uncertainty, rtol=1e-6)
    stating.save(tmp_path / "saved")
    assert load_model(tmp_path / "saved").deploy().evaluate(test[:1])[0].uncertainty is not None


def test_a_network_without_features_states_no_uncertainty(
    trained: NequIPModel,
    train: Dataset,
    valid: Dataset,
    unseen: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def without_features(calculator: object, structures: Sequence[Atoms]) -> dict[str, Any]:
        return {name: value for name, value in forward(calculator, structures).items() if name != "node_features"}

    forward = nequip_network._forward
    monkeypatch.setattr(nequip_network, "_forward", without_features)
    caplog.set_level("INFO")
    package = Path(shutil.copyfile(trained.network, tmp_path / trained.network.name))
    model = replace(trained, weights=package, parameters=TINY.model_copy(update={"uncertainty": True}))
    model.calibrate_uncertainty(train, valid, unseen[:20])
    assert model.uncertainty_file is None
    assert "this network of NequIP has no node_features in its output" in caplog.text
