"""The device that trains: how it is chosen, what it computes in, and how its memory is made fast."""

import ctypes
import functools
import sys
from typing import Literal

import torch

from .errors import DeviceError

# Numbers of mallopt's parameters, from glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def choose_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device; raises DeviceError when CUDA is asked for and absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "--device cuda was asked for, but PyTorch finds no CUDA device here; use --device cpu or auto"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@functools.cache
def multiplies_bfloat16(kind: str) -> bool:
    """Tell whether the devices of a kind, ``cpu`` or ``cuda``, multiply bfloat16 themselves.

    Others emulate it: on a Zen 3 without AVX-512, training `mnist` took 13 times as long as in float32, and the product
    of two large matrices over a hundred times.
    """
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # PyTorch's own question, before it gives bfloat16 to oneDNN; older versions have none.
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())


def arithmetic_for(precision: Literal["fp32", "bf16"], device: torch.device) -> Literal["fp32", "bf16"]:
    """Give what a recipe of this precision is computed in: float32 where the device would only emulate bfloat16."""
    return precision if multiplies_bfloat16(device.type) else "fp32"


def autocast(precision: Literal["fp32", "bf16"], device: torch.device) -> torch.autocast:
    """Give the context in which a network computes by a recipe of this precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=arithmetic_for(precision, device) == "bf16")


def describe(device: torch.device) -> str:
    """Name what trains: the device, and the version of PyTorch."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return f"{name}, PyTorch {torch.__version__}"


def disable_malloc_trim() -> None:
    """Have glibc keep freed memory for the whole process, instead of giving every large block back to the kernel.

    By default each array above 32 MiB at most is mapped afresh, so its pages fault in anew at each step: 88,000 faults
    a step were counted for a large network. Other C libraries have no mallopt, and are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
