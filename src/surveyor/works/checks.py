"""Checks that several kinds of work make before they begin."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ase import Atoms

from surveyor.dataset import FAILURE, is_labelled, label_of
from surveyor.dataset.metrics import structure_error
from surveyor.errors import InputError
from surveyor.files import temporary_beside
from surveyor.pools.site import Site, WorkersSite
from surveyor.reading.suspicions import SAME_ENERGY_MEV, SAME_FORCES_MEV

SAME_STRESS = 1e-4  # eV/Å³


def check_writable(folders: Mapping[str, Path]) -> None:
    """Check that folders can be written to; they are made where they are missing."""
    for name, folder in folders.items():
        try:
            with temporary_beside(folder.absolute() / "writable"):
                pass
        except OSError as error:
            raise InputError(
                f"{name}: {folder} cannot be written to ({error.strerror}); mend that, or choose another folder"
            ) from error


def check_walltime(field: str, name: str, site: Site | None, limit_s: float | None) -> None:
    """Check that the jobs of a pool last long enough for its tasks."""
    if isinstance(site, WorkersSite) and limit_s is not None and limit_s > site.longest_function_s:
        raise InputError(
            f"{field}: a label may take {limit_s / 60:g} min (the time limit of the code), expected at most "
            f"{site.longest_function_s / 60:.3g} min, as a job of {name} lasts {site.walltime_s / 60:g} min and "
            f"takes a while to start and to end; lower the time limit, or raise {site.limit_field} of the pool"
        )


def check_given_label(given: Atoms, computed: Atoms, name: str = "bootstrap.data") -> None:
    """Check a given label against one that the reference computed for the same structure.

    Different levels of theory, units or zeros of energy (shifted by atomic energies, say) show at once.
    """
    if not is_labelled(computed):
        raise InputError(f"{name}: the reference fails ({computed.info[FAILURE]}) on a structure that has a label")
    error = structure_error(given, label_of(computed))
    here, there = label_of(computed).stress, label_of(given).stress
    same_stress = here is None or there is None or np.allclose(here, there, rtol=0.02, atol=SAME_STRESS)
    if error.exceeds(SAME_ENERGY_MEV, SAME_FORCES_MEV) or not same_stress:
        raise InputError(
            f"{name}: the reference disagrees with the label given for {given.symbols}: "
            f"by {error.energy:.3g} meV/atom and {error.forces:.3g} meV/Å; "
            "expected unshifted total energies (eV), forces (eV/Å) and stress (eV/Å³, with ASE's sign) of one level of "
            "theory"
        )
