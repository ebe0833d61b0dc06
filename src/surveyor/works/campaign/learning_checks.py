"""Checks of the parameters of learning against those of walkers, bootstrap and model, and advice on them."""

from surveyor.errors import InputError
from surveyor.learning.candidates import ALL_SAMPLES
from surveyor.learning.parameters import Learning
from surveyor.learning.trust import WINDOW, has_targets, n_audits_expected
from surveyor.pools.choice import most_places
from surveyor.pools.site import Site
from surveyor.selection import check_selector
from surveyor.words import number_of
from surveyor.works.campaign.parameters import CampaignParameters


def check_learning(parameters: CampaignParameters, n_walkers: int, *, is_begun: bool) -> None:
    """Check that the parameters of learning fit to each other and to the others.

    Args:
        parameters: of the campaign.
        n_walkers: number of walkers.
        is_begun: whether the campaign has begun; its thresholds, targets and intervals of frames are then taken as they
            are, as earlier versions did.

    Raises:
        InputError: they do not; the message states the remedy.
    """
    _check_frames(parameters)
    _check_ahead(parameters, n_walkers)
    _check_selection(parameters)
    _check_budget(parameters)
    _check_valid_fraction(parameters)
    if not is_begun:
        _check_thresholds(parameters.learning, "energy_meV_per_atom")
        _check_thresholds(parameters.learning, "forces_meV_per_A")
        _check_targets(parameters.learning)
        _check_intervals(parameters)


def _check_frames(parameters: CampaignParameters) -> None:
    if parameters.learning.n_frames and all(group.frame_interval is None for group in parameters.walkers):
        raise InputError(
            f"learning.n_frames: found {parameters.learning.n_frames}, but no group of walkers keeps frames; give "
            "one a frame_interval"
        )


def _check_intervals(parameters: CampaignParameters) -> None:
    """Check that a trajectory of some walker is long enough for a frame."""
    groups = [(number, group) for number, group in enumerate(parameters.walkers) if group.frame_interval is not None]
    if parameters.learning.n_frames and all((group.frame_interval or 0) >= group.n_steps for _, group in groups):
        number, group = groups[0]
        raise InputError(
            f"walkers[{number}].frame_interval: found {group.frame_interval}, expected less than n_steps "
            f"({group.n_steps}), as learning.n_frames asks for frames before the end of a sample; give a smaller "
            "frame_interval, or more n_steps"
        )


def _check_ahead(parameters: CampaignParameters, n_walkers: int) -> None:
    learning = parameters.learning
    if learning.n_states is None and learning.labels_ahead is not None and learning.labels_ahead < n_walkers:
        raise InputError(
            f"learning.labels_ahead: found {learning.labels_ahead}, expected at least {n_walkers}, the number of "
            "walkers, as each of them brings a sample for each training; or give n_states, too"
        )


def _check_selection(parameters: CampaignParameters) -> None:
    """Check that the selector has something to choose from, and that the model can serve it."""
    learning = parameters.learning
    if learning.select == ALL_SAMPLES:
        return
    if not learning.n_frames:
        raise InputError(
            f"learning.select: found {learning.select} without n_frames, so that each walker brings one structure for "
            "one label, and there is nothing to choose; give learning.n_frames, such as 10, and frame_interval of "
            "the walkers, or choose walkers"
        )
    try:
        check_selector(learning.select, parameters.model)
    except InputError as error:
        raise InputError(f"learning.{error}") from error


def _check_budget(parameters: CampaignParameters) -> None:
    budget, bootstrap = parameters.learning.max_labels, parameters.bootstrap
    if (
        parameters.begin_from is None
        and bootstrap.data is None
        and budget is not None
        and budget < bootstrap.n_structures
    ):
        raise InputError(
            f"learning.max_labels: found {budget}, expected at least bootstrap.n_structures "
            f"({bootstrap.n_structures}), which are labelled first; change one of them"
        )


def _check_valid_fraction(parameters: CampaignParameters) -> None:
    if parameters.model.needs_validation and parameters.learning.valid_fraction == 0:
        raise InputError(
            "learning.valid_fraction: found 0, expected more: the training needs validation data to choose by"
        )


