"""The table of what was tried with real CP2K: what is labelled, what is refused when it is read, what is warned of."""

import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from surveyor.errors import InputError
from surveyor.labels import Label, LevelOfTheory
from surveyor.reference.cp2k import CP2KReference
from surveyor.reference.cp2k_code import CP2KCode
from surveyor.reference.cp2k_input import read_input

# By what is written into which section; each was a label that was wrong, or a failure of every label.
REFUSED = {
    ("&FORCE_EVAL", "STRESS_TENSOR NUMERICAL"): "energies of all strained cells",
    ("&FORCE_EVAL", "STRESS_TENSOR DIAGONAL_ANALYTICAL"): "shear components of the stress would be zero",
    ("&FORCE_EVAL", "STRESS_TENSOR DIAGONAL_NUMERICAL"): "shear components of the stress would be zero",
    ("&FORCE_EVAL", "&RESCALE_FORCES\n MAX_FORCE 1E-6\n&END"): "forces would not be those of the energy",
    ("&FORCE_EVAL", "METHOD EIP"): "expected a CP2K input with METHOD QUICKSTEP",
    ("&FORCE_EVAL", "METHOD MIXED"): "expected a CP2K input with METHOD QUICKSTEP",
    ("&FORCE_EVAL", "METHOD EMBED"): "expected a CP2K input with METHOD QUICKSTEP",
    ("&FORCE_EVAL", "METHOD QMMM"): "expected a CP2K input with METHOD QUICKSTEP",
    ("&QS", "LS_SCF T"): "convergence of linear-scaling SCF",
    ("&QS", "ALMO_SCF"): "convergence of ALMO SCF",
    ("&QS", "METHOD XTB"): "one of GPW, GAPW, GAPW_XC, found XTB",
    ("&QS", "METHOD DFTB"): "one of GPW, GAPW, GAPW_XC, found DFTB",
    ("&QS", "METHOD LRIGPW"): "one of GPW, GAPW, GAPW_XC, found LRIGPW",
    ("&QS", "METHOD PM6"): "one of GPW, GAPW, GAPW_XC, found PM6",
    # A pair of Si atoms with smearing: converged after 3 steps by CP2K's word, the energy 11.6 eV off.
    ("&SCF", "&DIAGONALIZATION\n ALGORITHM DAVIDSON\n&END"): "reports an SCF as converged that is not",
    ("&DFT", "&EXCITED_STATES T\n&END"): "different states",
    ("&DFT", "&ENERGY_CORRECTION T\n&END"): "two energies",
    ("&DFT", "&EXTERNAL_DENSITY\n&END"): "depend on a file",
    ("&DFT", "&EXTERNAL_VXC\n FILE_VXC x\n&END"): "depend on a file",
    ("&DFT", "&XAS\n METHOD TP_HH\n&END"): "not that of the ground state",
    ("&DFT", "&AUXILIARY_DENSITY_MATRIX_METHOD\n ADMM_PURIFICATION_METHOD NONE_DM\n&END"): "CP2K has no forces with it",
    ("&DFT", "&AUXILIARY_DENSITY_MATRIX_METHOD\n ADMM_PURIFICATION_METHOD MCWEENY\n&END"): "CP2K has no forces with it",
    ("&DFT", "WFN_RESTART_FILE_NAME x"): "depend on a file",
    ("&XC", "&WF_CORRELATION\n&END"): "MP2 or RPA",
}
WARNED = {
    ("&DFT", "&EXTERNAL_POTENTIAL\n FUNCTION X*0.001\n&END"): "depends on where the structure is",
    ("&DFT", "&EFIELD\n POLARISATION 0 0 1\n&END"): "depends on where the structure is",
    ("&DFT", "&PERIODIC_EFIELD\n INTENSITY 1E-4\n&END"): "for charged structures the energy depends on where",
    ("&DFT", "SURFACE_DIPOLE_CORRECTION"): "depends on where the structure is",
    ("&FORCE_EVAL", "&PROPERTIES\n&LINRES\n&END\n&END"): "computed with each label, and not read",
}
NOT_PERIODIC = {
    ("&DFT", "&POISSON\n POISSON_SOLVER MT\n PERIODIC NONE\n&END"): "this solver is for structures without a cell",
    ("&DFT", "&POISSON\n POISSON_SOLVER MULTIPOLE\n&END"): "this solver is for structures without a cell",
    ("&DFT", "&POISSON\n POISSON_SOLVER IMPLICIT\n&END"): "no stress with this solver",
    ("&DFT", "&PERIODIC_EFIELD\n INTENSITY 1E-4\n&END"): "no stress in a periodic electric field",
}
# The output is the same, whatever is printed, and whatever else could be computed.
LABELLED = [
    ("&GLOBAL", "PRINT_LEVEL SILENT\n RUN_TYPE GEO_OPT"),
    ("&FORCE_EVAL", "&PRINT\n&FORCES\n FILENAME x\n&END\n&STRESS_TENSOR OFF\n&END\n&END"),
    ("&FORCE_EVAL", "&BSSE\n&END\n&MIXED\n&END\n&MM\n&END"),
    ("&QS", "LS_SCF F\n METHOD GAPW"),
    ("&DFT", "&LOCALIZE\n&END\n&REAL_TIME_PROPAGATION\n&END\n&DENSITY_FITTING\n&END"),
    ("&DFT", "UKS\n PLUS_U_METHOD MULLIKEN\n&PRINT\n&MO\n&END\n&END"),
    ("&DFT", "&RELATIVISTIC\n METHOD DKH\n&END\n SUBCELLS 3"),
    ("&XC", "&VDW_POTENTIAL\n&PAIR_POTENTIAL\n TYPE DFTD3\n PARAMETER_FILE_NAME dftd3.dat\n&END\n&END"),
]


