"""The atomic energies (E0s) of a network of MACE, as the process of its training sees them.

MACE's loader of foundation models copies the buffers of the foundation over those of the new network where their
shapes agree: with the same number of elements and readouts, its E0s replace those of the data. So they are set after
loading, and compared with those that were given before the first epoch and when the training has ended.
"""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from surveyor.models.fitted_energies import fit_beside, load_energies, save_energies, with_rest
from surveyor.models.trainer_process import OTHER_ATOMIC_ENERGIES

HEAD = "Default"  # the readout for the data; replay has another one
TOLERANCE = 1e-6  # relative: single precision holds seven digits

Configure = Callable[..., tuple[Any, Any]]  # Any: a network of MACE, and what it puts out


def setting_energies(
    configure: Configure, given: Mapping[int, float], fits: Sequence[int], fitted: Path | None
) -> Configure:
    """Return MACE's function that builds the network, extended to set the atomic energies of the data.

    Args:
        configure: MACE's `configure_model`.
        given: atomic energies in eV by atomic number.
        fits: atomic numbers of the elements whose energies are fitted to the data together with a foundation model.
        fitted: file for all atomic energies after the fit; None if none is fitted.
    """

    def configured(
        args: Any, train_loader: Any, atomic_energies: Any, foundation: Any, heads: Any, z_table: Any, configs: Any
    ) -> tuple[Any, Any]:  # Any: objects of MACE
        network, outputs = configure(args, train_loader, atomic_energies, foundation, heads, z_table, configs)
        if foundation is not None:
            if fitted is not None and not fitted.exists():
                (data,) = (each.train_loader.dataset for each in configs if each.head_name == HEAD)
                own = energies_of(foundation)
                begin = {number: own[number] if number in fits else energy for number, energy in given.items()}
                set_energies(network, begin)
                save_energies(fitted, _fitted(network.to(args.device), begin, fits, data, args))
            set_energies(network, expected_energies(given, fitted))
        return network, outputs

    return configured


def expected_energies(given: Mapping[int, float], fitted: Path | None) -> Mapping[int, float]:
    """Return the atomic energies that the network shall have, in eV by atomic number: those given, or fitted."""
    if fitted is None:
        return given
    return {atomic_numbers[symbol]: energy for symbol, energy in load_energies(fitted).items()}


def energies_of(network: Any) -> dict[int, float]:  # Any: a network of MACE
    """Return the atomic energies that a network has for the data, in eV by atomic number."""
    row = _row(network)
    numbers = network.atomic_numbers.tolist()
    return dict(zip(numbers, row.tolist(), strict=True))


def set_energies(network: Any, energies: Mapping[int, float]) -> None:  # Any: a network of MACE
    """Give a network the atomic energies of the data; those of other elements stay."""
    row = _row(network)
    for index, number in enumerate(network.atomic_numbers.tolist()):
        if number in energies:
            row[index] = energies[number]


def _row(network: Any) -> Any:  # Any: a network of MACE, a tensor that shares its memory
    energies = network.atomic_energies_fn.atomic_energies
    heads = getattr(network, "heads", None) or [HEAD]
    rows = energies.view(len(heads), -1)
    return rows[heads.index(HEAD) if HEAD in heads else 0]


def check_energies(network: Any, expected: Mapping[int, float], when: str) -> None:  # Any: a network of MACE
    """End the process with `OTHER_ATOMIC_ENERGIES` if a network has other atomic energies than those expected.

    Args:
        network: after its making, or as it was saved.
        expected: in eV by atomic number.
        when: for the message.
    """
    found = energies_of(network)
    wrong = [
        f"{chemical_symbols[number]} {found.get(number)} instead of {energy}"
        for number, energy in expected.items()
        if number not in found or abs(found[number] - energy) > TOLERANCE * (1 + abs(energy))
    ]
    if wrong:
        logging.error("The network has other atomic energies (eV) %s: %s", when, "; ".join(wrong))
        sys.exit(OTHER_ATOMIC_ENERGIES)


def _fitted(
    network: Any, begin: Mapping[int, float], fits: Sequence[int], data: Any, args: Any
) -> dict[str, float]:  # Any: objects of MACE
    """Return atomic energies in eV by chemical symbol, some of them fitted to the residual energies of a network.

    Args:
        network: with the atomic energies `begin`.
        begin: in eV by atomic number: known ones, and those of the foundation model for the elements that are fitted.
        fits: atomic numbers of these elements.
        data: labelled structures.
        args: MACE's options.
    """
    from mace.tools.torch_geometric.dataloader import DataLoader

    batches = DataLoader(data, batch_size=args.valid_batch_size, shuffle=False, drop_last=False)
    rests = [rest for batch in batches for rest in _rests(network, batch.to(args.device))]
    named = {chemical_symbols[number]: energy for number, energy in begin.items()}
    return fit_beside(named, [chemical_symbols[number] for number in fits], rests)


def _rests(network: Any, batch: Any) -> list[Atoms]:  # Any: objects of MACE
    """Return the structures of a batch, labelled with the residual energies of the network, with their weights."""
    predicted = network(batch.to_dict(), compute_force=False)["energy"].detach()
    rests, weights = (batch.energy - predicted).tolist(), (batch.weight * batch.energy_weight).tolist()
    numbers = network.atomic_numbers[batch.node_attrs.argmax(dim=1)]
    return [
        with_rest(numbers[batch.batch == index].tolist(), rest, weight)
        for index, (rest, weight) in enumerate(zip(rests, weights, strict=True))
    ]
