"""Store the pools of a cluster as blocks. Edit image and numbers, and run `python pools.py` after each change."""

from surveyor.blocks.pools import KubernetesPool

IMAGE = "registry.example.org/surveyor-mace:1"
CLAIMS = ["campaigns=/campaigns"]  # as in the work pool

# Walkers and labels: one at a time per pod, on all its cores.
KubernetesPool(
    container=IMAGE,
    cores=4,
    memory_GB=8,
    volume_claims=CLAIMS,
    max_jobs=20,
).save("cpu", overwrite=True)

# Trainings: one at a time, on a GPU.
KubernetesPool(
    container=IMAGE,
    cores=4,
    memory_GB=15,
    gpus=1,
    tolerations=["nvidia.com/gpu:NoSchedule"],
    volume_claims=CLAIMS,
    max_jobs=1,
).save("gpu", overwrite=True)
