import shutil
from pathlib import Path

import numpy as np
import psutil
import pytest
from ase import Atoms
from processes import PATIENCE_S
from pydantic import ValidationError

from surveyor.errors import InputError
from surveyor.labels import Label, LabelFailure, LevelOfTheory
from surveyor.reference.cp2k import CP2KReference
from surveyor.reference.cp2k_code import CP2KCode, ask_program, keep_leftovers, run_cp2k
from surveyor.reference.cp2k_input import read_input

AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
needs_cp2k = pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="needs CP2K (Debian package cp2k)")
MB = 1_000_000


def crystal() -> Atoms:
    atoms = Atoms("H2", [[0.1, 0.2, 0.3], [0.25, 0.4, 1.02]], cell=[3.0, 3.1, 3.2], pbc=True)
    return LevelOfTheory("test", {}).with_electrons(atoms)


def script(folder: Path, text: str) -> str:
    """Make a program that stands in front of CP2K; return its path."""
    program = folder / "program"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return str(program)


def test_placeholders_of_the_command_are_replaced() -> None:
    code = CP2KCode(
        command="mpirun -np {ranks} --map-by slot:PE={omp_threads} apptainer exec 'my image' cp2k",
        ranks=8,
        omp_threads=2,
    )
    assert code.words == ["mpirun", "-np", "8", "--map-by", "slot:PE=2", "apptainer", "exec", "my image", "cp2k"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"command": "mpirun -np {rank} cp2k.psmp"}, r"found {rank}, expected no placeholder but {ranks} and"),
        (
            {"command": "mpirun -np 4 cp2k.psmp", "ranks": 4},
            r"ranks: found 4, but the command .* write {ranks} into it",
        ),
        ({"command": "sh -c 'cp2k.psmp"}, r"a shell would not take: No closing quotation"),
        ({"command": "   "}, "nothing but blanks"),
        ({"scratch": "scratch"}, "scratch"),
        ({"memory_GB": 0}, "greater than 0"),
        ({"binding": "socket"}, "'none' or 'core'"),
    ],
)
def test_a_code_that_cannot_work_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CP2KCode.model_validate(fields)


def test_braces_of_the_shell_are_left_alone() -> None:
    assert CP2KCode(command="sh -c 'exec ${CP2K} \"$@\"' cp2k").words == ["sh", "-c", 'exec ${CP2K} "$@"', "cp2k"]


def test_variables_of_the_user_come_last() -> None:
    code = CP2KCode(omp_threads=4, binding="core", environment={"OMP_PLACES": "sockets"}, data_directory=Path("/data"))
    expected = {"OMP_NUM_THREADS": "4", "OMP_PROC_BIND": "close", "OMP_PLACES": "sockets", "CP2K_DATA_DIR": "/data"}
    assert expected.items() <= code.variables.items()
    assert code.variables["OMPI_MCA_rmaps_base_mapping_policy"] == "slot:PE=4"
    assert CP2KCode().variables == {"OMP_NUM_THREADS": "1"}


