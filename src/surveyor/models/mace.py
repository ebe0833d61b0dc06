"""MACE: equivariant message-passing potentials, trained by their own command line."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import chemical_symbols

from surveyor.dataset import Dataset
from surveyor.dataset.isolated_atoms import without_isolated_atoms
from surveyor.dataset.weights import PROPERTY_WEIGHTS, Property
from surveyor.errors import InputError
from surveyor.models.batches import memory_limits_of
from surveyor.models.devices import Device, Precision, resolve_device
from surveyor.models.fitted_energies import energies_after
from surveyor.models.history import history_of
from surveyor.models.mace_contraction import contract_by_element
from surveyor.models.mace_cuequivariance import accelerated
from surveyor.models.mace_evaluation import (
    calculator_of,
    evaluate_together,
    feature_gradients_together,
    features_together,
    takes_geometry_alone,
)
from surveyor.models.mace_parameters import (
    WEIGHTED_LOSSES,
    MACEParameters,
    check_options,
    foundation_file,
    require_mace,
    settings_of,
)
from surveyor.models.mace_steps import MACEEvaluator
from surveyor.models.mace_trainer import NETWORK, TrainerInput, run_training
from surveyor.models.model import Epoch
from surveyor.models.posterior import HasPosterior
from surveyor.models.quiet import engine_kept_quiet
from surveyor.models.single_model import SingleModel
from surveyor.models.uncertainty import StatesUncertainty
from surveyor.models.weights import check_weights
from surveyor.potentials import Evaluator, Prediction
from surveyor.reading import read_labelled

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MACEPotential(StatesUncertainty, HasPosterior):
    """The potential that a MACE model deploys.

    Attributes:
        path: native file of MACE.
        device: device of the evaluation; "auto" uses a GPU if there is one.
        precision: precision of the evaluation.
        uncertainty_file: file with the uncertainty of the model; None if it states none.
        posterior_file: file with the posterior of the model; None if it has none.
    """

    path: Path
    device: Device = "auto"
    precision: Precision = "float64"
    uncertainty_file: Path | None = None
    posterior_file: Path | None = None

    evaluates_together: ClassVar[bool] = True

    def calculator(self) -> Calculator:
        """Return a new ASE calculator; those of one process share one network.

        Raises:
            InputError: MACE is not installed.
        """
        device, network = self._load()
        with engine_kept_quiet():
            return calculator_of(network, device, self.precision, self.uncertainty)

    def evaluate(self, structures: Sequence[Atoms]) -> list[Prediction]:
        """Return a prediction for each structure; many go through the network together.

        Raises:
            InputError: MACE is not installed.
        """
        device, network = self._load()
        limits = memory_limits_of(self.path, self.path.stat().st_mtime_ns, device)
        return evaluate_together(
            network, structures, precision=self.precision, limits=limits, uncertainty=self.uncertainty
        )

    def evaluator(self) -> Evaluator:
        """Return an evaluator for walkers, which keeps their neighbour lists.

        Raises:
            InputError: MACE is not installed.
        """
        device, network = self._load()
        with engine_kept_quiet():
            calculator = calculator_of(network, device, self.precision, self.uncertainty)
        is_on_device = device == "cuda"
        if not takes_geometry_alone(calculator, []):
            return Evaluator(lambda requests: self.evaluate([each.atoms for each in requests]), is_on_device)
        limits = memory_limits_of(self.path, self.path.stat().st_mtime_ns, device)
        return Evaluator(MACEEvaluator(calculator, limits), is_on_device)

    def features(self, structures: Sequence[Atoms]) -> list[np.ndarray]:
        """Return the invariant inputs of the network's readouts for each structure, shape (n_atoms, n_features).

        Raises:
            InputError: MACE is not installed.
        """
        device, network = self._load()
        return features_together(network, structures, precision=self.precision, device=device)

    def feature_gradients(self, structures: Sequence[Atoms]) -> list[np.ndarray]:
        """Return the derivatives of the features' sums for each structure in 1/Å, shape (n_atoms, 3, n_features).

        Raises:
            InputError: MACE is not installed.
        """
        device, network = self._load()
        return feature_gradients_together(network, structures, precision=self.precision, device=device)

    def _load(self) -> tuple[str, Any]:  # Any: torch is optional
        require_mace()
        device = resolve_device(self.device)
        return device, _network(self.path, self.path.stat().st_mtime_ns, device, self.precision)


@lru_cache(maxsize=8)
def _network(path: Path, modified_ns: int, device: str, precision: Precision) -> Any:  # Any: torch is optional
    # Walkers that share a process and a model share the network; the time tells it from an earlier file of that name.
    with engine_kept_quiet():
        import torch
        from mace.calculators import MACECalculator  # noqa: F401  (lets torch load e3nn's own files)

        logger.debug("loading %s of %d ns on %s in %s", path, modified_ns, device, precision)
        network = torch.load(path, map_location=device, weights_only=False)
    network = network.to(dtype=getattr(torch, precision))
    if device == "cpu":
        contract_by_element(network)
    if device == "cuda":
        network = accelerated(network, device, precision)
    return network


def _elements(path: Path) -> list[str]:
    """Return the elements that a network knows."""
    network = _network(path, path.stat().st_mtime_ns, "cpu", "float64")
    return [chemical_symbols[number] for number in network.atomic_numbers.tolist()]


class MACEModel(SingleModel[MACEParameters]):
    """A MACE network that can be trained; its weights are the native file of MACE."""

    __slots__ = ()
    KIND, ENGINE, FILE, PACKAGES = "mace", "MACE", NETWORK, ("mace-torch", "torch", "e3nn")

    def train(self, train: Dataset, valid: Dataset, directory: Path | str) -> tuple[Self, Sequence[Epoch]]:
        """Return the model trained on the data, from the weights that it has, and the history; see `Model.train`.

        Raises:
            InputError: MACE is not installed or does not know the options, a set is empty, or the data hold elements
                with which the model was not initialized.
            TrainingFailed: there is no network at the end.
        """
        check_options(self.parameters)
        directory = Path(directory)
        train, valid = without_isolated_atoms(train), without_isolated_atoms(valid)
        self.check_data(train, valid)
        settings = settings_of(
            self.parameters, resolve_device(self.parameters.device), is_continued=self.weights is not None
        )
        start = self.weights or foundation_file(self.parameters)
        if start is not None:
            self.check_start(start, _elements(start))
        is_tuned = start is not None and self.weights is None
        training = TrainerInput(
            settings,
            self.energies,
            self.seed,
            start,
            self.parameters.time_limit_minutes,
            self._replay(),
            is_foundation=is_tuned,
            fits=self.fitted if is_tuned else (),
        )
        network = run_training(training, train, valid, directory)
        energies = energies_after(directory) or self.energies
        trained = replace(self, weights=network, atomic_energies=energies, fitted=())
        return trained, history_of(directory)

    @property
    def takes_weights(self) -> tuple[Property, ...]:
        """Properties whose weights are factors in the loss: all, or none with replay data and some losses of MACE."""
        loss = self.parameters.options.get("loss", "weighted")
        return tuple(PROPERTY_WEIGHTS) if self.parameters.replay is None and loss in WEIGHTED_LOSSES else ()

    def _replay(self) -> Dataset | None:
        """Return the structures of the foundation model's data that are of elements of the model, where it replays any.

        Raises:
            InputError: there are none in the file, or it has no labels, or weights, which MACE's loss with replay data
                does not take.
        """
        # From the weights of a model that has been tuned already, the readout for such data is gone.
        if self.parameters.replay is None or self.weights is not None:
            return None
        given = read_labelled(
            self.parameters.replay, "replay", keys=self.parameters.replay_keys, keys_field="replay_keys"
        ).structures
        chosen = without_isolated_atoms(given).where(lambda atoms: not self.unsupported([atoms]))
        check_weights(self, chosen, "replay")
        if not chosen:
            raise InputError(
                f"replay: no structure of {self.parameters.replay} is of {', '.join(self.energies)} alone, the "
                "elements of the data; leave it out"
            )
        return chosen

    def deploy(self) -> MACEPotential:
        """Return the potential for sampling and evaluation.

        Raises:
            ValueError: the model is not trained.
        """
        # A pool without a GPU shall be able to use what one with a GPU has trained.
        device: Device = "cpu" if self.parameters.device == "cpu" else "auto"
        return MACEPotential(
            self.network, device, self.parameters.precision, self.uncertainty_file, self.posterior_file
        )
