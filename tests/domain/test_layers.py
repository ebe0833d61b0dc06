import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FOLDERS = {"surveyor": "src/surveyor", "blocks": "blocks", "tasks": "tasks", "flows": "flows"}
LAYERS = list(FOLDERS)  # each imports only what stands to its left
# The rooms of the domain, folders and modules alike: each imports only what stands before it.
ROOMS = [
    "errors",
    "words",
    "files",
    "parameters",
    "structures",
    "potentials",
    "biases",
    "storage",
    "lease",
    "programs",
    "events",
    "pools",
    "labels",
    "dataset",
    "reading",
    "models",
    "sampling",
    "selection",
    "learning",
    "run_directory",
    "progress",
    "reference",
    "works",
    "doctor",
    "report",
    "benchmark",
    "testing",
]
MOST_ARROWS = 180  # pairs of rooms of which one imports the other
ENGINES = {"torch", "mace", "nequip", "lightning", "hydra", "omegaconf", "tblite", "wandb", "e3nn", "obstore"}


def modules(layer: str) -> list[Path]:
    return sorted((REPOSITORY / FOLDERS[layer]).rglob("*.py"))


def imports(node: ast.AST, *, everywhere: bool) -> Iterator[str]:
    """The names of imported modules; without those inside functions where not everywhere."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            assert child.module is not None
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif everywhere or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(child, everywhere=everywhere)


def imports_of(path: Path, *, everywhere: bool = True) -> set[str]:
    return set(imports(ast.parse(path.read_text()), everywhere=everywhere))


def top(name: str) -> str:
    return name.partition(".")[0]


def violations(layer: str, is_forbidden, *, everywhere: bool = True) -> list[str]:
    return [
        f"{path.relative_to(REPOSITORY)} imports {name}"
        for path in modules(layer)
        for name in sorted(imports_of(path, everywhere=everywhere))
        if is_forbidden(path, name)
    ]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_what_stands_to_its_left(layer):
    to_the_right = LAYERS[LAYERS.index(layer) + 1 :]
    forbidden = tuple(f"surveyor.{name}" for name in to_the_right)

    def is_forbidden(path: Path, name: str) -> bool:
        return any(name == each or name.startswith(f"{each}.") for each in forbidden)

    assert violations(layer, is_forbidden) == []


def room_of(path: Path) -> str:
    return path.relative_to(REPOSITORY / FOLDERS["surveyor"]).parts[0].removesuffix(".py")


def test_every_room_of_the_domain_has_its_place():
    found = {room_of(path) for path in modules("surveyor")} - {"__init__"}
    assert len(ROOMS) == len(set(ROOMS))
    assert found == set(ROOMS)


def test_an_installation_has_every_room_of_the_domain():
    packages = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    source = REPOSITORY / "src"
    folders = [path.parent.relative_to(source) for path in (source / "surveyor").rglob("*/__init__.py")]
    rooms = {".".join(folder.parts) for folder in folders}
    assert rooms <= {*packages}


def test_a_room_imports_only_rooms_before_it():
    def is_forbidden(path: Path, name: str) -> bool:
        package, _, rest = name.partition(".")
        room, mine = rest.partition(".")[0], room_of(path)
        return package == "surveyor" and room in ROOMS and ROOMS.index(room) > ROOMS.index(mine)

    assert violations("surveyor", is_forbidden) == []


def test_rooms_know_few_others():
    arrows = {
        (room_of(path), name.split(".")[1])
        for path in modules("surveyor")
        for name in imports_of(path)
        if name.startswith("surveyor.") and name.split(".")[1] in ROOMS
    }
    assert 100 < len([each for each in arrows if each[0] != each[1]]) <= MOST_ARROWS


@pytest.mark.parametrize("layer", LAYERS)
def test_no_layer_imports_deployments_or_tests(layer):
    assert violations(layer, lambda path, name: top(name) in ("deployments", "tests", "benchmarks")) == []


def test_the_domain_imports_neither_prefect_nor_wandb():
    assert violations("surveyor", lambda path, name: top(name) in ("prefect", "prefect_dask", "wandb")) == []


def test_dask_is_the_business_of_pools_alone():
    dask = ("dask", "distributed", "dask_jobqueue", "dask_cloudprovider")
    pools = REPOSITORY / "src/surveyor/pools"
    assert violations("surveyor", lambda path, name: top(name) in dask and pools not in path.parents) == []


KINDS = ("ec2", "gcp", "kubernetes", "ssh")  # of pools, each with a folder of its own


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_pool_does_not_know_the_others(kind):
    folder = REPOSITORY / "src/surveyor/pools" / kind
    others = tuple(f"surveyor.pools.{other}" for other in KINDS if other != kind)
    assert violations("surveyor", lambda path, name: path.parent == folder and name.startswith(others)) == []


# Derives from classes of its engine, and is imported by the engine's own program alone.
OF_AN_ENGINE = REPOSITORY / "src/surveyor/models/nequip_callbacks.py"


@pytest.mark.parametrize("layer", LAYERS)
def test_engines_are_imported_inside_the_functions_that_need_them(layer):
    def is_forbidden(path: Path, name: str) -> bool:
        return top(name) in ENGINES and path != OF_AN_ENGINE

    assert violations(layer, is_forbidden, everywhere=False) == []


def test_nothing_imports_what_derives_from_classes_of_an_engine():
    of_an_engine = f"surveyor.models.{OF_AN_ENGINE.stem}"
    for layer in LAYERS:
        assert violations(layer, lambda path, name: name.startswith(of_an_engine)) == []


def test_flows_and_tasks_do_not_import_engines_at_all_but_wandb_in_a_task():
    assert violations("flows", lambda path, name: top(name) in ENGINES) == []
    assert violations("tasks", lambda path, name: top(name) in ENGINES - {"wandb"}) == []


def test_imports_inside_functions_are_seen():
    tree = ast.parse("import a\ndef f():\n    from b import c\nclass D:\n    import e\n")
    assert set(imports(tree, everywhere=True)) == {"a", "b", "b.c", "e"}
    assert set(imports(tree, everywhere=False)) == {"a", "e"}
