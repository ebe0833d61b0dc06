import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.units import Bohr, GPa, Hartree

from surveyor.labels import Label, LabelFailure
from surveyor.reference.cp2k_output import parse_output, version_of, wall_time_of, was_ended_from_outside
from surveyor.reference.cp2k_scf import convergence_of, energy_tolerance

# What CP2K 2023.1 wrote for deployments/cp2k/water-demo.inp.
OUTPUT = (Path(__file__).parent / "data" / "water.out").read_text()
POSITIONS = [
    [0.04873036, -0.01835269, 0.10341685],
    [-0.03218906, 0.78920123, -0.54609316],
    [0.05234435, -0.78607521, -0.46747583],
]

# The tables of CP2K 2025 and later hold the same in another layout.
NEW_FORCES = """\
 FORCES| Atomic forces [hartree/bohr]
 FORCES|   Atom     x               y               z               |f|
 FORCES|      1 -1.00000000000000E-03  2.00000000000000E-03 -3.00000000000000E-03  3.74165738677394E-03
 FORCES|      2  4.00000000000000E-03 -5.00000000000000E-03  6.00000000000000E-03  8.77496438739212E-03
 FORCES|      3  7.00000000000000E-03 -8.00000000000000E-03  9.00000000000000E-03  1.39283882771841E-02
 FORCES| Sum     1.00000000000000E-02 -1.10000000000000E-02  1.20000000000000E-02
"""


@pytest.fixture
def water() -> Atoms:
    return Atoms("OH2", POSITIONS, cell=[5.0, 5.2, 5.4], pbc=True)


def reason(text: str, atoms: Atoms, returncode: int = 0) -> str | None:
    outcome = parse_output(text, atoms, returncode=returncode)
    return outcome.reason if isinstance(outcome, LabelFailure) else None


def replaced(pattern: str, new: str) -> str:
    text, count = re.subn(pattern, new, OUTPUT, count=1, flags=re.MULTILINE)
    assert count == 1
    return text


