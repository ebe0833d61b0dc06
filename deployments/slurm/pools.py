"""Store the pools of a cluster as blocks. Edit the numbers, and run `python pools.py` after each change."""

from surveyor.blocks.pools import SLURMPool

# Walkers: four workers per job, with one core each.
SLURMPool(
    queue="cpu",
    cores_per_job=4,
    workers_per_job=4,
    memory_GB=8,
    walltime_minutes=240,
    max_jobs=4,
).save("cpu", overwrite=True)

# Labels: one at a time per job, on all its cores.
SLURMPool(
    queue="label",
    cores_per_job=4,
    tasks_per_job=4,
    memory_GB=8,
    walltime_minutes=720,
    prologue=["# module load cp2k"],
    max_jobs=20,
).save("label", overwrite=True)

# Trainings: one at a time, on a GPU. For another environment, add `python=` with the path of its interpreter.
SLURMPool(
    queue="gpu",
    cores_per_job=4,
    gpus_per_job=1,
    memory_GB=15,
    walltime_minutes=720,
    max_jobs=1,
).save("gpu", overwrite=True)
