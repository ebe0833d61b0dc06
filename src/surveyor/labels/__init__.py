"""Labels, their keys, claims on labels in computation, and the permanent store."""

from surveyor.labels.failures import (
    NO_LIMITS_KNOWN,
    POLICIES,
    REASONS,
    LabelFailure,
    Policy,
    Reason,
)
from surveyor.labels.keys import LabelRequest, former_keys, label_key
from surveyor.labels.label import WORK, Label
from surveyor.labels.store import LabelStore
from surveyor.labels.theory import LevelOfTheory, load_theory, save_theory

__all__ = [
    "NO_LIMITS_KNOWN",
    "POLICIES",
    "REASONS",
    "WORK",
    "Label",
    "LabelFailure",
    "LabelRequest",
    "LabelStore",
    "LevelOfTheory",
    "Policy",
    "Reason",
    "former_keys",
    "label_key",
    "load_theory",
    "save_theory",
]
