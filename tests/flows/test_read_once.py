"""Starting a campaign by the command reads each file once, however many ask what is in it."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase import Atoms
from labelling_inputs import written

from surveyor.blocks.codes import CP2KCodeBlock
from surveyor.dataset import ENERGY, FORCES, STRESS
from surveyor.flows.command_line import main
from surveyor.reading import reading

pytestmark = [pytest.mark.slow]

INPUT = "&FORCE_EVAL\n&DFT\nBRAND_NEW 3\n&END\n&SUBSYS\n&KIND H\nBASIS_SET A\nPOTENTIAL B\n&END\n&END\n&END"


def hydrogen(distance: float, *, is_labelled: bool) -> Atoms:
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, distance]], cell=[5, 5, 5], pbc=True)
    if is_labelled:
        atoms.info |= {ENERGY: -31.0 + distance, STRESS: np.zeros(6)}
        atoms.arrays[FORCES] = np.zeros((2, 3))
    return atoms


@pytest.mark.parametrize("is_block", [False, True])
def test_a_campaign_parses_its_input_and_reads_its_structures_once(
    is_block: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names: Counter[str] = Counter()
    images_in = reading.images_in

    def counting(path: Path) -> Any:
        names[path.name] += 1
        return images_in(path)

    monkeypatch.setattr(reading, "images_in", counting)
    written(tmp_path / "start.extxyz", [hydrogen(0.75, is_labelled=False)])
    written(tmp_path / "data.extxyz", [hydrogen(distance, is_labelled=True) for distance in (0.7, 0.74, 0.8, 0.85)])
    code: Any = {"command": "cp2k.not-there"}
    if is_block:
        CP2KCodeBlock(**code).save("not-there", overwrite=True)
        code = "cp2k/not-there"
    content = {
        "run_directory": "run",
        "walkers": [{"start": "start.extxyz", "n_steps": 1}],
        "reference": {"cp2k": {"input_text": INPUT}},
        "model": {"pair": {}},
        "bootstrap": {"data": "data.extxyz", "level_of_theory": "CP2K"},
        "codes": {"cp2k": code},
    }
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(content))
    with caplog.at_level(logging.WARNING):
        assert main(["run", str(tmp_path / "campaign.yaml")]) == 2
    assert "program 'cp2k.not-there' was not found" in " ".join(capsys.readouterr().err.split())
    assert names == {"start.extxyz": 1, "data.extxyz": 1}
    assert len([record for record in caplog.records if "BRAND_NEW" in record.getMessage()]) == 1
