"""Training on given files as work of its own, and what stays the same in it."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from surveyor.campaign.checks import check_writable
from surveyor.dataset import DataSets
from surveyor.events import Report, ReportingExecutor
from surveyor.files import naming_full_disks
from surveyor.lease import hold_lease
from surveyor.models.choice import replay_reports
from surveyor.models.model import Model
from surveyor.pools.choice import Pools, open_pools
from surveyor.pools.pool import Pool
from surveyor.pools.sites import Site
from surveyor.reading import ReadingReport
from surveyor.run_directory import GenerationDirectory, RunDirectory
from surveyor.training.checks import check_training
from surveyor.training.continuation import check_continuation, recorded_files
from surveyor.training.parameters import TrainingParameters
from surveyor.training.summary import is_complete
from surveyor.works.continuation import record_parameters
from surveyor.works.provenance import record_run


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """A training on files, checked and open.

    Attributes:
        directory: its folder, which has the layout of a campaign's as far as it has the same files.
        data: training, validation and test set.
        model: to be trained, or trained if the training is complete.
        pool: where it is.
        reports: on the files of the data; none if the training is complete.
    """

    directory: RunDirectory
    data: DataSets
    model: Model
    pool: Pool
    reports: tuple[ReadingReport, ...] = ()

    @property
    def executor(self) -> Executor:
        """The pool, whose functions report."""
        return ReportingExecutor(self.pool, Report.into(self.directory.workers))

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do but the report."""
        return is_complete(self.directory)

    @property
    def files(self) -> GenerationDirectory:
        """The sets, the training and the model, with the names that those of a generation have."""
        return GenerationDirectory(self.directory.path)


@contextmanager
def open_training(
    parameters: TrainingParameters, sites: Mapping[str, Site] | None = None, pools_by_hand: Path | None = None
) -> Iterator[Training]:
    """Check a training, take its folder and give its pool, as long as this lasts.

    Args:
        parameters: with absolute paths.
        sites: where the pool is, by name, if the parameters name it by a block.
        pools_by_hand: folder of the pools that the user has opened by hand, which are used where they are open.

    Raises:
        InputError: the parameters cannot work, or are not those of the folder.
        CampaignInUse: a live process works in the folder.
    """
    checked = check_training(parameters)
    directory = checked.directory
    check_writable("output_directory", directory.path)
    reports = checked.reports
    if not is_complete(directory):
        reports += replay_reports(parameters.model, checked.model.atomic_energies or ())
    with naming_full_disks(directory.path), hold_lease(directory.lease):
        check_continuation(directory, parameters)
        record_parameters(directory.parameters, parameters, recorded_files(parameters))
        record_run(directory)
        pools = Pools(sampling=parameters.pool, labelling=parameters.pool, training=parameters.pool)
        with open_pools(pools, sites, directory.pools, pools_by_hand) as opened:
            yield Training(directory, checked.data, checked.model, opened.training, reports)
