"""Online learning: sample with the current model, label the samples, retrain, and repeat."""

from functools import partial
from pathlib import Path

from prefect import flow, runtime

from surveyor.dataset.isolated_atoms import without_isolated_atoms
from surveyor.flows.bootstrap import bootstrap as bootstrap_generation
from surveyor.flows.campaign_commands import CAMPAIGN_VIEW
from surveyor.flows.cancellation import ending_at_once
from surveyor.flows.conclusion import Reports, check_something_is_new, complete, conclude, judge
from surveyor.flows.following import followed
from surveyor.flows.heartbeats import sending_heartbeats
from surveyor.flows.opening import opened
from surveyor.flows.pool_checks import PoolChecks
from surveyor.flows.stopwatch import Stopwatch
from surveyor.flows.survey import Survey
from surveyor.flows.training import errors_before_training, train_and_evaluate
from surveyor.flows.users_flow import users_flow
from surveyor.learning.decisions import decide_membership, reason_to_stop
from surveyor.learning.examination import examine
from surveyor.learning.labelled_samples import (
    audits_among,
    describe,
    good_samples,
    new_structures,
    samples_to_reset,
)
from surveyor.learning.parameters import Bootstrap, Learning
from surveyor.models.choice import ModelParameters
from surveyor.pools.choice import Pools
from surveyor.reference.choice import Codes, ReferenceParameters
from surveyor.run_directory import Generation
from surveyor.sampling.conditions import Walkers
from surveyor.storage.buckets import StorageName, StoreAddress
from surveyor.tasks.wandb_session import check_wandb
from surveyor.works.campaign import CAMPAIGN, Origin, WandB


def _generation_name() -> str:
    return f"generation {runtime.flow_run.parameters['survey'].newest.number + 1}"


@users_flow(CAMPAIGN_VIEW)
def online_learning(
    run_directory: Path,
    walkers: list[Walkers],
    reference: ReferenceParameters,
    model: ModelParameters,
    bootstrap: Bootstrap = Bootstrap(),
    learning: Learning = Learning(),
    pools: Pools = Pools(),
    codes: Codes = Codes(),
    labels: StoreAddress | None = None,
    storage: StorageName | None = None,
    begin_from: Origin | None = None,
    wandb: WandB | None = None,
) -> Path:
    """Learn a potential online; the same call on the same run directory continues where it stopped.

    Args:
        run_directory: Folder of the campaign, an absolute path.
        walkers: Groups of walkers, each with its own conditions.
        reference: The level of theory that labels structures; give exactly one.
        model: The potential to train; give exactly one.
        bootstrap: Data of the first model.
        learning: Generations, budget, targets, and decisions of the campaign.
        pools: Pools that run sampling, labelling and training.
        codes: Command and limits of reference programs at this site.
        labels: Folder of the label store, or a bucket such as s3://bucket/labels; by default
            `labels` beside the run directory.
        storage: Block with the endpoint and credentials of that bucket, such as s3/minio.
        begin_from: Take data, model and walkers from a generation of another campaign.
        wandb: Also report to Weights & Biases.

    Returns:
        The native file of the final model.
    """
    check_wandb(wandb)
    with opened(CAMPAIGN, locals()) as campaign, followed(campaign), Reports(campaign) as reports:
        checks = PoolChecks(campaign)
        generation = campaign.newest_generation() or bootstrap_generation(campaign, checks.begun())
        if (reason := reason_to_stop(generation.progress, learning)) is None:
            with Survey(campaign, checks.begun(), generation) as survey:
                while (reason := reason_to_stop(generation.progress, learning)) is None:
                    reports.begin(generation.number)
                    generation = next_generation(survey)
                survey.end(reason)
        return conclude(campaign, generation, reason, reports)


@flow(name="generation", flow_run_name=_generation_name, validate_parameters=False, persist_result=False)
@ending_at_once
@sending_heartbeats
def next_generation(survey: Survey) -> Generation:
    """Sample with the newest model, label the samples, and train on all labels so far.

    Args:
        survey: walkers of the open campaign, and labels of their samples; they go on during the training if the
            campaign allows.

    Returns:
        The next generation, complete.
    """
    campaign, learning, previous = survey.campaign, survey.campaign.parameters.learning, survey.newest
    number, stopwatch = previous.number + 1, Stopwatch()
    potential = previous.model.deploy()
    samples = survey.samples(previous, potential, stopwatch)
    structures = new_structures(samples, known=previous.data.keys())
    judge(structures, learning)
    check_something_is_new(survey, previous, samples, structures)
    survey.wait_for_training_pool()
    errors = errors_before_training(campaign, number, potential, structures, stopwatch, survey.result)

    audits = audits_among(samples)
    data = previous.data + decide_membership(structures, errors.by_key, previous.data, learning, audits)
    to_reset = samples_to_reset(samples, errors.by_key, learning)
    walkers = survey.move_on(to_reset, good_samples(samples, errors.by_key, learning))

    groups, expected, examined = campaign.parameters.walkers, errors.coverage_expected, dict(errors.details)
    survey.meanwhile(partial(campaign.directory.save_walkers, number, walkers))
    survey.meanwhile(lambda: examined.update(examine(structures, data, errors.predictions, samples, groups, expected)))
    model = previous.model
    if learning.train_from_scratch:
        rows = without_isolated_atoms(data.train)  # an earlier surveyor took isolated atoms for others
        model = model.initialize(rows, atomic_energies=model.atomic_energies, seed=learning.seed + number)
    trained = train_and_evaluate(campaign, number, model, data, stopwatch, survey.result)

    details = describe(samples, structures, errors.by_key, trained.history, learning) | stopwatch.times | examined
    generation = Generation(number, trained.data, walkers, trained.model, errors.over_all, trained.errors, details)
    return survey.end_generation(complete(campaign, generation))
