"""The common part of all models but committees: parameters, atomic energies, and weights in a native file."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar, cast

from ase import Atoms

from surveyor.dataset import Dataset
from surveyor.dataset.isolated_atoms import without_isolated_atoms
from surveyor.dataset.weights import Property
from surveyor.errors import InputError
from surveyor.models import posterior, uncertainty
from surveyor.models.atomic_energies import fit_atomic_energies, known_atomic_energies
from surveyor.models.record import ModelRecord, versions_of
from surveyor.models.weights import check_weights
from surveyor.parameters import Parameters
from surveyor.potentials import Potential
from surveyor.structures import elements_of

P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True, slots=True)
class SingleModel(Generic[P]):
    """A trainable model that is no committee.

    Attributes:
        parameters: parameters of the architecture and the training.
        atomic_energies: atomic energies in eV by chemical symbol; None before `initialize`.
        seed: seed of the weights and of the order of batches.
        weights: native file of the engine; None before `train`.
        fitted: elements whose atomic energies were fitted to the total energies of the data; a training from a
            foundation model fits them again, with its interaction energies subtracted.
    """

    parameters: P
    atomic_energies: Mapping[str, float] | None = None
    seed: int = 0
    weights: Path | None = None
    fitted: tuple[str, ...] = ()

    KIND: ClassVar[str]  # name of the variant in `ModelParameters`
    ENGINE: ClassVar[str]  # as people call it
    FILE: ClassVar[str]  # name of the native file in the folder of a saved model
    PACKAGES: ClassVar[Sequence[str]]  # distributions on whose versions the weights depend

    @property
    def takes_weights(self) -> tuple[Property, ...]:
        """Properties whose weights reach the loss of the engine."""
        return ()

    @property
    def is_trained(self) -> bool:
        """True if the model has weights."""
        return self.weights is not None

    def initialize(self, train: Dataset, *, atomic_energies: Mapping[str, float] | None, seed: int) -> Self:
        """Return an untrained model for these data; see `Model.initialize`."""
        known = known_atomic_energies(train, atomic_energies)
        energies = known | fit_atomic_energies(without_isolated_atoms(train), known)
        fitted = tuple(symbol for symbol in energies if symbol not in known)
        return replace(self, atomic_energies=energies, seed=seed, weights=None, fitted=fitted)

    def unsupported(self, structures: Sequence[Atoms]) -> tuple[str, ...]:
        """Return the elements that were not in the data with which the model was initialized."""
        if self.atomic_energies is None:
            return ()
        return tuple(symbol for symbol in elements_of(structures) if symbol not in self.atomic_energies)

    @property
    def network(self) -> Path:
        """The native file.

        Raises:
            ValueError: the model is not trained.
        """
        if self.weights is None:
            raise ValueError(f"a {self.ENGINE} model that is not trained cannot be deployed; train it first")
        return self.weights

    @property
    def energies(self) -> Mapping[str, float]:
        """The atomic energies.

        Raises:
            ValueError: the model is not initialized.
        """
        if self.atomic_energies is None:
            raise ValueError("a model without atomic energies cannot be used; initialize it first")
        return self.atomic_energies

    def check_data(self, train: Dataset, valid: Dataset) -> None:
        """Check that a training can begin.

        Raises:
            InputError: a set is empty, holds elements with which the model was not initialized, or weights that the
                engine does not take.
        """
        for name, structures in (("training", train), ("validation", valid)):
            if not structures:
                raise InputError(f"the {name} set is empty; {self.ENGINE} needs at least one labelled structure in it")
            unknown = self.unsupported(structures)
            if unknown:
                raise InputError(
                    f"the {name} set holds {', '.join(unknown)}, which the model has not been initialized with; "
                    "initialize it with all data"
                )
            check_weights(self, structures, f"the {name} set")

    def check_start(self, start: Path, known: Sequence[str]) -> None:
        """Check that a network knows the elements of a model whose training starts from it."""
        unknown = sorted(self.energies.keys() - {*known})
        if unknown:
            raise InputError(
                f"{start} does not know {', '.join(unknown)}; expected a network for all elements of the data; train "
                "from scratch, without it"
            )

    def save(self, directory: Path | str) -> None:
        """Write the native file, uncertainty, posterior and `model.json` into a new directory; see `Model.save`."""
        weights, directory = self.network, Path(directory)
        directory.mkdir(parents=True)
        shutil.copyfile(weights, directory / self.FILE)
        if self.uncertainty_file is not None:
            shutil.copyfile(self.uncertainty_file, directory / uncertainty.FILE)
        if self.posterior_file is not None:
            shutil.copyfile(self.posterior_file, directory / posterior.FILE)
        versions = versions_of(["surveyor", *self.PACKAGES, "ase"])
        ModelRecord(self.KIND, self.parameters.model_dump(mode="json"), self.energies, self.seed, versions).save(
            directory
        )

    @property
    def may_state_uncertainty(self) -> bool:
        """True if the model is to state an uncertainty, provided that there are enough data for its calibration."""
        return bool(getattr(self.parameters, "uncertainty", False))

    @property
    def uncertainty_file(self) -> Path | None:
        """The file with the uncertainty of the trained model; None if it states none."""
        path = self.network.with_name(uncertainty.FILE)
        return path if self.may_state_uncertainty and path.exists() else None

    def calibrate_uncertainty(self, train: Dataset, valid: Dataset, others: Dataset) -> None:
        """Write the uncertainty of the trained model beside its native file, unless it is to state none.

        Args:
            train: structures of its training.
            valid: structures of its validation set.
            others: further structures that the training has not fitted, such as a test set.

        Raises:
            ValueError: the model is not trained.
        """
        if self.may_state_uncertainty:
            path = self.network.with_name(uncertainty.FILE)
            potential = cast("uncertainty.FeaturePotential", self.deploy())  # that of each model with this parameter
            uncertainty.calibrate_uncertainty(potential, train, valid, others, path)

    @property
    def posterior_file(self) -> Path | None:
        """The file with the posterior of the trained model; None if it was not computed."""
        path = self.network.with_name(posterior.FILE)
        return path if path.exists() else None

    def compute_posterior(self, train: Dataset, valid: Dataset) -> None:
        """Write the posterior of the trained model beside its native file, unless it is there.

        Args:
            train: structures of its training.
            valid: structures of its validation set.

        Raises:
            InputError: the network shows no features.
            ValueError: the model is not trained.
        """
        potential = cast("posterior.GradientPotential", self.deploy())
        posterior.compute_posterior(potential, train, valid, self.network.with_name(posterior.FILE))

    def deploy(self) -> Potential:
        """Return the potential for sampling and evaluation; see `Model.deploy`."""
        raise NotImplementedError

    @classmethod
    def load(cls, directory: Path, record: ModelRecord, parameters: type[P]) -> Self:
        """Return the model that `save` wrote; the native file, which may hold code, is not opened before it is used.

        A model of an earlier version states no uncertainty, and neither do those whose training starts from it: the
        campaign to which they belong began without.
        """
        unknown = {"uncertainty": False} if "uncertainty" in parameters.model_fields else {}
        given = parameters.model_validate(unknown | dict(record.parameters))
        return cls(given, record.atomic_energies, record.seed, directory.absolute() / cls.FILE)
