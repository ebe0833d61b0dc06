import shutil
from pathlib import Path

import pytest
from small_campaign import SmallCampaign

from surveyor.run_directory import RunDirectory


@pytest.fixture(scope="session")
def finished_campaign(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A complete campaign, made once and not to be changed."""
    return SmallCampaign(tmp_path_factory.mktemp("campaign")).run()


@pytest.fixture
def campaign_on_disk(finished_campaign: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy of a complete campaign, which a test may change."""
    return RunDirectory(Path(shutil.copytree(finished_campaign.path, tmp_path / finished_campaign.path.name)))
