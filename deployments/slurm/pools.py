"""The pools of a cluster, stored as blocks: edit the numbers, then run `python pools.py`, as often as they change."""

from surveyor.blocks.pools import SLURMPool

# Walkers: one core each, four of them in a job.
SLURMPool(
    queue="cpu",
    cores_per_job=4,
    workers_per_job=4,
    memory_GB=8,
    walltime_minutes=240,
    max_jobs=4,
).save("cpu", overwrite=True)

# Labels: a job computes one at a time, with all its cores.
SLURMPool(
    queue="label",
    cores_per_job=4,
    tasks_per_job=4,
    memory_GB=8,
    walltime_minutes=720,
    prologue=["# module load cp2k"],
    max_jobs=20,
).save("label", overwrite=True)

# Trainings: one at a time, on a GPU. They may use the interpreter of another environment.
SLURMPool(
    queue="gpu",
    cores_per_job=4,
    gpus_per_job=1,
    memory_GB=15,
    walltime_minutes=720,
    max_jobs=1,
).save("gpu", overwrite=True)
