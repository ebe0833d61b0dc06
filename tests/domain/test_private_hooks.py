"""Private parts of other packages that surveyor uses, as docs/explanation/private-hooks.md lists them."""

import ast
import inspect
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs/explanation/private-hooks.md"
TRIED = {
    "ase": ("3.29.0",),
    "cp2k-input-tools": ("0.9.1", "0.9.3"),
    "dask-jobqueue": ("0.9.0",),
    "distributed": ("2026.3.0", "2026.7.1", "2026.8.0"),
    "lightning": ("2.6.6",),
    "mace-torch": ("0.3.16",),
    "nequip": ("0.19.0", "0.19.1"),
    "prefect": ("3.9.1",),
}
MARKS = {"mace-torch": "mace", "nequip": "nequip", "lightning": "nequip"}


def found(path: str) -> object:
    """Return what is at a path such as "module:Class.method"."""
    module, _, names = path.partition(":")
    value: object = import_module(module)
    for name in filter(None, names.split(".")):
        value = getattr(value, name)
    return value


def has(*paths: str) -> Callable[[], object]:
    return lambda: [found(path) for path in paths]


def takes(path: str, *parameters: str) -> Callable[[], object]:
    """A function has these parameters."""
    return lambda: set(parameters) <= set(inspect.signature(found(path)).parameters)


def mentions(path: str, *names: str) -> Callable[[], object]:
    """The source of a class has these attributes, which its instances get at run time."""
    return lambda: all(re.search(rf"\b{name}\b", inspect.getsource(found(path))) for name in names)


def in_prefect() -> object:
    from prefect.client.schemas.objects import FlowRunPolicy
    from prefect.context import FlowRunContext, TaskRunContext
    from prefect.logging.handlers import PrefectConsoleHandler

    return "resuming" in FlowRunPolicy.model_fields and FlowRunContext and TaskRunContext and PrefectConsoleHandler


def in_a_chain() -> object:
    from ase.build import bulk
    from ase.md.nose_hoover_chain import NoseHooverChainNVT

    chain = NoseHooverChainNVT(bulk("Cu"), 1.0, temperature_K=300, tdamp=10.0, tchain=3)
    thermostat = chain._thermostat
    names = ("_num_atoms_global", "_kT", "_Q", "_eta", "_p_eta")
    return chain._p is not None and all(hasattr(thermostat, name) for name in names)


LOOP = """
model loss_fn train_loader valid_loaders optimizer lr_scheduler checkpoint_handler max_num_epochs patience eval_interval
output_args device logger log_errors swa ema max_grad_norm distributed log_wandb plotter
"""


@dataclass(frozen=True)
class Hook:
    """The private parts of a package that surveyor uses.

    Attributes:
        package: its distribution.
        name: as the page has it.
        holds: whether the installed version has it so; raises or returns something false where it does not.
    """

    package: str
    name: str
    holds: Callable[[], object]


