"""The configuration of NequIP, from the fields or from the user, completed by surveyor."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surveyor.dataset import ENERGY, FORCES, STRESS
from surveyor.errors import InputError
from surveyor.models.nequip_parameters import NequIPParameters
from surveyor.models.shared_fields import ContinuedTraining
from surveyor.models.trainer import TRAIN_FILE, VALID_FILE
from surveyor.parameters.yaml_files import words_of

Tree = dict[str, Any]  # Any: whatever YAML holds

BEST, LAST, EPOCHS = "best", "last", "epochs.jsonl"  # checkpoints without their suffix, and the errors of each epoch
ENERGY_RMSE, FORCES_RMSE = "surveyor_energy_rmse", "surveyor_forces_rmse"  # metrics: in eV/atom and eV/Å
LOSS = "val0_epoch/weighted_sum"
RMSE = "RootMeanSquaredError"
FIELDS = {"energy": "total_energy", "forces": "forces", "stress": "stress"}  # of NequIP
OF_DATA = frozenset({"_target_", "transforms", "train_dataloader", "val_dataloader", "stats_manager"})
LOADER = {"_target_": "torch.utils.data.DataLoader"}
SHIFTS = "modify_PerTypeScaleShift"  # NequIP's modifier of atomic energies
DATA_MODULE = "nequip.data.datamodule.ASEDataModule"


@dataclass(frozen=True, slots=True)
class Network:
    """The atom types and the cutoff of a network.

    Attributes:
        types: names of its atom types, which are chemical symbols, in its order.
        r_max_A: its cutoff.
    """

    types: Sequence[str]
    r_max_A: float


@dataclass(frozen=True, slots=True)
class Supplied:
    """The settings that surveyor adds to a training of NequIP.

    Attributes:
        atomic_energies: in eV by chemical symbol.
        seed: of the weights and of the order of batches.
        device: "cpu" or "cuda".
        has_stress: whether there are structures with stress, for the training and for the validation.
        start: package from whose weights the training starts; None for new ones.
        time_limit_minutes: after which the training ends, with the best epoch so far.
        highest: largest plausible error of the energies before the first epoch, in eV/atom.
    """

    atomic_energies: Mapping[str, float]
    seed: int
    device: str
    has_stress: tuple[bool, bool] = (False, False)
    start: Path | None = None
    time_limit_minutes: float | None = None
    highest: float = math.inf


def configuration(parameters: NequIPParameters, supplied: Supplied, describe: Callable[[Path], Network]) -> Tree:
    """Return a complete configuration for `nequip-train`.

    Args:
        parameters: fields, or the text of a configuration.
        supplied: settings provided by surveyor.
        describe: returns the elements and cutoff of the network in a file.

    Raises:
        InputError: the user's configuration contradicts the settings of surveyor; the message lists all contradictions.
    """
    text = parameters.config_text
    tree = _from_fields(parameters, supplied) if text is None else read_config(text)
    network = _network(tree, supplied, describe)
    _supply_model(tree, supplied, network.types)
    _supply_metrics(tree, supplied.has_stress)
    _supply_data(tree, supplied, network)
    _supply_trainer(tree, supplied)
    if parameters.continued is not None and supplied.start is not None:
        _continue(tree, parameters.continued)
    return {**tree, "run": ["train"]}


def read_config(text: str) -> Tree:
    """Return the configuration of a user, whose interpolations stand as they are.

    Raises:
        InputError: it is no YAML, lacks a section, or contradicts what surveyor gives.
    """
    from omegaconf import OmegaConf

    with _reporting_faults():
        tree = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    if not isinstance(tree, dict):
        raise InputError("the configuration of NequIP: expected sections such as training_module, found none")
    named = {str(name): value for name, value in tree.items()}
    if complaints := [*_complaints(named)]:
        raise InputError("the configuration of NequIP: " + "; ".join(complaints))
    return named


GIVEN = {
    "ckpt_path": "the restart",
    "hydra": "the folders",
    "trainer.default_root_dir": "the folders",
    "trainer.enable_checkpointing": "the restart",
    "trainer.inference_mode": "this",
    "training_module.model.seed": "the seeds",
    "training_module.model.per_type_energy_shifts": "the atomic energies",
}


@contextmanager
def _reporting_faults() -> Iterator[None]:
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        yield
    except YAMLError as error:
        raise InputError(f"the configuration of NequIP is not valid YAML: {words_of(error)}") from error
    except OmegaConfBaseException as error:
        raise InputError(f"the configuration of NequIP: {error}") from error


def _complaints(tree: Tree) -> Iterator[str]:
    """Yield the errors in a user's configuration, each with its remedy."""
    needed = ["trainer", *(f"training_module.{name}" for name in ("model", "loss", "val_metrics", "optimizer"))]
    missing = [name for name in needed if not isinstance(_at(tree, name), dict)]
    yield from (f"expected {name}, found none" for name in missing)
    if missing:
        return
    module, data = tree["training_module"], tree.get("data") or {}
    places = {**tree, "training_module": {**module, "model": _builder_of(module["model"])}}
    for name, what in GIVEN.items():
        if _at(places, name) is not None:
            yield f"{name}: surveyor gives {what}; remove it"
    if tree.get("run") not in (None, "train", ["train"]):
        yield f"run: expected [train], as there are no other data; found {tree['run']}"
    if data.get("_target_", DATA_MODULE) != DATA_MODULE:
        yield f"data._target_: expected {DATA_MODULE} or none, found {data['_target_']}"
    for name in sorted(data.keys() - OF_DATA):
        yield f"data.{name}: surveyor gives the data and their seed; remove it"
    if not _has_weights(module["val_metrics"]):
        yield "training_module.val_metrics: expected coefficients, by whose sum the best epoch is chosen; found none"
    if any(each.get("modifier") == SHIFTS and "shifts" in each for each in _modifiers(module["model"])):
        yield f"training_module.model: surveyor gives the atomic energies; remove the shifts of {SHIFTS}"


