"""What a device says, and what is made of it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from executor.device import is_out_of_memory


@pytest.mark.parametrize(
    "said",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "CUDA error: out of memory",  # of pinned memory, or of a graph
        "Triton Error [CUDA]: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.",
        "Storage size calculation overflowed with sizes=[1, 2]",
    ],
)
def test_too_little_memory_whoever_asked_for_it(said):
    assert is_out_of_memory(RuntimeError(said))
    assert is_out_of_memory(torch.OutOfMemoryError(said))


@pytest.mark.parametrize("said", ["CUDA error: an illegal memory access was encountered", ""])
def test_other_errors_are_none_of_memory(said):
    assert not is_out_of_memory(RuntimeError(said))