def number(pattern: str) -> float:
    found = re.search(pattern, OUTPUT, re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_label_is_what_the_output_says_in_units_of_ase(water: Atoms) -> None:
    label = parse_output(OUTPUT, water)
    assert isinstance(label, Label)
    assert label.energy == pytest.approx(number(r"ENERGY\|.* (\S+)$") * Hartree, rel=1e-14)
    first = number(r"^      1      1      O +(\S+)")
    assert label.forces[0, 0] == pytest.approx(first * Hartree / Bohr, rel=1e-12)
    assert label.stress is not None
    assert label.stress[0] == pytest.approx(-number(r"^ STRESS\|      x +(\S+)") * GPa, rel=1e-12)
    assert label.stress[3] == pytest.approx(-number(r"^ STRESS\|      y +\S+ +\S+ +(\S+)") * GPa, rel=1e-12)
    assert label.stress[5] == pytest.approx(-number(r"^ STRESS\|      y +(\S+)") * GPa, rel=1e-12)
    assert label.provenance == {"scf_steps": 17}


def test_every_number_is_in_its_place(water: Atoms) -> None:
    label = parse_output(OUTPUT, water)
    assert isinstance(label, Label)
    forces = re.findall(r"^ +\d +\d +[OH] +(\S+) +(\S+) +(\S+)$", OUTPUT, re.MULTILINE)
    np.testing.assert_allclose(label.forces, np.array(forces, float) * (Hartree / Bohr), rtol=1e-12)
    pressure = re.findall(r"^ STRESS\|      [xyz] +(\S+) +(\S+) +(\S+)$", OUTPUT, re.MULTILINE)[:3]
    (xx, xy, xz), (_, yy, yz), (_, _, zz) = -np.array(pressure, float) * GPa
    np.testing.assert_allclose(label.stress, [xx, yy, zz, yz, xz, xy], rtol=1e-12)


@pytest.mark.parametrize(
    ("line", "accepted", "refused"),
    [
        (r"^( STRESS\|      x +\S+ +)1.98582132006E-01", "1.985822E-01", "1.98592132006E-01"),
        (r"^( STRESS\| 1/3 Trace +)-5.07415961419E-01", "-5.07416061419E-01", "-5.07425961419E-01"),
        (r"^( SUM OF ATOMIC FORCES +)0.00056941932041", "0.00056941932051", "0.00056941932086"),
    ],
)
def test_sums_and_symmetries_are_kept_up_to_rounding(line: str, accepted: str, refused: str, water: Atoms) -> None:
    assert reason(replaced(line, rf"\g<1>{accepted}"), water) is None
    assert reason(replaced(line, rf"\g<1>{refused}"), water) == "unparsable"


@pytest.mark.parametrize(
    ("factor", "off_GPa", "expected"),
    [(1e3, 1e-4, None), (1e3, 1e-2, "unparsable"), (0.1, 5e-7, None), (0.1, 1.5e-6, "unparsable")],
)
def test_rounding_of_a_stress_is_relative_above_1_GPa(
    factor: float, off_GPa: float, expected: str | None, water: Atoms
) -> None:
    def scaled(line: re.Match[str]) -> str:
        return re.sub(r"\S+E[+-]\d\d", lambda found: f"{factor * float(found[0]):.11E}", line[0])

    def off(row: re.Match[str]) -> str:
        return f"{row[1]}{float(row[2]) + off_GPa:.11E}"

    text = re.sub(r"^ STRESS\|.*$", scaled, OUTPUT, flags=re.MULTILINE)
    wrong = re.sub(r"^( STRESS\|      x +\S+ +)(\S+)", off, text, count=1, flags=re.MULTILINE)
    assert wrong != text
    assert reason(wrong, water) == expected


@pytest.mark.parametrize(
    ("total", "expected"), [("1.00000000000010E+02", None), ("1.00000000000100E+02", "unparsable")]
)
def test_rounding_of_large_forces_is_relative(total: str, expected: str | None, water: Atoms) -> None:
    enlarged = re.sub(r"E-0([23])", lambda found: "E+02" if found[1] == "2" else "E+01", NEW_FORCES)
    forces = enlarged.replace("Sum     1.00000000000000E+02", f"Sum     {total}")
    old = re.search(r"^ ATOMIC FORCES in.*?^ SUM OF ATOMIC FORCES.*?\n", OUTPUT, re.MULTILINE | re.DOTALL)
    assert old is not None
    assert reason(OUTPUT.replace(old.group(), forces), water) == expected


def test_coordinates_are_those_of_the_structure_up_to_the_decimals_of_the_output(water: Atoms) -> None:
    water.positions[1, 1] += 3e-6
    assert reason(OUTPUT, water) is None


def test_layout_of_newer_versions_is_read(water: Atoms) -> None:
    old = re.search(r"^ ATOMIC FORCES in.*?^ SUM OF ATOMIC FORCES.*?\n", OUTPUT, re.MULTILINE | re.DOTALL)
    assert old is not None
    stress = re.search(r"^ STRESS\|      x +(\S+)", OUTPUT, re.MULTILINE)
    assert stress is not None
    text = OUTPUT.replace(old.group(), NEW_FORCES).replace("energy [a.u.]:", "energy [hartree]")
    label = parse_output(text.replace("stress tensor [GPa]", "stress tensor [bar]"), water)
    assert isinstance(label, Label)
    np.testing.assert_allclose(label.forces[1] / (Hartree / Bohr), [4e-3, -5e-3, 6e-3])
    assert label.stress is not None
    assert label.stress[0] == pytest.approx(-float(stress[1]) * 1e-4 * GPa)


def test_no_truncated_output_is_a_label(water: Atoms) -> None:
    lines = OUTPUT.splitlines(keepends=True)
    labels = [n for n in range(len(lines)) if isinstance(parse_output("".join(lines[:n]), water), Label)]
    assert labels == []


def test_no_output_with_a_line_missing_is_a_wrong_label(water: Atoms) -> None:
    right = parse_output(OUTPUT, water)
    assert isinstance(right, Label)
    lines = OUTPUT.splitlines(keepends=True)
    for number_ in range(len(lines)):
        outcome = parse_output("".join(lines[:number_] + lines[number_ + 1 :]), water)
        if isinstance(outcome, Label):
            assert outcome.energy == right.energy
            np.testing.assert_array_equal(outcome.forces, right.forces)
            np.testing.assert_array_equal(outcome.stress, right.stress)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "*" * 20, "", "-17.2.1"])
