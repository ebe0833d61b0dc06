"""The ladder itself; what it does to real calculations is in test_cp2k_failures.py."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from surveyor.labels import Label, LabelFailure
from surveyor.reference import cp2k_repair
from surveyor.reference.cp2k_input import CP2KInput, read_input
from surveyor.reference.cp2k_repair import (
    AS_GIVEN,
    SOLVER,
    WARM_START,
    Rung,
    Trial,
    best_wavefunction,
    is_worth_a_repair,
    ladder_of,
    may_change_method,
    outcome_of,
    uses_ot,
    with_rung,
    without_solver,
)

OUTER_LOOP = "&OUTER_SCF\n EPS_SCF 1E-7\n MAX_SCF 3\n &END\n"
SMEARED = """
EPS_SCF 1E-7
ADDED_MOS 4
&SMEAR ON
  METHOD FERMI_DIRAC
  ELECTRONIC_TEMPERATURE [K] 300
&END
&MIXING
  METHOD BROYDEN_MIXING
  ALPHA 0.4
&END
"""
OT = "&OT\n        MINIMIZER CG\n        PRECONDITIONER FULL_ALL\n      &END"


DIAGONALISATION = "&DIAGONALIZATION\n ALGORITHM {}\n &END"
BOTH_METHODS = ("OT", "OT, outer loop", "OT, outer loop of defaults", "OT off", "diagonalised", "no SCF")
ONE_METHOD = ("smeared", "more orbitals", "k-points", "filter matrix", "OT, own accuracy", "ROKS")


def texts(hydrogen_input: str) -> dict[str, str]:
    """Return inputs of all kinds that a ladder has to serve."""
    assert OT in hydrogen_input
    scf = hydrogen_input[hydrogen_input.index("&SCF") : hydrogen_input.index("&XC")]
    diagonalised = hydrogen_input.replace(OT, DIAGONALISATION.format("STANDARD"))
    return {
        "OT": hydrogen_input,
        "OT, outer loop": hydrogen_input.replace("&OT", f"{OUTER_LOOP}&OT"),
        "OT, outer loop of defaults": hydrogen_input.replace("&OT", "&OUTER_SCF\n &END\n &OT"),
        "OT off": hydrogen_input.replace("&OT", "&OUTER_SCF OFF\n &END\n &OT OFF"),
        "diagonalised": diagonalised,
        "no SCF": hydrogen_input.replace(scf, ""),
        "smeared": hydrogen_input.replace(OT, SMEARED.replace("EPS_SCF 1E-7", "")),
        "more orbitals": diagonalised.replace("MAX_SCF", "ADDED_MOS 4\n MAX_SCF"),
        "k-points": diagonalised.replace("&XC\n", "&KPOINTS\n SCHEME MONKHORST-PACK 2 2 2\n &END\n &XC\n", 1),
        "filter matrix": hydrogen_input.replace(OT, DIAGONALISATION.format("FILTER_MATRIX")),
        "OT, own accuracy": hydrogen_input.replace("MINIMIZER", "EPS_TAYLOR 1E-10\n MINIMIZER"),
        "ROKS": hydrogen_input.replace("&SCF", "ROKS\n &SCF"),
    }


@pytest.fixture(scope="module", params=[*BOTH_METHODS, *ONE_METHOD])
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def given(name: str, hydrogen_input: str) -> CP2KInput:
    return read_input(texts(hydrogen_input)[name])


def science(given: CP2KInput) -> dict[str, Any]:
    return without_solver(given.force_eval)


def test_no_rung_changes_the_level_of_theory(given: CP2KInput) -> None:
    for rung in (WARM_START, *ladder_of(given)):
        for wavefunction in (None, "../label-RESTART.wfn"):
            assert science(with_rung(given, rung, wavefunction)) == science(given)


def test_every_rung_changes_the_input_in_another_way(given: CP2KInput) -> None:
    changed = [with_rung(given, rung).force_eval for rung in ladder_of(given)]
    assert all(changed.count(each) == 1 for each in changed)


def test_a_rung_changes_the_method_only_where_both_minimise_the_same_energy(name: str, given: CP2KInput) -> None:
    rungs = ladder_of(given)[1:]
    others = [rung for rung in rungs if uses_ot(with_rung(given, rung)) != uses_ot(given)]
    assert [bool(rung.ot) for rung in others] == ([not uses_ot(given)] if name in BOTH_METHODS else [])
    for rung in rungs:
        scf = with_rung(given, rung).dft["+SCF"]
        assert uses_ot(with_rung(given, rung)) == bool(rung.ot)
        assert not (rung.ot and ("+MIXING" in scf or "+DIAGONALIZATION" in scf))


def test_both_methods_have_one_level_of_theory_where_they_minimise_the_same_energy(hydrogen_input: str) -> None:
    inputs = {name: read_input(text) for name, text in texts(hydrogen_input).items()}
    for name in ("OT off", "diagonalised"):
        assert science(inputs[name]) == science(inputs["OT"])
    found = [science(inputs[name]) for name in ("OT", *ONE_METHOD)]
    assert all(found.count(each) == 1 for each in found)


def test_a_rung_from_atoms_begins_from_no_wavefunction(given: CP2KInput) -> None:
    for rung in ladder_of(given)[1:]:
        scf = with_rung(given, rung, "../label-RESTART.wfn").dft["+SCF"]
        assert scf["SCF_GUESS"] == ("ATOMIC" if rung.begins_anew else "RESTART")


def test_no_rung_repeats_its_scf_without_need(given: CP2KInput) -> None:
    for rung in ladder_of(given)[1:]:
        scf = with_rung(given, rung).dft["+SCF"]
        assert scf.get("+OUTER_SCF", {"MAX_SCF": 0})["MAX_SCF"] <= 10


def test_a_rung_leaves_the_input_that_it_is_given_alone(given: CP2KInput) -> None:
    before = deepcopy(given)
    for rung in ladder_of(given):
        with_rung(given, rung, "a.wfn")
    assert given == before
    assert given.force_eval == before.force_eval


def test_thresholds_of_convergence_are_those_of_the_input(given: CP2KInput) -> None:
    eps = given.dft.get("+SCF", {}).get("EPS_SCF", 1e-5)
    outer = given.dft.get("+SCF", {}).get("+OUTER_SCF", {"_": False})
    for rung in ladder_of(given)[1:]:
        scf = with_rung(given, rung).dft["+SCF"]
        assert scf.get("EPS_SCF", 1e-5) == eps
        if rung.n_outer:
            assert scf["+OUTER_SCF"].get("_", True)
            assert scf["+OUTER_SCF"]["EPS_SCF"] == (outer.get("EPS_SCF", 1e-5) if outer.get("_", True) else eps)


def test_all_that_no_rung_may_change_belongs_to_the_level_of_theory(given: CP2KInput) -> None:
    for path, keyword, section in leaves(given.force_eval):
        changed = deepcopy(given.force_eval)
        find(changed, path)[keyword] = another(find(changed, path)[keyword])
        is_switch = may_change_method(given.force_eval) and (section, keyword) == ("DFT/SCF/OT", "_")
        is_solver = is_switch or keyword in SOLVER.get(section, ()) or section.startswith("DFT/SCF/MIXING")
        assert (without_solver(changed) == science(given)) == is_solver, (section, keyword)


def test_what_is_not_in_the_input_yet_belongs_to_the_level_of_theory(given: CP2KInput) -> None:
    for section, keyword, value in [
        ("SCF", "EPS_EIGVAL", 1e-3),
        ("SCF", "ADDED_MOS", [7]),
        ("SCF", "+SMEAR", {"METHOD": "FERMI_DIRAC"}),
        ("SCF", "+DIAGONALIZATION", {"ALGORITHM": "LANCZOS"}),
        ("QS", "EPS_DEFAULT", 1e-9),
        ("MGRID", "CUTOFF", 77.0),
    ]:
        tree = deepcopy(dict(given.force_eval))
        tree["+DFT"].setdefault(f"+{section}", {})[keyword] = value
        assert without_solver(tree) != science(given), (section, keyword)


def leaves(tree: Any, path: tuple[Any, ...] = (), section: str = "") -> Iterator[tuple[tuple[Any, ...], str, str]]:
    """Yield where each keyword of a tree stands, its name, and its section."""
    for name, value in tree.items():
        if not name.startswith("+"):
            yield path, name, section
            continue
        inner = f"{section}/{name[1:]}".removeprefix("/")
        for number, each in enumerate(value if isinstance(value, list) else [value]):
            yield from leaves(each, (*path, name, *([number] if isinstance(value, list) else [])), inner)


def find(tree: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        tree = tree[step]
    return tree


def another(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return 2 * value + 1
        case list():
            return [*value, "OTHER"]
    return f"{value}-OTHER"


def failed(reason: str = "scf_not_converged", **options: Any) -> LabelFailure:
    return LabelFailure(reason, "said so", **options)  # type: ignore[arg-type]


def trial(folder: Path, convergence: float | None, outcome: Label | LabelFailure | None = None) -> Trial:
    folder.mkdir(exist_ok=True)
    (folder / cp2k_repair.WAVEFUNCTION).touch()
    return Trial(Rung(folder.name), folder, outcome or failed(), convergence)


def test_a_rung_begins_from_the_wavefunction_nearest_to_convergence(tmp_path: Path) -> None:
    trials = [trial(tmp_path, 3e-2), trial(tmp_path / "repair-1", 1e-3), trial(tmp_path / "repair-2", 2e-3)]
    assert best_wavefunction(trials) == "../repair-1/label-RESTART.wfn"
    assert best_wavefunction(trials[:1]) == "../label-RESTART.wfn"


def test_a_wavefunction_that_is_far_from_convergence_or_gone_is_none_to_begin_from(tmp_path: Path) -> None:
    far, gone = trial(tmp_path, 0.8), trial(tmp_path / "repair-1", 1e-3)
    (gone.folder / cp2k_repair.WAVEFUNCTION).unlink()
    assert best_wavefunction([]) is None
    assert best_wavefunction([far, gone, trial(tmp_path / "repair-2", None)]) is None


def test_only_an_scf_that_does_not_converge_is_repaired(tmp_path: Path) -> None:
    first = trial(tmp_path, None)
    assert is_worth_a_repair([first])
    for reason in ("timeout", "memory", "launch", "disk", "invalid_input", "crash", "geometry"):
        assert not is_worth_a_repair([replace(first, outcome=failed(reason))])
    assert is_worth_a_repair([first, replace(first, outcome=failed("crash"))])
    assert not is_worth_a_repair([first, replace(first, outcome=failed("timeout"))])


def test_a_failure_after_all_rungs_tells_what_was_tried(tmp_path: Path) -> None:
    trials = [trial(tmp_path / name, None, failed(provenance={"wall_time_s": 2.0})) for name in ("a", "b")]
    trials.append(trial(tmp_path / "c", None, failed("crash", provenance={"wall_time_s": 3.0})))
    outcome = outcome_of(trials)
    assert isinstance(outcome, LabelFailure)
    assert outcome.reason == "scf_not_converged"
    assert outcome.message == "said so; tried: a; b; c"
    assert outcome.provenance["wall_time_s"] == 7.0
    assert [each["rung"] for each in outcome.provenance["before"]] == ["a", "b"]


def test_a_failure_that_ends_the_ladder_keeps_its_reason(tmp_path: Path) -> None:
    outcome = outcome_of([trial(tmp_path, None), trial(tmp_path / "b", None, failed("timeout"))])
    assert isinstance(outcome, LabelFailure)
    assert outcome.reason == "timeout"


def test_as_given_is_as_given(given: CP2KInput) -> None:
    assert with_rung(given, AS_GIVEN) is given
