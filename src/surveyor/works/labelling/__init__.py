"""Labelling of a dataset without a campaign: parameters, requests, and result files."""

from surveyor.works.labelling.labelling import LABELLING, CheckedLabelling, Labelling
from surveyor.works.labelling.parameters import LabellingParameters
from surveyor.works.labelling.requests import Chunk, Requests, make_requests
from surveyor.works.labelling.results import write_results

__all__ = [
    "LABELLING",
    "CheckedLabelling",
    "Chunk",
    "Labelling",
    "LabellingParameters",
    "Requests",
    "make_requests",
    "write_results",
]
