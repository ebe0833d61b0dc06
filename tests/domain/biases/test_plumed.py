import os
import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.stress import full_3x3_to_voigt_6_stress

from surveyor.biases.plumed import PlumedRun, check_plumed, evaluate_plumed
from surveyor.errors import InputError

KJ_PER_MOL = units.kJ / units.mol
METAD = "d: DISTANCE ATOMS=1,2\nm: METAD ARG=d PACE=5 HEIGHT=1.2 SIGMA=0.01\n"


def run_of(text, atoms, *, history=None, temperature_K=300.0, files=None):
    return PlumedRun(
        text, atoms, timestep_fs=0.5, temperature_K=temperature_K, files=files or {}, history=history or {}
    )


def stretched(step):
    water = molecule("H2O")
    water.positions[1] += 0.02 * np.sin(step)
    return water


def along(run, steps):
    return [run.evaluate(stretched(step), step=step, energy=0.0) for step in steps]


def gaussians(distance_A, centres_A, height=1.2 * KJ_PER_MOL, sigma_A=0.1):
    """What hills add up to: PLUMED's Gaussians end at a distance, and are stretched so that they are zero there."""
    cutoff = 6.25  # half of the squared distance in units of sigma
    shift = np.exp(-cutoff)
    half_squares = (distance_A - np.array(centres_A)) ** 2 / (2 * sigma_A**2)
    heights = np.where(half_squares < cutoff, (np.exp(-half_squares) - shift) / (1 - shift), 0)
    return height * heights.sum()


@pytest.mark.plumed
def test_hills_and_restraint_are_what_they_are_by_hand():
    text = METAD + "RESTRAINT ARG=d AT=0.12 KAPPA=1000"
    run = run_of(text, molecule("H2O"))
    values = along(run, range(12))
    run.close()
    lengths = [stretched(step).get_distance(0, 1) for step in range(12)]
    for step, (length, found) in enumerate(zip(lengths, values, strict=True)):
        hills = [lengths[deposited] for deposited in (5, 10) if deposited < step]
        restraint = 1000 * KJ_PER_MOL / 10**2 / 2 * (length - 1.2) ** 2
        assert found.energy == pytest.approx(gaussians(length, hills) + restraint, abs=1e-9)
        assert found.variables["d"] == pytest.approx(length / 10, abs=1e-12)


@pytest.mark.plumed
def test_forces_are_derivatives_of_the_energy():
    text = "t: TORSION ATOMS=3,1,2,4\nd: DISTANCE ATOMS=1,2\nRESTRAINT ARG=t,d AT=1,0.2 KAPPA=10,500"
    peroxide = molecule("H2O2")
    peroxide.rattle(0.1, seed=1)
    (values,) = evaluate_plumed(text, [peroxide], files={})
    step, forces = 1e-5, np.zeros((4, 3))
    for index in np.ndindex(4, 3):
        moved = [peroxide.copy(), peroxide.copy()]
        moved[0].positions[index] += step
        moved[1].positions[index] -= step
        plus, minus = evaluate_plumed(text, moved, files={})
        forces[index] = -(plus.energy - minus.energy) / (2 * step)
    assert np.abs(forces).max() > 0.05
    np.testing.assert_allclose(values.forces, forces, atol=1e-8)


@pytest.mark.plumed
def test_forces_of_hills_are_derivatives_of_their_energy():
    first = run_of(METAD, molecule("H2O"))
    along(first, range(21))
    history = first.close()
    assert n_hills(history) == 4

    def biased(water):
        run = run_of(METAD, water, history=history)
        values = run.evaluate(water, step=21, energy=0.0)
        run.close()
        return values

    step, forces = 1e-5, np.zeros((3, 3))
    for index in np.ndindex(3, 3):
        plus, minus = stretched(4), stretched(4)
        plus.positions[index] += step
        minus.positions[index] -= step
        forces[index] = -(biased(plus).energy - biased(minus).energy) / (2 * step)
    assert np.abs(forces).max() > 0.01
    np.testing.assert_allclose(biased(stretched(4)).forces, forces, atol=1e-7)


