"""One real failure of CP2K for each reason, and what becomes of its label."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import psutil
import pytest
from ase import Atoms
from processes import PATIENCE_S

from surveyor.dataset import FAILURE, OUTPUT, Dataset, with_label
from surveyor.errors import AttemptFailed, InputError, Preempted
from surveyor.labels import Label, LabelFailure, LabelStore, LevelOfTheory, label_key
from surveyor.reference.cp2k import CP2KCode, CP2KReference
from surveyor.reference.cp2k_input import read_input, write_input
from surveyor.reference.cp2k_output import parse_output
from surveyor.reference.labelling import Labeller, attempt_label, label_structure

pytestmark = [
    pytest.mark.cp2k,
    pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="needs CP2K (Debian package cp2k)"),
]

AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
THEORY = LevelOfTheory("test", {})

# A worker that labels one structure, in a process of its own, so that it can be killed.
WORKER = """
import pickle, sys
from pathlib import Path
from surveyor.reference.labelling import label_structure
label_structure(*pickle.loads(Path(sys.argv[1]).read_bytes()))
"""
# CP2K, which notes that it was started, and goes on for ever when it is done.
LINGERING = """#!/bin/sh
echo started >> {log}
cp2k.psmp "$@"
sleep 1000
"""


@pytest.fixture
def quick_input(hydrogen_input: str) -> str:
    """The cheapest input that there is."""
    return hydrogen_input.replace("CUTOFF 280", "CUTOFF 100").replace("REL_CUTOFF 50", "REL_CUTOFF 30")


@pytest.fixture
def endless_input(quick_input: str) -> str:
    """An input whose SCF never ends."""
    return quick_input.replace("1E-8", "1E-30").replace("MAX_SCF 40", "MAX_SCF 1000000")


def crystal(distance: float = 0.75) -> Atoms:
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, distance]], cell=[3.0, 3.0, 3.0], pbc=True)
    return THEORY.with_electrons(atoms)


def failure(reference: CP2KReference, directory: Path, atoms: Atoms | None = None) -> LabelFailure:
    outcome = reference.compute(crystal() if atoms is None else atoms, directory)
    assert isinstance(outcome, LabelFailure)
    return outcome


def test_basis_set_that_is_gone(quick_input: str, tmp_path: Path) -> None:
    given = read_input(quick_input.replace("SZV-MOLOPT-SR-GTH", "NO-SUCH-BASIS"))
    found = failure(CP2KReference(given), tmp_path)
    assert found.reason == "missing_data_file"
    assert "NO-SUCH-BASIS" in found.message


def test_kind_that_is_missing(quick_input: str, tmp_path: Path) -> None:
    """surveyor does not start such an input; what the program itself says of it is understood, too."""
    given = write_input(read_input(quick_input), crystal())
    (tmp_path / "input.inp").write_text(re.sub(r"&KIND H.*?&END KIND", "", given, flags=re.DOTALL))
    done = subprocess.run(
        ["cp2k.psmp", "-i", "input.inp"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    found = parse_output(done.stdout + done.stderr, crystal(), returncode=done.returncode)
    assert isinstance(found, LabelFailure)
    assert found.reason == "invalid_input"
    assert "KIND" in found.message


def test_too_few_steps_without_repair(quick_input: str, tmp_path: Path) -> None:
    given = read_input(quick_input.replace("MAX_SCF 40", "MAX_SCF 1").replace("SZV", "DZVP"))
    found = failure(CP2KReference(given, repairs=False), tmp_path)
    assert found.reason == "scf_not_converged"
    assert "SCF WAVEFUNCTION OPTIMIZATION" in found.last_lines


def test_too_few_steps_with_repair(quick_input: str, tmp_path: Path) -> None:
    good = quick_input.replace("SZV", "DZVP")
    right = CP2KReference(read_input(good)).compute(crystal(), tmp_path)
    given = read_input(good.replace("MAX_SCF 40", "MAX_SCF 1"))
    (tmp_path / "repaired").mkdir()
    label = CP2KReference(given).compute(crystal(), tmp_path / "repaired")
    assert isinstance(right, Label)
    assert isinstance(label, Label)
    assert (right.provenance["rung"], label.provenance["rung"]) == ("as given", "CG, FULL_ALL")
    (before,) = label.provenance["before"]
    assert before == {"rung": "as given", "said": "scf_not_converged: SCF run NOT converged"}
    assert label.energy == pytest.approx(right.energy, abs=1e-6)
    np.testing.assert_allclose(label.forces, right.forces, atol=1e-4)


def test_ladder_shares_the_time_of_its_label(endless_input: str, tmp_path: Path) -> None:
    given = read_input(endless_input.replace("MAX_SCF 1000000", "MAX_SCF 1"))
    begin = time.monotonic()
    found = failure(CP2KReference(given, CP2KCode(timeout_minutes=6 / 60)), tmp_path)
    assert time.monotonic() - begin < 30
    assert found.reason in ("timeout", "scf_not_converged")  # by how fast the machine is
    assert "tried: as given" in found.message or not (tmp_path / "repair-1").exists()


def test_mpirun_that_does_not_start_anything(quick_input: str, tmp_path: Path) -> None:
    code = CP2KCode(command="mpirun -np 4000 cp2k.psmp", environment=AS_ROOT)
    found = failure(CP2KReference(read_input(quick_input), code), tmp_path)
    assert found.reason == "launch"
    assert "slots" in found.last_lines
    assert "There are not enough slots available in the system to satisfy the 4000 slots" in found.message
    assert found.message.endswith("; the command was: mpirun -np 4000 cp2k.psmp -i input.inp")


def test_mpirun_that_does_not_find_the_program(quick_input: str, tmp_path: Path) -> None:
    code = CP2KCode(command="mpirun -np 1 no-such-cp2k", environment=AS_ROOT)
    found = failure(CP2KReference(read_input(quick_input), code), tmp_path)
    assert found.reason == "launch"  # although its status is that of SIGABRT
    assert "mpirun was unable to find the specified executable file" in found.message
    with pytest.raises(InputError, match=r"mpirun -np 1 no-such-cp2k --version does not say .* unable to find"):
        CP2KReference(read_input(quick_input), code).resolve()


@pytest.mark.parametrize("launcher", ["", "mpirun -np 2 --oversubscribe "])
def test_program_that_a_signal_ends_before_it_says_a_word_is_a_crash(
    launcher: str, quick_input: str, tmp_path: Path
) -> None:
    """The output is lost with its buffer; the worker is not to blame, and gets other work."""
    program = tmp_path / "broken"
    program.write_text("#!/bin/sh\nkill -SEGV $$\n")
    program.chmod(0o755)
    code = CP2KCode(command=f"{launcher}{program}", environment=AS_ROOT)
    store = LabelStore.in_folder(tmp_path / "labels")
    with pytest.raises(
        AttemptFailed, match=r"\(crash\): CP2K ended \(killed by SIGSEGV\).*the command was: "
    ) as failed:
        attempt_label(
            crystal(), Labeller(CP2KReference(read_input(quick_input), code), THEORY, store, tmp_path / "scratch")
        )
    assert not failed.value.is_worker_unfit


def test_multiplicity_that_there_are_too_few_electrons_for(quick_input: str, tmp_path: Path) -> None:
    atoms = crystal()
    atoms.info["multiplicity"] = 5
    found = failure(CP2KReference(read_input(quick_input)), tmp_path, atoms)
    assert found.reason == "invalid_input"
    assert "too few electrons for this multiplicity" in found.message


def test_memory_that_is_used_up(endless_input: str, tmp_path: Path) -> None:
    reference = CP2KReference(read_input(endless_input), CP2KCode(memory_GB=0.02))
    assert failure(reference, tmp_path).reason == "memory"


def test_atoms_on_top_of_each_other(quick_input: str, tmp_path: Path) -> None:
    assert failure(CP2KReference(read_input(quick_input)), tmp_path, crystal(0.0)).reason == "geometry"


def test_program_that_is_killed_is_a_crash(endless_input: str, tmp_path: Path) -> None:
    end = ended_by(signal.SIGKILL, CP2KReference(read_input(endless_input)), tmp_path)
    found = end()
    assert isinstance(found, LabelFailure)
    assert found.reason == "crash"
    assert "CP2K ended (killed by SIGKILL (out of memory?)): " in found.message


@pytest.mark.parametrize("command", ["cp2k.psmp", "mpirun -np 2 --oversubscribe cp2k.psmp"])
def test_program_that_is_told_to_end_is_no_failure(command: str, endless_input: str, tmp_path: Path) -> None:
    reference = CP2KReference(read_input(endless_input), CP2KCode(command=command, environment=AS_ROOT))
    end = ended_by(signal.SIGTERM, reference, tmp_path)
    with pytest.raises(Preempted, match=r"somebody has ended CP2K .* output is in"):
        end()


def ended_by(number: signal.Signals, reference: CP2KReference, directory: Path) -> Callable[[], object]:
    """Send a signal to a process of CP2K that computes; return what gives the outcome."""
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(reference.compute, crystal(), directory)
        while not future.done() and "SCF WAVEFUNCTION" not in said_in(directory):
            wait([future], timeout=0.02)
        running_in(directory)[0].send_signal(number)
        wait([future], PATIENCE_S)
    return future.result


def said_in(directory: Path) -> str:
    output = directory / "output.txt"
    return output.read_text(errors="replace") if output.exists() else ""


def running_in(directory: Path) -> list[psutil.Process]:
    """Return the processes of CP2K that work in a directory."""
    found = []
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] == "cp2k.psmp" and process.cwd() == str(directory):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for the input and the beginning of the output."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.mount
def test_full_disk_under_the_program(quick_input: str, small_disk: Path) -> None:
    assert failure(CP2KReference(read_input(quick_input)), small_disk).reason == "disk"


@pytest.mark.mount
def test_full_disk_before_the_program(quick_input: str, small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "ballast").write_bytes(bytes(10**5))
    assert failure(CP2KReference(read_input(quick_input)), small_disk).reason == "disk"


def test_failed_structures_tell_reason_and_output(quick_input: str, tmp_path: Path) -> None:
    reference, store = CP2KReference(read_input(quick_input)), LabelStore.in_folder(tmp_path / "labels")
    outcome = label_structure(crystal(0.0), Labeller(reference, THEORY, store, tmp_path / "scratch"))
    Dataset([with_label(crystal(0.0), "v1:00", outcome)]).save(tmp_path / "failed.extxyz")
    (atoms,) = Dataset.load(tmp_path / "failed.extxyz")
    assert atoms.info[FAILURE] == "geometry"
    assert "GEOMETRY wrong" in (Path(atoms.info[OUTPUT]) / "output.txt").read_text()
    (recorded,) = store.failures(label_key(crystal(0.0), THEORY))
    assert "GEOMETRY wrong" in recorded.last_lines


def worker(reference: CP2KReference, tmp_path: Path) -> "subprocess.Popen[bytes]":
    """Start a process that labels a structure."""
    import pickle

    store = LabelStore.in_folder(tmp_path / "labels")
    arguments = (crystal(), Labeller(reference, THEORY, store, tmp_path / "scratch"))
    (tmp_path / "arguments").write_bytes(pickle.dumps(arguments))
    return subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path / "arguments")])


def wait_for_output(scratch: Path, sentence: str) -> Path:
    """Wait until a calculation has said something; return its folder."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for output in scratch.glob("*/output.txt"):
            if sentence in output.read_text(errors="replace"):
                return output.parent
        time.sleep(0.02)
    raise TimeoutError(f"no calculation in {scratch} said {sentence!r}")


