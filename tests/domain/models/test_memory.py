"""Errors of memory in all forms that torch and the libraries below it give them."""

import threading
from collections.abc import Sequence
from importlib.util import find_spec

import pytest
from ase import Atoms
from ase.build import molecule
from processes import PATIENCE_S

from surveyor.errors import OutOfMemory
from surveyor.models.batches import MemoryLimits, evaluate_in_batches, evaluate_prepared
from surveyor.models.trainer_process import OUT_OF_MEMORY, exit_when_out_of_memory

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason='needs torch: pip install "surveyor[mace]"')

CUDA = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB"
TEXTS = {
    "TorchScript": f"The following operation failed in the TorchScript interpreter.\nRuntimeError: {CUDA}",
    "driver": "CUDA driver error: out of memory",
    "runtime": "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "driver, by name": "CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY (2)",
    "cuFFT": "cuFFT error: CUFFT_ALLOC_FAILED",
    "Triton": "Triton Error [CUDA]: out of memory",
    "cuBLAS": "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuBLAS, not initialized": "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuSOLVER": "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnDgetrf(handle, m, n)`",
    "cuSOLVER's handle": "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`",
    "compiled ahead of time": "run_func_( container_handle_, inputs.data()) API call failed at model.cpp, line 1",
    "processor": "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to",
}
OTHERS = [
    "CUDA error: device-side assert triggered",
    "cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED, when calling `cusolverDnDgetrf(handle, m, n)`",
    "out of resource: shared memory, Required: 262144, Hardware limit: 232448",
]


def compiled(cause: BaseException) -> BaseException:
    """Return the error of the compiler of torch, caused by another one."""
    error = RuntimeError("backend='inductor' raised:")
    error.__cause__ = cause
    return error


def errors() -> dict[str, BaseException]:
    import torch

    direct = {name: RuntimeError(text) for name, text in TEXTS.items()}
    torches = {"torch": torch.OutOfMemoryError(CUDA), "numpy": MemoryError("Unable to allocate 7.28 TiB")}
    return {**direct, **torches, "compiler": compiled(torch.OutOfMemoryError(CUDA))}


@pytest.mark.parametrize("name", [*TEXTS, "torch", "numpy", "compiler"])
def test_each_form_halves_the_batch_and_ends_a_training_for_a_smaller_one(name: str) -> None:
    error, limits, sizes = errors()[name], MemoryLimits("cpu"), []

    def evaluate(structures: Sequence[Atoms]) -> list[int]:
        sizes.append(len(structures))
        if sum(map(len, structures)) > 6:
            raise error
        return [len(atoms) for atoms in structures]

    water = molecule("H2O")
    assert evaluate_in_batches(evaluate, [water] * 5, limits) == [3] * 5
    assert sizes[:3] == [5, 2, 3]
    with pytest.raises(OutOfMemory, match=r"a structure of 9 atoms; the most that have fitted are 6\..*float32"):
        evaluate_in_batches(evaluate, [water, molecule("CH3CH2OH")], limits)
    with pytest.raises(SystemExit) as ended, exit_when_out_of_memory():
        raise error
    assert ended.value.code == OUT_OF_MEMORY


@pytest.mark.parametrize("text", OTHERS)
def test_other_errors_are_not_taken_for_it(text: str) -> None:
    def fail(structures: Sequence[Atoms]) -> list[int]:
        raise RuntimeError(text)

    with pytest.raises(RuntimeError, match=text[:20]):
        evaluate_in_batches(fail, [molecule("H2O")] * 2, MemoryLimits("cpu"))
    with pytest.raises(RuntimeError, match=text[:20]), exit_when_out_of_memory():
        raise RuntimeError(text)


def test_the_next_batch_is_prepared_while_a_gpu_computes_and_a_lack_of_memory_halves_what_is_prepared() -> None:
    begun, sizes = threading.Semaphore(0), []
    structures = [molecule("H2O") for _ in range(10)]

    def prepare(batch: Sequence[Atoms]) -> list[int]:
        begun.release()
        return [structures.index(atoms) for atoms in batch]

    def evaluate(batch: Sequence[Atoms], numbers: list[int]) -> list[int]:
        if len(sizes) < 2:  # the first two batches have another one behind them
            assert begun.acquire(timeout=PATIENCE_S), "it was not prepared itself"
            assert begun.acquire(timeout=PATIENCE_S), "nothing was prepared meanwhile"
            begun.release()
        sizes.append(len(batch))
        if len(batch) > 1 and len(sizes) > 1:
            raise MemoryError
        return numbers

    for number, atoms in enumerate(structures):
        atoms.positions += number
    limits = MemoryLimits("cuda", n_atoms=9)
    assert evaluate_prepared(prepare, evaluate, structures, limits) == [*range(10)]
    assert sizes == [3, 3, 1, 2, *[1] * 6]
