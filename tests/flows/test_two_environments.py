"""One campaign, two environments: the flow's has neither MACE nor torch, that of sampling and training has both."""

import os
import subprocess
from importlib import metadata
from pathlib import Path

import ase.io
import pytest
import yaml
from ase.build import bulk
from ase.cluster import Icosahedron
from environments import make_environment
from slurm import SlurmCluster

from surveyor.blocks.pools import LocalPool
from surveyor.errors import PoolFailed
from surveyor.files import read_json
from surveyor.flows.online_learning import online_learning
from surveyor.labels import LabelStore
from surveyor.run_directory import RunDirectory
from surveyor.works.campaign import CAMPAIGN

MACE = {
    "r_max_A": 4.0,
    "num_channels": 4,
    "max_L": 0,
    "correlation": 1,
    "num_interactions": 1,
    "max_num_epochs": 2,
    "lr": 0.03,
}
TINY_NEQUIP = {
    "r_max_A": 4.0,
    "num_layers": 1,
    "num_features": 4,
    "radial_mlp_width": 8,
    "max_num_epochs": 2,
    "is_compiled": False,
}
NEQUIP = Path(__file__).parents[2] / ".venv" / "nequip" / "bin" / "python"
LOOSE = {
    "reset_energy_meV_per_atom": 1e6,
    "reset_forces_meV_per_A": 1e6,
    "discard_energy_meV_per_atom": 1e6,
    "discard_forces_meV_per_A": 1e6,
}
ENGINES = ("torch", "mace", "e3nn", "tblite")

pytestmark = [pytest.mark.mace, pytest.mark.slow]