@pytest.mark.plumed
def test_the_stress_is_the_derivative_with_respect_to_strain():
    text = "d: DISTANCE ATOMS=1,2\nv: VOLUME\nRESTRAINT ARG=d,v AT=0.1,0.07 KAPPA=1000,20000"
    cell = np.array([[4, 0, 0], [1.5, 4.2, 0], [0.7, -1.1, 4.5]])
    atoms = Atoms("H5", scaled_positions=np.random.default_rng(0).random((5, 3)), cell=cell, pbc=True)
    (values,) = evaluate_plumed(text, [atoms], files={})
    size, stress = 1e-5, np.zeros((3, 3))
    for i, j in np.ndindex(3, 3):
        strained = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * size / 2
            strain[j, i] += sign * size / 2
            copy = atoms.copy()
            copy.set_cell(cell @ (np.eye(3) + strain), scale_atoms=True)
            strained.append(copy)
        plus, minus = evaluate_plumed(text, strained, files={})
        stress[i, j] = (plus.energy - minus.energy) / (2 * size * atoms.get_volume())
    np.testing.assert_allclose(values.stress, full_3x3_to_voigt_6_stress(stress), atol=1e-9)


@pytest.mark.plumed
def test_masses_are_those_of_the_structure():
    # ASE's calculator frees its masses before PLUMED reads them, which shows for 9 atoms.
    ethanol = molecule("CH3CH2OH")
    ethanol.positions += [0.3, 0, 0]
    text = "c: COM ATOMS=1-9\np: POSITION ATOM=c NOPBC\nRESTRAINT ARG=p.x AT=0 KAPPA=1000"
    (values,) = evaluate_plumed(text, [ethanol], files={})
    assert values.variables["p.x"] == pytest.approx(ethanol.get_center_of_mass()[0] / 10, abs=1e-12)


@pytest.mark.plumed
def test_a_continuation_doubles_the_hills_and_gives_what_one_run_gives():
    whole = run_of(METAD, molecule("H2O"))
    expected = along(whole, range(41))
    hills = n_hills(whole.close())
    first = run_of(METAD, molecule("H2O"))
    along(first, range(21))
    history = first.close()
    assert n_hills(history) == hills / 2 == 4
    second = run_of(METAD, molecule("H2O"), history=history)
    found = along(second, range(20, 41))
    assert n_hills(second.close()) == hills
    for one, other in zip(found[1:], expected[21:], strict=True):
        assert one.energy == pytest.approx(other.energy, abs=1e-12)  # hills are written with 16 digits
        np.testing.assert_allclose(one.forces, other.forces, atol=1e-11)


def n_hills(history):
    return sum(not line.startswith("#!") for line in history["HILLS"].splitlines())


@pytest.mark.plumed
def test_without_history_nothing_is_left_of_earlier_runs():
    first = run_of(METAD, molecule("H2O"))
    along(first, range(21))
    first.close()
    again = run_of(METAD, molecule("H2O"))
    assert again.evaluate(stretched(0), step=0, energy=0.0).energy == 0
    assert n_hills(again.close()) == 0


@pytest.mark.plumed
def test_opes_goes_on_from_its_kernels():
    text = "d: DISTANCE ATOMS=1,2\nOPES_METAD ARG=d PACE=5 BARRIER=20 SIGMA=0.01"
    whole = run_of(text, molecule("H2O"))
    expected = along(whole, range(41))[-1].energy
    whole.close()
    first = run_of(text, molecule("H2O"))
    along(first, range(21))
    second = run_of(text, molecule("H2O"), history=first.close())
    assert along(second, range(20, 41))[-1].energy == pytest.approx(expected, rel=1e-3)
    second.close()


@pytest.mark.plumed
def test_a_moving_restraint_is_where_the_step_of_the_walker_says():
    text = "d: DISTANCE ATOMS=1,2\nMOVINGRESTRAINT ARG=d STEP0=0 AT0=0.1 KAPPA0=1000 STEP1=100 AT1=0.2 KAPPA1=1000"
    run = run_of(text, molecule("H2O"), history={"HILLS": ""})
    length = molecule("H2O").get_distance(0, 1)
    for step, centre in ((50, 1.5), (100, 2.0)):
        expected = 1000 * KJ_PER_MOL / 100 / 2 * (length - centre) ** 2
        assert run.evaluate(molecule("H2O"), step=step, energy=0.0).energy == pytest.approx(expected)
    run.close()


