"""MACE's symmetric contraction, in a form that is fast on CPUs."""

from typing import Any

Tensor = Any  # torch is optional


def contract_by_element(network: Any) -> None:  # Any: MACE's networks have no common type
    """Replace the contractions of a network with equivalent ones that take less time and memory.

    Only for evaluation: later changes of the weights have no effect. Contractions by cuEquivariance are not replaced.
    """
    from mace.modules.symmetric_contraction import SymmetricContraction

    for product in network.products:
        if isinstance(product.symmetric_contractions, SymmetricContraction):
            product.symmetric_contractions.forward = ContractionByElement(product.symmetric_contractions)


class ContractionByElement:
    """A symmetric contraction as polynomials of an atom's features, whose coefficients depend on the atom's element.

    Equations 10 and 11 of Batatia et al., Adv. Neural Inf. Process. Syst. 35 (2022) 11423, contract generalised
    Clebsch-Gordan coefficients (U) with weights and features. MACE makes a tensor of as many numbers per atom and
    channel as U has; this contracts U with the weights of an element once, and leaves a product of matrices for the
    atoms.
    """

    def __init__(self, original: Any) -> None:  # Any: mace.modules.SymmetricContraction
        self.contractions = list(original.contractions)
        self.sizes = [irrep.dim for _, irrep in original.irreps_out]
        self._coefficients: dict[int, list[Tensor]] = {}

    def __call__(self, features: Tensor, elements: Tensor) -> Tensor:
        """Contract the features of atoms.

        Args:
            features: of shape (atoms, channels, components).
            elements: one-hot, of shape (atoms, elements).

        Returns:
            Shape (atoms, channels · equivariant components), one irreducible representation after the other.
        """
        import torch

        element = elements.argmax(dim=1)
        order = torch.argsort(element, stable=True)
        present, counts = torch.unique_consecutive(element[order], return_counts=True)
        contracted = torch.cat(
            [
                self._polynomials(index, atoms.transpose(0, 1)).transpose(0, 1)
                for index, atoms in zip(present.tolist(), features[order].split(counts.tolist()), strict=True)
            ]
        )[torch.argsort(order)]
        return torch.cat([irrep.flatten(1) for irrep in contracted.split(self.sizes, dim=2)], dim=1)

    def _polynomials(self, element: int, x: Tensor) -> Tensor:
        """Return the values of the polynomials.

        Args:
            element: index among those of the network.
            x: features, of shape (channels, atoms, components).

        Returns:
            Shape (channels, atoms, equivariant components).
        """
        import torch

        if element not in self._coefficients:
            parts = [_coefficients(contraction, element) for contraction in self.contractions]
            self._coefficients[element] = [torch.cat(of_order, dim=2) for of_order in zip(*parts, strict=True)]
        inner, *others = self._coefficients[element]
        monomials = None
        for coefficients in others:
            monomials = x if monomials is None else (monomials.unsqueeze(3) * x.unsqueeze(2)).flatten(2)
            inner = torch.baddbmm(inner, monomials, coefficients)
        return (inner.unflatten(2, (-1, x.shape[2])) * x.unsqueeze(2)).sum(3)


def _coefficients(contraction: Any, element: int) -> list[Tensor]:  # Any: MACE's Contraction
    """Return the coefficients by order from 1, each (channels, components^(order - 1), equivariant · components)."""
    import torch

    found = []
    for order, weights in enumerate([*reversed(contraction.weights), contraction.weights_max], start=1):
        coupling = contraction.U_tensors(order)
        if coupling.dim() == order + 1:  # A scalar has no axis of equivariant components.
            coupling = coupling.unsqueeze(0)
        polynomial = torch.einsum("m...k,kc->cm...", coupling, weights[element].detach())
        columns = coupling.shape[0] * coupling.shape[-2]
        found.append(polynomial.movedim(1, -2).reshape(len(polynomial), -1, columns).contiguous())
    return found
