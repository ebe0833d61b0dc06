"""Training on given files without a campaign: parameters, checks, and results."""

from surveyor.works.training.checks import CheckedTraining
from surveyor.works.training.division import SETS
from surveyor.works.training.parameters import TrainingParameters
from surveyor.works.training.training import TRAINING, Training, summarise

__all__ = ["SETS", "TRAINING", "CheckedTraining", "Training", "TrainingParameters", "summarise"]
