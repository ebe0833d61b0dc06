"""Training on given files without a campaign: parameters, checks, and results."""

from surveyor.training.checks import CheckedTraining
from surveyor.training.division import SETS
from surveyor.training.parameters import TrainingParameters
from surveyor.training.training import TRAINING, Training, summarise

__all__ = ["SETS", "TRAINING", "CheckedTraining", "Training", "TrainingParameters", "summarise"]