@pytest.mark.parametrize(
    "line",
    [
        r"^( ENERGY\|.*\]: +)\S+$",
        r"^(  Total energy: +)\S+$",
        r"^(      2      2      H +)\S+",
        r"^( STRESS\|      y +)\S+",
        r"^( SUM OF ATOMIC FORCES +)\S+",
        r"^(      3    2 H     1 +)\S+",
    ],
)
def test_no_broken_number_becomes_a_label(line: str, value: str, water: Atoms) -> None:
    assert reason(replaced(line, rf"\g<1>{value}"), water) == "unparsable"


@pytest.mark.parametrize("line", [r"^( ENERGY\|.*\]: +-\d)\d", r"^(  Total energy: +-\d)\d"])
def test_energy_that_is_not_that_of_the_scf_is_not_converged(line: str, water: Atoms) -> None:
    assert reason(replaced(line, r"\g<1>9"), water) == "scf_not_converged"


def test_changed_digit_of_a_force_or_stress_is_found(water: Atoms) -> None:
    assert reason(replaced(r"^(      2      2      H +-?\d\.\d\d\d)\d", r"\g<1>x"), water) == "unparsable"
    force = replaced(r"^(      2      2      H +-?\d\.\d)(\d)", r"\g<1>9")
    stress = replaced(r"^( STRESS\|      y +\S+ +-?)\d", r"\g<1>9")
    assert reason(force, water) == "unparsable"
    assert reason(stress, water) == "unparsable"


def test_other_atoms_or_coordinates_are_found(water: Atoms) -> None:
    assert reason(OUTPUT, water[[1, 0, 2]]) == "unparsable"
    assert reason(OUTPUT, water[[0, 2, 1]]) == "unparsable"
    assert reason(OUTPUT, water[[0, 1]]) == "unparsable"
    moved = water.copy()
    moved.positions[1, 1] += 1e-5
    assert reason(OUTPUT, moved) == "unparsable"


def test_reordered_forces_are_found(water: Atoms) -> None:
    rows = re.findall(r"^ +\d +\d +[OH] +\S+ +\S+ +\S+\n", OUTPUT, re.MULTILINE)
    assert len(rows) == 3
    swapped = OUTPUT.replace(rows[1] + rows[2], rows[2] + rows[1])
    assert reason(swapped, water) == "unparsable"


def test_two_outputs_in_one_file_are_no_label(water: Atoms) -> None:
    assert reason(OUTPUT + OUTPUT, water) == "unparsable"


def test_unconverged_scf_is_a_failure_even_when_the_program_goes_on(water: Atoms) -> None:
    text = replaced(r"\*\*\* SCF run converged in +17 steps \*\*\*", "*** WARNING SCF run NOT converged ***")
    assert reason(text, water) == "scf_not_converged"


def test_structure_without_periodicity_has_no_stress(water: Atoms) -> None:
    water.pbc = False
    label = parse_output(OUTPUT, water)
    assert isinstance(label, Label)
    assert label.stress is None


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("mpirun was unable to launch the specified application", "launch"),
        ("PROGRAM STARTED AT noon\nSIGSEGV: segmentation fault", "crash"),
        ("PROGRAM STARTED AT noon\nforrtl: No space left on device", "disk"),
        ("PROGRAM STARTED AT noon\nslurmstepd: error: Detected 1 oom-kill event(s)", "memory"),
        ("PROGRAM STARTED AT noon\nOut of memory ...", "memory"),
        ("PROGRAM STARTED AT noon\nError allocating 19683000 bytes: Cannot allocate memory", "memory"),
        ("PROGRAM STARTED AT noon\n GEOMETRY wrong or EMAX_SPLINE too small!", "geometry"),
        ("PROGRAM STARTED AT noon\nCholesky decomposition failed. Matrix ill conditioned ?", "scf_not_converged"),
        ("", "launch"),
    ],
)
def test_reason_is_taken_from_what_is_said(said: str, expected: str, water: Atoms) -> None:
    assert reason(said, water, returncode=1) == expected


