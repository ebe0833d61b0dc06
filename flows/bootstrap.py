from dataclasses import replace

from prefect import flow

from surveyor.campaign import (
    Campaign,
    GivenData,
    Origin,
    check_given_label,
    freeze_atomic_energies,
    given_data,
    inherit,
)
from surveyor.dataset import Dataset, DataSets
from surveyor.flows.cancellation import ending_at_once
from surveyor.flows.conclusion import complete, judge
from surveyor.flows.sampling import Stopwatch, label_all, label_isolated_atoms, resolve
from surveyor.flows.training import adopt, train_and_evaluate
from surveyor.labels import LevelOfTheory
from surveyor.learning import decide_membership, perturbed_starts
from surveyor.models.atomic_energies import fit_atomic_energies
from surveyor.models.model import Model
from surveyor.outcomes import check_bootstrap, describe, new_structures
from surveyor.run_directory import Generation
from surveyor.sampling.walkers import Walker, bare


@flow(name="bootstrap", flow_run_name="generation 0", validate_parameters=False, persist_result=False)
@ending_at_once
def bootstrap(campaign: Campaign) -> Generation:
    """Bring about generation 0: a first model, from perturbed structures, given data or another campaign.

    Args:
        campaign: open.

    Returns:
        The complete generation.
    """
    theory, learning = resolve(campaign), campaign.parameters.learning
    if campaign.parameters.begin_from is not None:
        return _from_another(campaign, campaign.parameters.begin_from)
    stopwatch = Stopwatch()
    with stopwatch.measuring("labelling"):
        given = _given_data(campaign, theory)
        if learning.atomic_energies == "isolated_atoms":
            label_isolated_atoms(campaign, theory, [*campaign.structures, *given.structures])
        structures = given.structures or _perturbed_structures(campaign, theory)
    judge(structures, learning)
    check_bootstrap(structures)
    data = decide_membership(structures, {}, DataSets(), learning)
    labelled, isolated = structures.labelled(), given.atomic_energies
    energies = freeze_atomic_energies(campaign, lambda: fit_atomic_energies(labelled, isolated))
    given.check(energies)
    # Fitted energies are not given: a model that begins at a foundation model fits them again beside it.
    are_fitted = learning.atomic_energies == "least_squares" and not isolated
    model = campaign.model.initialize(labelled, atomic_energies=None if are_fitted else energies, seed=learning.seed)
    return _first_generation(campaign, data, campaign.walkers, model, stopwatch)


def _given_data(campaign: Campaign, theory: LevelOfTheory) -> GivenData:
    """Return the labelled data that the user gave, of which the reference has checked one; none without them."""
    parameters = campaign.parameters.bootstrap
    if parameters.data is None:
        return GivenData()
    given = given_data(parameters.data, theory, parameters.label_keys)
    example = given.example
    (computed,) = label_all(campaign, theory, [bare(example)], 0)
    if computed.structure is not None:
        check_given_label(example, computed.structure)
    return replace(given, structures=given.structures.ordered_by_key())


def _perturbed_structures(campaign: Campaign, theory: LevelOfTheory) -> Dataset:
    """Return randomly perturbed starts of the walkers, labelled or failed."""
    starts = perturbed_starts(campaign.walkers, campaign.parameters.bootstrap, campaign.parameters.learning.seed)
    return new_structures(label_all(campaign, theory, starts, 0), ())


def _from_another(campaign: Campaign, origin: Origin) -> Generation:
    """Begin from a generation of another campaign; train only where the model is another one."""
    inherited = inherit(campaign, origin)
    energies = freeze_atomic_energies(campaign, lambda: dict(inherited.model.atomic_energies or {}))
    model = inherited.model
    if model.parameters == campaign.model.parameters:
        adopt(model, campaign.directory.generation(0))
    else:
        seed = campaign.parameters.learning.seed
        model = campaign.model.initialize(inherited.data.train, atomic_energies=energies, seed=seed)
    return _first_generation(campaign, inherited.data, inherited.walkers, model, Stopwatch())


def _first_generation(
    campaign: Campaign, data: DataSets, walkers: tuple[Walker, ...], model: Model, stopwatch: Stopwatch
) -> Generation:
    trained = train_and_evaluate(campaign, 0, model, data, stopwatch)
    details = describe((), data.failed, {}, trained.history, campaign.parameters.learning) | stopwatch.times
    return complete(campaign, Generation(0, data, walkers, trained.model, errors=trained.errors, details=details))
