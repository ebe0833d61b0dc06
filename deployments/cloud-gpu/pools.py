"""Store the pools of a cloud as blocks. Edit ids, prices and paths, and run `python pools.py` after each change."""

from surveyor.blocks.pools import EC2Pool

NETWORK = {
    "region": "eu-west-1",
    "subnets": ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"],
    "security_groups": ["sg-0123456789abcdef0"],
}
MACHINE = {
    "machine_image": "ami-0123456789abcdef0",
    "prologue": ["mkdir -p /campaigns", "mount -t nfs4 -o nfsvers=4.1 10.0.0.5:/ /campaigns"],
    "python": "/campaigns/environments/mace/bin/python",
}

# Walkers and trainings: one at a time per instance, on its GPU.
EC2Pool(
    instance_types=["g6.xlarge", "g5.xlarge"],
    max_jobs=2,
    price_per_hour=1.12,
    budget=50,
    **NETWORK,
    **MACHINE,
).save("gpu", overwrite=True)

# Labels: one at a time per instance, on all its cores; an instance that is taken away costs no attempt.
EC2Pool(
    instance_types=["c7i.4xlarge", "c6i.4xlarge"],
    spot=True,
    max_jobs=10,
    price_per_hour=0.76,
    budget=100,
    **NETWORK,
    **MACHINE,
).save("cpu", overwrite=True)
