"""A selector with all that its choices depend on beside the model and the structures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ase import Atoms

from surveyor.potentials import Potential
from surveyor.selection.ranking import Chosen
from surveyor.selection.selection import choose


@dataclass(frozen=True, slots=True)
class SelectionRule:
    """A rule by which structures are chosen; see `choose`.

    Attributes:
        selector: name of the selector.
        seed: of random choices.
        max_error_meV_per_A: error of the forces beyond which a label would be discarded.
    """

    selector: str
    seed: int
    max_error_meV_per_A: float

    def choose(
        self, potential: Potential | None, candidates: Mapping[str, Atoms], requested: Sequence[Atoms], n: int
    ) -> tuple[Chosen, ...]:
        """Return the structures to be labelled, best first."""
        limit = self.max_error_meV_per_A
        return choose(self.selector, potential, candidates, requested, n, seed=self.seed, max_error_meV_per_A=limit)