@pytest.mark.cp2k
@needs_cp2k
@pytest.mark.parametrize("binding", ["none", "core"])
def test_ranks_are_bound_as_the_code_says(binding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_MCA_hwloc_base_binding_policy", "none")  # as a pool has it
    command = "mpirun -np {ranks} --report-bindings cp2k.psmp"
    code = CP2KCode(command=command, binding=binding, ranks=2, environment=AS_ROOT)
    output = tmp_path / "output.txt"
    run_cp2k(code, ["--version"], directory=tmp_path, output=output, timeout_s=PATIENCE_S)
    said = output.read_text()
    assert "CP2K version" in said
    assert ("is not bound" in said) == (binding == "none")
    assert ("bound to socket 0[core 0[hwt 0" in said) == (binding == "core")


def test_a_calculation_runs_in_the_scratch_and_leaves_it_empty(
    tmp_path: Path, hydrogen_input: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SURVEYOR_TEST_SCRATCH", str(tmp_path / "scratch"))
    scratch, directory = tmp_path / "scratch", tmp_path / "calculation"
    scratch.mkdir()
    directory.mkdir()
    program = script(tmp_path, "pwd; ls; echo precious > label.wfn; echo more > core; exit 1")
    code = CP2KCode(command=program, scratch="$SURVEYOR_TEST_SCRATCH")
    outcome = CP2KReference(read_input(hydrogen_input), code).compute(crystal(), directory)
    assert isinstance(outcome, LabelFailure)
    place, *files = (directory / "output.txt").read_text().split()
    assert Path(place).parent == scratch
    assert files == ["input.inp"]
    assert not list(scratch.iterdir())
    assert (directory / "label.wfn").read_text() == "precious\n"
    assert {path.name for path in directory.iterdir()} == {"input.inp", "output.txt", "label.wfn", "core", "ended"}


@pytest.mark.cp2k
@needs_cp2k
def test_a_label_is_the_same_with_a_scratch(tmp_path: Path, hydrogen_input: str) -> None:
    scratch, directory = tmp_path / "scratch", tmp_path / "calculation"
    scratch.mkdir()
    directory.mkdir()
    outcome = CP2KReference(read_input(hydrogen_input), CP2KCode(scratch=str(scratch))).compute(crystal(), directory)
    assert isinstance(outcome, Label)
    assert np.isfinite(outcome.energy)
    assert not list(scratch.iterdir())
    assert {path.name for path in directory.iterdir()} == {"input.inp", "output.txt"}


def test_a_scratch_that_is_not_there_is_told_before_and_while_labelling(tmp_path: Path, hydrogen_input: str) -> None:
    code = CP2KCode(command="sh -c true", scratch=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"the scratch of CP2K, .*nowhere, does not exist on"):
        ask_program(code)
    outcome = CP2KReference(read_input(hydrogen_input), code).compute(crystal(), tmp_path)
    assert isinstance(outcome, LabelFailure)
    assert outcome.reason == "launch"
    assert "nowhere" in outcome.message


def calculation(folder: Path, name: str, sizes: dict[str, int]) -> Path:
    directory = folder / name
    directory.mkdir()
    for file, size in sizes.items():
        (directory / file).write_bytes(b"x" * size)
    return directory


def test_of_what_failures_leave_the_largest_files_go_first_and_outputs_never(tmp_path: Path) -> None:
    sizes = {"input.inp": 10, "output.txt": 3 * MB, "label.wfn": 2 * MB, "label.bak": MB // 2}
    first, running, second = (calculation(tmp_path, name, sizes) for name in ("first", "running", "second"))
    keep_leftovers(first, first, limit_GB=3e-3)
    assert (first / "label.wfn").exists()
    keep_leftovers(second, second, limit_GB=3e-3)
    kept = [directory / "label.wfn" for directory in (first, second) if (directory / "label.wfn").exists()]
    assert len(kept) == 1
    assert all((directory / "label.bak").exists() for directory in (first, second))
    keep_leftovers(second, second, limit_GB=0)
    for directory in (first, second):
        assert {path.name for path in directory.iterdir()} == {"input.inp", "output.txt", "ended"}
    assert {path.name for path in running.iterdir()} == set(sizes)


def test_what_is_too_large_to_be_kept_is_not_brought_from_the_scratch(tmp_path: Path) -> None:
    folder = calculation(tmp_path, "scratch", {"label.wfn": 2 * MB, "label.bak": MB // 2, "input.inp": 10})
    (tmp_path / "calculations").mkdir()
    directory = calculation(tmp_path / "calculations", "one", {"input.inp": 10, "output.txt": 10})
    keep_leftovers(folder, directory, limit_GB=1e-3)
    assert {path.name for path in directory.iterdir()} == {"input.inp", "output.txt", "label.bak", "ended"}
    assert (folder / "label.wfn").exists()


@pytest.mark.cp2k
@needs_cp2k
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_label_that_needs_too_much_memory_is_ended(ranks: int, tmp_path: Path, hydrogen_input: str) -> None:
    endless = hydrogen_input.replace("1E-8", "1E-30").replace("MAX_SCF 40", "MAX_SCF 100000")
    command = "cp2k.psmp" if ranks == 1 else "mpirun -np {ranks} --oversubscribe cp2k.psmp"
    # A rank has some 60 MB for itself: two of them together exceed what one of them would not.
    code = CP2KCode(
        command=command, ranks=ranks, memory_GB=0.02 * ranks, environment=AS_ROOT, timeout_minutes=1, kept_GB=0
    )
    outcome = CP2KReference(read_input(endless), code).compute(crystal(), tmp_path)
    assert isinstance(outcome, LabelFailure)
    assert outcome.reason == "memory"
    assert outcome.message == f"the memory limit of {0.02 * ranks:g} GB was reached"
    assert (tmp_path / "output.txt").exists()
    assert not [each for each in psutil.process_iter(["cwd"]) if each.info["cwd"] == str(tmp_path)]


def test_memory_within_the_limit_is_no_matter(tmp_path: Path) -> None:
    code = CP2KCode(command="sh -c 'sleep 1.2; echo done'", memory_GB=1)
    output = tmp_path / "output.txt"
    result = run_cp2k(code, [], directory=tmp_path, output=output, timeout_s=PATIENCE_S)
    assert (result.returncode, result.out_of_memory, result.timed_out) == (0, False, False)
    assert output.read_text() == "done\n"