def changed(text: str, section: str, lines: str) -> str:
    text = f"&GLOBAL\n&END\n{text}"
    assert f"{section}\n" in text
    return text.replace(f"{section}\n", f"{section}\n{lines}\n", 1)


def crystal(*, pbc: bool = True) -> Atoms:
    atoms = Atoms("H2", [[0, 0, 0], [0.3, 0.2, 0.7]], cell=[3, 3, 3], pbc=pbc)
    return LevelOfTheory("test", {}).with_electrons(atoms)


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: " ".join(change[1].split()))
def test_what_gives_no_label_is_refused_when_it_is_read(change: tuple[str, str], hydrogen_input: str) -> None:
    with pytest.raises(InputError, match=REFUSED[change]) as refused:
        read_input(changed(hydrogen_input, *change))
    if not change[1].startswith("METHOD"):
        assert re.match(r"FORCE_EVAL/\S+ of the CP2K input \(line \d+: ", str(refused.value))


@pytest.mark.parametrize(
    ("section", "lines"),
    [
        ("&DFT", "&EXCITED_STATES F\n&END"),
        ("&DFT", "&ENERGY_CORRECTION F\n&END"),
        ("&SCF", "&DIAGONALIZATION F\n ALGORITHM DAVIDSON\n&END"),
    ],
)
def test_a_section_that_is_switched_off_changes_nothing(section: str, lines: str, hydrogen_input: str) -> None:
    read_input(changed(hydrogen_input, section, lines))


@pytest.mark.parametrize("change", WARNED, ids=lambda change: " ".join(change[1].split()))
def test_what_may_not_be_meant_is_warned_of(
    change: tuple[str, str], hydrogen_input: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        read_input(changed(hydrogen_input, *change))
    assert any(WARNED[change] in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("change", NOT_PERIODIC, ids=lambda change: " ".join(change[1].split()))
def test_what_suits_structures_without_a_cell_alone_objects_to_others(
    change: tuple[str, str], hydrogen_input: str
) -> None:
    reference = CP2KReference(read_input(changed(hydrogen_input, *change)))
    assert NOT_PERIODIC[change] in str(reference.objection(crystal()))
    assert reference.objection(crystal(pbc=False)) is None


@pytest.mark.cp2k
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="needs CP2K (Debian package cp2k)")
@pytest.mark.parametrize("change", LABELLED, ids=lambda change: " ".join(change[1].split()))
def test_what_changes_nothing_of_the_output_is_labelled(
    change: tuple[str, str], hydrogen_input: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = hydrogen_input.replace("CUTOFF 280", "CUTOFF 100").replace("1E-8", "1E-6")
    given = read_input(changed(text, *change))
    assert not caplog.records
    label = CP2KReference(given, CP2KCode(timeout_minutes=2), repairs=False).compute(crystal(), tmp_path)
    assert isinstance(label, Label), label
    assert np.abs(label.forces).max() > 1
    assert label.stress is not None
    assert np.abs(label.stress[3:]).min() > 1e-4
