import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import foreign_connections
import pytest
from gridengine import GridEngine, grid_engine, has_grid_engine
from natted import has_sshd
from oar import OAR, has_oar, oar
from object_stores import S3, Azure, azure_server, azurite_program, s3_server
from postgresql import postgresql_programs
from prefect_server import free_address, prefect_environment, prefect_server
from server_log import check_watched_logs
from simulated_kubernetes import has_kubernetes
from slurm import SlurmCluster, has_slurm, slurm
from torque import has_torque

from surveyor.biases.plumed_kernel import has_kernel

# No test reaches another machine, nor does a process that it starts.
foreign_connections.watch()

# Prefect reads its settings when it is imported, and some of its threads see no others. So they are set here, before
# any test is imported; the server itself starts when the first test wants it.
PREFECT_HOME = Path(tempfile.mkdtemp(prefix="surveyor-prefect-"))
API_URL = free_address()
os.environ.update(prefect_environment(PREFECT_HOME, API_URL))
os.environ["WANDB_ERROR_REPORTING"] = "false"  # wandb would tell its maker of errors

# Shells have background jobs ignore it, and what these start; tests send it to programs that must not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What a marker needs, and how to get it.
REQUIREMENTS = {
    "plumed": (
        has_kernel,
        'PLUMED: pip install "surveyor[plumed]", and set PLUMED_KERNEL to its libplumedKernel.so (`make tests` does)',
    ),
    "mace": (lambda: find_spec("mace"), 'mace-torch: pip install "surveyor[mace]"'),
    "cuequivariance": (
        lambda: find_spec("cuequivariance_torch"),
        'cuEquivariance: pip install "surveyor[cuequivariance]"',
    ),
    "nequip": (lambda: find_spec("nequip"), 'NequIP: pip install "surveyor[nequip]", in an environment of its own'),
    "xtb": (lambda: find_spec("tblite"), 'tblite: pip install "surveyor[xtb]"'),
    "wandb": (lambda: find_spec("wandb"), 'wandb: pip install "surveyor[wandb]"'),
    "cp2k": (lambda: shutil.which("cp2k.psmp"), "CP2K: apt-get install cp2k openmpi-bin"),
    "espresso": (
        lambda: shutil.which("pw.x"),
        "Quantum ESPRESSO: apt-get install quantum-espresso quantum-espresso-data",
    ),
    "azurite": (azurite_program, "Azurite: npm install --prefix .venv/azurite azurite"),
    "kubernetes": (
        has_kubernetes,
        "root, etcd, kubectl and kube-apiserver: apt-get install etcd-server kubernetes-client golang-go dpkg-dev, and "
        "tests/support/build_kube_apiserver.sh",
    ),
    "postgresql": (postgresql_programs, "PostgreSQL: apt-get install postgresql"),
    "browser": (lambda: shutil.which("chromedriver"), "Chromium: apt-get install chromium chromium-driver"),
    "mount": (lambda: os.geteuid() == 0, "root, to mount a file system"),
    "ssh": (
        has_sshd,
        "root, network namespaces, and OpenSSH's server: apt-get install openssh-server iproute2 iptables",
    ),
    "slurm": (has_slurm, "root and SLURM: apt-get install slurm-wlm munge"),
    "torque": (
        has_torque,
        "Torque's commands before SLURM: apt-get install slurm-wlm-torque, or unpack it (see tests/support/torque.py)",
    ),
    "oar": (
        has_oar,
        "root, PostgreSQL, Perl modules and OAR: apt-get install postgresql libdbd-pg-perl libsort-versions-perl, and "
        "unpack oar-server, oar-user, oar-common and liboar-perl (see tests/support/oar.py)",
    ),
    "sge": (
        has_grid_engine,
        "root and Grid Engine: apt-get install gridengine-master gridengine-exec gridengine-client",
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of slow tests, longest time limit first: no process is to end alone with one of them."""
    limits: dict[Path, float] = {}
    for item in items:
        if item.get_closest_marker("slow"):
            marker = item.get_closest_marker("timeout")
            limits[item.path] = max(limits.get(item.path, 0.0), marker.args[0] if marker else 0.0)
    items.sort(key=lambda item: -limits.get(item.path, -1.0))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name, (is_there, remedy) in REQUIREMENTS.items():
        if item.get_closest_marker(name) and not is_there():
            # In CI a skip would hide a missing installation step.
            report = pytest.fail if os.environ.get("SURVEYOR_TEST_EVERYTHING") else pytest.skip
            report(f"needs {remedy}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name what failed at once: of a run that is stopped before its end, nothing else would tell."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        sys.stderr.write(f"\n{report.nodeid}: failed in {report.when}\n")


def pytest_unconfigure() -> None:
    shutil.rmtree(PREFECT_HOME, ignore_errors=True)
    foreign_connections.end()


@pytest.fixture(scope="session")
def prefect_home() -> Path:
    """Where Prefect keeps what it keeps during the tests."""
    return PREFECT_HOME


@pytest.fixture(scope="session")
def prefect_api_url() -> Iterator[str]:
    """The API of a real server that all tests share; it starts when the first of them wants it."""
    with prefect_server(PREFECT_HOME, API_URL):
        yield API_URL
        from prefect.logging.handlers import APILogHandler  # imported late: the settings above come first

        APILogHandler().flush()  # at exit, minutes would pass in attempts to reach a server that is gone


@pytest.fixture(autouse=True)
def _no_connection_to_another_machine() -> Iterator[None]:
    yield
    assert foreign_connections.noted() == ""


@pytest.fixture(autouse=True)
def _no_error_in_the_logs_of_servers() -> Iterator[None]:
    """A server may fail at its work, such as making runs for schedules, and answer as if it did not."""
    yield
    check_watched_logs()


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[SlurmCluster]:
    """A real SLURM that all tests share; it starts when the first of them wants it."""
    with slurm() as cluster, pytest.MonkeyPatch.context() as environment:
        for name, value in cluster.environment.items():
            environment.setenv(name, value)  # pools of this process, and processes that it starts, submit to it
        yield cluster


@pytest.fixture(scope="session")
def sge() -> Iterator[GridEngine]:
    """A real Grid Engine that all tests share; it starts when the first of them wants it."""
    with grid_engine() as engine:
        yield engine


@pytest.fixture(scope="session")
def oar_server() -> Iterator[OAR]:
    """A real OAR that all tests share; it starts when the first of them wants it."""
    with oar() as server:
        yield server


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    """S3 on loopback, for the tests of a file: it has threads in this process."""
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def azure() -> Iterator[Azure]:
    """Azure Blob Storage on loopback, for the tests of a file."""
    with azure_server() as server:
        yield server
