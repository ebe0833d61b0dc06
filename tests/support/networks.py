"""Tests and checks that the networks of all engines share."""

import logging
import pickle
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from ase import Atoms
from gradients import check_gradients
from labelling_inputs import labelled

from surveyor.dataset import ENERGY, Dataset
from surveyor.dataset.metrics import errors_of
from surveyor.errors import TrainingFailed
from surveyor.files import read_json
from surveyor.models import batches, trainer
from surveyor.models.history import history_of, reported_epochs
from surveyor.models.model import Model
from surveyor.potentials import Prediction, evaluate_one_by_one
from surveyor.testing.potentials import check_potential

TRAINING = """
import pickle, sys
from pathlib import Path
model, train, valid = pickle.loads(Path(sys.argv[1]).read_bytes())
model.train(train, valid, Path(sys.argv[2]))
"""


SHIFTS = {"Au": -700.0, "Cu": -1600.0}  # eV: of the atomic energies, between two levels of theory
COHESION = 4.0  # eV/atom, of copper and gold by EMT


def shifted(data: Sequence[Atoms]) -> Dataset:
    """Return labels of another level of theory: energies of the atoms differ, bonds do not."""
    copies = [atoms.copy() for atoms in data]
    for atoms in copies:
        atoms.info[ENERGY] += sum(SHIFTS[symbol] for symbol in atoms.symbols)
    return Dataset(copies)