@pytest.mark.plumed
def test_an_external_potential_is_read_from_its_file():
    grid = np.linspace(0, 0.3, 301)
    lines = [
        "#! FIELDS d e.bias der_d",
        "#! SET min_d 0",
        "#! SET max_d 0.3",
        "#! SET nbins_d 300",
        "#! SET periodic_d false",
    ]
    lines += [f"{d:.6f} 3.5 0.0" for d in grid]  # versions of PLUMED differ in where they take the points to be
    text = "d: DISTANCE ATOMS=1,2\ne: EXTERNAL ARG=d FILE=grid.dat"
    (values,) = evaluate_plumed(text, [molecule("H2O")], files={"grid.dat": "\n".join(lines).encode()})
    assert values.energy == pytest.approx(3.5 * KJ_PER_MOL)


@pytest.mark.plumed
def test_walls_and_units_of_the_user():
    text = "UNITS LENGTH=A ENERGY=eV\nd: DISTANCE ATOMS=1,2\nUPPER_WALLS ...\n ARG=d AT=0.9\n KAPPA=3\n..."
    (values,) = evaluate_plumed(text, [molecule("H2O")], files={})
    length = molecule("H2O").get_distance(0, 1)
    assert values.variables["d"] == pytest.approx(length)
    assert values.energy == pytest.approx(3 * (length - 0.9) ** 2)


@pytest.mark.plumed
def test_well_tempered_hills_become_lower_with_the_temperature_of_the_walker():
    heights = {}
    for temperature_K in (100.0, 1000.0):
        run = run_of(METAD.replace("HEIGHT", "BIASFACTOR=10 HEIGHT"), molecule("H2O"), temperature_K=temperature_K)
        for step in range(11):
            run.evaluate(molecule("H2O"), step=step, energy=0.0)
        last = run.close()["HILLS"].splitlines()[-1].split()
        scaled = float(last[3]) * 9 / 10  # the file holds them times the bias factor over itself less one
        heights[temperature_K] = scaled
        expected = 1.2 * np.exp(-1.2 * KJ_PER_MOL / (9 * units.kB * temperature_K))
        assert scaled == pytest.approx(expected, rel=1e-6)
    assert heights[100.0] < heights[1000.0]


@pytest.mark.plumed
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("d: DISTANCE ATOMS=1,9", r"line 1 of the PLUMED input .*atom 9 out of range"),
        ("d: DISTANCE ATOMS=1,2 FOO=3", r"cannot understand the following words from the input line : FOO"),
        ("# comment\nWRONG ARG=d", r'line 2 of the PLUMED input .*Action "WRONG" is not known'),
        ("d: DISTANCE ATOMS=1,2\nRESTRAINT ARG=e AT=1 KAPPA=1", "cannot find action named e"),
        ("d: DISTANCE ATOMS=1,2 COMPONENTS\nPRINT ARG=e", "PLUMED has no value e"),
        ("d: DISTANCE ATOMS=1,2\nEXTERNAL ARG=d FILE=absent.dat", "absent.dat"),
    ],
)
def test_what_plumed_rejects_is_shown_in_its_own_words(text, message):
    with pytest.raises(InputError, match=message):
        check_plumed(text, [molecule("H2O")], files={})


@pytest.mark.plumed
def test_nothing_is_left_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    along(run := run_of(METAD, molecule("H2O")), range(11))
    run.close()
    with pytest.raises(InputError):
        run_of("WRONG", molecule("H2O"))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_kernel_is_named_before_work_starts():
    pytest.importorskip("plumed", reason="needs PLUMED's Python wrapper")
    script = (
        "from ase.build import molecule\nfrom surveyor.biases.plumed import check_plumed\n"
        "check_plumed('d: DISTANCE ATOMS=1,2', [molecule('H2O')], files={})"
    )
    environment = {**os.environ, "PLUMED_KERNEL": "/absent/libplumedKernel.so"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "kernel cannot be loaded (PLUMED_KERNEL is /absent/libplumedKernel.so)" in done.stderr
