"""Checks that several kinds of work make before they begin."""

from collections.abc import Mapping
from pathlib import Path

from surveyor.errors import InputError
from surveyor.files import temporary_beside
from surveyor.pools.sites import JobQueueSite, Site


def check_writable(folders: Mapping[str, Path]) -> None:
    """Check that folders can be written to; they are made where they are missing.

    Args:
        folders: by the field that names them.

    Raises:
        InputError: one cannot.
    """
    for name, folder in folders.items():
        try:
            with temporary_beside(folder.absolute() / "writable"):
                pass
        except OSError as error:
            raise InputError(
                f"{name}: {folder} cannot be written to ({error.strerror}); mend that, or choose another folder"
            ) from error


def check_walltime(field: str, name: str, site: Site | None, limit_s: float | None) -> None:
    """Check that the jobs of a pool last as long as what is to run there.

    Args:
        field: that names the pool.
        name: of the pool.
        site: where it is, None where that is not known.
        limit_s: so long may the labels of one task take; None without a limit.

    Raises:
        InputError: they may take longer than a job lasts.
    """
    if isinstance(site, JobQueueSite) and limit_s is not None and limit_s > site.longest_function_s:
        raise InputError(
            f"{field}: a label may take {limit_s / 60:g} min (the time limit of the code), expected at most "
            f"{site.longest_function_s / 60:.3g} min, as a job of {name} lasts {site.walltime_minutes:g} min and "
            "takes a while to start and to end; lower the time limit, or raise walltime_minutes of the pool"
        )
