"""The device that trains: how it is chosen, and how its memory is made fast."""

import ctypes
import sys

import torch

from training.errors import DeviceError

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


def keep_pages() -> None:
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
