"""An open campaign: what it works with, and what stays the same in it."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ase import Atoms

from surveyor.campaign.checks import CheckedCampaign, check_campaign, check_folders, check_sites, check_theory
from surveyor.campaign.continuation import check_continuation, freeze_parameters
from surveyor.campaign.parameters import CampaignParameters
from surveyor.errors import InputError
from surveyor.events import Report, ReportingExecutor
from surveyor.files import naming_full_disks, read_json, write_json
from surveyor.labels import LabelStore, LevelOfTheory
from surveyor.lease import Lease, hold_lease
from surveyor.models.choice import make_model, replay_reports, with_contents
from surveyor.models.model import Model
from surveyor.pools.choice import OpenPools, open_pools
from surveyor.pools.sites import Site
from surveyor.pools.worker_check import versions
from surveyor.reading import ReadingReport
from surveyor.reference.choice import make_reference
from surveyor.reference.reference import Reference
from surveyor.run_directory import SCHEMA_VERSION, Generation, RunDirectory, check_schema
from surveyor.sampling.walkers import Walker
from surveyor.works.continuation import frozen_theory
from surveyor.works.provenance import record_run


@dataclass(frozen=True, slots=True, eq=False)
class Campaign:
    """What a campaign works with, checked and open.

    Attributes:
        parameters: as the user gave them, with absolute paths.
        directory: the campaign on disk.
        lease: of that directory.
        pools: where functions run.
        store: the labels.
        walkers: at their starts.
        reference: computes labels.
        model: untrained.
        reports: on the files of structures that the parameters name.
        sites: where the pools are that the parameters name by a block, by name.
    """

    parameters: CampaignParameters
    directory: RunDirectory
    lease: Lease
    pools: OpenPools
    store: LabelStore
    walkers: tuple[Walker, ...]
    reference: Reference
    model: Model
    reports: tuple[ReadingReport, ...] = ()
    sites: Mapping[str, Site] = field(default_factory=dict)

    @property
    def sampling(self) -> Executor:
        """The pool for walkers."""
        return self._reporting(self.pools.sampling)

    @property
    def labelling(self) -> Executor:
        """The pool for the reference."""
        return self._reporting(self.pools.labelling)

    @property
    def training(self) -> Executor:
        """The pool for trainings and evaluations."""
        return self._reporting(self.pools.training)

    def _reporting(self, pool: Executor) -> Executor:
        return ReportingExecutor(pool, Report.into(self.directory.workers))

    @property
    def structures(self) -> list[Atoms]:
        """The starts of the walkers."""
        return [walker.start for walker in self.walkers]

    def newest_generation(self) -> Generation | None:
        """Load the newest complete generation; None where none is complete."""
        return self.directory.newest_generation(self.walkers)


@contextmanager
def open_campaign(
    parameters: CampaignParameters, sites: Mapping[str, Site] | None = None, pools_by_hand: Path | None = None
) -> Iterator[Campaign]:
    """Check a campaign, take its run directory and open its pools, as long as this lasts.

    Args:
        parameters: with absolute paths.
        sites: where the pools are that the parameters name by a block, by name.
        pools_by_hand: folder of the pools that the user has opened by hand, which are used where they are open.

    Raises:
        InputError: the parameters cannot work, or are not those of the run directory.
        CampaignInUse: a live process works in the run directory.
    """
    checked = _checked(parameters)
    check_sites(parameters, sites or {})
    check_folders(parameters)
    directory = RunDirectory(parameters.run_directory.absolute())
    with naming_full_disks(directory.path, parameters.label_store), hold_lease(directory.lease) as lease:
        check_continuation(directory, parameters)
        freeze_parameters(directory, parameters)
        record_run(directory)
        with open_pools(parameters.pools, sites, directory.pools, pools_by_hand, lease) as pools:
            yield Campaign(
                parameters=parameters,
                directory=directory,
                lease=lease,
                pools=pools,
                store=LabelStore.in_folder(parameters.label_store),
                walkers=checked.walkers,
                reference=make_reference(parameters.reference, parameters.codes),
                model=make_model(parameters.model),
                reports=(*checked.reports, *replay_reports(parameters.model, checked.elements)),
                sites=sites or {},
            )


def _checked(parameters: CampaignParameters) -> CheckedCampaign:
    """Check a campaign; say of one that has begun where its labels are, for an earlier surveyor checked less."""
    try:
        return check_campaign(parameters)
    except InputError as error:
        if not RunDirectory(parameters.run_directory).parameters.is_file():
            raise
        raise InputError(
            f"{error}. The campaign in {parameters.run_directory} has begun, maybe with an earlier surveyor, which "
            "took its files as they are: to correct them, choose another run directory; labels that are in the store "
            "are not computed again"
        ) from error


def freeze_theory(campaign: Campaign, theory: LevelOfTheory) -> LevelOfTheory:
    """Keep the level of theory when a campaign begins; later, check that it is still the same.

    Raises:
        InputError: it is another one, or cannot treat an element of the walkers.
    """
    path = campaign.directory.theory
    if not path.exists():
        check_theory(campaign.parameters, campaign.walkers, theory)
    return frozen_theory(path, theory, "campaign")


def freeze_atomic_energies(
    campaign: Campaign,
    compute: Callable[[], Mapping[str, float]],
    check: Callable[[Mapping[str, float]], None] = lambda _energies: None,
) -> Mapping[str, float]:
    """Compute the atomic energies when a campaign begins and keep them; later, return what was kept.

    Args:
        campaign: open.
        compute: gives them, in eV by chemical symbol.
        check: raises `InputError` if they contradict the data; nothing is kept then.

    Raises:
        InputError: as `check`; or what an earlier surveyor kept contradicts the data.
    """
    path = campaign.directory.atomic_energies
    if not path.exists():
        computed = dict(compute())
        check(computed)
        write_json(path, {"schema_version": SCHEMA_VERSION, "energies_eV": computed})
        return computed
    record = read_json(path)
    check_schema(record, path)
    energies: Mapping[str, float] = record["energies_eV"]
    try:
        check(energies)
    except InputError as error:
        raise InputError(
            f"{error}. An earlier surveyor began it with the atomic energies in {path}; labels that are in the store "
            "are not computed again in another run directory"
        ) from error
    return energies


def is_model_checked(campaign: Campaign) -> bool:
    """Say whether the training pool, as it is set up now, has taken the model before; each training checks it again."""
    path = campaign.directory.model_check
    return path.exists() and read_json(path).get("digest") == _digest_of_model_check(campaign)


def note_checked_model(campaign: Campaign) -> None:
    """Keep that the training pool has the engine of the model, and that the engine knows the options."""
    record = {"schema_version": SCHEMA_VERSION, "digest": _digest_of_model_check(campaign)}
    write_json(campaign.directory.model_check, record)


def _digest_of_model_check(campaign: Campaign) -> str:
    parameters = campaign.parameters
    site = campaign.sites.get(parameters.pools.training)
    content = {
        "versions": dict(versions()),
        "pool": parameters.pools.training,
        "site": None if site is None else site.model_dump(mode="json"),
        "model": with_contents(parameters.model).model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
