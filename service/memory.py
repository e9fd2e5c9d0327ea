"""How much memory this process can still get, and giving back what it does not need."""

import ctypes
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of malloc.h."""


def available_bytes() -> int | None:
    """The smaller of what the machine and the control group (a container's limit) have left; None where untold."""
    found = [left for left in (_of_machine(), _of_control_group()) if left is not None]
    return min(found, default=None)


def trim_memory() -> None:
    """Gives back what opening has freed: glibc keeps it for each thread, 35 MB after eleven models."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)


def keep_freed_memory() -> None:
    """Keeps some of what large messages have freed for the next ones.

    By default glibc gives blocks of that size back to the kernel, and their pages fault in anew with each message: one
    of 12 MB took 17 ms of processor time by the native transport in most processes, and takes 6 so.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's alone
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the largest there is
        mallopt(M_TRIM_THRESHOLD, 64 * 2**20)


def _of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _of_control_group(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Of version 2 as a container sees it; what only caches files can be had too."""
    try:
        limit = (root / "memory.max").read_text().strip()
        used = int((root / "memory.current").read_text())
        counts = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used + int(counts.get("inactive_file", 0)))