class NetworkTests:
    """Tests of the networks of all engines; the module of a subclass has a fixture `trained`.

    Attributes:
        untrained: a model whose training takes seconds.
        runner: module that runs the trainer.
        evaluation: module that takes structures through the network.
        narrow: code of a trainer whose memory lacks in epoch 2 for batches of more than {n_fitting} structures.
        n_repeated: number of epochs before epoch 2 that it has not saved.
    """

    untrained: ClassVar[Any]
    runner: ClassVar[ModuleType]
    evaluation: ClassVar[ModuleType]
    narrow: ClassVar[str]
    n_repeated: ClassVar[int] = 0

    def model(self, train: Dataset, **parameters: object) -> Any:  # Any: a model of either engine
        changed = replace(self.untrained, parameters=self.untrained.parameters.model_copy(update=parameters))
        return changed.initialize(train, atomic_energies=None, seed=0)

    def test_it_fulfils_what_is_asked_of_models(self, trained: Model) -> None:
        assert trained.weights is not None

    def test_it_fulfils_what_is_asked_of_potentials(self, trained: Model, valid: Dataset) -> None:
        check_potential(trained.deploy(), [*valid[:3], Atoms("CuAu", positions=[[0, 0, 0], [0, 0, 2.5]])])

    def test_gradients_of_features_are_those_of_finite_differences(self, trained: Any, valid: Dataset) -> None:
        slab = Atoms("Au2", positions=[[0, 0, 0], [0, 0, 2.5]], cell=[5, 5, 20], pbc=[True, True, False])
        check_gradients(trained.deploy(), [*valid[:3], slab])

    def test_isolated_atoms_give_the_atomic_energies_and_are_not_trained_on(
        self, train: Dataset, valid: Dataset, tmp_path: Path
    ) -> None:
        gold, copper = shifted(labelled([Atoms(symbol) for symbol in SHIFTS]))
        given = Dataset([gold, *shifted(train), copper])
        energies = {"Au": gold.info[ENERGY], "Cu": copper.info[ENERGY]}
        seen = Dataset([*shifted(valid), copper])
        model, _ = self.model(given, max_num_epochs=3).train(given, seen, tmp_path)
        assert dict(model.energies) == energies
        for file, data in ((trainer.TRAIN_FILE, train), (trainer.VALID_FILE, valid)):
            assert [len(atoms) for atoms in Dataset.load(tmp_path / file)] == [len(atoms) for atoms in data]
        alone = model.deploy().evaluate([Atoms(symbol) for symbol in energies])
        assert [each.energy for each in alone] == pytest.approx(list(energies.values()), abs=1e-6)
        error = errors_of(shifted(valid), model.deploy().evaluate(valid)).energy_rmse
        assert error is not None
        assert error < COHESION

    def test_an_isolated_atom_has_its_atomic_energy(self, trained: Any) -> None:
        predictions = trained.deploy().evaluate([Atoms(symbol) for symbol in trained.energies])
        assert [each.energy for each in predictions] == pytest.approx(list(trained.energies.values()), abs=1e-6)
        assert np.array([each.forces for each in predictions]) == pytest.approx(0, abs=1e-12)

    def test_structures_that_go_through_the_network_together_do_not_feel_each_other(
        self, trained: Model, valid: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        potential = trained.deploy()
        far = Atoms("CuAu", positions=[[0, 0, 0], [0, 0, 9.0]])
        mixed = [far, *valid[:3], Atoms("Cu"), *valid[3:], Atoms("Au", cell=[9, 9, 9], pbc=[True, True, False])]
        alone = evaluate_one_by_one(potential, mixed)
        for n_atoms in (1, 7, 10_000):
            monkeypatch.setitem(batches.ATOMS_AT_ONCE, "cpu", n_atoms)
            for one, other in zip(potential.evaluate(mixed), alone, strict=True):
                assert one.energy == pytest.approx(other.energy, abs=1e-9)
                np.testing.assert_allclose(one.forces, other.forces, rtol=0, atol=1e-9)
                assert (one.stress is None) == (other.stress is None)
                if one.stress is not None:
                    np.testing.assert_allclose(one.stress, other.stress, rtol=0, atol=1e-9)
        assert potential.evaluate([]) == []

    def test_a_batch_for_which_there_is_no_memory_is_halved(
        self, trained: Model, valid: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch

        potential, take, sizes = trained.deploy(), self.evaluation.pass_together, []

        def take_three(calculator: object, structures: Sequence[Atoms], **options: object) -> list[Prediction]:
            sizes.append(len(structures))
            if len(structures) > 3:
                raise torch.OutOfMemoryError("no memory")
            return take(calculator, structures, **options)  # type: ignore[no-any-return]

        expected = potential.evaluate(valid)
        monkeypatch.setitem(batches.ATOMS_AT_ONCE, "cpu", 10_000)
        monkeypatch.setattr(self.evaluation, "pass_together", take_three)
        found = potential.evaluate(valid)
        assert [one.energy for one in found] == pytest.approx([other.energy for other in expected], abs=1e-9)
        assert max(sizes) == len(valid)
        sizes.clear()
        assert len(potential.evaluate(valid)) == len(valid)
        assert max(sizes) <= 3  # it is known now that there is no memory for more

    def test_best_epoch_is_what_is_deployed(self, trained: Model, workplace: Path, valid: Dataset) -> None:
        check_best_epoch(trained, workplace / "first", valid)

    def test_use_leaves_the_logging_of_the_process_alone(self, trained: Model) -> None:
        handlers = list(logging.getLogger().handlers)
        trained.deploy().calculator()
        assert logging.getLogger().handlers == handlers

    def test_batches_are_halved_when_memory_is_lacking(
        self, train: Dataset, valid: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replace_program(monkeypatch, self.runner, self.narrow.format(n_fitting=2))
        _, history = self.model(train, max_num_epochs=4).train(train, valid, tmp_path)
        assert [epoch.number for epoch in history] == [0, 1, 2, 3]
        assert len(reported_epochs(tmp_path)) == 4 + self.n_repeated  # it went on from what was saved
        assert read_json(tmp_path / trainer.FITTING)["batch_size"] == 2

    def test_training_ends_at_its_time_limit_with_the_best_epoch(
        self, train: Dataset, valid: Dataset, tmp_path: Path
    ) -> None:
        limited = self.model(train, max_num_epochs=100_000, time_limit_minutes=2 / 60)
        model, history = limited.train(train, valid, tmp_path)
        assert 0 < len(history) < 1000  # one on a machine that is overloaded
        check_best_epoch(model, tmp_path, valid)

    def test_training_whose_loss_is_never_a_number_fails(self, train: Dataset, valid: Dataset, tmp_path: Path) -> None:
        invalid = Dataset(atoms.copy() for atoms in valid)
        invalid[0].info[ENERGY] = float("nan")
        with pytest.raises(TrainingFailed, match="the validation loss was never a number"):
            self.model(train, max_num_epochs=1).train(train, invalid, tmp_path)
        assert [epoch.number for epoch in history_of(tmp_path)] == [0]


def replace_program(monkeypatch: pytest.MonkeyPatch, runner: ModuleType, code: str) -> None:
    """Have a runner train by other code, in a process of its own that is started anew."""
    monkeypatch.setattr(runner, "PROGRAM", ("-c", code))
    monkeypatch.setattr(runner, "run_preloaded", lambda *_, **__: None, raising=False)  # of MACE alone


def check_best_epoch(trained: Model, directory: Path, valid: Dataset) -> None:
    """Check that the network has the errors of the best epoch of its training."""
    best = min(history_of(directory), key=lambda epoch: epoch.loss)
    assert best.forces_rmse == pytest.approx(errors_of(valid, trained.deploy().evaluate(valid)).forces_rmse, rel=1e-6)


def check_killed_three_times(
    model: Model,
    sets: tuple[Dataset, Dataset],
    folder: Path,
    *,
    last_kill: int,
    after_kill: Callable[[Path], object] = lambda _directory: None,
    saves_each_epoch: bool = True,
) -> None:
    """Check that a training which was killed at three random epochs is the one that was not disturbed, bit for bit.

    Args:
        model: initialized.
        sets: for training and validation.
        folder: an empty one.
        last_kill: the last epoch at which it may be killed, some before its end.
        after_kill: is called with the directory of the training after each kill.
        saves_each_epoch: whether at most the last epoch is repeated after a kill.
    """
    undisturbed, history = model.train(*sets, folder / "undisturbed")
    directory, call = folder / "killed", folder / "call.pickle"
    call.write_bytes(pickle.dumps((model, *sets)))
    for n_reported in sorted(random.Random(0).sample(range(3, last_kill), 3)):
        process = subprocess.Popen([sys.executable, "-c", TRAINING, str(call), str(directory)])
        while len(reported_epochs(directory)) < n_reported:
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(f"the training ended with {process.wait(0.05)}")
        process.kill()
        process.wait()
        after_kill(directory)
    resumed, same_history = model.train(*sets, directory)

    assert same_history == history
    times = Counter(epoch.number for epoch in reported_epochs(directory))
    if saves_each_epoch:
        assert max(times.values()) <= 2
        assert list(times.values()).count(2) <= 3  # at most the last one, each time
    assert times[0] == 1  # no kill was at the beginning
    valid = sets[1]
    for one, other in zip(resumed.deploy().evaluate(valid), undisturbed.deploy().evaluate(valid), strict=True):
        assert one.energy == other.energy
        assert np.array_equal(one.forces, other.forces)
