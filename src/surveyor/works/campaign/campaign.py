"""A campaign as a kind of work, with its frozen level of theory and atomic energies."""

import hashlib
import json
from collections.abc import Callable, Mapping

from surveyor.errors import InputError
from surveyor.files import read_json, write_json
from surveyor.labels import LevelOfTheory
from surveyor.models.choice import with_contents
from surveyor.pools.worker_check import versions
from surveyor.reference.labelling import Labeller
from surveyor.run_directory import SCHEMA_VERSION, Generation, check_schema
from surveyor.sampling.conditions import GUARDS
from surveyor.works.campaign.checks import CheckedCampaign, check_sites, check_theory, read_and_check
from surveyor.works.campaign.parameters import CampaignParameters
from surveyor.works.continuation import frozen_theory
from surveyor.works.work import Kind, Work


class Campaign(Work[CampaignParameters, CheckedCampaign]):
    """A campaign, checked and open."""

    def newest_generation(self) -> Generation | None:
        """Load the newest complete generation; None where none is complete."""
        return self.directory.newest_generation(self.checked.walkers)


CAMPAIGN = Kind(
    name="campaign",
    parameters=CampaignParameters,
    work=Campaign,
    field="run_directory",
    expected="walkers, reference and model",
    may_change=(
        "run_directory",
        "labels",
        "storage",
        "learning.n_generations",
        "learning.max_labels",
        "learning.labels_ahead",
        "learning.select",
        "learning.max_failed_fraction",
        "learning.n_tries",
        "learning.min_difference_A",
        "learning.target_energy_meV_per_atom",
        "learning.target_forces_meV_per_A",
        "pools",
        "codes",
        "wandb",
        *(f"walkers.{guard}" for guard in GUARDS),
    ),
    advice="choose another run directory, restore the parameters, or begin a new campaign with --from",
    make=read_and_check,
    check_sites=check_sites,
    file="campaign file",
    keeps_inputs=True,
)


def labeller_of(campaign: Campaign, theory: LevelOfTheory) -> Labeller:
    """Return the labeller of a campaign at its level of theory."""
    return Labeller(campaign.checked.reference, theory, campaign.store, campaign.directory.scratch)


def freeze_theory(campaign: Campaign, theory: LevelOfTheory) -> LevelOfTheory:
    """Keep the level of theory when a campaign begins; later, check that it is still the same.

    Raises:
        InputError: it is another one, or cannot treat an element of the walkers.
    """
    path = campaign.directory.theory
    if not path.exists():
        check_theory(campaign.parameters, campaign.checked.walkers, theory)
    return frozen_theory(path, theory, "campaign")


def freeze_atomic_energies(
    campaign: Campaign,
    compute: Callable[[], Mapping[str, float]],
    check: Callable[[Mapping[str, float]], None] = lambda _energies: None,
) -> Mapping[str, float]:
    """Compute and store the atomic energies when a campaign begins; return the stored ones later.

    Args:
        campaign: the open campaign.
        compute: returns the energies, in eV by chemical symbol.
        check: raises `InputError` if they contradict the data; they are then not stored.

    Raises:
        InputError: as `check`; or energies stored by an earlier version contradict the data.
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
    """Return whether the training pool, as it is now, has taken the model before; each training checks it again."""
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
        **({"features_for": parameters.features_for} if parameters.features_for else {}),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
