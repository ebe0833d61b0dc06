"""The table of fields read from structure files; the page docs/reference/structure-files.md contains the same rows."""

from dataclasses import dataclass
from typing import Literal, get_args

from surveyor.dataset import ENERGY, FORCES, STRESS
from surveyor.dataset.isolated_atoms import CONFIG_TYPE
from surveyor.dataset.weights import PROPERTY_WEIGHTS, VIRIALS_WEIGHT, WEIGHT
from surveyor.reading.electrons import CHARGE, CHARGES, MOMENTS, MULTIPLICITY
from surveyor.reading.sites import CONSTRAINTS, KINDS, MASSES, MOMENTA, OCCUPANCY

Purpose = Literal["starts", "label", "data", "train", "import"]
ALL: tuple[Purpose, ...] = get_args(Purpose)
ELECTRONS: tuple[Purpose, ...] = ("starts", "label", "data", "import")
LABELS: tuple[Purpose, ...] = ("data", "train", "import")


@dataclass(frozen=True, slots=True)
class Field:
    """A field or column that is read.

    Attributes:
        names: as files have them; the first one is surveyor's or ASE's own.
        place: whether it belongs to the structure, or has a row for each atom.
        unit: empty without one.
        purposes: for which it is used: walkers' starts, structures of `surveyor label`, `bootstrap.data`, the files of
            `surveyor train`, or the file of `surveyor labels import`.
        meaning: for the user.
    """

    names: tuple[str, ...]
    place: Literal["structure", "atom"]
    unit: str
    purposes: tuple[Purpose, ...]
    meaning: str

    @property
    def row(self) -> str:
        """The row of the table in the documentation."""
        names = ", ".join(f"`{name}`" for name in self.names)
        purposes = "all" if self.purposes == ALL else ", ".join(self.purposes)
        return f"| {names} | {self.place} | {self.unit or '-'} | {purposes} | {self.meaning} |"


FIELDS = (
    Field(("numbers", "species"), "atom", "", ALL, "chemical elements"),
    Field(("positions", "pos"), "atom", "Å", ALL, "positions"),
    Field(("cell", "Lattice"), "structure", "Å", ALL, "cell vectors"),
    Field(("pbc",), "structure", "", ALL, "directions in which the structure repeats"),
    Field(
        (OCCUPANCY,),
        "structure",
        "",
        ALL,
        "occupancy of the sites in a CIF or PDB file; partly occupied sites are refused",
    ),
    Field((CHARGE,), "structure", "e", ELECTRONS, "total charge; 0 by default"),
    Field(
        ("total_charge", "net_charge", "molecular_charge", "system_charge"),
        "structure",
        "e",
        ELECTRONS,
        "taken as `charge`, with a warning",
    ),
    Field(
        (CHARGES,),
        "atom",
        "e",
        ELECTRONS,
        "a nonzero integer sum is taken as `charge`, with a warning; a sum that is not an integer, or"
        " contradicts `charge`, is refused; columns of zeros are ignored",
    ),
    Field(
        (MULTIPLICITY,),
        "structure",
        "2S+1",
        ELECTRONS,
        "spin multiplicity; by default the lowest that is possible",
    ),
    Field(("mult", "spin_multiplicity"), "structure", "2S+1", ELECTRONS, "taken as `multiplicity`, with a warning"),
    Field(
        ("spin", "total_spin"),
        "structure",
        "2S+1",
        ELECTRONS,
        "taken as `multiplicity`, with a warning, where the number of electrons allows it; refused otherwise, as other "
        "programs write 2S or S; 0 in a periodic structure is not used, with a warning",
    ),
    Field(
        ("uhf", "n_unpaired", "unpaired_electrons"),
        "structure",
        "2S",
        ELECTRONS,
        "number of unpaired electrons, which gives `multiplicity`, with a warning",
    ),
    Field(
        (MOMENTS,),
        "atom",
        "μB",
        ELECTRONS,
        "passed to references that take magnetic moments; without periodicity, their sum gives "
        "`multiplicity`, with a warning, and is refused if it contradicts `multiplicity` or the "
        "number of electrons; columns of zeros are ignored",
    ),
    Field((KINDS,), "atom", "", ELECTRONS, "kinds of CP2K, where atoms of one element are treated differently"),
    Field((CONSTRAINTS, "move_mask"), "structure", "", ("starts",), "ASE's constraints, which walkers keep"),
    Field((MOMENTA,), "atom", "u½ eV½", ("starts",), "ASE's momenta, used only with `initial_velocities: given`"),
    Field((MASSES,), "atom", "u", ("starts",), "masses for dynamics; those that are not positive are refused"),
    Field(
        ("mass", "atomic_mass", "atomic_masses"),
        "atom",
        "u",
        ("starts",),
        "taken as `masses`, with a warning; refused if they differ tenfold from the masses of the elements",
    ),
    Field((ENERGY,), "structure", "eV", LABELS, "total energy; atomic energies are not subtracted"),
    Field((FORCES,), "atom", "eV/Å", LABELS, "forces"),
    Field(
        (STRESS,),
        "structure",
        "eV/Å³",
        LABELS,
        "stress with ASE's sign (positive under tension): six components in the order xx, yy, zz, yz, xz, xy, or nine; "
        "see [Stress and virials](#stress-and-virials)",
    ),
    Field(
        ("REF_virials", "REF_virial"),
        "structure",
        "eV",
        LABELS,
        "minus the stress times the volume, six or nine components; becomes the stress",
    ),
    Field(
        (WEIGHT,),
        "structure",
        "",
        LABELS,
        "factor of the three weights below; 1 by default; see [Weights](#weights)",
    ),
    Field(
        (PROPERTY_WEIGHTS["energy"], PROPERTY_WEIGHTS["forces"]),
        "structure",
        "",
        LABELS,
        "weights of energy and forces; 1 by default",
    ),
    Field(
        (PROPERTY_WEIGHTS["stress"], VIRIALS_WEIGHT),
        "structure",
        "",
        LABELS,
        "weight of the stress that `REF_stress`, or `REF_virials`, gives; 1 by default",
    ),
    Field(
        (CONFIG_TYPE,),
        "structure",
        "",
        LABELS,
        "`IsolatedAtom` makes a single atom in a large periodic box an "
        "[isolated atom](../how-to/train-a-model.md#isolated-atoms)",
    ),
)