def _modifiers(model: Tree) -> Iterator[Tree]:
    """Yield the modifications around the builder of a network."""
    while str(model.get("_target_", "")).endswith(".modify"):
        yield from model.get("modifiers") or []
        model = model["model"]


def _at(tree: Any, name: str) -> Any:  # Any: whatever YAML holds
    """Return the value at a path, such as trainer.logger; None if there is none."""
    for part in name.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _builder_of(model: Any) -> Any:  # Any: a tree, or a node of OmegaConf
    """Return the builder in a model's configuration, inside any modifications."""
    while str(model.get("_target_", "")).endswith(".modify"):
        model = model["model"]
    return model


def _is_from_file(builder: Any) -> bool:  # Any: a tree, or a node of OmegaConf
    """Return whether weights are taken from a file, and no network is built."""
    return "ModelFrom" in str(builder.get("_target_", ""))


def file_given(tree: Tree) -> Path | None:
    """Return the file from which a configuration takes its network, None where it builds one."""
    with _reporting_faults():
        model = _resolved_builder(tree)
        return Path(model.get("package_path") or model["checkpoint_path"]) if _is_from_file(model) else None


def _has_weights(metrics: Tree) -> bool:
    listed = metrics.get("metrics")
    if isinstance(listed, list):
        return any(isinstance(each, dict) and each.get("coeff") is not None for each in listed)
    return metrics.get("coeffs") is not None


def types_given(tree: Tree) -> list[str]:
    """Return the atom types that a configuration names, none where it names none."""
    with _reporting_faults():
        return [str(name) for name in _resolved_builder(tree).get("type_names") or []]


def model_given(tree: Tree) -> Tree:
    """Return the network section of a configuration, with its modifications and all interpolations resolved."""
    from omegaconf import OmegaConf

    with _reporting_faults():
        model: Tree = OmegaConf.to_container(OmegaConf.create(tree).training_module.model, resolve=True)
    return model


def _resolved_builder(tree: Tree) -> Any:  # Any: a node of OmegaConf
    """Return the builder of the network; its interpolations are resolved on access."""
    from omegaconf import OmegaConf

    return _builder_of(OmegaConf.create(tree).training_module.model)


def _network(tree: Tree, supplied: Supplied, describe: Callable[[Path], Network]) -> Network:
    """Return the atom types and the cutoff of a training's network, which is in a file or is to be built."""
    if supplied.start is not None:
        return describe(supplied.start)
    model = _resolved_builder(tree)
    if (file := file_given(tree)) is not None:
        return knowing(file, describe(file), supplied.atomic_energies)
    symbols = sorted(supplied.atomic_energies)
    types = types_given(tree) or symbols
    if sorted(types) != symbols:
        raise InputError(
            f"the configuration of NequIP: training_module.model.type_names: expected {', '.join(symbols)}, the "
            f"elements of the data, found {', '.join(types)}; correct it, or leave it out"
        )
    with _reporting_faults():
        r_max = model.get("r_max")
    if r_max is None:
        raise InputError("the configuration of NequIP: expected training_module.model.r_max, found none")
    return Network(types, float(r_max))


