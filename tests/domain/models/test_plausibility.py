import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from surveyor.dataset import ENERGY, FORCES, Dataset
from surveyor.errors import TrainingFailed
from surveyor.models.mace_parameters import MACEParameters, settings_of
from surveyor.models.mace_trainer import TrainerInput
from surveyor.models.model import Epoch
from surveyor.models.pair import PairModel, PairParameters
from surveyor.models.plausibility import check_beginning, check_result, from_foundation, from_scratch, from_weights

ENERGIES = {"Au": 3.8, "Cu": 3.5}  # eV, of EMT


def elsewhere(data: Dataset, shift: float) -> Dataset:
    """Return the structures with energies that differ by so many eV/atom."""
    copies = [atoms.copy() for atoms in data]
    for atoms in copies:
        atoms.info[ENERGY] += shift * len(atoms)
    return Dataset(copies)


def test_what_an_untrained_network_may_be_off_by_grows_with_the_data(train: Dataset) -> None:
    assert from_scratch(train, ENERGIES).highest >= 10
    assert from_scratch(train, dict.fromkeys(ENERGIES, -1000.0)).highest == from_scratch(train, ENERGIES).highest
    assert from_scratch(train, {"Au": -1000.0, "Cu": 0.0}).highest > 1000


def test_a_foundation_model_may_be_off_by_a_difference_of_levels_of_theory(train: Dataset) -> None:
    assert 2 <= from_foundation(train, ENERGIES).highest < 10
    assert from_foundation(train, dict.fromkeys(ENERGIES, -1000.0)).highest == 10


def test_labels_of_weight_zero_say_nothing_of_what_is_plausible(train: Dataset) -> None:
    without_labels = train[0].copy()
    without_labels.info |= {ENERGY: 1e6, "config_energy_weight": 0.0, "config_forces_weight": 0.0}
    without_labels.arrays[FORCES] = without_labels.arrays[FORCES] + 1e6
    data = Dataset([*train, without_labels])
    for begin in (from_scratch, from_foundation):
        assert begin(data, ENERGIES) == begin(train, ENERGIES)
    assert from_scratch([without_labels], ENERGIES).highest == 10


def test_absurd_energies_before_the_first_epoch_end_a_training(train: Dataset, tmp_path: Path) -> None:
    tuned, scratch = from_foundation(train, ENERGIES), from_scratch(train, ENERGIES)
    with pytest.raises(
        TrainingFailed, match=r"absurd energies: before the first epoch.* 1000 eV/atom.*foundation model"
    ):
        check_beginning(Epoch(-1, 1.0, 1000.0, 1.0), tuned, tmp_path)
    with pytest.raises(TrainingFailed, match="total energies in eV at one level of theory"):
        check_beginning(Epoch(-1, 1.0, 1000.0, 1.0), scratch, tmp_path)
    check_beginning(Epoch(-1, 1.0, 1.5, 1.0), tuned, tmp_path)
    check_beginning(Epoch(-1, 1.0, 5.0, 1.0), scratch, tmp_path)
    check_beginning(None, tuned, tmp_path)


def test_forces_may_become_worse_where_the_loss_has_none(train: Dataset) -> None:
    for weight in (0.0, 1.0):
        settings = settings_of(MACEParameters(forces_weight=weight), "cpu")
        assert TrainerInput(settings, ENERGIES, seed=0).beginning(train).learns_forces == (weight > 0)


def epochs(*errors: tuple[float, float]) -> Sequence[Epoch]:
    return [Epoch(number, loss, 0.1, forces) for number, (loss, forces) in enumerate(errors)]


def test_training_that_ruins_its_network_fails(
    train: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Epoch(-1, 1.0, 0.1, 0.3)
    scratch, trained = from_scratch(train, ENERGIES), from_weights(train, ENERGIES)
    for beginning in (scratch, trained):
        with pytest.raises(TrainingFailed, match=r"worse: the error of forces .* 0\.3 before .* 15\.5 in the best one"):
            check_result(first, epochs((1.5, 20.0), (0.5, 15.5)), beginning, tmp_path)
    with pytest.raises(TrainingFailed, match=r"worse: the loss .* was 1 before the first epoch, and 5"):
        check_result(first, epochs((5.0, 0.3), (6.0, 0.3)), trained, tmp_path)
    check_result(first, epochs((0.5, 15.5)), replace(scratch, learns_forces=False), tmp_path)
    # The first epochs of new weights may leave the mean of the energies.
    check_result(first, epochs((5.0, 0.3)), scratch, tmp_path)
    check_result(first, epochs((20.0, 9.0), (0.5, 0.2), (float("nan"), 0.2)), trained, tmp_path)
    assert not caplog.messages
    with caplog.at_level(logging.WARNING):  # shown wherever the work is followed
        check_result(first, epochs((1.2, 0.3)), trained, tmp_path)
    assert "no epoch was better than the network that the training began with" in caplog.text


def test_pair_model_of_two_levels_of_theory_is_no_model(train: Dataset, valid: Dataset, tmp_path: Path) -> None:
    model = PairModel(PairParameters()).initialize(train, atomic_energies=None, seed=0)
    for _ in range(2):  # the same call fails again
        with pytest.raises(TrainingFailed, match="absurd energies: in the best epoch"):
            model.train(train, elsewhere(valid, 1000.0), tmp_path)