def test_label_that_was_finished_before_its_worker_was_killed_is_read(quick_input: str, tmp_path: Path) -> None:
    program = tmp_path / "lingering"
    program.write_text(LINGERING.format(log=tmp_path / "log"))
    program.chmod(0o755)
    reference = CP2KReference(read_input(quick_input), CP2KCode(command=str(program)))
    killed = worker(reference, tmp_path)
    wait_for_output(tmp_path / "scratch", "PROGRAM STOPPED IN")
    killed.kill()
    killed.wait()
    store = LabelStore.in_folder(tmp_path / "labels")
    assert store.get(label_key(crystal(), THEORY)) is None
    label = label_structure(crystal(), Labeller(reference, THEORY, store, tmp_path / "scratch"))
    assert isinstance(label, Label)
    assert label.provenance["was_interrupted"]
    assert label.provenance["wall_time_s"] > 0
    assert (tmp_path / "log").read_text().split() == ["started"]
    assert not list((tmp_path / "scratch").iterdir())


def test_finished_output_of_another_input_is_not_read(quick_input: str, tmp_path: Path) -> None:
    reference = CP2KReference(read_input(quick_input))
    assert isinstance(reference.compute(crystal(), tmp_path), Label)
    assert isinstance(reference.read(crystal(), tmp_path), Label)
    assert reference.read(crystal(0.76), tmp_path) is None
    other = CP2KReference(read_input(quick_input.replace("CUTOFF 100", "CUTOFF 101")))
    assert other.read(crystal(), tmp_path) is None
    output = tmp_path / "output.txt"
    output.write_text(output.read_text().partition("PROGRAM STOPPED IN")[0])
    assert reference.read(crystal(), tmp_path) is None


def test_program_ends_with_its_worker_and_nothing_is_recorded(endless_input: str, tmp_path: Path) -> None:
    killed = worker(CP2KReference(read_input(endless_input)), tmp_path)
    folder = wait_for_output(tmp_path / "scratch", "SCF WAVEFUNCTION")
    (program,) = running_in(folder)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    psutil.wait_procs([program], PATIENCE_S)
    assert not running_in(folder)
    left = [path.relative_to(tmp_path / "labels").parts[0] for path in (tmp_path / "labels").rglob("*.json")]
    assert left == ["claims"]  # of a process that is dead: whoever comes next takes it over
