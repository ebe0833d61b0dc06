"""Which wavefunction a label begins from, and what a warm start does to labels of the real program."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from surveyor.labels import Label, LabelFailure, LabelStore, LevelOfTheory, label_key
from surveyor.reference import cp2k_wavefunctions
from surveyor.reference.cp2k import CP2KCode, CP2KParameters, CP2KReference
from surveyor.reference.cp2k_input import WAVEFUNCTION, CP2KInput, place, read_input
from surveyor.reference.cp2k_repair import WARM_START, Trial, best_wavefunction, is_worth_a_repair, outcome_of
from surveyor.reference.cp2k_wavefunctions import begin_warm, folder_for, has_one_state, keep, nearest
from surveyor.reference.labelling import Labeller, label_structure

THEORY = LevelOfTheory("test", {})
needs_cp2k = [
    pytest.mark.cp2k,
    pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="needs CP2K (Debian package cp2k)"),
]


def crystal(distance: float = 0.75, *, edge: float = 3.0, **info: int) -> Atoms:
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, distance]], cell=[edge] * 3, pbc=True, info=info)
    return THEORY.with_electrons(atoms)


def kept(folder: Path, name: str, atoms: Atoms, *, n_bytes: int = 10, limit_GB: float = 1.0, age_s: int = 0) -> None:
    """Keep a file in place of a wavefunction."""
    file = folder.parent / "label.wfn"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(n_bytes))
    os.utime(file, (1e9 - age_s, 1e9 - age_s))
    keep(file, folder, name, place(atoms), limit_GB)


@pytest.fixture
def given(hydrogen_input: str) -> CP2KInput:
    """The cheapest input that there is, with the threshold of convergence of a campaign."""
    cheap = hydrogen_input.replace("CUTOFF 280", "CUTOFF 100").replace("REL_CUTOFF 50", "REL_CUTOFF 30")
    return read_input(cheap.replace("1E-8", "1E-6"))


def test_nearest_image_counts(tmp_path: Path) -> None:
    # Across the boundary of the cell, 0.1 Å away; in the cell as written, the other one is nearer.
    kept(tmp_path / "a", "across", crystal(-0.75))
    kept(tmp_path / "a", "other", crystal(1.2))
    assert nearest(tmp_path / "a", crystal(2.15)) == "across"


def test_nearest_image_in_a_skewed_cell_is_that_of_the_lattice(tmp_path: Path) -> None:
    cell = np.array([[4.0, 0, 0], [11.0, 3.0, 0], [1.0, 5.0, 4.0]])
    atoms = Atoms("H2", [[0, 0, 0], [0.4, 0.4, 0.4]], cell=cell, pbc=True)
    image, other = atoms.copy(), atoms.copy()
    image.positions[1] += 2 * cell[0] - cell[1] + 0.05  # a vector of the lattice, beside 0.05 Å
    other.positions[1] += 0.3
    kept(tmp_path / "a", "image", image)
    kept(tmp_path / "a", "other", other)
    assert nearest(tmp_path / "a", atoms) == "image"


def test_all_atoms_moved_alike_are_not_moved(tmp_path: Path) -> None:
    moved, other = crystal(0.76), crystal(0.8)
    moved.positions += [0.9, 0.4, 0.2]
    kept(tmp_path / "a", "moved", moved)
    kept(tmp_path / "a", "other", other)
    assert nearest(tmp_path / "a", crystal(0.75)) == "moved"


def test_structures_without_a_cell_are_compared_by_their_atoms(tmp_path: Path) -> None:
    short, long = (Atoms("H2", [[0, 0, 0], [0, 0, d]]) for d in (0.7, 3.5))  # in boxes of 12 and 14 Å
    kept(tmp_path / "a", "short", short)
    kept(tmp_path / "a", "long", long)
    assert nearest(tmp_path / "a", place(Atoms("H2", [[9, 9, 9], [9, 9, 12.0]]))) == "long"


def test_cell_of_another_shape_is_left_out(tmp_path: Path) -> None:
    kept(tmp_path / "a", "larger", crystal(edge=3.2))
    assert nearest(tmp_path / "a", crystal(edge=3.0)) is None
    assert nearest(tmp_path / "a", crystal(edge=3.1)) == "larger"


def test_geometry_that_is_damaged_or_of_other_atoms_is_passed_over(tmp_path: Path) -> None:
    assert nearest(tmp_path, crystal()) is None
    (tmp_path / "half.geometry").write_bytes(bytes(77))
    (tmp_path / "zeros.geometry").write_bytes(bytes(5 * 3 * 8))
    (tmp_path / "not-finite.geometry").write_bytes(np.full((5, 3), np.nan).tobytes())
    assert nearest(tmp_path, crystal()) is None
    kept(tmp_path, "good", crystal(0.8))
    assert nearest(tmp_path, crystal()) == "good"


def test_only_one_composition_charge_and_level_of_theory_shares_wavefunctions(given: CP2KInput, tmp_path: Path) -> None:
    heavier = crystal()
    heavier.set_array("kinds", np.array(["H", "D"]))
    apart = [crystal(), crystal(charge=2), heavier, Atoms("H2", [[0, 0, 0], [0, 0, 0.75]])]
    folders = {folder_for(given, atoms, tmp_path / "label") for atoms in apart}
    assert len(folders) == len(apart)
    other = replace(given, force_eval={**given.force_eval, "+DFT": {**given.dft, "+MGRID": {"CUTOFF": 99}}})
    assert folder_for(other, crystal(), tmp_path / "label") not in folders
    assert folder_for(given, crystal(0.9, edge=4.0), tmp_path / "another") in folders


@pytest.mark.parametrize("keyword", ["UKS", "ROKS"])
def test_open_shells_begin_cold(keyword: str, given: CP2KInput, tmp_path: Path) -> None:
    kept(folder_for(given, crystal(), tmp_path / "label"), "there", crystal())
    assert begin_warm(given, crystal(), tmp_path / "label", tmp_path) == "from-there.wfn"
    triplet = crystal(multiplicity=3)
    kept(folder_for(given, triplet, tmp_path / "label"), "there", triplet)
    assert begin_warm(given, triplet, tmp_path / "label", tmp_path) is None
    assert not has_one_state(replace(given, force_eval={"+DFT": {**given.dft, keyword: True}}), crystal())


def test_integrals_screened_by_the_first_density_begin_cold(given: CP2KInput) -> None:
    for screened in (True, False):
        hybrid = {"+XC": {"+HF": [{"+SCREENING": {"SCREEN_ON_INITIAL_P": screened}}]}}
        assert has_one_state(replace(given, force_eval={"+DFT": hybrid}), crystal()) != screened


def test_oldest_wavefunctions_go_first(tmp_path: Path) -> None:
    for age_s, name in enumerate(["new", "old", "older", "oldest"]):
        kept(tmp_path / "all" / name, name, crystal(), n_bytes=400, limit_GB=1e-6, age_s=age_s)
    kept(tmp_path / "all" / "newest", "newest", crystal(), n_bytes=400, limit_GB=1e-6, age_s=-1)
    left = {file.name for file in (tmp_path / "all").rglob("*") if file.is_file()}
    assert left == {"newest.wfn", "newest.geometry", "new.wfn", "new.geometry"}


def test_number_of_wavefunctions_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cp2k_wavefunctions, "MOST_KEPT", 2)
    for age_s, name in enumerate(["new", "old", "older"]):
        kept(tmp_path / "all" / "one", name, crystal(), age_s=age_s)
    assert {file.stem for file in (tmp_path / "all").rglob("*.wfn")} == {"new", "old"}


def failed(reason: str) -> LabelFailure:
    return LabelFailure(reason, "said so")  # type: ignore[arg-type]


def test_after_a_warm_start_all_goes_as_without_one(tmp_path: Path) -> None:
    (tmp_path / WAVEFUNCTION).touch()
    warm = Trial(WARM_START, tmp_path, failed("crash"), 1e-4)
    cold = Trial(replace(WARM_START, name="as given"), tmp_path, failed("crash"), None)
    assert is_worth_a_repair([warm])
    assert best_wavefunction([warm]) is None
    assert not is_worth_a_repair([warm, cold])  # as without it: the machine may be the cause
    assert outcome_of([warm, cold]).provenance["before"] == [{"rung": "warm start", "said": "crash: said so"}]
    for reason in ("timeout", "memory", "launch", "disk"):
        assert not is_worth_a_repair([replace(warm, outcome=failed(reason))])


def labelled(reference: CP2KReference, atoms: Atoms, folder: Path) -> Label:
    """Return the label as a campaign computes it."""
    store = LabelStore.in_folder(folder / "labels")
    label = label_structure(atoms, Labeller(reference, THEORY, store, folder / "calculations"))
    assert isinstance(label, Label)
    return label


def check_alike(one: Label, other: Label) -> None:
    """Check that labels agree far better than a model resolves."""
    assert one.energy == pytest.approx(other.energy, abs=2 * 1e-4)  # 0.1 meV/atom
    np.testing.assert_allclose(one.forces, other.forces, atol=1e-3)
    assert one.stress is not None
    assert other.stress is not None
    np.testing.assert_allclose(one.stress, other.stress, atol=1e-5)


class TestCP2K:
    pytestmark = needs_cp2k

    def test_warm_label_is_that_of_a_cold_start(self, given: CP2KInput, tmp_path: Path) -> None:
        cold = labelled(CP2KReference(given), crystal(0.8), tmp_path / "cold")
        assert not (tmp_path / "cold" / "calculations" / "wavefunctions").exists()
        reference = CP2KReference(given, begins_warm=True)
        first = labelled(reference, crystal(0.75), tmp_path)
        other = folder_for(given, crystal(), tmp_path / "calculations" / "label")
        kept(other, "far", crystal(1.1))
        warm = labelled(reference, crystal(0.8), tmp_path)
        assert "began_from" not in first.provenance
        nearest_key = label_key(crystal(0.75), THEORY)
        assert nearest_key.removeprefix("v1:").startswith(warm.provenance["began_from"])
        assert len(warm.provenance["began_from"]) == 16
        assert (cold.provenance["rung"], warm.provenance["rung"]) == ("as given", "warm start")
        assert warm.provenance["scf_steps"] < cold.provenance["scf_steps"]
        check_alike(warm, cold)

    @pytest.mark.parametrize("damage", ["cut", "foreign", "gone"])
    def test_damaged_wavefunction_costs_a_cold_start(self, damage: str, given: CP2KInput, tmp_path: Path) -> None:
        calculations = tmp_path / "calculations"
        folder = folder_for(given, crystal(), calculations / "label")
        kept(folder, "damaged", crystal(0.75), n_bytes=100)
        if damage == "foreign":
            (folder / "damaged.wfn").write_bytes(np.random.default_rng(0).bytes(2000))
        if damage == "cut":
            (tmp_path / "whole-1").mkdir()
            CP2KReference(given).compute(crystal(), tmp_path / "whole-1")
            whole = (tmp_path / "whole-1" / WAVEFUNCTION).read_bytes()
            (folder / "damaged.wfn").write_bytes(whole[:-8])
        if damage == "gone":
            (folder / "damaged.wfn").unlink()
        label = labelled(CP2KReference(given, begins_warm=True), crystal(), tmp_path)
        assert label.provenance["rung"] == "as given"
        assert "began_from" not in label.provenance
        assert ("before" in label.provenance) == (damage != "gone")
        assert not list(folder.glob("damaged*"))
        assert len(list(folder.glob("*.wfn"))) == 1  # its own

    def test_warm_start_that_does_not_converge_is_followed_by_the_cold_input_and_the_ladder(
        self, given: CP2KInput, tmp_path: Path
    ) -> None:
        reference = CP2KReference(given, begins_warm=True)
        labelled(reference, crystal(1.2), tmp_path)
        scf = {**given.dft["+SCF"], "MAX_SCF": 1}
        short = replace(given, force_eval={**given.force_eval, "+DFT": {**given.dft, "+SCF": scf}})
        label = labelled(CP2KReference(short, begins_warm=True), crystal(0.8), tmp_path)
        assert [each["rung"] for each in label.provenance["before"]] == ["warm start", "as given"]
        assert label.provenance["rung"] == "CG, FULL_ALL"
        assert len(list((tmp_path / "calculations").rglob("*.wfn"))) == 2  # what did not converge is not damaged

    def test_finished_output_of_a_warm_start_is_read(self, given: CP2KInput, tmp_path: Path) -> None:
        reference = CP2KReference(given, CP2KCode(scratch=str(tmp_path)), begins_warm=True)
        for name, distance in (("first-1", 0.75), ("second-1", 0.8)):
            (tmp_path / name).mkdir()
            label = reference.compute(crystal(distance), tmp_path / name)
        assert isinstance(label, Label)
        for later in (reference, CP2KReference(given)):
            read = later.read(crystal(0.8), tmp_path / "second-1")
            assert isinstance(read, Label)
            assert read.energy == label.energy
            names = ("began_from", "rung", "inputs_sha256", "scf_steps")
            assert [read.provenance[name] for name in names] == [label.provenance[name] for name in names]
            assert read.provenance["began_from"] == "first"
        assert reference.read(crystal(0.81), tmp_path / "second-1") is None

    def test_code_says_how_much_is_kept(self, given: CP2KInput, tmp_path: Path) -> None:
        labelled(CP2KReference(given, CP2KCode(wavefunctions_GB=0), begins_warm=True), crystal(), tmp_path)
        assert (tmp_path / "calculations" / "wavefunctions").is_dir()
        assert not list((tmp_path / "calculations").rglob("*.wfn"))

    def test_level_of_theory_does_not_know_of_warm_starts(self, hydrogen_input: str) -> None:
        off, on = (
            CP2KReference.from_parameters(CP2KParameters(input_text=hydrogen_input, warm_start=warm_start))
            for warm_start in (False, True)
        )
        assert (off.begins_warm, on.begins_warm) == (False, True)
        assert on.resolve().digest == off.resolve().digest
