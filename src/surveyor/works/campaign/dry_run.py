"""A dry run: the smallest campaign with every stage of a given one, and its durations."""

from collections.abc import Mapping
from dataclasses import dataclass

from surveyor.events.kinds import EpochEnds, Event, LabelEnds, Sampled
from surveyor.events.log import EventLog, of_kind
from surveyor.labels import LabelStore
from surveyor.learning.parameters import Bootstrap
from surveyor.models.choice import ModelParameters
from surveyor.run_directory import RunDirectory
from surveyor.sampling.conditions import Walkers
from surveyor.works.campaign.parameters import CampaignParameters

LEAST_STRUCTURES = 3  # for training, validation and test
N_STEPS = 2  # a model of two epochs throws its atoms about
N_EPOCHS = 2
SHORT_MINUTES = 0.01  # ends a training with its first epoch
NEVER = 1e9  # a threshold that nothing reaches

LIMITS = (
    "max_force_eV_per_A",
    "max_temperature_factor",
    "max_volume_factor",
    "max_energy_drift_meV_per_atom",
    "max_uncertainty_meV_per_A",
)

POOLS = {"labelling": "labelling", "sampling": "sampling", "training": "training", "evaluation": "training"}
EVENTS: Mapping[str, type[Event]] = {"labelling": LabelEnds, "sampling": Sampled, "training": EpochEnds}


def reduced(parameters: CampaignParameters) -> CampaignParameters:
    """Return the parameters of a dry run, in a run directory of its own beside that of the campaign.

    It has three labels at first (or one, where data are given), a training of two epochs, one walker of two steps, its
    label, and a second training. Level of theory, codes, pools and label store are those of the campaign.
    """
    path, wandb = parameters.run_directory, parameters.wandb
    learning = {
        "n_generations": 1,
        "n_states": 1,
        "max_labels": None,
        "target_energy_meV_per_atom": None,
        "target_forces_meV_per_A": None,
        "discard_energy_meV_per_atom": NEVER,
        "discard_forces_meV_per_A": NEVER,
    }
    return parameters.model_copy(
        update={
            "run_directory": path.with_name(f"{path.name}-dry-run"),
            "labels": parameters.label_store,
            "walkers": [_one_walker(parameters.walkers[0])],
            "bootstrap": parameters.bootstrap.model_copy(update={"n_structures": LEAST_STRUCTURES}),
            "learning": parameters.learning.model_copy(update=learning),
            "model": _short_training(parameters.model),
            "wandb": None if wandb is None else wandb.model_copy(update={"mode": "offline"}),
        }
    )


def _one_walker(group: Walkers) -> Walkers:
    guards = {"min_distance_A": 0.0, "min_distance_factor": 0.0} | dict.fromkeys(LIMITS, NEVER)
    return group.model_copy(update={"n_walkers": 1, "n_steps": min(group.n_steps, N_STEPS), **guards})


def _short_training(model: ModelParameters) -> ModelParameters:
    mace, nequip = model.of_each.mace, model.of_each.nequip
    if mace is not None:
        return model.with_each(mace=mace.model_copy(update={"max_num_epochs": N_EPOCHS, "continued": None}))
    if nequip is not None:  # whose configuration may have its own number of epochs
        short = {"time_limit_minutes": SHORT_MINUTES, "is_compiled": False}
        return model.with_each(nequip=nequip.model_copy(update=short))
    return model


@dataclass(frozen=True, slots=True)
class StageTime:
    """The duration of a stage.

    Attributes:
        generation: number of the generation.
        stage: name of the stage.
        pool: pool of the stage.
        hosts: hosts of that pool that have reported.
        wall_time_s: wall time, including the time in the queue.
    """

    generation: int
    stage: str
    pool: str
    hosts: tuple[str, ...]
    wall_time_s: float


def stage_times(directory: RunDirectory, parameters: CampaignParameters) -> list[StageTime]:
    """Return the durations of the stages of a complete campaign."""
    pools: Mapping[str, str] = parameters.pools.model_dump()
    hosts = _hosts(directory)
    return [
        StageTime(number, stage, pools[POOLS[stage]], hosts[POOLS[stage]], seconds)
        for number in range(directory.n_complete())
        for stage, seconds in directory.read_manifest(number)["details"]["wall_time_s"].items()
    ]


def _hosts(directory: RunDirectory) -> dict[str, tuple[str, ...]]:
    """Return the hosts on which the stages ran: functions report into files that are named by host and process."""
    found: dict[str, set[str]] = {stage: set() for stage in EVENTS}
    for path in directory.workers.glob("*.jsonl"):
        events, _ = EventLog(path).read()
        for stage, kind in EVENTS.items():
            if of_kind(events, kind):
                found[stage].add(path.stem.rpartition("-")[0])
    return {stage: tuple(sorted(hosts)) for stage, hosts in found.items()}


def label_times(directory: RunDirectory, store: LabelStore) -> list[float]:
    """Return the wall times of the labels of a complete campaign in seconds, including labels of earlier runs."""
    keys = directory.read_manifest(directory.n_complete() - 1)["labels"]
    labels = [label for key in keys if (label := store.get(key)) is not None]
    return [float(label.provenance["wall_time_s"]) for label in labels if "wall_time_s" in label.provenance]


def n_labels(parameters: CampaignParameters) -> int:
    """Return how many labels a campaign asks for, without those of isolated atoms."""
    learning, n_walkers = parameters.learning, sum(group.n_walkers for group in parameters.walkers)
    n_new = learning.n_generations * (learning.n_states or n_walkers)
    total = n_new + _n_first(parameters.bootstrap) * (parameters.begin_from is None)
    return total if learning.max_labels is None else min(total, learning.max_labels)


def _n_first(bootstrap: Bootstrap) -> int:
    return bootstrap.n_structures if bootstrap.data is None else 1