HOOKS = [
    Hook("mace-torch", "mace.tools.train", takes("mace.tools:train", *LOOP.split())),
    Hook("mace-torch", "train_one_epoch", takes("mace.tools.train:train_one_epoch", "loss_fn", "data_loader", "ema")),
    Hook("mace-torch", "evaluate", takes("mace.tools.train:evaluate", "model", "loss_fn", "data_loader", "device")),
    Hook("mace-torch", "valid_err_log", has("mace.tools.train:valid_err_log")),
    Hook("mace-torch", "run_train.configure_model", has("mace.cli.run_train:configure_model")),
    Hook("mace-torch", "run_train.jit", has("mace.cli.run_train:jit.compile")),
    Hook(
        "mace-torch",
        "SymmetricContraction",
        mentions("mace.modules.symmetric_contraction:SymmetricContraction", "contractions", "irreps_out"),
    ),
    Hook(
        "mace-torch",
        "U_tensors",
        mentions("mace.modules.symmetric_contraction:Contraction", "weights", "weights_max", "U_tensors"),
    ),
    Hook(
        "mace-torch",
        "MACECalculator._atoms_to_batch",
        takes("mace.calculators:MACECalculator._atoms_to_batch", "atoms"),
    ),
    Hook(
        "mace-torch",
        "MACECalculator._create_result_tensors",
        takes("mace.calculators:MACECalculator._create_result_tensors", "num_models", "num_atoms", "batch", "out"),
    ),
    Hook("mace-torch", "node_energy", mentions("mace.modules:ScaleShiftMACE", "node_energy")),
    Hook("mace-torch", "node_feats", mentions("mace.modules:ScaleShiftMACE", "node_feats", "products")),
    Hook("mace-torch", "linear.irreps_out", mentions("mace.modules:EquivariantProductBasisBlock", "linear")),
    Hook(
        "mace-torch",
        "atomic_energies_fn.atomic_energies",
        mentions("mace.modules:AtomicEnergiesBlock", "atomic_energies"),
    ),
    Hook("mace-torch", "convert_e3nn_cueq.run", takes("mace.cli.convert_e3nn_cueq:run", "input_model", "device")),
    Hook("mace-torch", "convert_e3nn_oeq.run", takes("mace.cli.convert_e3nn_oeq:run", "input_model", "device")),
    Hook(
        "mace-torch",
        "foundations_models.mace_mp_names",
        lambda: "medium" in found("mace.calculators.foundations_models:mace_mp_names"),
    ),
    Hook(
        "mace-torch",
        "download_mace_mp_checkpoint",
        takes("mace.calculators.foundations_models:download_mace_mp_checkpoint", "model"),
    ),
    Hook("mace-torch", "remove_pt_head", takes("mace.tools.scripts_utils:remove_pt_head", "model", "head_to_keep")),
    Hook(
        "nequip",
        "NequIPCalculator._from_saved_model",
        takes(
            "nequip.integrations.ase:NequIPCalculator._from_saved_model", "device", "chemical_species_to_atom_type_map"
        ),
    ),
    Hook(
        "nequip",
        "NequIPCalculator._get_aoti_compile_target",
        has("nequip.integrations.ase:NequIPCalculator._get_aoti_compile_target"),
    ),
    Hook(
        "nequip",
        "COMPILE_TARGET_DICT",
        lambda: "input" in found("nequip.scripts._compile_utils:COMPILE_TARGET_DICT")["batch"],
    ),
    Hook("nequip", "NequIPCalculator.atoms_to_data", has("nequip.integrations.ase:NequIPCalculator.atoms_to_data")),
    Hook("nequip", "call_model", has("nequip.integrations.ase:NequIPCalculator.call_model")),
    Hook("nequip", "AtomicDataDict.NODE_FEATURES_KEY", has("nequip.data:AtomicDataDict.NODE_FEATURES_KEY")),
    Hook("nequip", "do_derivatives", mentions("nequip.nn:ForceStressOutput", "do_derivatives", "func")),
    Hook("nequip", "GraphModel.irreps_out", mentions("nequip.nn:GraphModuleMixin", "irreps_out")),
    Hook("nequip", "GraphModel.model_input_fields", mentions("nequip.nn:GraphModel", "model_input_fields")),
    Hook("nequip", "set_global_state", has("nequip.utils.global_state:set_global_state")),
    Hook("nequip", "training_data_stats", mentions("nequip.scripts.train", "training_data_stats")),
    Hook("nequip", "NequIPLightningModule.val_metrics", mentions("nequip.train:NequIPLightningModule", "val_metrics")),
    Hook(
        "nequip",
        "MetricsManager.metrics_values_epoch",
        mentions("nequip.train:MetricsManager", "metrics_values_epoch", "entries"),
    ),
    Hook("nequip", "nequip.scripts.train.main", has("nequip.scripts.train:main")),
    Hook("lightning", "Trainer.fit_loop.state_dict", has("lightning.pytorch.loops:_FitLoop.state_dict")),
    Hook("lightning", "SIGTERMException", has("lightning.pytorch.utilities.exceptions:SIGTERMException")),
    Hook(
        "ase",
        "LangevinBAOAB._barostat_BAOAB_OU_gamma_mod",
        mentions(
            "ase.md.langevinbaoab:LangevinBAOAB",
            "_barostat_BAOAB_OU_gamma_mod",
            *("p_eps", "force_eps", "Ndof", "barostat_mass", "hydrostatic"),
        ),
    ),
    Hook("ase", "NoseHooverChainNVT._thermostat", in_a_chain),
    Hook("ase", "Bussi.target_kinetic_energy", mentions("ase.md.bussi:Bussi", "target_kinetic_energy", "ndof")),
    Hook("ase", "BFGS.H0", mentions("ase.optimize.bfgs", "H0", "H", "state")),
    Hook("distributed", "Scheduler.is_rootish", takes("distributed:Scheduler.is_rootish", "ts")),
    Hook(
        "distributed",
        "Scheduler.queued",
        mentions("distributed.scheduler:SchedulerState", "queued", "unrunnable", "is_rootish"),
    ),
    Hook(
        "distributed",
        "Scheduler.remove_worker",
        takes("distributed:Scheduler.remove_worker", "address", "stimulus_id", "expected", "close"),
    ),
    Hook("distributed", "add_worker", takes("distributed:Scheduler.add_worker", "comm", "name")),
    Hook(
        "distributed",
        "handle_worker_status_change",
        takes("distributed:Scheduler.handle_worker_status_change", "status", "worker", "stimulus_id"),
    ),
    Hook("distributed", "aliases", mentions("distributed.scheduler:SchedulerState", "aliases")),
    Hook("distributed", "client_releases_keys", takes("distributed:Scheduler.client_releases_keys", "keys", "client")),
    Hook("distributed", "Client._ensure_connected", takes("distributed:Client._ensure_connected", "timeout")),
    Hook("distributed", "_reconnect", has("distributed:Client._reconnect", "distributed:Client._close")),
    Hook("distributed", "Client._send_to_scheduler", has("distributed:Client._send_to_scheduler")),
    Hook("distributed", "fire-and-forget", mentions("distributed.client", "fire-and-forget")),
    Hook("distributed", "Worker.state.executed_count", mentions("distributed.worker_state_machine", "executed_count")),
    Hook("distributed", "close_gracefully", takes("distributed:Worker.close_gracefully", "reason")),
    Hook(
        "dask-jobqueue",
        "Cluster.job_cls",
        has(*(f"dask_jobqueue:{kind}Cluster.job_cls.job_script" for kind in ("SLURM", "PBS", "LSF", "SGE", "OAR"))),
    ),
    Hook(
        "dask-jobqueue",
        "submit_command",
        mentions("dask_jobqueue.core:Job", "job_id", "submit_command", "start", "job_script"),
    ),
    Hook(
        "cp2k-input-tools",
        "CP2KInputParser._treerefs",
        mentions("cp2k_input_tools.parser:CP2KInputParser", "_treerefs", "_tree", "_spec", "nested_dict"),
    ),
    Hook(
        "cp2k-input-tools",
        "_parse_as_section",
        has(*(f"cp2k_input_tools.parser:CP2KInputParser._parse_as_{what}" for what in ("section", "keyword"))),
    ),
    Hook(
        "cp2k-input-tools",
        "CP2KInputGenerator._get_default_keyword",
        takes("cp2k_input_tools.generator:CP2KInputGenerator._get_default_keyword", "section_node"),
    ),
    Hook("prefect", "empirical_policy.resuming", in_prefect),
    Hook("prefect", "PrefectHttpxSyncClient.send", takes("prefect.client.base:PrefectHttpxSyncClient.send", "request")),
    Hook(
        "prefect", "PrefectHttpxAsyncClient.send", takes("prefect.client.base:PrefectHttpxAsyncClient.send", "request")
    ),
    Hook("prefect", "server.pid", lambda: found("prefect.cli._server_utils:SERVER_PID_FILE_NAME") == "server.pid"),
    Hook("prefect", "prefect.flow-run.heartbeat", mentions("prefect.flow_engine", "prefect.flow-run.heartbeat")),
    Hook("prefect", "prefect.flow_runs", mentions("prefect.logging.loggers", "prefect.flow_runs", "prefect.task_runs")),
    Hook("prefect", "prefect.engine", mentions("prefect.flow_engine", "engine")),
]


