"""Figures, tables and the report of a campaign: pure functions of its run directory."""

from surveyor.progress import GenerationErrors, errors_table
from surveyor.report.images import generation_figures, write_figures, write_training_figures
from surveyor.report.markdown import generation_markdown, training_markdown
from surveyor.report.page import write_report

__all__ = [
    "GenerationErrors",
    "errors_table",
    "generation_figures",
    "generation_markdown",
    "training_markdown",
    "write_figures",
    "write_report",
    "write_training_figures",
]
