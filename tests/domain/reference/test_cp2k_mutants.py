"""Outputs of the real program that something has gone wrong with: none of them becomes a wrong label."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.units import Hartree
from hypothesis import given, settings
from hypothesis import strategies as st

from surveyor.labels import Label
from surveyor.reference.cp2k_output import parse_output
from surveyor.reference.cp2k_scf import energy_tolerance

DATA = Path(__file__).parent / "data"
NUMBER = re.compile(r"-?\d+\.\d+(?:E[+-]\d+)?")
SECTION = re.compile(r"(?<=\n)(?: *\n)+")


def samples() -> dict[str, tuple[str, Atoms]]:
    """Return outputs of runs with different layouts.

    "water": one process, periodic, closed shells, OT. "radical": two processes, not periodic, unrestricted, three
    kinds, OT with an outer loop. "mixing": one process, periodic, diagonalisation with Broyden mixing.
    """
    water = Atoms("OH2", cell=[5.0, 5.2, 5.4], pbc=True)
    water.positions = [
        [0.04873036, -0.01835269, 0.10341685],
        [-0.03218906, 0.78920123, -0.54609316],
        [0.05234435, -0.78607521, -0.46747583],
    ]
    radical = Atoms("OH2", [[6.05, 5.98, 6.1], [5.97, 6.79, 5.45], [6.05, 5.21, 5.53]], cell=[12.0] * 3)
    symmetric = Atoms("OH2", [[0, 0, 0.119262], [0, 0.763239, -0.477047], [0, -0.763239, -0.477047]])
    symmetric.set_cell([5.0, 5.0, 5.0])
    symmetric.pbc = True
    return {
        "mixing": ((DATA / "mixing.out").read_text(), symmetric),
        "water": ((DATA / "water.out").read_text(), water),
        "radical": ((DATA / "radical.out").read_text(), radical),
    }


SAMPLES = samples()
OF_ALL = pytest.mark.parametrize("name", SAMPLES)


def is_label(text: str, atoms: Atoms) -> bool:
    return isinstance(parse_output(text, atoms), Label)


def is_harmless(text: str, atoms: Atoms, right: Label) -> bool:
    """Say whether an output is no label, or the right one bit for bit."""
    outcome = parse_output(text, atoms)
    if not isinstance(outcome, Label):
        return True
    has_stress = outcome.stress is not None and right.stress is not None
    return (
        outcome.energy == right.energy
        and np.array_equal(outcome.forces, right.forces)
        and (np.array_equal(outcome.stress, right.stress) if has_stress else outcome.stress is right.stress)
    )


def right_label(name: str) -> tuple[str, Atoms, Label]:
    text, atoms = SAMPLES[name]
    label = parse_output(text, atoms)
    assert isinstance(label, Label)
    return text, atoms, label


@OF_ALL
def test_no_truncated_output_is_a_label(name: str) -> None:
    text, atoms, _ = right_label(name)
    lines = text.splitlines(keepends=True)
    assert [n for n in range(len(lines)) if is_label("".join(lines[:n]), atoms)] == []


def one_line_missing(lines: list[str], n: int) -> list[str]:
    return lines[:n] + lines[n + 1 :]


def one_line_twice(lines: list[str], n: int) -> list[str]:
    return lines[: n + 1] + lines[n:]


def two_lines_exchanged(lines: list[str], n: int) -> list[str]:
    return lines[:n] + lines[n : n + 2][::-1] + lines[n + 2 :]


def one_line_cut(lines: list[str], n: int) -> list[str]:
    return [*lines[:n], lines[n][: len(lines[n]) // 2] + "\n", *lines[n + 1 :]]


def beginning_missing(lines: list[str], n: int) -> list[str]:
    return lines[n + 1 :]


@OF_ALL
@pytest.mark.parametrize(
    "mutate", [one_line_missing, one_line_twice, two_lines_exchanged, one_line_cut, beginning_missing]
)
def test_no_damage_to_a_line_gives_a_wrong_label(mutate: Callable[[list[str], int], list[str]], name: str) -> None:
    text, atoms, right = right_label(name)
    lines = text.splitlines(keepends=True)
    wrong = [n for n in range(len(lines)) if not is_harmless("".join(mutate(lines, n)), atoms, right)]
    assert wrong == []


@OF_ALL
def test_no_missing_section_gives_a_wrong_label(name: str) -> None:
    text, atoms, right = right_label(name)
    sections = SECTION.split(text)
    assert len(sections) > 20
    mutants = ["\n\n".join(sections[:n] + sections[n + 1 :]) for n in range(len(sections))]
    assert all(is_harmless(mutant, atoms, right) for mutant in mutants)
    assert not any(is_label(mutant, atoms) for n, mutant in enumerate(mutants) if "ATOMIC FORCES" in sections[n])


@OF_ALL
@pytest.mark.parametrize("value", ["NaN", "Infinity", "*" * 12, ""])
def test_no_number_that_is_none_gives_a_wrong_label(value: str, name: str) -> None:
    text, atoms, right = right_label(name)
    for found in NUMBER.finditer(text):
        assert is_harmless(text[: found.start()] + value + text[found.end() :], atoms, right), found


@OF_ALL
def test_two_outputs_in_one_file_are_no_label(name: str) -> None:
    text, atoms, _ = right_label(name)
    other = next(each for key, (each, _) in SAMPLES.items() if key != name)
    assert not is_label(text + text, atoms)
    assert not is_label(text + other, atoms)
    assert not is_label(other + text, atoms)


@OF_ALL
def test_atoms_in_another_order_are_no_label(name: str) -> None:
    text, atoms, _ = right_label(name)
    for order in ([0, 2, 1], [1, 0, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]):
        assert not is_label(text, atoms[order])


def digits(text: str) -> Iterator[tuple[int, int]]:
    """Yield each pair of neighbouring digits in the numbers of an output, by the place of the first one."""
    for found in NUMBER.finditer(text):
        for place in range(found.start(), found.end() - 1):
            if text[place : place + 2].isdecimal() and text[place] != text[place + 1]:
                yield place, found.start()


@OF_ALL
def test_exchanged_digits_change_a_label_by_less_than_the_tolerances(name: str) -> None:
    text, atoms, right = right_label(name)
    begin = text.index("MODULE QUICKSTEP")
    for place, _ in digits(text[begin : text.index("DBCSR STATISTICS")]):
        at = begin + place
        outcome = parse_output(text[:at] + text[at + 1] + text[at] + text[at + 2 :], atoms)
        if isinstance(outcome, Label):
            # The last energy of the SCF is much nearer to the right energy than the tolerance.
            assert abs(outcome.energy - right.energy) <= 1.01 * len(atoms) * energy_tolerance(text) * Hartree
            np.testing.assert_allclose(outcome.forces, right.forces, rtol=0, atol=1e-10)
            if right.stress is not None:
                np.testing.assert_allclose(outcome.stress, right.stress, rtol=0, atol=1e-6)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_no_heap_of_damage_gives_a_wrong_label(name: str, data: st.DataObject) -> None:
    text, atoms, right = right_label(name)
    lines = text.splitlines(keepends=True)
    mutations = st.sampled_from([one_line_missing, one_line_twice, two_lines_exchanged, one_line_cut])
    for _ in range(data.draw(st.integers(1, 6))):
        lines = data.draw(mutations)(lines, data.draw(st.integers(0, len(lines) - 1)))
    assert is_harmless("".join(lines), atoms, right)