def knowing(file: Path, network: Network, elements: Iterable[str]) -> Network:
    """Return the atom types and the cutoff of the network in a file, if it knows the elements of the data."""
    unknown = sorted({*elements} - {*network.types})
    if unknown:
        raise InputError(
            f"the configuration of NequIP: {file} does not know {', '.join(unknown)}; expected a network for all "
            "elements of the data"
        )
    return network


def _supply_model(tree: Tree, supplied: Supplied, types: Sequence[str]) -> None:
    module = tree["training_module"]
    builder = _builder_of(module["model"])
    if supplied.start is not None:
        builder.clear()
        builder |= {"_target_": "nequip.model.ModelFromPackage", "package_path": str(supplied.start)}
    elif _is_from_file(builder):
        # The shifts of a foundation model belong to its own level of theory.
        shifts = {
            "modifier": SHIFTS,
            "shifts": {name: float(value) for name, value in supplied.atomic_energies.items()},
        }
        module["model"] = {"_target_": "nequip.model.modify", "modifiers": [shifts], "model": module["model"]}
    else:
        builder["type_names"] = list(types)
        builder["seed"] = supplied.seed
        builder["per_type_energy_shifts"] = {name: supplied.atomic_energies[name] for name in types}
        builder.setdefault("model_dtype", "float64")
        builder.setdefault("avg_num_neighbors", "${training_data_stats:num_neighbors_mean}")
        builder.setdefault("per_type_energy_scales", "${training_data_stats:forces_rms}")


def _supply_metrics(tree: Tree, has_stress: tuple[bool, bool]) -> None:
    """Ignore missing stresses in loss and validation, and add the errors that are reported."""
    module = tree["training_module"]
    for name, data, has in zip(("loss", "val_metrics"), ("training", "validation"), has_stress, strict=True):
        if _ignore_missing_stress(module[name]) and not has:
            raise InputError(
                f"the configuration of NequIP: training_module.{name} has stress, but no {data} structure has one; "
                "take it out"
            )
    metrics = module["val_metrics"]
    place = "metrics" if isinstance(metrics.get("metrics"), list) else "extra_metrics"
    reported = [_metric(ENERGY_RMSE, "energy", RMSE), _metric(FORCES_RMSE, "forces", RMSE)]
    metrics[place] = [*(metrics.get(place) or []), *reported]


def _ignore_missing_stress(metrics: Tree) -> bool:
    """Ignore missing stresses in the loss; return whether the loss contains stress at all."""
    listed = [each for each in metrics.get("metrics") or [] if each.get("field") == FIELDS["stress"]]
    for each in listed:
        each["ignore_nan"] = True
    if not str(metrics.get("_target_", "")).startswith("nequip.train.EnergyForceStress"):
        return bool(listed)
    metrics["ignore_nan"] = {**(metrics.get("ignore_nan") or {}), FIELDS["stress"]: True}
    return True


def _metric(name: str, label: str, kind: str, weight: float | None = None) -> Tree:
    field: Any = FIELDS[label]  # Any: a name or a tree
    if label == "energy":
        field = {"_target_": "nequip.data.PerAtomModifier", "field": field}
    metric = {"name": name, "field": field, "metric": {"_target_": f"nequip.train.{kind}"}}
    return metric if weight is None else {**metric, "coeff": weight}


def _supply_data(tree: Tree, supplied: Supplied, network: Network) -> None:
    given = tree.get("data") or {}
    statistics = {
        "_target_": "nequip.data.CommonDataStatisticsManager",
        "type_names": list(network.types),
        "dataloader_kwargs": {"batch_size": 20},
    }
    tree["data"] = {
        "_target_": DATA_MODULE,
        "seed": supplied.seed,
        "train_file_path": TRAIN_FILE,
        "val_file_path": VALID_FILE,
        "key_mapping": {ENERGY: FIELDS["energy"], FORCES: FIELDS["forces"], STRESS: FIELDS["stress"]},
        "transforms": [
            *(given.get("transforms") or _transforms(network)),
            {"_target_": "nequip.data.transforms.AddNaNStressTransform"},
        ],
        "train_dataloader": _shuffled({"batch_size": 5, **LOADER, **(given.get("train_dataloader") or {})}),
        "val_dataloader": {"batch_size": 20, **LOADER, **(given.get("val_dataloader") or {})},
        "stats_manager": given.get("stats_manager") or statistics,
    }


