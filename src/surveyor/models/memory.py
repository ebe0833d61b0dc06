"""Errors by which torch, and the libraries below it, say that there is not enough memory."""

import re

# A RuntimeError by its text: of TorchScript, of CUDA's driver, of Triton and the compiler ("... out of memory", or the
# name of the error); of cuBLAS, cuSOLVER, cuSPARSE, cuDNN and cuFFT, whose handles need memory beside torch's; of torch
# on a CPU; of what is compiled ahead of time, of which some versions of torch say nothing but that a call has failed.
PHRASES = re.compile(
    r"out[ _]of[ _]memory|_ALLOC_FAILED|cudaErrorMemoryAllocation|can't allocate memory"
    r"|run_func_\(.*API call failed"
    r"|(CUBLAS|CUSOLVER|CUSPARSE|CUDNN)_STATUS_\w+.*when calling `\w+Create\(",
    re.IGNORECASE | re.DOTALL,
)
ERRORS = (RuntimeError, MemoryError)  # the classes of all of them


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or one that caused it, says that there is not enough memory."""
    import torch

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(cause, RuntimeError) and PHRASES.search(str(cause)):
            return True
        cause = cause.__cause__
    return False
