"""Lines on how far the potential of a campaign can be trusted."""

from surveyor.dataset.metrics import coverage_in_words
from surveyor.progress import read_trust
from surveyor.report.tables import Manifest
from surveyor.run_directory import RunDirectory
from surveyor.words import generation_name


def trust_lines(directory: RunDirectory, manifest: Manifest) -> list[str]:
    """Return how far the potential can be trusted, and how often the stated uncertainty was large enough.

    As long as there are too few audits to judge the uncertainty, the new structures of one generation are all that is
    known of it.

    Args:
        directory: run directory of the campaign.
        manifest: of the newest generation to look at.
    """
    trust = read_trust(directory, manifest["number"])
    coverage = manifest["details"].get("coverage")
    if not coverage or any(each.evidence.coverage is not None for each in trust.statements):
        return trust.lines
    name = generation_name(manifest["number"])
    return [*trust.lines, f"Generation {name}, before training: {coverage_in_words(**coverage)}."]
