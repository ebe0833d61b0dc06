"""Labelling a dataset as work of its own: its parameters, what is requested, and the files that it leaves."""

from surveyor.labelling.labelling import Labelling, check_labelling, freeze_theory, open_labelling, read_for_labels
from surveyor.labelling.parameters import LabellingParameters, load_labelling
from surveyor.labelling.requests import Chunk, Requests, make_requests
from surveyor.labelling.results import read_summary, write_results

__all__ = [
    "Chunk",
    "Labelling",
    "LabellingParameters",
    "Requests",
    "check_labelling",
    "freeze_theory",
    "load_labelling",
    "make_requests",
    "open_labelling",
    "read_for_labels",
    "read_summary",
    "write_results",
]
