"""Training on given files as work of its own: its parameters, its checks, and what came of it."""

from surveyor.training.checks import CheckedTraining
from surveyor.training.division import SETS
from surveyor.training.parameters import TrainingParameters
from surveyor.training.training import TRAINING, Training, summarise

__all__ = ["SETS", "TRAINING", "CheckedTraining", "Training", "TrainingParameters", "summarise"]