def broken(hook: Hook, installed: str) -> str:
    """Return what to tell of a hook that the installed version of its package does not have; empty where it has it."""
    try:
        if hook.holds():
            return ""
        why = "it is another one"
    except (ImportError, AttributeError, TypeError, ValueError, KeyError) as error:
        why = repr(error)
    return (
        f"{hook.package} {installed} has no {hook.name} as surveyor uses it ({why}); tried with {hook.package} "
        f"{', '.join(TRIED[hook.package])}. {PAGE.relative_to(REPOSITORY)} says where it is used and why: adapt that, "
        "or lower the upper bound in pyproject.toml"
    )


@pytest.mark.filterwarnings("ignore")  # what packages say when they are imported
@pytest.mark.parametrize(
    "hook",
    [
        pytest.param(
            hook, marks=[getattr(pytest.mark, MARKS[hook.package])] if hook.package in MARKS else [], id=hook.name
        )
        for hook in HOOKS
    ],
)
def test_the_installed_version_has_a_private_hook(hook: Hook) -> None:
    assert broken(hook, version(hook.package)) == ""


def test_a_hook_that_is_gone_is_told_with_the_installed_version_and_those_tried() -> None:
    gone = Hook("ase", "Bussi.warp", has("ase.md.bussi:Bussi.warp"))
    another = Hook("ase", "Bussi.step", takes("ase.md.bussi:Bussi.step", "speed"))
    for hook, why in ((gone, "has no attribute 'warp'"), (another, "it is another one")):
        message = broken(hook, "4.0.0")
        assert message.startswith(f"ase 4.0.0 has no {hook.name} as surveyor uses it")
        assert why in message
        assert "tried with ase 3.29.0" in message


