"""The SCF in an output of CP2K: whether it converged, how closely, and which energy may follow from it.

CP2K ends a converged SCF with one more evaluation, whose energy is the final one. The last energy of the SCF itself
need not equal it. With OT, both are energies of orbitals near the minimum, so they differ in the second order of the
residual. A mixed density matrix is not at the minimum, so the difference is of first order. With a mixed density, the
SCF adds terms of the mixed density to terms of the density matrix. That is no variational energy, and its error depends
on the mixing rather than on the convergence, while the final energy is right to second order.
`docs/explanation/failures.md` has measured values.
"""

import re

NOT_CONVERGED = re.compile(r"SCF run NOT converged|(?:outer|CDFT) SCF loop FAILED to converge")
CONVERGED = re.compile(r"\*\*\* SCF run converged in\s+\d+ steps \*\*\*")
# An outer loop begins the SCF again, with steps of its own.
STEPS = re.compile(r"(?:SCF run converged in|Leaving inner SCF loop after reaching)\s+(\d+) steps")
# Number, method, step size, time, convergence, energy, change. A long method touches the step size
# ("Kerker/Diag.0.40E+00"), a small convergence has an exponent, an energy may overflow its field ("********").
STEP = re.compile(
    r"^ +[\d*]+ (?P<method>[A-Z]\S*?(?: [A-Z]+)?) *-?\d?\.\d\dE[+-]\d\d +[\d.*]+ +"
    r"(?P<convergence>\d+\.\d+(?:E[+-]\d+)?) +\S+ +\S+$",
    re.MULTILINE,
)

ENERGY_TOLERANCE = 1e-6  # Hartree per atom: far above the rounding, far below what a model resolves
LOOSEST_CONVERGENCE = 1e-3  # a larger number in the output cannot widen the tolerances
# Hartree per atom, for a convergence c: OT differed by 4.5 c² at most, a mixed density matrix by 0.6 c.
OT_CURVATURE = 100.0
DENSITY_MATRIX_SLOPE = 20.0
# Hartree per atom: good labels had up to 0.02, an SCF that went astray 1.8. No law for it: a density matrix that
# symmetry determines stands still at once, and the mixed density follows slowly.
DENSITY_DIFFERENCE = 0.5
DENSITY_MATRIX_MIXING = ("P_Mix", "DIIS", "NoMix")


def convergence_of(text: str) -> float | None:
    """Return the convergence measure of the last SCF step; None without a step."""
    last = _last_step(text)
    return None if last is None else last[1]


def scf_steps_of(text: str) -> int:
    """Return the number of steps of the SCF, those of all outer iterations together."""
    return sum(map(int, STEPS.findall(text)))


def energy_tolerance(text: str) -> float:
    """Return by how much the final energy may differ from the last energy of the SCF, in Hartree per atom."""
    method, convergence = _last_step(text) or ("", 0.0)
    residual = min(convergence, LOOSEST_CONVERGENCE)
    if method.startswith(DENSITY_MATRIX_MIXING):
        return ENERGY_TOLERANCE + DENSITY_MATRIX_SLOPE * residual
    if method.startswith("OT ") or not method:
        return ENERGY_TOLERANCE + OT_CURVATURE * residual**2
    return DENSITY_DIFFERENCE


def _last_step(text: str) -> tuple[str, float] | None:
    steps = list(STEP.finditer(text))
    return (steps[-1]["method"], float(steps[-1]["convergence"])) if steps else None