class TwoEnvironments:
    """A campaign in a folder, whose commands run in an environment without engines.

    Args:
        folder: an empty one.
        flow: interpreter of the environment without engines.
        engine: interpreter of one with MACE.
    """

    def __init__(self, folder: Path, flow: Path, engine: Path) -> None:
        self.folder, self.flow, self.engine = folder, flow, engine
        self.directory = RunDirectory(folder / "run")
        ase.io.write(folder / "copper.extxyz", [bulk("Cu", cubic=True), Icosahedron("Cu", 2)])

    def write(self, n_generations: int, **pools: str) -> None:
        """Write a campaign file."""
        content = {
            "run_directory": "run",
            "walkers": [{"start": "copper.extxyz", "n_walkers": 2, "n_steps": 10, "max_temperature_factor": 100}],
            "reference": {"emt": {}},
            "model": {"mace": MACE},
            "bootstrap": {"n_structures": 6},
            "learning": {"n_generations": n_generations, **LOOSE},
            "pools": pools,
        }
        (self.folder / "campaign.yaml").write_text(yaml.safe_dump(content))

    def run(self, n_generations: int, **pools: str) -> None:
        """Check and run a campaign, ask how it stands, and look at what is there then."""
        self.write(n_generations, **pools)
        assert "is valid" in self.surveyor("check", "campaign.yaml")
        assert "run is complete: " in self.surveyor("run", "campaign.yaml")
        assert f"generation {n_generations}" in self.surveyor("status", "run")
        assert self.directory.report.exists()
        assert {*read_json(self.directory.comparison)["errors"]} == {*map(str, range(n_generations + 1))}
        (run,) = read_json(self.directory.provenance)["runs"]
        assert not {"mace-torch", "torch"} & {*run["versions"]}
        trained_with = read_json(self.directory.generation(n_generations).model / "model.json")["versions"]
        assert trained_with["mace-torch"] == metadata.version("mace-torch")

    def surveyor(self, *arguments: str) -> str:
        """Run the command `surveyor` and return what it prints."""
        return self.python("-m", "surveyor.flows.command_line", *arguments)

    def python(self, *arguments: str) -> str:
        """Run the interpreter of the flow and return what it prints; a warning is an error."""
        done = subprocess.run([self.flow, *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Warning" not in done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def interpreters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One without engines and one with MACE."""
    folder = tmp_path_factory.mktemp("environments")
    return make_environment(folder / "flow", "surveyor"), make_environment(folder / "engine", "surveyor[mace]")


@pytest.fixture
def two(tmp_path: Path, interpreters: tuple[Path, Path]) -> TwoEnvironments:
    return TwoEnvironments(tmp_path, *interpreters)


def test_the_environment_of_the_flow_has_no_engine(two: TwoEnvironments) -> None:
    missing = f"from importlib.util import find_spec; print([name for name in {ENGINES} if find_spec(name) is None])"
    assert two.python("-c", missing) == f"{[*ENGINES]}\n"


def test_a_pool_with_other_versions_ends_a_campaign_before_it_learns(two: TwoEnvironments) -> None:
    python = make_environment(two.folder / "old", "surveyor", versions={"surveyor": "0.0.1"})
    LocalPool(cores=1, python=str(python)).save("old")
    two.write(1, sampling="local/old")  # what samples is needed last; labels wait for their own pool alone
    with pytest.raises(PoolFailed, match=r"pool local/old: versions differ: .* has surveyor 0\.0\.1 \(there "):
        online_learning(**dict(CAMPAIGN.load(two.folder / "campaign.yaml")))
    assert two.directory.n_complete() == 0


def test_walkers_and_trainings_run_in_another_environment_of_this_machine(two: TwoEnvironments) -> None:
    LocalPool(cores=1, python=str(two.engine)).save("two-environments")
    two.run(1, sampling="local/two-environments", training="local/two-environments")


ON_A_CLUSTER = """
import sys
from pathlib import Path
from surveyor.errors import InputError
from surveyor.models.choice import ModelParameters, check_model_parameters
from surveyor.pools.cluster import close_cluster_pool, cluster_pool
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.sites import SLURMSite

folder, parameters = Path.cwd() / "pool", ModelParameters(mace={})
site = SLURMSite(queue="cpu", interface="lo", max_jobs=1, python=sys.argv[1])
try:
    check_model_parameters(parameters)
except InputError as error:
    print("here:", error)
with cluster_pool("slurm/engine", site, folder) as pool:
    pool.submit(check_model_parameters, parameters).result(300)
close_cluster_pool(PoolFolder(folder))
"""


@pytest.mark.slurm
def test_jobs_of_a_cluster_have_the_engine_that_the_flow_has_not(
    two: TwoEnvironments, slurm_cluster: SlurmCluster
) -> None:
    assert "here: this model needs MACE, which is not installed here" in two.python("-c", ON_A_CLUSTER, str(two.engine))
    assert slurm_cluster.queue() == []


TWO_ENGINES = """
import sys
from importlib.util import find_spec
from pathlib import Path
from surveyor.blocks.pools import LocalPool
from surveyor.works.campaign import CAMPAIGN
from surveyor.flows.online_learning import online_learning

for name in ("mace", "nequip"):
    LocalPool(cores=1, python=sys.argv[1 if name == "mace" else 2]).save(f"engine-{name}")
potential = online_learning(**dict(CAMPAIGN.load(Path("campaign.yaml"))), display=False)
print(potential.name)
potential = online_learning(**dict(CAMPAIGN.load(Path("nequip.yaml"))), display=False)
print(potential.name)
print([name for name in ("torch", "mace", "nequip", "e3nn") if find_spec(name)])
"""


@pytest.mark.long
def test_one_flow_has_mace_explore_and_nequip_go_on_with_its_data(two: TwoEnvironments) -> None:
    if not NEQUIP.exists():
        report = pytest.fail if os.environ.get("SURVEYOR_TEST_EVERYTHING") else pytest.skip
        report("needs NequIP in an environment of its own: make .venv/nequip/test.stamp")
    two.write(1, sampling="local/engine-mace", training="local/engine-mace")
    content = yaml.safe_load((two.folder / "campaign.yaml").read_text())
    pools = {"sampling": "local/engine-nequip", "training": "local/engine-nequip"}
    other = {"run_directory": "other", "begin_from": {"run_directory": "run", "generation": 1}, "pools": pools}
    (two.folder / "nequip.yaml").write_text(yaml.safe_dump({**content, **other, "model": {"nequip": TINY_NEQUIP}}))

    *_, mace, nequip, engines = two.python("-c", TWO_ENGINES, str(two.engine), str(NEQUIP)).splitlines()
    assert (mace, nequip, engines) == ("mace.model", "model.nequip.zip", "[]")
    begun = RunDirectory(two.folder / "other")
    kinds = [read_json(directory.generation(1).model / "model.json")["kind"] for directory in (two.directory, begun)]
    assert kinds == ["mace", "nequip"]
    # What was labelled for MACE is what NequIP began with, and is not bought twice.
    first = read_json(two.directory.generation(1).manifest)["labels"]
    second = read_json(begun.generation(0).manifest)["labels"]
    assert {*first} == {*second}
    store = LabelStore.in_folder(two.folder / "labels")
    assert {*read_json(begun.generation(1).manifest)["labels"]} <= {*store.keys()}
