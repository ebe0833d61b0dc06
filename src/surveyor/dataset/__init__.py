"""Datasets of labelled structures: weights, isolated atoms, and errors of predictions on them."""

from surveyor.dataset.dataset import (
    ENERGY,
    FAILURE,
    FORCES,
    GIVEN,
    KEY,
    MESSAGE,
    OUTPUT,
    OWN_FIELDS,
    STRESS,
    Dataset,
    DataSets,
    is_labelled,
    label_of,
    with_label,
    without_label,
)

__all__ = [
    "ENERGY",
    "FAILURE",
    "FORCES",
    "GIVEN",
    "KEY",
    "MESSAGE",
    "OUTPUT",
    "OWN_FIELDS",
    "STRESS",
    "DataSets",
    "Dataset",
    "is_labelled",
    "label_of",
    "with_label",
    "without_label",
]
