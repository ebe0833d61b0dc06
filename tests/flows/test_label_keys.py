"""Names of labels as users write them: in parameter files and as options of the command."""

from pathlib import Path

import ase.io
import pytest
import yaml
from labelling_inputs import copper, labelled, written

from surveyor.dataset import ENERGY, FORCES, STRESS
from surveyor.errors import InputError
from surveyor.flows.command_line import main
from surveyor.labels import save_theory
from surveyor.reading.keys import LabelKeys
from surveyor.reference.ase import EMTReference
from surveyor.works.campaign.checks import labelled_data


def named(path: Path, energy: str, forces: str) -> Path:
    """Write labelled structures with other names."""
    structures = labelled(copper(6))
    for atoms in structures:
        atoms.info[energy], atoms.arrays[forces] = atoms.info.pop(ENERGY), atoms.arrays.pop(FORCES)
        del atoms.info[STRESS]
    ase.io.write(path, structures, format="extxyz")
    return path


def test_the_names_of_labels_are_a_parameter_of_trainings_and_campaigns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named(tmp_path / "train.extxyz", "energy", "forces")
    file, content = tmp_path / "train.yaml", {"train": "train.extxyz", "output_directory": "out", "model": {"pair": {}}}
    file.write_text(yaml.safe_dump(content))
    assert main(["train", "--json", str(file)]) == 2
    assert "write label_keys: {prefix: ''}" in capsys.readouterr().err.replace("\n", " ")
    file.write_text(yaml.safe_dump({**content, "label_keys": {"prefix": ""}}))
    assert main(["train", "--json", str(file)]) == 0

    data = named(tmp_path / "data.extxyz", "dft_energy", "dft_force")
    with pytest.raises(InputError, match=r"write bootstrap\.label_keys: \{energy: dft_energy, forces: dft_force\}"):
        labelled_data(data, LabelKeys(), obeys_weights=True)
    keys = LabelKeys(energy="dft_energy", forces="dft_force")
    assert len(labelled_data(data, keys, obeys_weights=True).structures) == 6


def imported(*options: str) -> int:
    return main(["labels", "import", *options])


def test_an_import_compares_one_label_unless_told_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = named(tmp_path / "data.extxyz", "dft_energy", "dft_force")
    (tmp_path / "emt.yaml").write_text("reference: {emt: {}}\n")
    store = ["--store", str(tmp_path / "labels"), "--level-of-theory", str(tmp_path / "emt.yaml")]
    assert imported(str(data), *store) == 2
    assert "--key energy=dft_energy --key forces=dft_force" in capsys.readouterr().err
    named_so = ["--prefix", "dft_", "--key", "forces=dft_force"]
    assert imported(str(data), *store, *named_so) == 0
    said = capsys.readouterr().out
    assert "labels computed here: 1 of 6, in agreement" in said
    assert "used: dft_energy, dft_force" in said

    shifted = labelled(copper(3))
    for atoms in shifted:
        atoms.info[ENERGY] += 1.0
    wrong = written(tmp_path / "wrong.extxyz", shifted)
    assert imported(str(wrong), *store) == 2
    assert "the reference disagrees with the label" in capsys.readouterr().err
    assert imported(str(wrong), *store, "--check", "0") == 0
    assert imported(str(wrong), *store, "--key", "energies=E") == 2
    assert "--key: found energies=E, expected energy, forces" in capsys.readouterr().err


def test_an_import_that_cannot_compare_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = written(tmp_path / "data.extxyz", labelled(copper(2)))
    save_theory(tmp_path / "level_of_theory.json", EMTReference().resolve())
    options = [
        str(data),
        "--store",
        str(tmp_path / "labels"),
        "--level-of-theory",
        str(tmp_path / "level_of_theory.json"),
    ]
    assert imported(*options) == 0
    said = capsys.readouterr().out
    assert "no label is compared" in said
    assert "does not say how to compute a label; give a YAML file with `reference`" in said
    assert imported(*options, "--check", "0") == 0
    assert "no label is compared" not in capsys.readouterr().out
    assert imported(*options, "--check", "1") == 2
    assert imported(*options, "--check", "-1") == 2
    assert "--check: found -1, expected a number of labels" in capsys.readouterr().err
