"""Work in its own folder: the life cycle that all kinds of work share."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from surveyor.errors import InputError
from surveyor.files import naming_full_disks, read_json
from surveyor.labels import LabelStore
from surveyor.lease import Lease, hold_lease
from surveyor.parameters.files import check_files_exist, check_no_file, load_parameters
from surveyor.pools.choice import OpenPools, open_pools
from surveyor.pools.pool import Pool
from surveyor.pools.reporting import ReportingExecutor
from surveyor.pools.site import Site
from surveyor.pools.workspace.workspace import Workspace
from surveyor.run_directory import RunDirectory
from surveyor.storage.buckets import BucketAccess
from surveyor.works.checks import check_writable
from surveyor.works.continuation import check_same_parameters, keep_inputs, record_parameters
from surveyor.works.parameters import WorkParameters
from surveyor.works.provenance import record_run
from surveyor.works.store import check_bucket, check_store, open_store
from surveyor.works.workspaces import check_workspaces, open_workspaces

P = TypeVar("P", bound=WorkParameters)
C = TypeVar("C")
W = TypeVar("W", bound="Work[Any, Any]")


@dataclass(frozen=True, slots=True, eq=False)
class Work(Generic[P, C]):
    """Work that is checked and open.

    Attributes:
        parameters: as the user gave them, with absolute paths.
        checked: what the checks have read and made.
        directory: its folder, which has the layout of a campaign's as far as it has the same files.
        lease: of the folder.
        pools: where functions run.
        sites: where the pools are that the parameters name by a block, by name.
        store: the labels, of work that labels.
        workspaces: of the pools whose workers do not see the folder, by name.
    """

    parameters: P
    checked: C
    directory: RunDirectory
    lease: Lease
    pools: OpenPools
    sites: Mapping[str, Site]
    store: LabelStore
    workspaces: Mapping[str, Workspace] = field(default_factory=dict)

    @property
    def sampling(self) -> Executor:
        """The pool for walkers, whose functions report."""
        return self._reporting(self.pools.sampling)

    @property
    def labelling(self) -> Executor:
        """The pool for the reference, whose functions report."""
        return self._reporting(self.pools.labelling)

    @property
    def training(self) -> Executor:
        """The pool for trainings and evaluations, whose functions report."""
        return self._reporting(self.pools.training)

    def abandon(self) -> None:
        """Abandon the computations on the pools."""
        for pool in self.pools:
            pool.shutdown(wait=False)

    def _reporting(self, pool: Pool) -> Executor:
        return ReportingExecutor(self.workspaces.get(pool.name, pool), self.directory.workers)


@dataclass(frozen=True, slots=True)
class Kind(Generic[P, C, W]):
    """A kind of work: the parts of the life cycle that are specific to it.

    Attributes:
        name: name of the kind, written into the folder.
        parameters: class of its parameters.
        work: class of the open work.
        field: a parameter that no other kind has; it identifies parameter files and folders of earlier versions.
        expected: some fields that a parameter file should have, for messages.
        may_change: fields that may change when the work continues, with their subfields; see `parameter_differences`.
        advice: remedy if other fields have changed.
        make: performs the checks that need no pool, and returns their results.
        check_sites: checks parameters and results against the sites of the pools.
        file: name of a parameter file in messages.
        keeps_inputs: whether the folder gets copies of the input files.
    """

    name: str
    parameters: type[P]
    work: type[W]
    field: str
    expected: str
    may_change: tuple[str, ...]
    advice: str
    make: Callable[[P], C]
    check_sites: Callable[[P, C, Mapping[str, Site]], None] = lambda *_: None
    file: str = "parameter file"
    keeps_inputs: bool = False

    def load(self, path: Path) -> P:
        """Read a parameter file (YAML); paths in it are relative to the folder it is in.

        Raises:
            InputError: the file is missing or not YAML, or fields are wrong; the message names each field, what was
                found and what is expected.
        """
        return load_parameters(self.parameters, path, self.file, self.expected)

    def holds(self, directory: RunDirectory) -> bool:
        """Return whether a folder is that of this kind of work."""
        if not directory.parameters.is_file():
            return False
        record = read_json(directory.parameters)
        return bool(record["kind"] == self.name if "kind" in record else self.field in record["parameters"])

    def check(self, parameters: P) -> C:
        """Perform all checks that need no pool, and return their results.

        Raises:
            InputError: the input is wrong; the message names the field, what was found, what was expected, and the
                remedy.
        """
        self.check_files(parameters)
        self.check_continuation(parameters)
        return self.make(parameters)

    def check_files(self, parameters: P) -> None:
        """Check that the input files exist, and that the path of the folder is not a file.

        Raises:
            InputError: an input file is missing, or the path is a file.
        """
        check_files_exist(parameters.input_files(), self.file)
        check_no_file(parameters.FOLDER, parameters.folder)

    def check_continuation(self, parameters: P) -> None:
        """Check that the folder is new, or holds such work with these parameters, whose label store is there.

        Raises:
            InputError: it holds other work, or has other parameters: shows the difference; or the store is away.
        """
        directory = RunDirectory(parameters.folder)
        if directory.parameters.is_file() and not self.holds(directory):
            kind = read_json(directory.parameters).get("kind")
            found = f"a {kind}" if kind else "work of another kind"
            raise InputError(
                f"{parameters.FOLDER}: {directory.path} holds {found}, expected a {self.name} or nothing; "
                "choose another folder"
            )
        check_same_parameters(directory, parameters, self.may_change, self.name, self.advice)
        check_store(directory, parameters)

    @contextmanager
    def open(
        self,
        parameters: P,
        sites: Mapping[str, Site] | None = None,
        pools_by_hand: Path | None = None,
        checked: C | None = None,
        access: BucketAccess | None = None,
        accesses: Mapping[str, BucketAccess] | None = None,
    ) -> Iterator[W]:
        """Check work, take its folder and open its pools within the block.

        Args:
            parameters: with absolute paths.
            sites: where the pools are that the parameters name by a block, by name.
            pools_by_hand: folder of the pools that the user has opened by hand, which are used where they are open.
            checked: what `check` has returned for these parameters; None has them checked here.
            access: how the bucket of the label store is reached; None for the access that the environment gives.
            accesses: how the workspaces of pools are reached, by name of the pool; likewise.

        Raises:
            InputError: the parameters cannot work, or are not those of the folder; or the bucket cannot be used.
            CampaignInUse: a live process works in the folder.
        """
        made = self.check(parameters) if checked is None else checked
        self.check_sites(parameters, made, sites or {})
        folders, directory = parameters.written_folders, RunDirectory(parameters.folder)
        check_writable(folders)
        check_bucket(directory, parameters, access)
        check_workspaces(parameters, sites or {}, accesses or {})
        with naming_full_disks(*folders.values()), hold_lease(directory.lease) as lease:
            self.check_continuation(parameters)
            if self.keeps_inputs:
                keep_inputs(directory, parameters)
            record_parameters(directory, parameters, self.name)
            record_run(directory)
            store = open_store(directory, parameters, access)
            with (
                open_pools(parameters.pool_of_stages, sites, directory.pools, pools_by_hand, lease) as pools,
                open_workspaces(directory, pools, sites or {}, accesses or {}, lease) as workspaces,
            ):
                yield self.work(parameters, made, directory, lease, pools, sites or {}, store, workspaces)
