from dataclasses import replace

from prefect import flow

from surveyor.dataset import Dataset, DataSets
from surveyor.dataset.isolated_atoms import without_isolated_atoms
from surveyor.flows.cancellation import ending_at_once
from surveyor.flows.conclusion import complete, judge
from surveyor.flows.labels import label_all, label_isolated_atoms
from surveyor.flows.pool_checks import PoolChecks
from surveyor.flows.stopwatch import Stopwatch
from surveyor.flows.training import adopt, train_and_evaluate
from surveyor.learning.decisions import decide_membership, perturbed_starts
from surveyor.learning.labelled_samples import check_bootstrap, describe, new_structures
from surveyor.models.atomic_energies import fit_atomic_energies
from surveyor.models.model import Model
from surveyor.run_directory import Generation
from surveyor.sampling.walkers import Walker, start_copy
from surveyor.works.campaign import (
    Campaign,
    GivenData,
    Origin,
    freeze_atomic_energies,
    given_data,
    inherit,
)
from surveyor.works.checks import check_given_label


@flow(name="bootstrap", flow_run_name="generation 0", validate_parameters=False, persist_result=False)
@ending_at_once
def bootstrap(campaign: Campaign, checks: PoolChecks) -> Generation:
    """Bring about generation 0: a first model, from perturbed structures, given data or another campaign.

    Args:
        campaign: open.
        checks: on its pools.

    Returns:
        The complete generation.
    """
    learning = campaign.parameters.learning
    checks.wait_for_those_at_hand()
    if campaign.parameters.begin_from is not None:
        return _from_another(campaign, checks, campaign.parameters.begin_from)
    stopwatch = Stopwatch()
    with stopwatch.measuring("labelling"):
        given = _given_data(campaign, checks)
        if learning.atomic_energies == "isolated_atoms":
            label_isolated_atoms(campaign, checks, [*campaign.checked.structures, *given.structures], given.check)
        structures = given.structures or _perturbed_structures(campaign, checks)
    judge(structures, learning)
    check_bootstrap(structures)
    data = decide_membership(structures, {}, DataSets(), learning)
    labelled, isolated = structures.labelled(), given.atomic_energies
    energies = freeze_atomic_energies(campaign, lambda: fit_atomic_energies(labelled, isolated), given.check)
    # Fitted energies are not known: a model that begins from a foundation model fits them beside it.
    known = isolated if learning.atomic_energies == "least_squares" else energies
    known = {symbol: energies[symbol] for symbol in known if symbol in energies}
    model = campaign.checked.model.initialize(labelled, atomic_energies=known, seed=learning.seed)
    return _first_generation(campaign, checks, data, campaign.checked.walkers, model, stopwatch)


def _given_data(campaign: Campaign, checks: PoolChecks) -> GivenData:
    """Return the labelled data that the user gave, of which the reference has checked one; none without them."""
    data, path = campaign.checked.data, campaign.parameters.bootstrap.data
    if data is None or path is None:
        return GivenData()
    given = given_data(data, checks.theory, path)
    example = given.example
    (computed,) = label_all(campaign, checks, [start_copy(example)], 0)
    if computed.structure is not None:
        check_given_label(example, computed.structure)
    return replace(given, structures=given.structures.ordered_by_key())


def _perturbed_structures(campaign: Campaign, checks: PoolChecks) -> Dataset:
    """Return randomly perturbed starts of the walkers, labelled or failed."""
    starts = perturbed_starts(
        campaign.checked.walkers, campaign.parameters.bootstrap, campaign.parameters.learning.seed
    )
    return new_structures(label_all(campaign, checks, starts, 0), ())


def _from_another(campaign: Campaign, checks: PoolChecks, origin: Origin) -> Generation:
    """Begin from a generation of another campaign; train only where the model is another one."""
    checks.wait_for("labelling")
    inherited = inherit(campaign, origin)
    energies = freeze_atomic_energies(campaign, lambda: dict(inherited.model.atomic_energies or {}))
    model = inherited.model
    if model.parameters == campaign.checked.model.parameters:
        adopt(model, campaign.directory.generation(0))
    else:
        seed = campaign.parameters.learning.seed
        model = campaign.checked.model.initialize(
            without_isolated_atoms(inherited.data.train), atomic_energies=energies, seed=seed
        )
    return _first_generation(campaign, checks, inherited.data, inherited.walkers, model, Stopwatch())


def _first_generation(
    campaign: Campaign,
    checks: PoolChecks,
    data: DataSets,
    walkers: tuple[Walker, ...],
    model: Model,
    stopwatch: Stopwatch,
) -> Generation:
    checks.wait_for("training")
    trained = train_and_evaluate(campaign, 0, model, data, stopwatch)
    details = describe((), data.failed, {}, trained.history, campaign.parameters.learning) | stopwatch.times
    campaign.directory.save_walkers(0, walkers)
    return complete(
        campaign, Generation(0, trained.data, walkers, trained.model, errors=trained.errors, details=details)
    )
