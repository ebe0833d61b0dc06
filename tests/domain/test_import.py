import json
import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import bulk

import surveyor

REPOSITORY = Path(__file__).parents[2]
ENGINES = ("torch", "mace", "nequip", "e3nn", "tblite", "wandb")
CLOUDS = ("obstore", "boto3", "botocore", "google", "kubernetes")
REFUSED = ("prefect", "prefect_dask", *ENGINES, *CLOUDS, "dask", "distributed")

PUBLIC = """
ASEParameters ASEReference Bootstrap CP2KParameters CP2KReference CampaignParameters Codes CommitteeModel
CommitteeParameters DataSets Dataset EMTParameters EMTReference InputError Label LabelFailure LabelStore Labeller
Learning MACEModel MACEParameters MemberParameters Model ModelParameters NequIPModel NequIPParameters PairModel
PairParameters Potential Reference ReferenceParameters SurveyorError Walkers XTBParameters XTBReference
benchmark_labels decide_membership errors_of explore label_dataset label_structures load_model local_pool make_model
make_reference make_walkers move_on new_structures online_learning perturbed_starts propagate read_campaign
sample_walkers structure_errors train_model
"""

# Refuses some packages, imports what the arguments name, and prints which packages are there afterwards.
SCRIPT = """
import importlib, json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in json.loads(sys.argv[1]):
            raise ImportError(name + " is refused")

sys.meta_path.insert(0, Refuse())
for name in sys.argv[2:]:
    module, _, attribute = name.partition(":")
    imported = importlib.import_module(module)
    if attribute:
        getattr(imported, attribute)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def imported_with(refused: tuple[str, ...], *names: str) -> set[str]:
    command = [sys.executable, "-c", SCRIPT, json.dumps(refused), *names]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout))


def domain_modules() -> list[str]:
    source = REPOSITORY / "src"
    paths = (path.relative_to(source).with_suffix("") for path in (source / "surveyor").rglob("*.py"))
    names = {".".join(path.parts).removesuffix(".__init__") for path in paths}
    return sorted(names - {"surveyor.models.nequip_callbacks"})  # of NequIP's own program


def test_surveyor_itself_imports_nothing_that_takes_time():
    heavy = {"numpy", "ase", "pydantic", "yaml", "psutil", "matplotlib", *REFUSED}
    assert not imported_with((), "surveyor") & heavy


def test_the_domain_is_imported_where_neither_prefect_nor_engines_are():
    imported_with(tuple(set(REFUSED) - {"dask", "distributed"}), *domain_modules())


def test_the_domain_without_its_pools_is_imported_where_dask_is_not():
    names = ("labels", "learning.labelled_samples", "run_directory", "reference.labelling", "sampling.propagation")
    imported_with(REFUSED, *(f"surveyor.{name}" for name in names))


def test_the_public_names_are_these():
    assert surveyor.__all__ == PUBLIC.split()
    assert set(surveyor.__all__) <= set(dir(surveyor))
    stub = (REPOSITORY / "src/surveyor/__init__.pyi").read_text()
    assert stub.count("import ") - stub.count("`import ") == len(surveyor.__all__), "a name of the stub is not found"
    page = (REPOSITORY / "docs/reference/python.md").read_text()
    assert [name for name in surveyor.__all__ if f"`{name}`" not in page] == [], "the documentation has them all"


def test_paths_may_be_strings(tmp_path):
    folder = str(tmp_path)
    reference = surveyor.EMTReference(surveyor.EMTParameters())
    labellers = [
        surveyor.Labeller.in_folder(folder, reference),
        surveyor.Labeller(
            reference, reference.resolve(), surveyor.LabelStore.in_folder(f"{folder}/labels"), f"{folder}/scratch"
        ),
    ]
    copper = bulk("Cu", cubic=True)
    frames = surveyor.Dataset(labellers[seed % 2](copper * (1 + seed, 1, 1)) for seed in range(4))
    surveyor.DataSets(train=frames).save(folder)
    frames = surveyor.DataSets.load(folder).train
    frames.save(f"{folder}/start.extxyz")
    model = surveyor.PairModel(surveyor.PairParameters()).initialize(frames, atomic_energies={"Cu": 3.5}, seed=0)
    model.train(frames, frames, f"{folder}/training")[0].save(f"{folder}/model")
    potential = surveyor.load_model(f"{folder}/model").deploy()
    (walker,) = surveyor.make_walkers(
        [surveyor.Walkers(start=f"{folder}/start.extxyz", n_walkers=1, n_steps=2)], seed=0
    )
    assert surveyor.propagate(walker, potential, directory=f"{folder}/samples", name="one").structure is not None
    with pytest.raises(surveyor.InputError, match="nowhere is not the run directory of a campaign"):
        surveyor.read_campaign(f"{folder}/nowhere")


def test_public_names_are_there_without_prefect_and_engines_but_for_the_flows():
    flows = {
        "benchmark_labels",
        "label_dataset",
        "label_structures",
        "online_learning",
        "sample_walkers",
        "train_model",
    }
    names = [f"surveyor:{name}" for name in surveyor.__all__ if name not in flows]
    imported_with(tuple(set(REFUSED) - {"dask", "distributed"}), *names)


def test_the_flows_are_public_names():
    assert {"prefect"} <= imported_with((), "surveyor:online_learning", "surveyor:label_structures")


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'surveyor' has no attribute 'Atoms'"):
        surveyor.Atoms  # noqa: B018


def test_a_campaign_starts_without_what_only_later_work_needs():
    later = {"matplotlib", "PIL", "pandas", *ENGINES, *CLOUDS}
    assert not imported_with((), "surveyor.flows.command_line", "surveyor.flows.online_learning") & later
    assert not imported_with((), "surveyor.flows.sample_walkers", "surveyor.flows.label_dataset") & later
    assert not imported_with((), "surveyor.flows.benchmark_labels") & later


def test_a_worker_starts_without_what_only_the_flow_needs():
    of_flows = {"prefect", "matplotlib", "torch", "wandb", "httpx"}
    assert not imported_with((), "surveyor.pools.local_process", "surveyor.reference.labelling") & of_flows


def test_the_command_line_imports_prefect_only_for_flows():
    assert not imported_with((), "surveyor.flows.command_line") & {"prefect", "matplotlib", "torch"}
