"""Repair of an SCF of CP2K that does not converge: other settings of the solver, which lead to the same result.

There is one ladder for inputs that use orbital transformation (OT), and one for those that diagonalise. Where every
orbital is full or empty, both methods minimise the same energy, so each ladder has a rung of the other method. The
rungs touch nothing but the solver, and the hash of the level of theory covers everything but the solver. So a repaired
label has the level of theory that the input asks for.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from surveyor.labels import POLICIES, Label, LabelFailure, Reason
from surveyor.reference.cp2k_input import WAVEFUNCTION, CP2KInput, Tree

# What a rung may change, by section: keywords, and whole sections with a "+". What decides when the SCF is converged
# (EPS_SCF, here and in OUTER_SCF), what is occupied (SMEAR, ADDED_MOS) and what is minimised is not among them.
SOLVER: Mapping[str, frozenset[str]] = {
    "DFT": frozenset({"WFN_RESTART_FILE_NAME"}),
    "DFT/SCF": frozenset({"SCF_GUESS", "MAX_SCF", "MAX_DIIS", "EPS_DIIS", "+MIXING"}),
    "DFT/SCF/OT": frozenset(
        {
            "MINIMIZER", "SAFE_DIIS", "N_HISTORY_VEC", "BROYDEN_BETA", "BROYDEN_GAMMA", "BROYDEN_SIGMA", "BROYDEN_ETA",
            "BROYDEN_OMEGA", "BROYDEN_SIGMA_DECREASE", "BROYDEN_SIGMA_MIN", "BROYDEN_FORGET_HISTORY",
            "BROYDEN_ADAPTIVE_SIGMA", "BROYDEN_ENABLE_FLIP", "LINESEARCH", "STEPSIZE", "GOLD_TARGET", "DS_MIN",
            "PRECONDITIONER", "PRECOND_SOLVER", "ENERGY_GAP", "CHOLESKY", "ROTATION", "ALGORITHM",
        }
    ),
    "DFT/SCF/OUTER_SCF": frozenset({"MAX_SCF", "OPTIMIZER", "STEP_SIZE", "DIIS_BUFFER_LENGTH", "BISECT_TRUST_COUNT"}),
}  # fmt: skip
REPAIR, WARM = "repair", "warm"  # folders
AT_A_LIMIT: Sequence[Reason] = ("timeout", "memory", "launch", "disk")  # of the machine, wherever the SCF begins
ONE_METHOD_DFT = ("ROKS", "RELAX_MULTIPLICITY", "+KPOINTS", "+LOW_SPIN_ROKS")  # sections and keywords
ONE_METHOD_SCF = ("ADDED_MOS", "+SMEAR", "+MOM")  # that only one of OT and diagonalisation has, or treats so
WORTH_TO_BEGIN_FROM = 0.1  # what CP2K prints as convergence; an SCF begins with about as much
FEW_OUTER = 2  # repetitions with a method that gains nothing from them
DEFAULT_EPS_SCF = 1e-5  # of the SCF, and of its outer loop


@dataclass(frozen=True, slots=True)
class Rung:
    """Settings of the solver to be tried.

    Attributes:
        name: for people.
        scf: keywords of SCF.
        ot: keywords of OT, in place of those of the input; empty for diagonalisation.
        mixing: keywords of MIXING, in place of those of the input; empty for OT.
        n_outer: repetitions of the SCF, each with a new preconditioner; 0 for none beyond those of the input.
        begins_anew: whether it begins from atoms even where an earlier rung has left a wavefunction.
    """

    name: str
    scf: Mapping[str, Any] = field(default_factory=dict)  # Any: values of keywords, here and below
    ot: Mapping[str, Any] = field(default_factory=dict)
    mixing: Mapping[str, Any] = field(default_factory=dict)
    n_outer: int = 0
    begins_anew: bool = False


AS_GIVEN = Rung("as given")
WARM_START = Rung("warm start")  # as given, but from the wavefunction of another structure

_ROBUST = {"MINIMIZER": "CG", "PRECONDITIONER": "FULL_ALL", "ENERGY_GAP": 0.001}
_CG = Rung("CG, FULL_ALL", {"MAX_SCF": 50}, _ROBUST, n_outer=4)
_BROYDEN = Rung(
    "Broyden mixing",
    {"MAX_SCF": 200},
    mixing={"METHOD": "BROYDEN_MIXING", "ALPHA": 0.2, "BETA": 1.5, "NBUFFER": 8},
)
OT_LADDER: Sequence[Rung] = (
    _CG,
    Rung(
        "CG, FULL_ALL, 3PNT, from atoms",
        {"MAX_SCF": 50},
        {**_ROBUST, "LINESEARCH": "3PNT"},
        n_outer=6,
        begins_anew=True,
    ),
    Rung("CG, FULL_ALL, GOLD", {"MAX_SCF": 60}, {**_ROBUST, "LINESEARCH": "GOLD"}, n_outer=6),
    Rung(
        "CG, FULL_SINGLE_INVERSE, 3PNT, ROTATION",
        {"MAX_SCF": 50},
        {
            "MINIMIZER": "CG",
            "PRECONDITIONER": "FULL_SINGLE_INVERSE",
            "ENERGY_GAP": 0.1,
            "LINESEARCH": "3PNT",
            "ROTATION": True,
        },
        n_outer=10,
    ),
    Rung(
        "DIIS of small steps, FULL_ALL", {"MAX_SCF": 100}, {**_ROBUST, "MINIMIZER": "DIIS", "STEPSIZE": 0.02}, n_outer=4
    ),
    _BROYDEN,
)
# Kerker mixing of small steps is not among them: CP2K calls it converged while forces are 20 meV/Å off.
DIAGONALISATION_LADDER: Sequence[Rung] = (
    _BROYDEN,
    _CG,
    Rung(
        "Broyden mixing of small steps, from atoms",
        {"MAX_SCF": 300},
        mixing={"METHOD": "BROYDEN_MIXING", "ALPHA": 0.05, "BETA": 1.5, "NBUFFER": 12},
        begins_anew=True,
    ),
    Rung(
        "Pulay mixing",
        {"MAX_SCF": 300},
        mixing={"METHOD": "PULAY_MIXING", "ALPHA": 0.1, "BETA": 1.0, "NBUFFER": 8},
    ),
    Rung(
        "mixing of density matrices, without DIIS",
        {"MAX_SCF": 500, "EPS_DIIS": 0.0},
        mixing={"METHOD": "DIRECT_P_MIXING", "ALPHA": 0.1},
        begins_anew=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Trial:
    """The outcome of an input with the settings of one rung.

    Attributes:
        rung: the rung.
        folder: working folder of the program.
        outcome: label or failure.
        convergence: convergence measure of the last SCF step, or None without a step.
    """

    rung: Rung
    folder: Path
    outcome: Label | LabelFailure
    convergence: float | None = None


def uses_ot(given: CP2KInput) -> bool:
    """Return whether an input minimises by orbital transformation; otherwise it diagonalises."""
    return _is_on(given.dft.get("+SCF", {}).get("+OT"))


def ladder_of(given: CP2KInput) -> tuple[Rung, ...]:
    """Return the attempts for an input: first as it is, then the rungs in their order."""
    is_ot = uses_ot(given)
    rungs = OT_LADDER if is_ot else DIAGONALISATION_LADDER
    changes = may_change_method(given.force_eval)
    return (AS_GIVEN, *(rung for rung in rungs if changes or bool(rung.ot) == is_ot))


def may_change_method(force_eval: Mapping[str, Any]) -> bool:  # Any: a tree
    """Return whether OT and diagonalisation minimise the same energy, so that either may replace the other.

    That takes orbitals that are full or empty, no k-points, and no settings of either method beyond those that a rung
    may change.
    """
    tree: Tree = deepcopy(dict(force_eval))
    _forget(tree)
    dft = tree["+DFT"]
    scf = dft.get("+SCF", {})
    needs_its_method = any(_is_set(dft.get(name)) for name in ONE_METHOD_DFT) or any(
        _is_set(scf.get(name)) for name in ONE_METHOD_SCF
    )
    methods = {**scf.get("+OT", {}), **scf.get("+DIAGONALIZATION", {})}
    is_plain = all(name == "_" or (name, value) == ("ALGORITHM", "STANDARD") for name, value in methods.items())
    return is_plain and not needs_its_method and scf.get("+OUTER_SCF", {}).get("TYPE", "NONE") == "NONE"


def _is_on(section: Mapping[str, Any] | None) -> bool:  # Any: a tree
    return section is not None and bool(section.get("_", True))


def _is_set(value: Any) -> bool:  # Any: a section, or the value of a keyword
    if isinstance(value, dict):
        return _is_on(value)
    return any(value) if isinstance(value, list) else bool(value)


def with_rung(given: CP2KInput, rung: Rung, wavefunction: str | None = None) -> CP2KInput:
    """Return an input with the settings of a rung.

    Args:
        given: an input.
        rung: a rung of its ladder.
        wavefunction: file from which the SCF starts, unless the rung starts from atoms; None starts from atoms.
    """
    if rung == AS_GIVEN:
        return given
    tree: Tree = deepcopy(dict(given.force_eval))
    dft = tree["+DFT"]
    scf = dft.setdefault("+SCF", {})
    if rung != WARM_START:
        _set_solver(tree, rung)
    if wavefunction is not None and not rung.begins_anew:
        dft["WFN_RESTART_FILE_NAME"], scf["SCF_GUESS"] = wavefunction, "RESTART"
    return replace(given, force_eval=tree)


def _set_solver(tree: Tree, rung: Rung) -> None:
    if may_change_method(tree):
        for name in ("+OT", "+DIAGONALIZATION"):
            tree["+DFT"]["+SCF"].pop(name, None)
    scf = tree["+DFT"]["+SCF"]
    _forget(tree)
    scf |= {"SCF_GUESS": "ATOMIC", **rung.scf}
    if rung.ot:
        scf["+OT"] = {**scf.get("+OT", {}), **rung.ot}
    if rung.mixing:
        scf["+MIXING"] = dict(rung.mixing)
    outer = _outer_loop(scf)
    if rung.n_outer:
        scf["+OUTER_SCF"] = {**outer, "MAX_SCF": rung.n_outer}
    elif outer == {"EPS_SCF": _eps_scf(scf)}:
        scf.pop("+OUTER_SCF", None)
    else:  # it belongs to the level of theory
        scf["+OUTER_SCF"] = {**outer, "MAX_SCF": FEW_OUTER}


def without_solver(force_eval: Mapping[str, Any], *, keeps_method: bool = False) -> Tree:  # Any: a tree
    """Return a copy of the section FORCE_EVAL without the settings that a rung may change.

    Args:
        force_eval: the section.
        keeps_method: True keeps the choice of OT or diagonalisation, as former versions of surveyor did.
    """
    tree: Tree = deepcopy(dict(force_eval))
    _forget(tree)
    scf = tree["+DFT"].pop("+SCF", {})
    if not keeps_method and may_change_method(force_eval):
        scf.pop("+OT", None)
        scf.pop("+DIAGONALIZATION", None)
    outer = _outer_loop(scf)
    scf.pop("+OUTER_SCF", None)
    # An outer loop that converges to what the inner one does changes nothing, so a rung may add it.
    if outer != {"EPS_SCF": _eps_scf(scf)}:
        scf["+OUTER_SCF"] = outer
    if scf:
        tree["+DFT"]["+SCF"] = scf
    return tree


def _forget(tree: Tree) -> None:
    for path, names in SOLVER.items():
        section: Tree | None = tree
        for part in path.split("/"):
            section = None if section is None else section.get(f"+{part}")
        for name in names:
            if section is not None:
                section.pop(name, None)


def _outer_loop(scf: Mapping[str, Any]) -> Tree:  # Any: a tree
    outer = scf.get("+OUTER_SCF", {"_": False})
    if not outer.get("_", True):
        return {"EPS_SCF": _eps_scf(scf)}
    return {"EPS_SCF": DEFAULT_EPS_SCF, **{name: value for name, value in outer.items() if name != "_"}}


def _eps_scf(scf: Mapping[str, Any]) -> float:  # Any: a tree
    return float(scf.get("EPS_SCF", DEFAULT_EPS_SCF))


def folder_of(directory: Path, rung: Rung, ladder: Sequence[Rung]) -> Path:
    """Return the folder of a trial: that of the label for the input as it is, folders inside it for all others."""
    if rung == WARM_START:
        return directory / WARM
    number = ladder.index(rung)
    return directory if number == 0 else directory / f"{REPAIR}-{number}"


def wavefunction_in(folder: Path) -> str:
    """Return the name of the wavefunction in the folder of a trial, as the folder of a later rung sees it."""
    return f"../{folder.name}/{WAVEFUNCTION}" if folder.name.startswith(REPAIR) else f"../{WAVEFUNCTION}"


def best_wavefunction(trials: Sequence[Trial]) -> str | None:
    """Return the wavefunction that was nearest to convergence; None if none is a useful start.

    A failed warm start does not affect later attempts: its wavefunction is not considered.
    """
    left = {
        wavefunction_in(each.folder): each.convergence
        for each in _cold(trials)
        if each.convergence is not None and (each.folder / WAVEFUNCTION).exists()
    }
    best = min(left, key=left.__getitem__, default=None)
    return best if best is not None and left[best] < WORTH_TO_BEGIN_FROM else None


def is_worth_a_repair(trials: Sequence[Trial]) -> bool:
    """Return whether the next rung may do better than the last trial did."""
    outcome = trials[-1].outcome
    if isinstance(outcome, Label):
        return False
    if trials[-1].rung == WARM_START:  # whatever the wavefunction was: the input itself has not been tried yet
        return outcome.reason not in AT_A_LIMIT
    # With some settings of the solver the program ends where it goes through with others.
    is_repair = len(_cold(trials)) > 1
    return POLICIES[outcome.reason].is_repaired or (is_repair and outcome.reason in ("crash", "unparsable"))


def _cold(trials: Sequence[Trial]) -> list[Trial]:
    return [each for each in trials if each.rung != WARM_START]


def outcome_of(trials: Sequence[Trial]) -> Label | LabelFailure:
    """Return the outcome of the last trial; its provenance names the rung and the outcomes of earlier trials."""
    *before, last = trials
    wall_time_s = sum(each.outcome.provenance.get("wall_time_s", 0.0) for each in trials)
    source = {**last.outcome.provenance, "wall_time_s": round(wall_time_s, 3), "rung": last.rung.name}
    failed = [each.outcome for each in before if isinstance(each.outcome, LabelFailure)]
    if failed:
        tries = zip(before, failed, strict=True)
        source["before"] = [{"rung": each.rung.name, "said": f"{it.reason}: {it.message}"} for each, it in tries]
    if isinstance(last.outcome, Label) or not before:
        return replace(last.outcome, provenance=source)
    reason: Reason = "scf_not_converged" if is_worth_a_repair(trials) else last.outcome.reason
    message = f"{last.outcome.message}; tried: {'; '.join(each.rung.name for each in trials)}"
    return replace(last.outcome, reason=reason, message=message, provenance=source)