ABORT = """\
 PROGRAM STARTED AT noon
 *******************************************************************************
 *   ___                                                                       *
 *  /   \\                                                                      *
 * [ABORT]                                                                     *
 *  \\___/    The number of electrons is                                        *
 *    |      not what it should be.                                            *
 *  O/|                                                                        *
 * /| |                                                                        *
 * / \\                                                     qs_environment.F:99 *
 *******************************************************************************
 what comes after it
"""
SAID = "CP2K ended (status 1): The number of electrons is not what it should be. qs_environment.F:99"


@pytest.mark.parametrize(
    ("text", "returncode", "message"),
    [
        (ABORT, 1, SAID),
        ("a line before\n" * 20 + ABORT + "a line after\n" * 20, 1, SAID),
        (
            "PROGRAM STARTED AT noon\n\n one \n two",
            -11,
            "CP2K ended (killed by SIGSEGV): PROGRAM STARTED AT noon one two",
        ),
        ("".join(f"{n}\n" for n in range(20)), 2, "CP2K did not start (status 2): 8 9 10 11 12 13 14 15 16 17 18 19"),
        ("", 1, "CP2K did not start (status 1): no output"),
        ("", -11, "CP2K ended (killed by SIGSEGV): no output"),
    ],
)
def test_message_of_a_failure_is_what_the_program_said_of_its_end(
    text: str, returncode: int, message: str, water: Atoms
) -> None:
    outcome = parse_output(text, water, returncode=returncode)
    assert isinstance(outcome, LabelFailure)
    assert outcome.message == message


def test_record_of_a_failure_has_the_last_lines_within_bounds(water: Atoms) -> None:
    short = parse_output("".join(f"{n}\n" for n in range(100)), water, returncode=1)
    assert isinstance(short, LabelFailure)
    assert short.last_lines.splitlines() == [str(n) for n in range(60, 100)]
    long = parse_output("".join(f"{n:1000d}\n" for n in range(100)), water, returncode=1)
    assert isinstance(long, LabelFailure)
    assert len(long.last_lines) == 4000
    assert long.last_lines.endswith(" 99")


def test_end_in_order_with_a_bad_status_is_a_crash(water: Atoms) -> None:
    assert reason(OUTPUT, water, returncode=-11) == "crash"


def test_time_that_is_up_is_the_reason_whatever_was_written(water: Atoms) -> None:
    outcome = parse_output(OUTPUT, water, returncode=-15, timed_out=True)
    assert isinstance(outcome, LabelFailure)
    assert (outcome.reason, outcome.message) == ("timeout", "the time limit was reached")
    assert isinstance(parse_output(OUTPUT, water), Label)


def test_version_is_found() -> None:
    assert version_of(OUTPUT) == "2023.1"
    assert version_of("no such thing") is None


@pytest.mark.parametrize(
    ("said", "returncode", "expected"),
    [
        ("", -15, True),
        ("", 143, True),
        ("mpirun noticed that process rank 0 with PID 0 on node a exited on signal 15 (Terminated).", 1, True),
        ("slurmstepd: error: *** STEP 12.0 ON n1 CANCELLED AT 2025-01-01T00:00:00 DUE TO PREEMPTION ***", 1, True),
        ("srun: launch/slurm: launch_p_step_launch: StepId=4.0 aborted before step completely launched.", 0, True),
        ("mpirun noticed that process rank 0 with PID 0 on node a exited on signal 9 (Killed).", 137, False),
        ("", -11, False),
        (OUTPUT, 0, False),
    ],
)
def test_end_by_somebody_else_is_told_from_others(said: str, returncode: int, expected: bool) -> None:
    assert was_ended_from_outside(said, returncode) is expected


def test_last_lines_are_those_before_the_tables(water: Atoms) -> None:
    outcome = parse_output(OUTPUT.replace("SCF run converged", "SCF run NOT converged"), water)
    assert isinstance(outcome, LabelFailure)
    assert "SCF run NOT converged" in outcome.last_lines
    assert "T I M I N G" not in outcome.last_lines
    assert len(outcome.last_lines.splitlines()) <= 40


def test_wall_time_is_read() -> None:
    assert wall_time_of(OUTPUT) == pytest.approx(37.299 - 34.351)
    assert wall_time_of(OUTPUT.replace("PROGRAM ENDED AT", "PROGRAM WENT AT")) is None
    assert wall_time_of("PROGRAM STARTED AT noon") is None


