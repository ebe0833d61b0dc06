"""Codes that are named as blocks reach CP2K; what is run here in its place is not there, and so names itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ase import Atoms
from processes import PATIENCE_S

from surveyor.blocks.codes import CP2KCodeBlock
from surveyor.errors import InputError
from surveyor.flows.doctor import look
from surveyor.flows.online_learning import online_learning
from surveyor.works.campaign import CAMPAIGN

INPUT = "&FORCE_EVAL\n&DFT\n&END\n&SUBSYS\n&KIND H\nBASIS_SET A\nPOTENTIAL B\n&END\n&END\n&END"


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    CP2KCodeBlock(command="cp2k.of-the-block", timeout_minutes=7).save("genoa", overwrite=True)
    Atoms("H2", [[0, 0, 0], [0, 0, 0.75]], cell=[5, 5, 5], pbc=True).write(tmp_path / "h2.extxyz")
    content = {
        "run_directory": "run",
        "walkers": [{"start": "h2.extxyz", "n_steps": 1}],
        "reference": {"cp2k": {"input_text": INPUT}},
        "model": {"pair": {}},
        "codes": {"cp2k": "cp2k/genoa"},
    }
    file = tmp_path / "campaign.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_campaign_runs_the_code_that_a_block_holds(campaign: Path) -> None:
    parameters = CAMPAIGN.load(campaign)
    with pytest.raises(InputError, match=r"program 'cp2k\.of-the-block' was not found"):
        online_learning(**{name: getattr(parameters, name) for name in type(parameters).model_fields})


def test_the_check_asks_the_code_that_a_block_holds(campaign: Path, prefect_api_url: str) -> None:
    command = [sys.executable, "-m", "surveyor.flows.command_line", "check", str(campaign)]
    environment = {**os.environ, "PREFECT_API_URL": prefect_api_url}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert result.returncode == 2
    assert "program 'cp2k.of-the-block' was not found" in " ".join((result.stdout + result.stderr).split())


@pytest.mark.slow
def test_the_doctor_looks_at_the_block_of_a_code(campaign: Path) -> None:
    findings = list(look(campaign, 60.0, lambda text: None))
    assert "runs `cp2k.of-the-block`" in [each.found for each in findings if each.where == "cp2k/genoa"]
    campaign.write_text(campaign.read_text().replace("cp2k/genoa", "cp2k/absent"))
    (fault,) = [each for each in look(campaign, 60.0, lambda text: None) if each.where == "cp2k/absent"]
    assert fault.remedy.startswith("surveyor blocks register")
