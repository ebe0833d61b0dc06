"""Settings of CP2K that are refused, or get a warning, because the label could not be read or trusted.

Each entry was tried with CP2K 2023.1; `tests/domain/reference/test_cp2k_scope.py` lists everything that was tried.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from surveyor.errors import InputError

logger = logging.getLogger(__name__)

Section = Mapping[str, Any]  # Any: sections, values, and lists of both

DENSITY_METHODS = ("GPW", "GAPW", "GAPW_XC")


@dataclass(frozen=True, slots=True)
class Rule:
    """Objections and warnings about an input.

    Attributes:
        path: section below FORCE_EVAL; empty for FORCE_EVAL itself.
        keyword: of the section; None for the section itself. A section that is switched off does not count.
        values: of the keyword that are meant; None for any.
        reason: for the message, with what to do.
    """

    path: str
    keyword: str | None
    values: tuple[Any, ...] | None  # Any: values of keywords
    reason: str

    @property
    def name(self) -> str:
        """The section or keyword, for messages."""
        return "/".join(each for each in (self.path, self.keyword) if each)

    def is_met(self, force_eval: Section) -> bool:
        """Return whether the rule applies to an input."""
        sections = [each for each in _at(force_eval, self.path) if each.get("_", True) not in (False, "NONE")]
        if self.keyword is None:
            return bool(sections)
        found = [section[self.keyword] for section in sections if self.keyword in section]
        return bool(found) and (self.values is None or any(value in self.values for value in found))


def _at(section: Section, path: str) -> list[Section]:
    found = [section]
    for name in filter(None, path.split("/")):
        inner = [each[f"+{name}"] for each in found if f"+{name}" in each]
        found = [each for value in inner for each in (value if isinstance(value, list) else [value])]
    return found


REFUSED = (
    Rule("", "STRESS_TENSOR", ("NUMERICAL",), "CP2K then prints the energies of all strained cells, and surveyor "
         "cannot tell which is that of the label; leave it out: the analytical stress is computed"),
    Rule("", "STRESS_TENSOR", ("DIAGONAL_ANALYTICAL", "DIAGONAL_NUMERICAL"), "the shear components of the stress would "
         "be zero; leave it out: all six are computed"),
    Rule("RESCALE_FORCES", None, None, "the forces would not be those of the energy; remove it"),
    Rule("DFT/QS", "LS_SCF", (True,), "surveyor cannot check the convergence of linear-scaling SCF; use OT"),
    Rule("DFT/QS", "ALMO_SCF", (True,), "surveyor cannot check the convergence of ALMO SCF; use OT"),
    Rule("DFT/SCF/DIAGONALIZATION", "ALGORITHM", ("DAVIDSON",), "CP2K reports an SCF as converged that is not, with "
         "an energy that is off by up to several eV; use STANDARD, or OT"),
    Rule("DFT/EXCITED_STATES", None, None, "energy and forces would be those of different states; remove it"),
    Rule("DFT/ENERGY_CORRECTION", None, None, "CP2K prints two energies and two stress tensors; remove it"),
    Rule("DFT/EXTERNAL_DENSITY", None, None, "it would make labels depend on a file; remove it"),
    Rule("DFT/EXTERNAL_VXC", None, None, "it would make labels depend on a file; remove it"),
    Rule("DFT/XC/WF_CORRELATION", None, None, "labels of MP2 or RPA are not supported; remove it"),
    Rule("DFT/XAS", None, None, "the energy that CP2K prints last is not that of the ground state; remove it"),
    Rule("DFT/AUXILIARY_DENSITY_MATRIX_METHOD", "ADMM_PURIFICATION_METHOD", ("NONE_DM", "MCWEENY"), "CP2K has no "
         "forces with it; use NONE"),
    Rule("DFT", "WFN_RESTART_FILE_NAME", None, "it would make labels depend on a file; remove it"),
)  # fmt: skip

_FIXED = (
    "the energy depends on where the structure is: surveyor moves structures without a cell into a box, walkers drift, "
    "and a model knows relative positions only"
)
_UNREAD = "it is computed with each label, and not read; remove it to save time"
WARNED = (
    Rule("DFT/EXTERNAL_POTENTIAL", None, None, _FIXED),
    Rule("DFT/EFIELD", None, None, _FIXED),
    Rule("DFT/PERIODIC_EFIELD", None, None, f"for charged structures {_FIXED}"),
    Rule("DFT", "SURFACE_DIPOLE_CORRECTION", (True,), _FIXED),
    Rule("DFT/POISSON/IMPLICIT/DIRICHLET_BC", None, None, _FIXED),
    Rule("DFT/SCRF", None, None, _FIXED),
    Rule("PROPERTIES", None, None, _UNREAD),
    Rule("DFT/XAS_TDP", None, None, _UNREAD),
)
# What has no stress, or no solution, where a structure is periodic in three directions.
NOT_PERIODIC = (
    Rule("DFT/PERIODIC_EFIELD", None, None, "CP2K has no stress in a periodic electric field"),
    Rule("DFT/POISSON", "POISSON_SOLVER", ("IMPLICIT",), "CP2K has no stress with this solver"),
    Rule("DFT/POISSON", "POISSON_SOLVER", ("MT", "MULTIPOLE"), "this solver is for structures without a cell"),
)


def check_scope(force_eval: Section, where: Callable[[str], str]) -> None:
    """Check that an input gives readable labels; warn of settings that may be unintended."""
    method = force_eval.get("METHOD", "QS")
    if method not in ("QS", "QUICKSTEP") or "+DFT" not in force_eval:
        raise InputError(f"expected a CP2K input with METHOD QUICKSTEP and a section DFT, found METHOD {method}")
    density_method = force_eval["+DFT"].get("+QS", {}).get("METHOD", "GPW")
    if density_method not in DENSITY_METHODS:
        raise InputError(f"expected DFT/QS/METHOD to be one of {', '.join(DENSITY_METHODS)}, found {density_method}")
    for rule in REFUSED:
        if rule.is_met(force_eval):
            raise InputError(f"{where(rule.name)}: {rule.reason}")
    for rule in WARNED:
        if rule.is_met(force_eval):
            logger.warning("%s: %s", where(rule.name), rule.reason)


def objections_to_a_cell(force_eval: Section) -> Iterator[str]:
    """Yield why an input does not suit structures that are periodic in three directions."""
    for rule in NOT_PERIODIC:
        if rule.is_met(force_eval):
            yield f"{rule.name} of the CP2K input does not suit a structure that is periodic: {rule.reason}"
