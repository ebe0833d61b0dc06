import os
import re
import subprocess
import sys
from pathlib import Path

from ase.cluster import Icosahedron
from processes import PATIENCE_S

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

# Python imports a module of this name at its start, in the processes of a pool as well.
REFUSING = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("prefect", "prefect_dask", "dask", "distributed"):
            raise ImportError(name + " is refused")

sys.meta_path.insert(0, Refuse())
"""


def test_the_loop_in_plain_python_learns_where_prefect_cannot_be_imported(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(REFUSING)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", "import prefect"]
    assert "prefect is refused" in subprocess.run(command, env=environment, capture_output=True, text=True).stderr

    Icosahedron("Cu", 2).write(tmp_path / "start.extxyz")
    command = [sys.executable, str(EXAMPLES / "online_learning_in_plain_python.py")]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)

    assert result.returncode == 0, result.stderr
    errors = [float(error) for error in re.findall(r": (\S+) eV/Å", result.stdout)]
    assert len(errors) == 4
    assert errors[-1] < 0.8 * errors[0]


def test_the_loop_in_plain_python_is_one_screen():
    lines = (EXAMPLES / "online_learning_in_plain_python.py").read_text().splitlines()
    assert len(lines) <= 42
    assert sum(line.startswith(("import ", "from ")) for line in lines) <= 3
