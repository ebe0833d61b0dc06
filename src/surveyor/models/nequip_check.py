"""Checks of a NequIP configuration that need no data."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from surveyor.errors import InputError
from surveyor.models.nequip_config import Supplied, Tree, configuration, file_given, read_config, types_given
from surveyor.models.nequip_network import check_features, describe
from surveyor.models.nequip_parameters import NequIPParameters, require_nequip
from surveyor.models.quiet import engine_kept_quiet

STATISTICS = "training_data_stats"  # a resolver of NequIP's, for numbers that it takes from the data
DATASETS = {"train": 1, "val": 1, "test": 0, "predict": 0}


def check_nequip(parameters: NequIPParameters, features_for: str = "") -> None:
    """Check that NequIP is installed, and builds network, optimizer and trainer of a configuration.

    Args:
        parameters: of the model.
        features_for: the setting that needs the features of the network, such as "learning.select: informative".

    Raises:
        InputError: it is not or does not, the configuration contradicts what surveyor gives, or the network does not
            show its features, although this setting or the uncertainty of the model needs them.
    """
    require_nequip()
    given = parameters.with_contents()
    types = ["H"] if given.config_text is None else _types(read_config(given.config_text))
    supplied = Supplied(dict.fromkeys(types, 0.0), seed=0, device="cpu", has_stress=(True, True))
    tree = configuration(given, supplied, describe)
    try:
        with engine_kept_quiet(), _with_statistics():
            networks = _build(tree)
    except Exception as error:
        said = str(error.__cause__ or error).strip() or type(error).__name__
        raise InputError(f"NequIP does not take the configuration: {said}") from error
    for network in networks:
        _check_features(network, features_for, states_uncertainty=parameters.uncertainty)


def _check_features(network: Any, features_for: str, *, states_uncertainty: bool) -> None:  # Any: NequIP has no types
    """Check that a network shows its features if something needs them."""
    needed = {}
    if states_uncertainty:
        needed["model.nequip.uncertainty: true"] = "leave out uncertainty"
    if features_for:
        needed[features_for] = "choose walkers or random"
    for setting, remedy in needed.items():
        try:
            check_features(network, with_gradients=setting == features_for)
        except InputError as error:
            raise InputError(
                f"{setting} needs the features from which the model computes energies, but {error}; {remedy}, or "
                "another network, such as one by the fields of nequip"
            ) from error


def _types(tree: Tree) -> Sequence[str]:
    """Return the atom types of a configuration, or of the file that it begins from; some where it has none."""
    file = file_given(tree)
    return types_given(tree) or ["H"] if file is None else describe(file).types


@contextmanager
def _with_statistics() -> Iterator[None]:
    """Replace the statistics of the data by 1 within the block."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver(STATISTICS, lambda _name: 1.0, replace=True)
    try:
        yield
    finally:
        OmegaConf.clear_resolver(STATISTICS)


def _build(tree: Tree) -> Sequence[Any]:  # Any: networks of NequIP
    """Build everything that a configuration describes, and return its networks."""
    from hydra.utils import instantiate
    from nequip.utils.global_state import set_global_state
    from omegaconf import OmegaConf

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # it tells of hardware, and advertises
    # Folders of callbacks and loggers are known only to the program itself.
    trainer = {name: value for name, value in tree["trainer"].items() if name not in ("callbacks", "logger")}
    resolved = OmegaConf.create({**tree, "trainer": {**trainer, "logger": False}})
    set_global_state()
    instantiate(_plain(resolved.trainer))
    module: Any = instantiate(  # Any: a module of Lightning
        _plain(resolved.training_module), _recursive_=False, _convert_="all", num_datasets=DATASETS, info_dict={}
    )
    module.configure_optimizers()
    return list(module.model.values())


def _plain(node: Any) -> Any:  # Any: of OmegaConf
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True)
