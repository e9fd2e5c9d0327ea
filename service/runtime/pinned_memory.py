"""Host memory that a GPU copies from without a detour: page-locked, "pinned".

ONNX Runtime's Python interface allocates none, so CUDA's own library is asked
(cudaHostAlloc, https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__MEMORY.html).
"""

import ctypes
import functools
import math
import weakref
from typing import Any

import numpy as np
import onnxruntime as ort
import structlog

from ..tensors import Array

log = structlog.get_logger(__name__)

PORTABLE = 1
"""cudaHostAllocPortable: page-locked for every GPU."""


def zeros(shape: tuple[int, ...], dtype: "np.dtype[Any]", placement: tuple[str, int]) -> Array:
    """An array of zeros to fill a buffer at ``placement`` from; page-locked if that is a GPU of CUDA's.

    Where CUDA gives none, copies take longer and all else is the same: that is logged.
    """
    device, number = placement
    size = math.prod(shape) * dtype.itemsize
    if device != "cuda" or not size:
        return np.zeros(shape, dtype)
    try:
        page_locked: Array = _allocate(size, number)
    except OSError as error:
        _warn(str(error))
        return np.zeros(shape, dtype)
    array: Array = page_locked.view(dtype).reshape(shape)
    return array


def _allocate(size: int, device: int) -> Array:
    """Page-locked bytes; raises OSError."""
    runtime = ctypes.CDLL(f"libcudart.so.{str(ort.cuda_version).partition('.')[0]}")  # the one that ONNX Runtime loaded
    address = ctypes.c_void_p()
    status = runtime.cudaSetDevice(device) or runtime.cudaHostAlloc(
        ctypes.byref(address), ctypes.c_size_t(size), ctypes.c_uint(PORTABLE)
    )
    if status:
        raise OSError(f"cudaError {status}")
    memory = (ctypes.c_ubyte * size).from_address(address.value or 0)
    weakref.finalize(memory, runtime.cudaFreeHost, address)
    array: Array = np.ctypeslib.as_array(memory)
    array.fill(0)
    return array


@functools.cache
def _warn(reason: str) -> None:
    """Says it once, not for each buffer."""
    log.warning("no page-locked memory: copies to the GPU take longer", reason=reason)
