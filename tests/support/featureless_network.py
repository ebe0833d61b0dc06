"""A network of NequIP's own modules that has no features of atoms: a pair potential with trainable scales."""

from collections.abc import Mapping, Sequence
from typing import Any

from nequip.data import AtomicDataDict
from nequip.model.utils import model_builder
from nequip.nn import AtomwiseReduce, ForceStressOutput, PerTypeScaleShift, SequentialGraphNetwork
from nequip.nn.embedding import EdgeLengthNormalizer
from nequip.nn.pair_potential import ZBL


@model_builder
def scaled_pairs(
    r_max: float,
    type_names: Sequence[str],
    per_type_energy_shifts: Mapping[str, float],
    **_others: Any,  # that surveyor gives to every network
) -> Any:
    """Return the network."""
    edges = EdgeLengthNormalizer(r_max=r_max, type_names=type_names)
    pairs = ZBL(type_names=type_names, chemical_species=type_names, units="metal", irreps_in=edges.irreps_out)
    energy = AtomicDataDict.PER_ATOM_ENERGY_KEY
    scales = PerTypeScaleShift(
        type_names=type_names,
        field=energy,
        out_field=energy,
        scales=1.0,
        shifts=per_type_energy_shifts,
        scales_trainable=True,
        irreps_in=pairs.irreps_out,
    )
    total = AtomwiseReduce(
        reduce="sum", field=energy, out_field=AtomicDataDict.TOTAL_ENERGY_KEY, irreps_in=scales.irreps_out
    )
    modules = {"edges": edges, "pairs": pairs, "scales": scales, "total": total}
    return ForceStressOutput(func=SequentialGraphNetwork(modules))
