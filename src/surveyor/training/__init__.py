"""Training on given files as work of its own: its parameters, its checks, and what stays the same in it."""

from surveyor.training.checks import CheckedTraining, check_training
from surveyor.training.division import SETS
from surveyor.training.parameters import TrainingParameters, load_training
from surveyor.training.summary import SUMMARY, is_complete, is_training, read_training_summary, write_summary
from surveyor.training.training import Training, open_training

__all__ = [
    "SETS",
    "SUMMARY",
    "CheckedTraining",
    "Training",
    "TrainingParameters",
    "check_training",
    "is_complete",
    "is_training",
    "load_training",
    "open_training",
    "read_training_summary",
    "write_summary",
]
