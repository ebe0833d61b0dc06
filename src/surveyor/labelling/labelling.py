"""An open labelling: what it works with, and what stays the same in it."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms

from surveyor.campaign.checks import check_walltime, check_writable
from surveyor.events import Report, ReportingExecutor
from surveyor.files import naming_full_disks
from surveyor.labelling.parameters import LabellingParameters
from surveyor.labelling.requests import Chunk, Requests, default_chunk_size, make_requests
from surveyor.labels import LabelStore, LevelOfTheory
from surveyor.lease import hold_lease
from surveyor.parameter_files import check_files_exist, check_no_file
from surveyor.pools.choice import Pools, open_pools
from surveyor.pools.pool import Pool
from surveyor.pools.sites import Site
from surveyor.reading import Reading, read_unchecked
from surveyor.reference.choice import make_reference
from surveyor.reference.reference import Reference, time_limit_of
from surveyor.run_directory import RunDirectory
from surveyor.works.continuation import check_same_parameters, frozen_theory, record_parameters
from surveyor.works.provenance import record_run

MAY_CHANGE = ("output_directory", "labels", "pool", "codes", "chunk_size")


@dataclass(frozen=True, slots=True, eq=False)
class Labelling:
    """What a labelling works with, checked and open.

    Attributes:
        directory: its folder, which has the layout of a campaign's as far as it has the same files.
        reading: of the structures.
        reference: computes labels.
        pool: where it does.
        store: the labels.
        chunk_size: structures that a task labels; None leaves it to the reference.
    """

    directory: RunDirectory
    reading: Reading
    reference: Reference
    pool: Pool
    store: LabelStore
    chunk_size: int | None = None

    @property
    def structures(self) -> Sequence[Atoms]:
        """The structures that are to be labelled, in the order of the file."""
        return self.reading.structures

    @property
    def executor(self) -> Executor:
        """The pool, whose functions report."""
        return ReportingExecutor(self.pool, Report.into(self.directory.workers))

    def requests(self, theory: LevelOfTheory) -> Requests:
        """Return what is requested at a level of theory; structures that cannot be labelled are refused."""
        return make_requests(self.structures, theory, self.reference, self.reading.refused)

    def chunks(self, requests: Requests) -> list[Chunk]:
        """Return what is requested as the tasks take it."""
        size = self.chunk_size or default_chunk_size(self.reference, len(requests.by_key))
        return requests.chunks(size)


@contextmanager
def open_labelling(
    parameters: LabellingParameters, sites: Mapping[str, Site] | None = None, pools_by_hand: Path | None = None
) -> Iterator[Labelling]:
    """Check a labelling, take its folder and give its pool, as long as this lasts.

    Args:
        parameters: with absolute paths.
        sites: where the pool is, by name, if the parameters name it by a block.
        pools_by_hand: folder of the pools that the user has opened by hand, which are used where they are open.

    Raises:
        InputError: the parameters cannot work, or are not those of the folder.
        CampaignInUse: a live process works in the folder.
    """
    directory = check_labelling(parameters)
    reference = make_reference(parameters.reference, parameters.codes)
    check_walltime("pool", parameters.pool, (sites or {}).get(parameters.pool), _time_limit(reference, parameters))
    for name, folder in (("output_directory", directory.path), ("labels", parameters.label_store)):
        check_writable(name, folder)
    reading = read_for_labels(parameters)
    pools = Pools(sampling=parameters.pool, labelling=parameters.pool, training=parameters.pool)
    with naming_full_disks(directory.path, parameters.label_store), hold_lease(directory.lease):
        _check_continuation(directory, parameters)
        record_parameters(directory.parameters, parameters, parameters.input_files())
        record_run(directory)
        with open_pools(pools, sites, directory.pools, pools_by_hand) as opened:
            store = LabelStore.in_folder(parameters.label_store)
            yield Labelling(directory, reading, reference, opened.labelling, store, parameters.chunk_size)


def _time_limit(reference: Reference, parameters: LabellingParameters) -> float | None:
    limit = time_limit_of(reference)
    return None if limit is None else limit * (parameters.chunk_size or 1)


def read_for_labels(parameters: LabellingParameters) -> Reading:
    """Read the structures that are to be labelled.

    Raises:
        InputError: the file cannot be read, or holds no structure.
    """
    return read_unchecked(parameters.structures, "structures")


def check_labelling(parameters: LabellingParameters) -> RunDirectory:
    """Check what can be checked without a pool and without reading the structures, and return the folder.

    Raises:
        InputError: something cannot work: names the field, what was found, what was expected and what to do.
    """
    check_files_exist(parameters.input_files(), "parameter file")
    check_no_file("output_directory", parameters.output_directory)
    make_reference(parameters.reference, parameters.codes)
    directory = RunDirectory(parameters.output_directory.absolute())
    _check_continuation(directory, parameters)
    return directory


def _check_continuation(directory: RunDirectory, parameters: LabellingParameters) -> None:
    advice = "choose another output directory, or restore the parameters; the labels are in the store in any case"
    check_same_parameters(directory, parameters, parameters.input_files(), MAY_CHANGE, "labelling", advice)


def freeze_theory(labelling: Labelling, theory: LevelOfTheory) -> LevelOfTheory:
    """Keep the level of theory when a labelling begins; later, check that it is still the same.

    Raises:
        InputError: it is another one.
    """
    return frozen_theory(labelling.directory.theory, theory, "labelling")
