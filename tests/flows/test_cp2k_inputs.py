"""Inputs of CP2K that people write, through `surveyor label`."""

import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase import Atoms

from surveyor.dataset import FAILURE, MESSAGE, Dataset
from surveyor.flows.command_line import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cp2k,
    pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="needs CP2K (Debian package cp2k)"),
]

WATER = """# the group's input: don't touch
@set BASIS SZV-MOLOPT-SR-GTH
@SET FUNC pbe
&global
  run_type md            ! it's MD in the user's own runs
&end global
&force_eval
  method quickstep
  &dft
    basis_set_file_name BASIS_MOLOPT   ! the site's copy isn't needed
    potential_file_name GTH_POTENTIALS
    &mgrid
      cutoff [eV] 2040.8539647     # = 150 Ry, "quoted
    &end mgrid ! isn't it \\
    &scf
      eps_scf 1.0e-7 # ends in a \\
      max_scf 60
      &ot on
        preconditioner full_all
      &end ot
    &end scf
    &xc
      &xc_functional ${FUNC}
      &end xc_functional
    &end xc
  &end dft
  &subsys
    &kind O1
      element O
      basis_set $BASIS
      potential GTH-PBE-q6
    &end kind
    &kind h
      basis_set ${BASIS}
      potential GTH-PBE-q1
    &end kind
    &kind Xe ! nobody needs it
      basis_set NO-SUCH
      potential GTH-PBE
    &end kind
  &end subsys
&end force_eval
"""
COMMENT = "   ! the site's copy isn't needed"


def labelling(folder: Path, name: str, text: str) -> list[str]:
    """Write a labelling with an input; return the arguments of the command."""
    water = Atoms("OH2", [[0, 0, 0], [0.1, 0.67, -0.53], [0.05, -0.82, -0.54]], cell=[5, 5, 5], pbc=True)
    water.set_array("kinds", np.array(["O1", "H", "H"]))
    slab = water.copy()
    slab.pbc = [True, True, False]
    xenon = Atoms("Xe", cell=[5, 5, 5], pbc=True)
    ase.io.write(folder / "frames.extxyz", [water, slab, xenon], format="extxyz")
    (folder / f"{name}.inp").write_text(text)
    parameters = {
        "structures": str(folder / "frames.extxyz"),
        "output_directory": str(folder / name),
        "labels": str(folder / "labels"),
        "reference": {"cp2k": {"input": str(folder / f"{name}.inp")}},
        "codes": {"cp2k": {"timeout_minutes": 8}},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(parameters))
    return ["label", str(folder / f"{name}.yaml")]


def test_comments_are_read_as_by_the_program(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(labelling(tmp_path, "given", WATER)) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "DFT/BASIS_SET_FILE_NAME of the CP2K input (line 10: " in said
    assert "takes the comment for a part of the value" in said

    assert main(labelling(tmp_path, "moved", WATER.replace(COMMENT, ""))) == 0
    (labelled,) = Dataset.load(tmp_path / "moved" / "labelled.extxyz").labelled()
    assert len(labelled) == 3

    slab, xenon = ase.io.read(tmp_path / "moved" / "failed.extxyz", ":")
    assert (slab.info[FAILURE], xenon.info[FAILURE]) == ("invalid_input", "invalid_input")
    assert "periodic in no or three directions" in slab.info[MESSAGE]
    assert "NO-SUCH for Xe is not in BASIS_MOLOPT" in xenon.info[MESSAGE]


def test_what_gives_no_label_is_refused_before_the_first_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = WATER.replace(COMMENT, "").replace("method quickstep", "method quickstep\nstress_tensor numerical")
    assert main(labelling(tmp_path, "numerical", text)) == 2
    assert "FORCE_EVAL/STRESS_TENSOR of the CP2K input (line 9: " in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "numerical" / "calculations").exists()


def test_a_charged_structure_is_told_that_a_method_knows_neutral_ones_only(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "frames.extxyz", Atoms("Cu2", [[0, 0, 0], [0, 0, 2.2]], info={"charge": 2}))
    parameters = {"structures": "frames.extxyz", "output_directory": "out", "reference": {"emt": {}}}
    (tmp_path / "label.yaml").write_text(yaml.safe_dump(parameters))
    main(["label", str(tmp_path / "label.yaml")])
    (failed,) = ase.io.read(tmp_path / "out" / "failed.extxyz", ":")
    assert "EMT treats neutral structures only; the structure has charge 2" in failed.info[MESSAGE]
