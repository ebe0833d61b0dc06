"""Figures, tables and the report of a campaign: pure functions of its run directory."""

from surveyor.progress import GenerationErrors, errors_table
from surveyor.report.images import generation_figures, write_figures, write_training_figures
from surveyor.report.markdown import generation_markdown, training_markdown
from surveyor.report.page import write_report
from surveyor.report.pictures import CampaignPictures, training_pictures

__all__ = [
    "CampaignPictures",
    "GenerationErrors",
    "errors_table",
    "generation_figures",
    "generation_markdown",
    "training_markdown",
    "training_pictures",
    "write_figures",
    "write_report",
    "write_training_figures",
]
