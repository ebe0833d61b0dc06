import logging
from pathlib import Path

import pytest
from dask.system import cpu_count

from surveyor.errors import InputError
from surveyor.pools.machine import find_capacity
from surveyor.pools.sites import LocalSite

THREE = "GPU-0a\nGPU-1b\nGPU-2c\n"


@pytest.fixture
def no_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither GPUs nor the program that lists them."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def list_gpus(folder: Path, answer: str, status: int = 0) -> None:
    """Install a program that says what nvidia-smi would say."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ \"$1\" = --query-gpu=uuid ] && printf '{answer}'\nexit {status}\n")
    program.chmod(0o755)


def own_gpus(site: LocalSite) -> list[str]:
    return [own["CUDA_VISIBLE_DEVICES"] for own in find_capacity(site).own]


@pytest.mark.parametrize(
    ("site", "n_workers"),
    [
        (LocalSite(cores=8), 8),
        (LocalSite(cores=8, cores_per_worker=3), 2),
        (LocalSite(cores=8, memory_GB=16, memory_per_worker_GB=5), 3),
        (LocalSite(cores=8, memory_GB=0.3, memory_per_worker_GB=0.1), 3),
        (LocalSite(cores=2, memory_GB=16, memory_per_worker_GB=5), 2),
    ],
)
def test_workers_are_as_many_as_the_scarcest_resource_allows(site: LocalSite, n_workers: int) -> None:
    assert find_capacity(site).n_workers == n_workers


def test_there_is_a_worker_for_each_core_by_default() -> None:
    assert find_capacity(LocalSite()).n_workers == cpu_count()


def test_a_worker_has_a_thread_for_each_of_its_cores() -> None:
    capacity = find_capacity(LocalSite(cores=8, cores_per_worker=4))
    assert {capacity.environment[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS")} == {"4"}


def test_binding_of_ranks_that_the_user_wants_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_MCA_hwloc_base_binding_policy", "numa")
    assert find_capacity(LocalSite()).environment["OMPI_MCA_hwloc_base_binding_policy"] == "numa"


@pytest.mark.usefixtures("no_gpus")
def test_workers_without_gpus_see_what_this_process_sees() -> None:
    assert find_capacity(LocalSite(cores=2)).own == ({}, {})


def test_gpus_are_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 5,6,7")
    assert own_gpus(LocalSite(cores=8, gpus_per_worker=1)) == ["4", "5", "6", "7"]
    assert own_gpus(LocalSite(cores=8, gpus=3, gpus_per_worker=1)) == ["4", "5", "6"]
    assert own_gpus(LocalSite(cores=8, gpus_per_worker=3)) == ["4,5,6"]
    assert own_gpus(LocalSite(cores=8, cores_per_worker=4, gpus_per_worker=1)) == ["4", "5"]


@pytest.mark.usefixtures("no_gpus")
def test_gpus_are_those_that_the_driver_lists_where_nothing_else_is_said(tmp_path: Path) -> None:
    list_gpus(tmp_path, THREE)
    assert own_gpus(LocalSite(cores=8, gpus_per_worker=1)) == ["GPU-0a", "GPU-1b", "GPU-2c"]


@pytest.mark.parametrize(
    ("site", "complaint"),
    [
        (LocalSite(cores=2, cores_per_worker=4), "cores_per_worker: found 4, expected at most 2, the number of cores"),
        (
            LocalSite(cores=2, memory_GB=4, memory_per_worker_GB=4.5),
            "memory_per_worker_GB: found 4.5, expected at most 4, the memory in GB",
        ),
        (
            LocalSite(cores=2, gpus_per_worker=1),
            "gpus_per_worker: found 1, expected at most 0, the number of visible GPUs",
        ),
        (
            LocalSite(cores=1, cores_per_worker=2, gpus_per_worker=1),
            "at most 1, the number of cores; gpus_per_worker: found 1",
        ),
        (LocalSite(gpus=2, gpus_per_worker=1), r"gpus: found 2, but nvidia-smi lists 0 \(none\)"),
    ],
)
@pytest.mark.usefixtures("no_gpus")
def test_what_is_missing_for_a_single_worker_is_said(site: LocalSite, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        find_capacity(site)


@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles"])
def test_hidden_gpus_are_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hidden: str) -> None:
    list_gpus(tmp_path, THREE)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    with pytest.raises(InputError, match="gpus_per_worker: found 1, expected at most 0"):
        find_capacity(LocalSite(gpus_per_worker=1))


@pytest.mark.usefixtures("no_gpus")
def test_a_driver_that_fails_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    list_gpus(tmp_path, "Driver/library version mismatch", status=18)
    with pytest.raises(InputError, match="gpus_per_worker: found 1, expected at most 0"):
        find_capacity(LocalSite(gpus_per_worker=1))
    assert "Driver/library version mismatch" in caplog.text


def test_more_cores_than_there_are_is_said(caplog: pytest.LogCaptureFixture) -> None:
    too_many = cpu_count() + 1
    with caplog.at_level(logging.WARNING):
        assert find_capacity(LocalSite(cores=too_many)).n_workers == too_many
    assert f"cores: found {too_many}, but this process may use {cpu_count()}" in caplog.text
