"""NequIP: equivariant message-passing potentials, trained by their own command line."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from surveyor.dataset import Dataset
from surveyor.dataset.isolated_atoms import without_isolated_atoms
from surveyor.models.devices import Device, resolve_device
from surveyor.models.fitted_energies import energies_after
from surveyor.models.history import history_of
from surveyor.models.model import Epoch
from surveyor.models.nequip_network import (
    calculator_of,
    compiled_files,
    describe,
    evaluate_together,
    feature_gradients_together,
    features_together,
    stating,
)
from surveyor.models.nequip_parameters import NequIPParameters, require_nequip
from surveyor.models.nequip_trainer import NETWORK, TrainerInput, run_training
from surveyor.models.posterior import HasPosterior
from surveyor.models.single_model import SingleModel
from surveyor.models.uncertainty import StatesUncertainty
from surveyor.potentials import Prediction


@dataclass(frozen=True, slots=True)
class NequIPPotential(StatesUncertainty, HasPosterior):
    """The potential that a NequIP model deploys.

    Attributes:
        path: package of NequIP; compiled potentials are stored beside it.
        device: device of the evaluation; "auto" uses a GPU if there is one.
        is_compiled: whether a compiled potential is used if there is one for this kind of machine. One that states an
            uncertainty uses none, as it needs the features of the network.
        uncertainty_file: file with the uncertainty of the model; None if it states none.
        posterior_file: file with the posterior of the model; None if it has none.
    """

    path: Path
    device: Device = "auto"
    is_compiled: bool = True
    uncertainty_file: Path | None = None
    posterior_file: Path | None = None

    evaluates_together: ClassVar[bool] = True

    def calculator(self) -> Calculator:
        """Return a new ASE calculator; those of one process share one network.

        Raises:
            InputError: NequIP is not installed.
        """
        require_nequip()
        device, uncertainty = resolve_device(self.device), self.uncertainty
        if uncertainty is not None:  # what is compiled has no features
            return stating(calculator_of(self.path, device, compiled=False), uncertainty)
        return calculator_of(self.path, device, compiled=self.is_compiled)

    def evaluate(self, structures: Sequence[Atoms]) -> list[Prediction]:
        """Return a prediction for each structure; many go through the network together.

        Raises:
            InputError: NequIP is not installed.
        """
        require_nequip()
        device = resolve_device(self.device)
        return evaluate_together(self.path, structures, device, self.uncertainty, compiled=self.is_compiled)

    def features(self, structures: Sequence[Atoms]) -> list[np.ndarray]:
        """Return the invariant inputs of the network's readout for each structure, shape (n_atoms, n_features).

        Raises:
            InputError: NequIP is not installed, or the network shows none.
        """
        require_nequip()
        return features_together(self.path, structures, resolve_device(self.device))

    def feature_gradients(self, structures: Sequence[Atoms]) -> list[np.ndarray]:
        """Return the derivatives of the features' sums for each structure in 1/Å, shape (n_atoms, 3, n_features).

        Raises:
            InputError: NequIP is not installed, or the network shows no features.
        """
        require_nequip()
        return feature_gradients_together(self.path, structures, resolve_device(self.device))


class NequIPModel(SingleModel[NequIPParameters]):
    """A NequIP network that can be trained; its weights are a package of NequIP."""

    __slots__ = ()
    KIND, ENGINE, FILE, PACKAGES = "nequip", "NequIP", NETWORK, ("nequip", "torch", "e3nn")

    def train(self, train: Dataset, valid: Dataset, directory: Path | str) -> tuple[Self, Sequence[Epoch]]:
        """Return the model trained on the data, from the weights that it has, and the history; see `Model.train`.

        Raises:
            InputError: NequIP is not installed, the configuration contradicts what surveyor gives, a set is empty, or
                the data hold elements with which the model was not initialized.
            TrainingFailed: there is no network at the end.
        """
        require_nequip()
        directory = Path(directory)
        train, valid = without_isolated_atoms(train), without_isolated_atoms(valid)
        self.check_data(train, valid)
        if self.weights is not None:
            self.check_start(self.weights, describe(self.weights).types)
        training = TrainerInput(self.energies, self.seed, self.weights, self.fitted)
        network = run_training(self.parameters, training, train, valid, directory)
        energies = energies_after(directory) or self.energies
        return replace(self, weights=network, atomic_energies=energies, fitted=()), history_of(directory)

    def deploy(self) -> NequIPPotential:
        """Return the potential for sampling and evaluation.

        Raises:
            ValueError: the model is not trained.
        """
        # A pool without a GPU shall be able to use what one with a GPU has trained.
        device: Device = "cpu" if self.parameters.device == "cpu" else "auto"
        return NequIPPotential(
            self.network, device, self.parameters.is_compiled, self.uncertainty_file, self.posterior_file
        )

    def save(self, directory: Path | str) -> None:
        """Write the package, `model.json` and the compiled potentials into a new directory."""
        super().save(directory)
        for compiled in compiled_files(self.network):
            shutil.copyfile(compiled, Path(directory) / compiled.name)
