"""Evaluation of walkers by a MACE network: graphs stay on the device, and positions go there at each step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import covalent_radii

from surveyor.models.batches import MemoryLimits, evaluate_in_batches
from surveyor.models.mace_cells import neighbour_list
from surveyor.models.mace_evaluation import forward, node_tensors, predictions_of
from surveyor.models.neighbours import NeighbourList, still_hold
from surveyor.potentials import Contact, Prediction, Request

SKIN_A = 0.5

Tensor = Any  # torch is optional


class MACEEvaluator:
    """An evaluator of the structures of walkers, which keeps their neighbour lists from step to step.

    Args:
        calculator: of MACE, whose network takes positions, cells and elements alone.
        limits: how many atoms go through the network at once.
        skin_A: how much longer the reach of neighbour lists is than the cutoff.
    """

    def __init__(self, calculator: Any, limits: MemoryLimits, skin_A: float = SKIN_A) -> None:  # Any: no types
        self._calculator, self._limits, self._skin_A = calculator, limits, skin_A
        self._graphs: dict[int, PairGraph] = {}  # by the place of their first walker
        self._lists: dict[int, PlacedList] = {}

    def __call__(self, requests: Sequence[Request]) -> list[Prediction]:
        """Return a prediction for each request, in order; see `evaluate_in_batches`."""
        return evaluate_in_batches(self._pass, requests, self._limits)

    def _pass(self, requests: Sequence[Request]) -> list[Prediction]:
        graph = self.graph_of(requests)
        tensors, contacts = graph.at(requests)
        found = forward(self._calculator, tensors, compute_stress=any(request.needs_stress for request in requests))
        structures = [request.atoms for request in requests]
        return predictions_of(self._calculator, structures, found, contacts)

    def graph_of(self, requests: Sequence[Request]) -> "PairGraph":
        """Return the graph of structures, from the last step if no list had to be made again."""
        lists = self._lists_of(requests)
        graph = self._graphs.get(requests[0].place)
        if graph is None or [*map(id, graph.lists)] != [*map(id, lists)]:
            # A graph of other walkers would keep memory of the device.
            taken = {request.place for request in requests}
            self._graphs = {place: each for place, each in self._graphs.items() if not taken & each.places}
            graph = PairGraph(self._calculator, lists, requests)
            self._graphs[requests[0].place] = graph
        return graph

    def _lists_of(self, requests: Sequence[Request]) -> "list[PlacedList]":
        """Return the lists of structures, with those made again that do not hold any more."""
        cutoff, skin = self._calculator.r_max, self._skin_A
        known = [request for request in requests if request.place in self._lists]
        known = [request for request in known if self._lists[request.place].neighbours.is_of(request.atoms)]
        lists = [self._lists[request.place].neighbours for request in known]
        hold = still_hold(lists, [request.atoms for request in known], cutoff, skin) if known else []
        kept = {request.place for request, holds in zip(known, hold, strict=True) if holds}
        for request in requests:
            if request.place not in kept:
                made = neighbour_list(request.atoms, cutoff + skin)
                self._lists[request.place] = PlacedList.on_device(made, self._calculator)
        return [self._lists[request.place] for request in requests]


@dataclass(frozen=True, slots=True, eq=False)
class PlacedList:
    """A neighbour list on the device of a network, with the sum of the covalent radii of each edge."""

    neighbours: NeighbourList
    edges: Tensor
    unit_shifts: Tensor
    radii: Tensor

    @classmethod
    def on_device(cls, made: NeighbourList, calculator: Any) -> "PlacedList":  # Any: a calculator of MACE
        """Bring a list to the device, in the precision of the network."""
        import torch

        options = {"device": calculator.device, "dtype": getattr(torch, calculator.default_dtype)}
        radii = covalent_radii[made.atoms.numbers][made.edges].sum(axis=0)
        return cls(
            made,
            torch.as_tensor(made.edges, device=calculator.device).long(),
            torch.as_tensor(made.unit_shifts, **options),
            torch.as_tensor(radii, **options),
        )


class PairGraph:
    """The graphs of several structures in one, on the device, with all pairs within the reach of their lists.

    Args:
        calculator: of MACE.
        lists: of the structures.
        requests: the structures for which the graph is made.
    """

    def __init__(self, calculator: Any, lists: Sequence[PlacedList], requests: Sequence[Request]) -> None:
        import torch

        self.lists, self.places = lists, frozenset(request.place for request in requests)
        self._cutoff = float(calculator.r_max)
        self._nodes = node_tensors(calculator, [request.atoms for request in requests])
        counts = torch.tensor([each.edges.shape[1] for each in lists], device=calculator.device)
        self._structure_of = torch.repeat_interleave(counts)
        begins = self._nodes["ptr"][:-1]
        self._edges = torch.cat([each.edges for each in lists], dim=1) + begins[self._structure_of]
        self._unit_shifts = torch.cat([each.unit_shifts for each in lists])
        self._radii = torch.cat([each.radii for each in lists])
        self._cells: np.ndarray | None = None

    def at(self, requests: Sequence[Request]) -> tuple[dict[str, Tensor], list[Contact]]:
        """Return the input of the network with the pairs within its cutoff, and how close the atoms come."""
        import torch

        options = {"device": self._radii.device, "dtype": self._radii.dtype}
        self._place_cells(np.array([request.atoms.cell.array for request in requests]))
        positions = torch.as_tensor(np.concatenate([request.atoms.positions for request in requests]), **options)
        first, second = self._edges
        squares = ((positions[second] - positions[first] + self._shifts) ** 2).sum(dim=1)
        near = (squares < self._cutoff**2).nonzero().squeeze(1)
        graphs = self._nodes | {
            "positions": positions,
            "cell": self._cell_tensor,
            "edge_index": self._edges[:, near],
            "shifts": self._shifts[near],
            "unit_shifts": self._unit_shifts[near],
        }
        return graphs, self._contacts(squares[near].sqrt(), near, len(requests))

    def _place_cells(self, cells: np.ndarray) -> None:
        """Bring cells to the device if they have changed."""
        import torch

        if self._cells is not None and np.array_equal(cells, self._cells):
            return
        self._cells = cells
        placed = torch.as_tensor(cells, device=self._radii.device, dtype=self._radii.dtype)
        self._shifts = torch.einsum("ei,eij->ej", self._unit_shifts, placed[self._structure_of])
        self._cell_tensor = placed.reshape(-1, 3)

    def _contacts(self, lengths: Tensor, near: Tensor, n_structures: int) -> list[Contact]:
        import torch

        both = torch.stack([lengths, lengths / self._radii[near]])
        index = self._structure_of[near].expand(2, -1)
        least = both.new_full((2, n_structures), torch.inf).scatter_reduce(1, index, both, "amin")
        return [Contact(float(one), float(other), self._cutoff) for one, other in zip(*least.tolist(), strict=True)]