def _shuffled(loader: Tree) -> Tree:
    """Return a loader whose shuffling lets an interrupted training resume with the same result."""
    if loader["_target_"] != LOADER["_target_"] or not loader.get("shuffle", True) or "sampler" in loader:
        return loader
    plain = {name: value for name, value in loader.items() if name != "shuffle"}
    return {**plain, "_target_": "surveyor.models.nequip_callbacks.shuffled"}


def _transforms(network: Network) -> list[Tree]:
    return [
        {
            "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
            "model_type_names": list(network.types),
            "chemical_species_to_atom_type_map": {name: name for name in network.types},
        },
        {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": network.r_max_A},
    ]


def _supply_trainer(tree: Tree, supplied: Supplied) -> None:
    trainer = tree["trainer"]
    callbacks = [
        {"_target_": "surveyor.models.nequip_callbacks.Reports", "path": EPOCHS, "highest": supplied.highest},
        {"_target_": "surveyor.models.nequip_callbacks.Newest", "path": f"{LAST}.ckpt"},
        {
            "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
            "dirpath": ".",
            "filename": BEST,
            "monitor": LOSS,
            "enable_version_counter": False,
        },
    ]
    if supplied.time_limit_minutes is not None:
        minutes, seconds = divmod(max(1, round(60 * supplied.time_limit_minutes)), 60)
        limit = f"{minutes // 1440:02d}:{minutes // 60 % 24:02d}:{minutes % 60:02d}:{seconds:02d}"
        callbacks.append({"_target_": "lightning.pytorch.callbacks.Timer", "duration": limit, "interval": "epoch"})
    trainer.setdefault("_target_", "lightning.Trainer")
    trainer.setdefault("accelerator", {"cpu": "cpu", "cuda": "gpu"}[supplied.device])
    trainer.setdefault("logger", False)
    trainer.setdefault("enable_progress_bar", False)
    # Lightning would take the job of a pool for its own, and count its tasks.
    trainer.setdefault("plugins", {"_target_": "lightning.pytorch.plugins.environments.LightningEnvironment"})
    # The whole validation set before the first epoch: what the untrained network does.
    trainer["num_sanity_val_steps"] = -1
    trainer["callbacks"] = [*(trainer.get("callbacks") or []), *callbacks]


def _continue(tree: Tree, continued: ContinuedTraining) -> None:
    """Apply the settings for trainings that start from existing weights."""
    if continued.max_num_epochs is not None:
        tree["trainer"]["max_epochs"] = continued.max_num_epochs
    if continued.lr is not None:
        tree["training_module"]["optimizer"]["lr"] = continued.lr
    if continued.patience is not None:
        stopping = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": LOSS}
        tree["trainer"]["callbacks"].append({**stopping, "patience": continued.patience})


def _from_fields(parameters: NequIPParameters, supplied: Supplied) -> Tree:
    """Return the configuration given by the fields, without the settings that surveyor always adds."""
    weights = {
        "energy": parameters.energy_weight,
        "forces": parameters.forces_weight,
        "stress": parameters.stress_weight,
    }
    losses = [
        {
            "_target_": "nequip.train.MetricsManager",
            "metrics": [
                _metric(label, label, "MeanSquaredError", weight)
                for label, weight in weights.items()
                if weight > 0 and (label != "stress" or has_stress)
            ],
        }
        for has_stress in supplied.has_stress
    ]
    return {
        "data": {
            "train_dataloader": {"batch_size": parameters.batch_size},
            "val_dataloader": {"batch_size": parameters.valid_batch_size},
        },
        "trainer": {"max_epochs": parameters.max_num_epochs},
        "training_module": {
            "_target_": "nequip.train.EMALightningModule",
            "ema_decay": parameters.ema_decay,
            "loss": losses[0],
            "val_metrics": losses[1],
            "optimizer": {"_target_": "torch.optim.Adam", "lr": parameters.lr},
            "lr_scheduler": {
                "scheduler": {
                    "_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau",
                    "factor": 0.6,
                    "patience": parameters.lr_patience,
                },
                "monitor": LOSS,
                "interval": "epoch",
                "frequency": 1,
            },
            "model": {
                "_target_": "nequip.model.NequIPGNNModel",
                "model_dtype": parameters.precision,
                "r_max": parameters.r_max_A,
                "num_layers": parameters.num_layers,
                "l_max": parameters.l_max,
                "parity": parameters.parity,
                "num_features": parameters.num_features,
                "radial_mlp_depth": parameters.radial_mlp_depth,
                "radial_mlp_width": parameters.radial_mlp_width,
            },
        },
    }
