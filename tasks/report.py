import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client

from surveyor.labels import LabelStore
from surveyor.run_directory import GenerationDirectory, RunDirectory
from surveyor.works.campaign import WandB
from surveyor.works.summary import read_summary


class ReportsSoFar:
    """State that the reports of a run share: the figures drawn so far, and which report is the newest.

    Attributes:
        newest: number of the newest generation whose report was begun or waits.
    """

    def __init__(self) -> None:
        self.newest = 0
        self._pictures: Any = None  # Any: `CampaignPictures`, whose module imports matplotlib

    def pictures(self, directory: RunDirectory) -> Any:  # Any: see above
        """Return the figures of the campaign, as far as they are drawn."""
        from surveyor.report import CampaignPictures  # matplotlib takes its time

        if self._pictures is None:
            self._pictures = CampaignPictures(directory)
        return self._pictures


@task(
    task_run_name="report generation {number}",
    retries=2,  # Prefect's server or Weights & Biases may be out of reach for a moment
    retry_delay_seconds=[2, 20],
    cache_policy=NO_CACHE,  # written anew from what is on disk
)
def report(
    directory: RunDirectory,
    number: int,
    wandb: WandB | None,
    so_far: ReportsSoFar | None = None,
    store: LabelStore | None = None,
) -> Path:
    """Write the report of a campaign, and show a generation as an artifact and, when asked, on Weights & Biases.

    Args:
        directory: the campaign on disk.
        number: of the generation.
        wandb: where to report there; None for not at all.
        so_far: shared with other reports; if a newer one waits, the page is left to that one.
        store: label store of the campaign, which has to be given if it is in a bucket.

    Returns:
        The report.
    """
    from surveyor.report import generation_markdown, write_figures, write_report  # matplotlib takes its time

    so_far, name = so_far or ReportsSoFar(), _key(directory, "campaign")
    pictures = so_far.pictures(directory)
    markdown = generation_markdown(directory, number, pictures, store)
    create_markdown_artifact(markdown, key=f"{name}-generation-{number}", description=f"Generation {number} of {name}")
    if number >= so_far.newest:
        write_report(directory, pictures, store)
    write_figures(directory, number, pictures)  # where they are, the generation was reported on
    if wandb is not None:
        from surveyor.tasks.wandb_run import log_generation

        log_generation(directory, number, wandb)  # what fails here, the next call logs
    return directory.report


@task(
    task_run_name="report training {directory.path.name}",
    retries=2,
    retry_delay_seconds=[2, 20],
    cache_policy=NO_CACHE,
)
def report_training(directory: RunDirectory) -> tuple[Path, ...]:
    """Show a training on files as an artifact, and write its figures.

    Args:
        directory: of the training, complete.

    Returns:
        The files of the figures.
    """
    from surveyor.report import training_markdown, training_pictures, write_training_figures

    name = _key(directory, "training")
    files = GenerationDirectory(directory.path)
    pictures = training_pictures(files)
    markdown = training_markdown(directory, read_summary(directory), pictures)
    create_markdown_artifact(markdown, key=f"{name}-training", description=f"Training of {directory.path.name}")
    return write_training_figures(files, pictures)  # last, as in `report`


@task(
    task_run_name="report benchmark {directory.path.name}",
    retries=2,
    retry_delay_seconds=[2, 20],
    cache_policy=NO_CACHE,
)
def report_benchmark(directory: RunDirectory) -> None:
    """Show the comparison of a benchmark as an artifact.

    Args:
        directory: of the benchmark, complete.
    """
    from surveyor.benchmark.results import markdown_of_benchmark

    name = _key(directory, "benchmark")
    markdown = markdown_of_benchmark(directory)
    create_markdown_artifact(markdown, key=f"{name}-benchmark", description=f"Benchmark of {directory.path.name}")


def _key(directory: RunDirectory, default: str) -> str:
    return re.sub("[^a-z0-9]+", "-", directory.path.name.lower()).strip("-") or default


def tag_run(tags: Sequence[str], *, and_parent: bool = False) -> None:
    """Add tags to the flow run in which this is called, such as the reasons of failed labels, to find it by them.

    Args:
        tags: some may be there already.
        and_parent: whether the run that has started this one gets them, too.
    """
    runs = [runtime.flow_run.id, runtime.flow_run.parent_flow_run_id if and_parent else None]
    for run_id in filter(None, runs):
        _add_tags(run_id, tags)


def _add_tags(run_id: str, tags: Sequence[str]) -> None:
    if not tags:
        return
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(run_id))
        client.update_flow_run(run.id, tags=[*run.tags, *(tag for tag in tags if tag not in run.tags)])