def requirements() -> dict[str, Requirement]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = [each for extra in project["optional-dependencies"].values() for each in extra]
    return {each.name: each for each in map(Requirement, [*project["dependencies"], *extras])}


def test_packages_with_private_hooks_and_no_others_have_an_upper_bound() -> None:
    bounded = {name: each for name, each in requirements().items() if "<" in str(each.specifier)}
    assert set(bounded) - {"fastapi"} == {hook.package for hook in HOOKS} == set(TRIED)  # fastapi: see pyproject.toml
    page = PAGE.read_text()
    for name, tried in TRIED.items():
        assert [each for each in tried if each not in bounded[name].specifier] == []
        bound = next(str(each) for each in bounded[name].specifier if each.operator == "<")
        assert f"| `{name}` | {', '.join(tried)} | `{bound}` |" in page


def test_each_private_hook_is_on_the_page() -> None:
    page = PAGE.read_text()
    assert [hook.name for hook in HOOKS if hook.name not in page] == []


def private_uses(path: Path) -> set[str]:
    """Return the private names that a file uses of other objects than its own."""
    own = ("self", "cls", "os")
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and re.fullmatch(r"_[A-Za-z]\w*", node.attr)
        and not (isinstance(node.value, ast.Name) and node.value.id in own)
    }


def test_all_private_names_in_use_are_on_the_page() -> None:
    files = [path for folder in ("src", "blocks", "tasks", "flows") for path in (REPOSITORY / folder).rglob("*.py")]
    text, page = "\n".join(path.read_text() for path in files), PAGE.read_text()
    used = {name for path in files for name in private_uses(path)}
    of_others = {name for name in used if not re.search(rf"self\.{name}\b.* = |^ +{name}: ", text, re.MULTILINE)}
    known = {name for name in of_others if re.search(rf"`[\w.]*{name}`", page)}
    ours = {name for name in of_others - known if re.search(rf"def {name}\(", text)}
    assert of_others - known - ours == set()
    assert {"_kT", "_from_saved_model", "_parse_as_keyword", "_send_to_scheduler"} <= known
