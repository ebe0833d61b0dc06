"""Store the pools of campaigns on ECS as blocks. Edit ids and prices, and run `python pools.py` after each change."""

from surveyor.blocks.pools import EC2Pool

SITE = {
    "region": "eu-west-1",
    "subnets": ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"],
    "security_groups": ["sg-0123456789abcdef0"],  # as in the work pool
    "machine_image": "ami-0123456789abcdef0",  # with surveyor and curl
    "python": "/opt/surveyor/bin/python",
    "instance_profile": "surveyor-instance",
    "workspace": "s3://my-bucket/workspace",
}

# Walkers and trainings: one at a time per instance, on its GPU.
EC2Pool(
    instance_types=["g6.xlarge", "g5.xlarge"],
    max_jobs=2,
    price_per_hour=1.12,
    budget=50,
    **SITE,
).save("gpu", overwrite=True)

# Labels: one at a time per instance, on all its cores; an instance that is taken away costs no attempt.
EC2Pool(
    instance_types=["c7i.4xlarge", "c6i.4xlarge"],
    spot=True,
    max_jobs=10,
    price_per_hour=0.76,
    budget=100,
    **SITE,
).save("cpu", overwrite=True)
