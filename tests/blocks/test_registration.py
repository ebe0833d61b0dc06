import os
import subprocess
import sys

from processes import PATIENCE_S

from surveyor.blocks.codes import CODES, CP2KCodeBlock, load_codes
from surveyor.blocks.pools import POOLS, PoolBlock, SLURMPool, load_sites
from surveyor.blocks.registration import examples
from surveyor.blocks.storages import STORAGES, StorageBlock, load_access
from surveyor.pools.sites import SLURMSite
from surveyor.reference.choice import Codes


def register(environment: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "surveyor.flows.command_line", "blocks", "register"]
    return subprocess.run(
        command,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def test_there_is_an_example_of_each_kind() -> None:
    assert {name.partition("/")[0] for name in examples()} == {*POOLS, *CODES, *STORAGES}


def test_examples_are_created_once_and_then_left_alone(prefect_api_url: str) -> None:
    first = register()
    assert first.returncode == 0, first.stderr
    pools = {name: block.site for name, (block, _) in examples().items() if isinstance(block, PoolBlock)}
    assert load_sites(pools) == pools
    code = examples()["cp2k/example"][0]
    assert isinstance(code, CP2KCodeBlock)
    assert load_codes(Codes(cp2k_block="cp2k/example")) == Codes(cp2k=code.code)

    for name, (block, _) in examples().items():
        if isinstance(block, StorageBlock):
            assert load_access(name) == block.bucket_access

    SLURMPool(queue="mine").save("example", overwrite=True)
    second = register()
    assert second.returncode == 0, second.stderr
    assert load_sites(["slurm/example"]) == {"slurm/example": SLURMSite(queue="mine")}

    for name, (_, purpose) in examples().items():
        assert f"{name} (created): {purpose}" in first.stdout
        assert f"{name} (exists): {purpose}" in second.stdout
    assert f"{prefect_api_url.removesuffix('/api')}/v2/blocks" in first.stdout


def test_a_server_that_does_not_answer_is_said() -> None:
    result = register({"PREFECT_API_URL": "http://127.0.0.1:9/api"})
    assert result.returncode == 1
    assert "the Prefect server at http://127.0.0.1:9/api does not answer" in result.stderr


def test_what_was_never_tried_on_a_real_queue_says_so_where_it_is_chosen() -> None:
    for name, (block, purpose) in examples().items():
        experimental = name.partition("/")[0] in {"lsf", "htcondor", "ec2", "gcp", "kubernetes", "gcs"}
        assert ("experimental" in purpose) == experimental
        assert ("experimental" in block.get_description()) == experimental
