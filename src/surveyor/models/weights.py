"""Weights of structures that a model cannot take are refused before it is trained."""

from surveyor.dataset import Dataset
from surveyor.dataset.weights import PROPERTY_WEIGHTS, WEIGHT, Property, weighted_properties
from surveyor.errors import InputError


def weights_of_loss(model: object) -> tuple[Property, ...]:
    """Return the properties whose weights a model takes, its `takes_weights`; none where it does not tell."""
    taken: tuple[Property, ...] = getattr(model, "takes_weights", ())
    return taken


def check_weights(model: object, structures: Dataset, name: str) -> None:
    """Check that a model takes the weights that structures have."""
    refused = [each for each in weighted_properties(structures) if each not in weights_of_loss(model)]
    if refused:
        names = ", ".join(PROPERTY_WEIGHTS[each] for each in refused)
        raise InputError(
            f"{name}: found {WEIGHT}, or {names}, other than 1, which the loss of {type(model).__name__} with these "
            "parameters does not take; expected 1, or 0 for a whole structure, which is then left out; change them in "
            "the file, or train another model"
        )
