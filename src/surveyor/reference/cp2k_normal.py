"""The canonical form of a CP2K input, equal for equivalent inputs, for the hash of the level of theory.

The canonical form is that of most inputs: defaults are left out, and names are the common ones. For an input
in this form, the hash equals that of former versions of surveyor.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from surveyor.reference.cp2k_input import KIND_NAME, Tree, sections_of

DIGITS = 6  # of values that have a unit: conversions with the constants of another year differ in the eighth
# CP2K's defaults that inputs often state; the real program is asked for them by a test. Not among them are keywords
# whose mere presence means something.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {  # Any: values of keywords
    "DFT": {"PLUS_U_METHOD": "MULLIKEN", "SORT_BASIS": "DEFAULT", "SURFACE_DIPOLE_CORRECTION": False},
    "DFT/QS": {"METHOD": "GPW", "EPS_DEFAULT": 1e-10, "CORE_PPL": "ANALYTIC", "LS_SCF": False, "ALMO_SCF": False},
    "DFT/MGRID": {
        "CUTOFF": 280.0,
        "REL_CUTOFF": 40.0,
        "NGRIDS": 4,
        "PROGRESSION_FACTOR": 3.0,
        "COMMENSURATE": False,
        "REALSPACE": False,
        "MULTIGRID_SET": False,
    },
    "DFT/SCF": {"EPS_SCF": 1e-5, "ADDED_MOS": 0, "LEVEL_SHIFT": 0.0, "EPS_EIGVAL": 1e-5, "ROKS_SCHEME": "HIGH-SPIN"},
    "DFT/XC": {"DENSITY_CUTOFF": 1e-10, "GRADIENT_CUTOFF": 1e-10, "TAU_CUTOFF": 1e-10, "FUNCTIONAL_ROUTINE": "DEFAULT"},
    "DFT/XC/XC_GRID": {"XC_SMOOTH_RHO": "NONE", "XC_DERIV": "PW", "USE_FINER_GRID": False},
    "DFT/POISSON": {"POISSON_SOLVER": "PERIODIC"},
    "DFT/XC/XC_FUNCTIONAL/PBE": {"PARAMETRIZATION": "ORIG", "SCALE_X": 1.0, "SCALE_C": 1.0},
    "DFT/XC/XC_FUNCTIONAL/BECKE88": {"SCALE_X": 1.0},
    "DFT/XC/XC_FUNCTIONAL/LYP": {"SCALE_C": 1.0},
    "DFT/XC/XC_FUNCTIONAL/P86C": {"SCALE_C": 1.0},
    "DFT/XC/XC_FUNCTIONAL/TPSS": {"SCALE_X": 1.0, "SCALE_C": 1.0},
    "SUBSYS/KIND": {"GHOST": False, "MAGNETIZATION": 0.0},
}
# These mean nothing where they are empty.
EMPTY = ("DFT/XC/XC_GRID", "DFT/QS", "DFT/MGRID", "DFT/SCF", "DFT/POISSON")
# What CP2K makes of the short names of functionals, as far as each part has its defaults.
SHORTCUTS: Mapping[str, frozenset[str]] = {
    "PBE": frozenset({"+PBE"}),
    "PADE": frozenset({"+PADE"}),
    "TPSS": frozenset({"+TPSS"}),
    "BLYP": frozenset({"+BECKE88", "+LYP"}),
    "BP": frozenset({"+BECKE88", "+P86C"}),
}
SAME_FUNCTIONAL = {"LDA": "PADE"}


def normal(force_eval: Mapping[str, Any]) -> Tree:  # Any: a tree
    """Return a section FORCE_EVAL in the form that all inputs of the same science share."""
    tree: Tree = deepcopy(dict(force_eval))
    for path, section in [("", tree), *sections_of(tree)]:
        _leave_out_defaults(path, section)
        _round_converted(path, section)
        if section.get("_") is True:  # &OT ON is &OT
            del section["_"]
    for kind in tree["+SUBSYS"]["+KIND"]:
        _leave_out_element(kind)
    for section in _of(tree, "DFT/XC/XC_FUNCTIONAL"):
        _shorten_functional(section)
    for path in EMPTY:
        outer, _, name = path.rpartition("/")
        for section in _of(tree, outer):
            if section.get(f"+{name}") == {}:
                del section[f"+{name}"]
    return tree


def _of(tree: Tree, path: str) -> list[Tree]:
    return [section for name, section in sections_of(tree) if name == path]


def _leave_out_defaults(path: str, section: Tree) -> None:
    for name, default in DEFAULTS.get(path, {}).items():
        if section.get(name) == default and type(section[name]) is type(default):
            del section[name]


def _round_converted(path: str, section: Tree) -> None:
    from surveyor.reference.cp2k_syntax import has_unit  # it takes a second to import

    for name, value in section.items():
        if not name.startswith("+") and _has_number(value) and has_unit(path, name):
            section[name] = _rounded(value)


def _has_number(value: Any) -> bool:  # Any: of a keyword
    return isinstance(value, float) or (isinstance(value, list) and any(map(_has_number, value)))


def _rounded(value: Any) -> Any:  # Any: of a keyword
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _leave_out_element(kind: Tree) -> None:
    implied = KIND_NAME.fullmatch(str(kind["_"]))
    if "ELEMENT" in kind:
        kind["ELEMENT"] = str(kind["ELEMENT"]).capitalize()
        if implied is not None and implied["symbol"].capitalize() == kind["ELEMENT"]:
            del kind["ELEMENT"]


def _shorten_functional(section: Tree) -> None:
    name = section.get("_", "NO_SHORTCUT")
    section["_"] = SAME_FUNCTIONAL.get(name, name)
    if name != "NO_SHORTCUT":
        return
    shortcut = next((each for each, parts in SHORTCUTS.items() if parts == section.keys() - {"_"}), None)
    if shortcut is None or any(section[part] for part in SHORTCUTS[shortcut]):
        del section["_"]
        return
    section.clear()
    section["_"] = shortcut
