"""The end of a generation and of a campaign: manifest, reports, comparison."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from prefect import allow_failure
from prefect.futures import PrefectFuture, wait

from surveyor.dataset import Dataset
from surveyor.dataset.evaluation import load_predictions
from surveyor.dataset.metrics import errors_of
from surveyor.errors import InputError, NothingLearned, SurveyorError
from surveyor.events.kinds import CampaignBegins, CampaignComplete, CampaignFails, GenerationComplete, GenerationFails
from surveyor.events.recording import announce
from surveyor.files import read_json, write_json
from surveyor.flows.server import end_patience
from surveyor.flows.survey import Survey
from surveyor.flows.training import format_errors
from surveyor.learning.labelled_samples import LabelledSample, check_failures, check_new_labels, count_failures
from surveyor.learning.parameters import Learning
from surveyor.models.choice import load_model
from surveyor.run_directory import SCHEMA_VERSION, Generation, RunDirectory
from surveyor.tasks.evaluate import evaluate
from surveyor.tasks.report import ReportsSoFar, report, tag_run
from surveyor.words import number_of
from surveyor.works.campaign import Campaign

logger = logging.getLogger(__name__)


def judge(structures: Dataset, learning: Learning) -> None:
    """Tag the runs of a generation and its campaign by the reasons of failed labels, and check how many failed.

    Raises:
        NothingLearned: a larger fraction failed than the campaign allows.
    """
    if failures := count_failures(structures):
        tag_run(sorted(failures), and_parent=True)
    check_failures(structures, learning)


def complete(campaign: Campaign, generation: Generation) -> Generation:
    """Write the manifest of a generation; return it as it was written.

    Raises:
        CampaignInUse: another process works in the run directory now, as this one was silent for too long.
    """
    campaign.lease.check()
    completed = campaign.directory.complete_generation(generation)
    test = completed.errors["test"]
    n, n_labels = completed.number, completed.n_labels
    text = f"generation {n} is complete: {number_of(n_labels, 'label')}; on the test set {format_errors(test)}"
    announce(logger, GenerationComplete(message=text, generation=n, n_labels=n_labels))
    return completed


def check_something_is_new(
    survey: Survey, previous: Generation, samples: Sequence[LabelledSample], structures: Dataset
) -> None:
    """Check that a generation returned something new; otherwise forget its samples, so that it can be tried again.

    Args:
        survey: the walkers of the campaign.
        previous: the previous generation.
        samples: samples of this generation.
        structures: new structures, labelled or failed.

    Raises:
        NothingLearned: it returned no new label.
    """
    try:
        check_new_labels(samples, structures)
    except NothingLearned as error:
        number = previous.number + 1
        survey.give_up(previous, [each.name for each in samples if each.failure is not None])
        text = f"generation {number} brought nothing new: {error}"
        announce(logger, GenerationFails(message=text, generation=number))
        raise NothingLearned(
            f"generation {number} brought no new label: {error}\n"
            f"The newest model is that of generation {previous.number}, {previous.model.weights}. The same call tries "
            f"generation {number} again, from where the walkers are now: as it is, or with other limits of guards, "
            "learning.n_tries or learning.min_difference_A."
        ) from None


class Reports:
    """Reports on generations, written in sequence while the campaign continues.

    Args:
        campaign: the open campaign.
    """

    def __init__(self, campaign: Campaign) -> None:
        self.campaign = campaign
        self._futures: list[PrefectFuture[Path]] = []
        self._so_far = ReportsSoFar()

    def begin(self, number: int) -> None:
        """Submit the report on a generation, unless a former run has made it and nothing has changed since."""
        directory = self.campaign.directory
        is_made = directory.generation(number).figures.exists() and self.campaign.parameters.wandb is None
        if not is_made or not _was_killed(directory):
            self.renew(number)

    def renew(self, number: int) -> None:
        """Submit the report on a generation; it waits for the one before, and nothing waits for it."""
        before = [allow_failure(future) for future in self._futures[-1:]]
        directory, wandb = self.campaign.directory, self.campaign.parameters.wandb
        self._so_far.newest = number
        store = self.campaign.store
        future = report.submit(directory, number, wandb, self._so_far, store, wait_for=before, return_state=False)
        self._futures.append(future)

    def __enter__(self) -> "Reports":
        directory = self.campaign.directory
        for number in range(directory.n_complete() - 1):  # that of the newest one is begun with the next
            if not directory.generation(number).figures.exists():
                self.renew(number)  # a former run was ended before it was made
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, *_traceback: object) -> None:
        if not isinstance(error, Exception | None):
            end_patience()  # the run is told to end: no report is to wait for the server
        wait(self._futures)
        if isinstance(error, SurveyorError):
            announce(logger, CampaignFails(message=str(error)))
        if isinstance(error, NothingLearned):
            self._report_failure()
        for future in self._futures:
            if future.state.is_failed():
                # The generations are safe; a report can be written again, and must not end a campaign.
                logger.error("a report failed: %s", future.state.message)

    def _report_failure(self) -> None:
        """Write the report of a campaign that ends without a generation of its own to report on."""
        from surveyor.report import write_report  # matplotlib takes its time

        try:
            write_report(self.campaign.directory, store=self.campaign.store)
        except Exception:  # whatever it is must not take the place of why the campaign ends
            logger.exception("the report failed")


def _was_killed(directory: RunDirectory) -> bool:
    """Return whether the previous run was killed and so recorded no end, which the report would mention."""
    bounds = CampaignBegins | CampaignComplete | CampaignFails
    kinds = [type(each) for each in directory.events.read()[0] if isinstance(each, bounds)]
    return kinds[-2:] == [CampaignBegins, CampaignBegins]  # the last one is that of this run


def compare(campaign: Campaign, last: Generation) -> None:
    """Evaluate the models of all generations on the final test set, and keep the errors."""
    test_set = campaign.directory.generation(last.number).set_file("test")
    digest = hashlib.sha256(test_set.read_bytes()).hexdigest()
    path = campaign.directory.comparison
    if not path.exists() or read_json(path)["test_set"] != digest or len(read_json(path)["errors"]) <= last.number:
        structures = Dataset.load(test_set)
        files = {number: _evaluate_generation(campaign, number, test_set, digest) for number in range(last.number + 1)}
        errors = {
            number: errors_of(structures, load_predictions(f.result(), structures)) for number, f in files.items()
        }
        record = {"schema_version": SCHEMA_VERSION, "test_set": digest, "n_structures": len(structures)}
        write_json(path, {**record, "errors": {str(number): each.to_dict() for number, each in errors.items()}})


def _evaluate_generation(campaign: Campaign, number: int, test_set: Path, digest: str) -> PrefectFuture[Path]:
    directory = campaign.directory.generation(number)
    return evaluate.submit(
        campaign.training,
        load_model(directory.model).deploy(),
        dataset=test_set,
        destination=directory.predictions(f"final-test-{digest[:12]}"),
        name=f"generation {number} on final test",
    )


def conclude(campaign: Campaign, last: Generation, reason: str, reports: Reports) -> Path:
    """Complete a campaign: compare the models of all generations, report, and return the final model.

    Args:
        campaign: the open campaign.
        last: its newest generation.
        reason: reason why it ends.
        reports: the reports, to which the last one is added.

    Returns:
        The native file of the final model.
    """
    compare(campaign, last)
    directory = campaign.directory
    announce(logger, CampaignComplete(message=f"the campaign is complete: {reason}", reason=reason))
    if not directory.report.exists() or directory.report.stat().st_mtime < directory.comparison.stat().st_mtime:
        reports.renew(last.number)
    if last.model.weights is None:
        raise InputError(f"generation {last.number} of {directory.path} has no model")
    return last.model.weights
