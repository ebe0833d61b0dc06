"""The form of a block in the UI, in a browser."""

from pathlib import Path

import pytest
from prefect_form import Form, open_browser

from surveyor.blocks.codes import CP2KCodeBlock, load_codes
from surveyor.blocks.pools import SLURMPool, load_sites
from surveyor.blocks.storages import S3Storage, load_access
from surveyor.pools.sites import SLURMSite
from surveyor.reference.choice import Codes
from surveyor.reference.cp2k_code import CP2KCode
from surveyor.storage.buckets import S3Access

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_pool_is_set_up_in_the_form(prefect_api_url: str, tmp_path: Path) -> None:
    SLURMPool.register_type_and_schema()
    site = prefect_api_url.removesuffix("/api")
    with open_browser(tmp_path) as browser:
        form = Form(browser, f"{site}/v2/blocks/catalog/slurm/create")
        form.fill("Name", "from-form")
        form.fill("Cores per job", "32")
        form.fill("Walltime (min)", "90.5")
        form.click_after("Queue", "str")
        form.fill("Queue", "genoa")
        form.submit()
    expected = SLURMSite(cores_per_job=32, walltime_minutes=90.5, queue="genoa")
    assert load_sites(["slurm/from-form"]) == {"slurm/from-form": expected}


def test_a_code_is_set_up_in_the_form(prefect_api_url: str, tmp_path: Path) -> None:
    CP2KCodeBlock.register_type_and_schema()
    site = prefect_api_url.removesuffix("/api")
    with open_browser(tmp_path) as browser:
        form = Form(browser, f"{site}/v2/blocks/catalog/cp2k/create")
        form.fill("Name", "from-form")
        form.fill("OpenMP threads", "4")
        form.click_after("Memory limit (GB)", "float")
        form.fill("Memory limit (GB)", "60")
        form.submit()
    expected = CP2KCode(omp_threads=4, memory_GB=60)
    assert load_codes(Codes(cp2k_block="cp2k/from-form")) == Codes(cp2k=expected)


@pytest.mark.long  # blocks of other kinds are set up as this one
def test_a_storage_is_set_up_in_the_form(prefect_api_url: str, tmp_path: Path) -> None:
    S3Storage.register_type_and_schema()
    site = prefect_api_url.removesuffix("/api")
    with open_browser(tmp_path) as browser:
        form = Form(browser, f"{site}/v2/blocks/catalog/s3-storage/create")
        form.fill("Name", "from-form")
        for label, value in (("Endpoint", "https://minio.example.org"), ("Access key ID", "me")):
            form.click_after(label, "str")
            form.fill(label, value)
        form.click_after("Secret access key", "password")
        form.fill("Secret access key", "planted")
        form.submit()
    access = load_access("s3/from-form")
    assert access == S3Access(endpoint="https://minio.example.org", access_key_id="me", secret_access_key="planted")
