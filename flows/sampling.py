"""Sampling, and labelling of the samples: the first half of a generation."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from surveyor.campaign import Campaign
from surveyor.flows.labels import Labels, announce_generation
from surveyor.flows.pool_checks import PoolChecks
from surveyor.flows.stopwatch import Stopwatch
from surveyor.flows.task_queue import TaskQueue, n_at_once
from surveyor.learning.decisions import frames_per_sample, plan_propagations
from surveyor.learning.labelled_samples import LabelledSample
from surveyor.potentials import Potential
from surveyor.run_directory import Generation
from surveyor.sampling.batching import SamplePlan, batch_size, in_batches, name_of_batch
from surveyor.sampling.collection import SampleCollector
from surveyor.sampling.walkers import Walker
from surveyor.tasks.sample import sample


def sample_and_label(
    campaign: Campaign, checks: PoolChecks, previous: Generation, potential: Potential, stopwatch: Stopwatch
) -> list[LabelledSample]:
    """Propagate the walkers, and label each sample as soon as it exists.

    Walkers move in batches if the potential is faster in batches. A walker with several samples returns them in
    sequence, without waiting for their labels. Labels that were pending at the end of the previous generation arrive in
    this one. A pool without work left, because an earlier run has done it, is not needed.

    Args:
        campaign: the open campaign.
        checks: checks of its pools.
        previous: the previous generation, with the walkers.
        potential: the potential.
        stopwatch: measures sampling and labelling, which overlap.
    """
    learning, number = campaign.parameters.learning, previous.number + 1
    directory = campaign.directory.generation(number)
    walkers = directory.walkers_of_last_try(previous.walkers)
    counts = directory.planned(
        lambda: plan_propagations(len(walkers), number, learning, previous.n_labels),
    )
    announce_generation(number, sum(counts))
    plans = _plans(number, walkers, counts)
    labels = Labels.begin(campaign, checks)
    collector = SampleCollector(
        plans,
        directory.samples,
        record=directory.duplicates,
        known=previous.data.everything,
        tolerance_A=learning.min_difference_A,
        n_frames=frames_per_sample(sum(counts), learning, previous.n_labels),
        label=labels.add,
    )
    with stopwatch.measuring("labelling"):
        for index, atoms in enumerate(previous.data.pending):
            labels.add(f"g{number:03d}-late-{index}", atoms)
        with stopwatch.measuring("sampling"):
            collector.look_at_former_run()
            _sample(campaign, labels, collector, plans, potential, directory.samples)
        labelled = labels.wait()
    others = [LabelledSample(name, None, atoms) for name, atoms in labelled.items() if name not in collector.samples]
    return others + [LabelledSample(name, brought, labelled.get(name)) for name, brought in collector.samples.items()]


def _sample(
    campaign: Campaign,
    labels: Labels,
    collector: SampleCollector,
    plans: Sequence[SamplePlan],
    potential: Potential,
    directory: Path,
) -> None:
    """Propagate the walkers whose samples are not collected yet; meanwhile, serve the labels, and collect samples."""
    checks, learning, ended = labels.checks, campaign.parameters.learning, labels.queue.ended
    samples = TaskQueue(partial(n_at_once, campaign.pools.sampling), ended, partial(checks.is_ready, "sampling"))

    def look() -> None:
        checks.heed()
        collector.look()
        labels.queue.fill()

    if not collector.has_all_of(plans):
        while not checks.is_ready("sampling"):
            samples.serve(look)
        size = batch_size(learning.walkers_per_batch, potential, len(plans), campaign.pools.sampling.size)
        options = {"directory": directory, "n_tries": learning.n_tries}
        for batch in in_batches(plans, size):
            if not collector.has_all_of(batch):
                name = name_of_batch(batch)
                submit = partial(sample.submit, campaign.sampling, batch, potential, name=name, **options)
                samples.add(name, submit, collector.look)
    samples.wait(look)
    for future in samples.futures.values():
        collector.take(future.result())


def _plans(number: int, walkers: Sequence[Walker], counts: Sequence[int]) -> list[SamplePlan]:
    """Return the plans of the walkers that are to return samples."""
    return [
        SamplePlan(walker, tuple(f"g{number:03d}-w{walker.index:03d}-{turn}" for turn in range(n_samples)))
        for walker, n_samples in zip(walkers, counts, strict=True)
        if n_samples
    ]