@pytest.mark.parametrize(
    ("step", "convergence", "tolerance"),
    [
        ("    17 OT DIIS     0.15E+00    0.1     0.00000055       -17.2116086974 -3.93E-11", 5.5e-7, 1e-6),
        ("    37 OT CG       0.68E-01    0.0     8.2686E-09       -17.0222889146 -3.55E-15", 8.2686e-9, 1e-6),
        ("     7 OT CG       0.14E+00    0.0     0.00066000       -17.0222889146 -3.55E-05", 6.6e-4, 4.5e-5),
        ("     9 OT CG       -.14E+00    0.0     0.50000000       -17.0222889146 -3.55E-05", 0.5, 1e-4),
        ("    10 DIIS/Diag.  0.37E-05    0.0     0.00000345       -17.0222889146 -1.38E-09", 3.45e-6, 7e-5),
        ("     9 Broy./Diag. 0.40E+00 1021.3     0.00000599       -17.0222387561  1.84E-04", 5.99e-6, 0.5),
        ("    22 Kerker/Diag.0.40E+00    0.0     1.2000E-09       -17.0223793228  3.77E-05", 1.2e-9, 0.5),
        (" 12345 Broy./OTdiag0.40E+00    0.1     0.00000750       -17.0223086473 -1.91E-06", 7.5e-6, 0.5),
        ("   200 MSec./Diag. 0.40E+00    0.0     0.05131409 ******************** -1.29E+87", 0.05131409, 0.5),
    ],
)
def test_the_last_step_tells_convergence_and_how_far_the_final_energy_may_be(
    step: str, convergence: float, tolerance: float
) -> None:
    before = "     1 NoMix/Diag. 0.40E+00    0.0     1.02540115       -17.0422459281 -1.42E-01\n"
    text = f"{before} {step[1:]}\n     2 OT LS       0.60E+00    0.8                      -16.6765159187\n"
    assert convergence_of(text) == convergence
    assert energy_tolerance(text) == pytest.approx(tolerance, rel=0.1)


def test_an_scf_that_cp2k_calls_converged_far_from_its_final_energy_is_refused() -> None:
    """Davidson diagonalisation of water; the right energy is -17.0223 Hartree, the final one -15.7129."""
    text = (Path(__file__).parent / "data" / "davidson.out").read_text()
    atoms = Atoms("OH2", [[0, 0, 0.119262], [0, 0.763239, -0.477047], [0, -0.763239, -0.477047]], cell=[5.0] * 3)
    atoms.pbc = True
    assert "*** SCF run converged in     7 steps ***" in text
    outcome = parse_output(text, atoms)
    assert isinstance(outcome, LabelFailure)
    assert outcome.reason == "scf_not_converged"
    assert "-15.71288" in outcome.message
    assert "expected a difference of 1.5 Hartree at most" in outcome.message


def test_without_a_step_nothing_is_known_and_nothing_is_allowed() -> None:
    assert convergence_of("no step") is None
    assert energy_tolerance("no step") == 1e-6


@pytest.mark.parametrize("loop", ["outer", "CDFT"])
def test_a_loop_around_the_scf_that_fails_is_a_failure(loop: str, water: Atoms) -> None:
    failed = f"  {loop} SCF loop FAILED to converge after    3 iterations or   13 steps"
    assert reason(replaced(r"^( ENERGY\|)", rf"{failed}\n\g<1>"), water) == "scf_not_converged"


def test_the_last_of_several_scf_energies_counts(water: Atoms) -> None:
    earlier = "  Total energy:                                            *****************"
    assert reason(replaced(r"^(  Electronic density on)", rf"{earlier}\n\g<1>"), water) is None
    later = "  Total energy:                                               -17.11160869738567"
    assert reason(replaced(r"^( ENERGY\|)", rf"{later}\n\g<1>"), water) == "scf_not_converged"


def test_all_steps_of_an_outer_loop_count(water: Atoms) -> None:
    text = replaced(r"^( +\*\*\* SCF run converged)", r"  Leaving inner SCF loop after reaching    40 steps.\n\g<1>")
    label = parse_output(text, water)
    assert isinstance(label, Label)
    assert label.provenance == {"scf_steps": 57}