def _check_thresholds(learning: Learning, name: str) -> None:
    """Check the thresholds of one quantity against each other."""
    target, reset, discard = (getattr(learning, f"{kind}_{name}") for kind in ("target", "reset", "discard"))
    if discard < reset:
        raise InputError(
            f"learning.discard_{name}: found {discard:g}, below reset_{name} ({reset:g}): a walker would go on from "
            "structures that are never learned; expected at least the threshold of resets"
        )
    if target is not None and target > discard:
        raise InputError(
            f"learning.target_{name}: found {target:g}, above discard_{name} ({discard:g}): structures whose errors "
            "are within the target would not be learned; lower the target, or raise the threshold of discards"
        )


def _check_targets(learning: Learning) -> None:
    """Check that there are audits, which show whether a target is met."""
    if has_targets(learning) and not learning.valid_fraction and not learning.test_fraction:
        name = "forces_meV_per_A" if learning.target_forces_meV_per_A is not None else "energy_meV_per_atom"
        raise InputError(
            f"learning.target_{name}: found {getattr(learning, f'target_{name}'):g} with valid_fraction and "
            "test_fraction 0: without audits, structures that join these sets, no target can be shown to be met; give "
            "test_fraction, such as 0.1, or leave out the targets"
        )


def warning_of_stop(parameters: CampaignParameters) -> str:
    """Return a warning if targets are given, but the campaign cannot have enough audits to stop by them; else empty."""
    learning, bootstrap = parameters.learning, parameters.bootstrap
    if not has_targets(learning):
        return ""
    is_requested = bootstrap.data is None and parameters.begin_from is None
    n_walkers = sum(group.n_walkers for group in parameters.walkers)
    n_audits = n_audits_expected(learning, n_walkers, bootstrap.n_structures if is_requested else 0)
    if n_audits >= WINDOW:
        return ""
    return (
        f"learning: a stop by targets needs {WINDOW} audits before the last generation, and this campaign brings about "
        f"{n_audits}, so it will end by its generations or its budget. More of them come with more n_states, "
        "n_generations or max_labels, and with larger valid_fraction and test_fraction"
    )


def advice_on_ahead(parameters: CampaignParameters, site: Site | None) -> str:
    """Return how the labelling pool would be kept busy; empty if it is, or if one pool does everything.

    Args:
        parameters: of the campaign.
        site: of the labelling pool; None if it is not known.
    """
    learning, n_places = parameters.learning, None if site is None else most_places(site)
    if n_places is None or len(parameters.pools.names) == 1:
        return ""
    n_states = learning.n_states or sum(group.n_walkers for group in parameters.walkers)
    n_ahead, expected = learning.labels_ahead or n_states, max(n_states, 2 * n_places)
    if n_states >= 2 * n_places and n_ahead >= 2 * n_states:
        return ""
    return (
        f"learning: pool {parameters.pools.labelling} computes up to {number_of(n_places, 'label')} at once, and waits "
        f"for walkers and trainings with n_states {n_states} and labels_ahead {n_ahead}; n_states: {expected} and "
        f"labels_ahead: {2 * expected} would keep it busy"
    )


def warning_of_ramps(parameters: CampaignParameters) -> str:
    """Return a warning if the generations do not suffice for a ramp; else empty."""
    learning, n_walkers = parameters.learning, sum(group.n_walkers for group in parameters.walkers)
    generations = number_of(learning.n_generations, "generation")
    n_samples = -(-learning.n_generations * (learning.n_states or n_walkers) // n_walkers)  # rounded up
    for number, group in enumerate(parameters.walkers):
        if (group.ramp_labels or 0) > learning.n_generations:
            return (
                f"walkers[{number}].ramp_labels: found {group.ramp_labels}, but a walker has at most one good label in "
                f"each of {generations}, so it will not be at the end of its ramp; give fewer ramp_labels, or more "
                "n_generations"
            )
        if (group.ramp_steps or 0) > n_samples * group.n_steps:
            return (
                f"walkers[{number}].ramp_steps: found {group.ramp_steps}, but a walker takes about "
                f"{n_samples * group.n_steps} steps in {generations}, so it will not be at the end of its ramp; give "
                "fewer ramp_steps, or more n_steps or n_generations"
            )
    return ""
