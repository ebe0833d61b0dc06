from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentCreate
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from prefect_server import free_address
from pydantic import ValidationError

from surveyor.blocks.pools import POOLS, DaskPool, LocalPool, PoolBlock, SLURMPool, load_sites
from surveyor.errors import InputError
from surveyor.pools.sites import SITES, LocalSite, SchedulerSite, SLURMSite

# Something of each kind of field: numbers, texts, lists, paths.
GENOA = {
    "cores_per_job": 32,
    "tasks_per_job": 16,
    "memory_GB": 62.5,
    "walltime_minutes": 720.0,
    "queue": "genoa",
    "prologue": ["# a comment", "module load cp2k"],
    "scratch": Path("/scratch/ada"),
}


@pytest.mark.parametrize("block", POOLS.values(), indirect=True, ids=POOLS.keys())
class TestAsPrefectWantsBlocks(BlockStandardTestSuite):
    @pytest.fixture
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        return request.param

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """Have an address of an image; Prefect's own test would fetch it."""
        assert block._logo_url is not None
        assert block._logo_url.scheme == "https"


def test_there_is_a_block_for_each_kind_of_site() -> None:
    assert list(POOLS) == list(SITES)
    assert [block.get_block_type_slug() for block in POOLS.values()] == list(SITES)


@pytest.mark.parametrize("kind", POOLS)
def test_the_example_of_a_block_runs(kind: str) -> None:
    example = POOLS[kind].get_code_example()
    assert example is not None
    code = example.partition("```python")[2].partition("```")[0]
    named = code.partition('.save("')[2].partition('"')[0]
    scope: dict[str, Any] = {}
    exec(code.replace(f'.save("{named}")', '.save("from-example")').replace("BLOCK_NAME", "from-example"), scope)
    assert load_sites([f"{kind}/from-example"]) == {f"{kind}/from-example": scope["pool"].site}
    assert f"{kind}/{named}" in (POOLS[kind].get_description() or "")


def test_what_was_stored_is_loaded() -> None:
    SLURMPool(**GENOA).save("stored")
    expected = SLURMSite(**GENOA)
    assert SLURMPool.load("stored").site == expected
    assert Block.load("slurm/stored").site == expected  # type: ignore[attr-defined] # any block
    assert load_sites(["slurm/stored"]) == {"slurm/stored": expected}


def test_a_stored_block_can_be_changed() -> None:
    SLURMPool(queue="old").save("changed")
    pool = SLURMPool.load("changed")
    pool.queue = "new"
    pool.save("changed", overwrite=True)
    assert load_sites(["slurm/changed"])["slurm/changed"] == SLURMSite(queue="new")


def test_a_block_that_was_written_down_by_prefect_is_a_block_again() -> None:
    SLURMPool(**GENOA).save("dumped")
    pool = SLURMPool.load("dumped")
    assert SLURMPool.model_validate(pool.model_dump()).site == pool.site


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("partition", "queue"), ("project", "account"), ("walltime", "walltime_minutes"), ("prolog", "prologue")],
)
def test_a_misspelt_field_is_refused_with_the_right_one(wrong: str, meant: str) -> None:
    with pytest.raises(ValidationError, match=rf"{wrong}: SLURMPool has no such field; did you mean {meant}\?"):
        SLURMPool(**{wrong: "x"})


def test_a_field_like_no_other_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(
        ValidationError, match="nonsense: LocalPool has no such field; there are cores, memory_GB, gpus,"
    ):
        LocalPool(nonsense=1)


def test_a_change_to_something_wrong_is_refused() -> None:
    pool = SLURMPool(cores_per_job=4)
    with pytest.raises(ValidationError, match="tasks_per_job: found 3, expected a divisor of cores_per_job"):
        pool.tasks_per_job = 3


def test_pools_that_are_no_blocks_need_no_server() -> None:
    address = "tls://10.0.0.1:8786"
    with temporary_settings({PREFECT_API_URL: free_address()}):
        assert load_sites(["local", address]) == {"local": LocalSite(), address: SchedulerSite(address=address)}


def test_a_block_that_is_missing_is_said_with_those_that_there_are() -> None:
    SLURMPool().save("there")
    with pytest.raises(
        InputError, match=r"^pool slurm/absent: there is no such block .* slurm/there.* `surveyor blocks"
    ):
        load_sites(["local", "slurm/absent"])


def test_a_block_of_another_kind_is_suggested() -> None:
    DaskPool(address="tcp://10.0.0.1:8786").save("elsewhere")
    with pytest.raises(InputError, match=r"did you mean dask/elsewhere\?"):
        load_sites(["pbs/elsewhere"])


@pytest.mark.parametrize("name", ["slrum/genoa", "genoa", "slurm/", "string/genoa"])
def test_a_name_of_no_pool_is_refused_with_the_kinds(name: str) -> None:
    with pytest.raises(InputError, match=f"^pool {name}: expected local, .* kinds are local, slurm, pbs"):
        load_sites([name])


@pytest.mark.parametrize("name", ["http://10.0.0.1:8786", "tcp://10.0.0.1"])
def test_an_address_of_no_scheduler_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"^pool {name}: expected an address such as tcp://"):
        load_sites([name])


def test_a_server_that_does_not_answer_is_said() -> None:
    address = free_address()
    with (
        temporary_settings({PREFECT_API_URL: address}),
        pytest.raises(InputError, match=f"^pool slurm/genoa: .*{address}, which cannot be asked: .*PREFECT_API_URL"),
    ):
        load_sites(["local", "slurm/genoa"])


def store_unchecked(block: type[PoolBlock], name: str, data: dict[str, Any]) -> str:
    """Store what the form in the UI would store, where nothing but the bounds is checked; return its id."""
    block.register_type_and_schema()
    with get_client(sync_client=True) as client:
        document = BlockDocumentCreate(
            name=name, data=data, block_schema_id=block._block_schema_id, block_type_id=block._block_type_id
        )
        return str(client.create_block_document(document).id)


def test_a_block_that_cannot_be_used_is_said_with_its_fields_and_its_page(prefect_api_url: str) -> None:
    data = {"cores_per_job": 4, "workers_per_job": 8, "queue": "genoa"}
    identity = store_unchecked(SLURMPool, "wrong", data)
    page = prefect_api_url.removesuffix("/api") + f"/v2/blocks/block/{identity}"
    with pytest.raises(InputError, match=r"workers_per_job: found 8, expected at most cores_per_job") as caught:
        load_sites(["slurm/wrong"])
    assert str(caught.value).startswith("pool slurm/wrong: its block cannot be used")
    assert str(caught.value).endswith(f"Fix it at {page}")


def test_a_block_with_a_field_that_is_gone_is_said() -> None:
    store_unchecked(SLURMPool, "old", {"partition": "genoa", "max_jobs": 0})
    with pytest.raises(InputError, match=r"partition: SLURMPool has no such field; did you mean queue\?"):
        load_sites(["slurm/old"])
