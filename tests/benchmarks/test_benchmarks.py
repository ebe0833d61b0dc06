"""Each benchmark runs, at its smallest size. Nothing is timed here.

Most are marked as long, as `make types` finds in each of them what it calls and is not there any more.
"""

import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LONG, NETWORKS, PROGRAM = pytest.mark.long, pytest.mark.mace, pytest.mark.cp2k
# Of each benchmark: its options, what it has to print, and what it needs.
CASES = [
    ("overhead", "--labels 8", r"8  ratio +\d", (LONG,)),
    ("labelling", "--structures 16", r"ratio of the labelling to the loop with store: \d", (LONG,)),
    ("look_ups", "--keys 100 --round-trip-ms 1", r"none there +\d", ()),
    (
        "pools",
        "--workers 4 --rate 50 --databases sqlite --labels 12 --plain 8",
        r"knows 14 of 14 tasks",
        (LONG,),
    ),
    (
        "pools",
        "--workers 4 --rate 50 --databases sqlite --labels 12 --plain 0 --path generation",
        r"knows 18 of 18 tasks",
        (LONG,),
    ),
    ("restart", "--rounds 1", r"restart to first new launch, median: \d", (LONG,)),
    ("restart", "--rounds 1 --without-server", r"restart to first new launch, median: \d", (LONG,)),
    (
        "overlap",
        "--places 2 --ahead 1 2 --slow 0.5 --generations 1 --scale 300",
        r"  0\.50   1\.00( +\d+\.\d+){6}\n +2 +0\.50   2\.00( +\d+\.\d+){6}",
        (LONG,),
    ),
    (
        "training",
        "--structures 8 --rounds 1 --epochs 3",
        r"surveyor, later +\d(?s:.*)one epoch, surveyor, later +\d",
        (LONG, NETWORKS),
    ),
    (
        "update",
        "--systems copper-gold --ways new-labels --seeds 2 --labels 20 --new 10 --test 2 --epochs 2 --update-epochs 1",
        r"\| from scratch( \| \d\S* \(\S+ to \S+\)){4} \|\n\| new-labels, 1 epoch( \| \d\S* \(\S+ to \S+\)){4} \|"
        r"(?s:.*)processor \| s(?s:.*)\| one epoch, new worker \| \d(?s:.*)clock \| s",
        (LONG, NETWORKS),
    ),
    (
        "evaluate",
        "--structures 2",
        r"largest differences: \S+e(-1\d|\+00) meV, \S+e(-1\d|\+00) meV/Å",
        (LONG, NETWORKS),
    ),
    ("halves", "--walkers 2 --steps 9 --device-ms 2 --processor-ms 2", r"2 groups: a step takes \d", ()),
    ("walkers", "--walkers 2 --steps 1", r"surveyor, one process +\d(?s:.*)network +\d", (LONG, NETWORKS)),
    ("cp2k_labels", "--frames 2", r"label minus program, median of pairs: -?\d", (LONG, PROGRAM)),
    ("cp2k_repair", "--only H2O", r"\| 1 \|", (LONG, PROGRAM)),
    ("atomic_energies", "--elements H --wider", r"H: lowest at multiplicity 2", (LONG, PROGRAM)),
]


def test_every_benchmark_is_run_here() -> None:
    programs = {path.stem for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text()}
    assert programs == {name for name, *_ in CASES}
    checked = tomllib.loads((BENCHMARKS.parent / "pyproject.toml").read_text())["tool"]["mypy"]["modules"]
    assert programs == set(checked)


RECORDING = """#!/bin/bash
if [ "$2" = venv ]; then mkdir -p "$4/bin" && cp "$0" "$4/bin/python"; else echo "$@" >> "$RECORD"; fi
"""


@pytest.mark.parametrize("rehearsal", ["", "1"])
def test_the_script_for_gpus_gives_options_that_the_benchmarks_have(rehearsal: str, tmp_path: Path) -> None:
    python, record = tmp_path / "python3", tmp_path / "record"
    python.write_text(RECORDING)
    python.chmod(0o755)
    if not rehearsal:
        (tmp_path / "cuequivariance_ops_torch_cu12-0.13.whl").touch()
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RECORD": str(record), "REHEARSAL": rehearsal}
    command = ["bash", str(BENCHMARKS / "gpu.sh"), str(tmp_path), "other-python"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    runs = [line.split() for line in record.read_text().splitlines() if line.startswith(str(BENCHMARKS))]
    counts = Counter(Path(script).stem for script, *_ in runs)
    times = 1 if rehearsal else 2  # without kernels, and with them
    assert counts == {"walkers": 2 * times, "evaluate": 2 * times, "training": times, "halves": 1, "update": 2}
    for script, *options in runs:
        text, device = Path(script).read_text(), "cpu" if rehearsal else "cuda"
        assert ('"--device"' not in text) or (f"--device {device}" in " ".join(options))
        given = [option.removeprefix("--") for option in options if option.startswith("--")]
        assert [each for each in given if f'"--{each}"' not in text and f'"{each}":' not in text] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        pytest.param(name, options, expected, marks=marks, id=f"{name} {options}")
        for name, options, expected, marks in CASES
    ],
)
def test_a_benchmark_runs(name: str, options: str, expected: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), *options.split()],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(expected, done.stdout), done.stdout + done.stderr
