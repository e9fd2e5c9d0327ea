"""How many cores this process may use, by its affinity and a container's CPU quota, and how workers share them."""

import math
import os
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
TOPOLOGY = Path("/sys/devices/system/cpu")
CORES_PER_WORKER = 2
"""One for the thread that receives requests, one for those that read the network and run the models."""


@dataclass(frozen=True)
class Share:
    """What one of several workers may use."""

    threads: int
    cores: tuple[int, ...]
    """The cores it is bound to; empty: it is not bound."""


def usable_cores(cgroup: Path = CGROUP) -> int:
    """At least 1; a fractional quota is rounded up.

    Reads cgroup v2's ``cpu.max`` and v1's ``cpu.cfs_quota_us``
    (https://docs.kernel.org/admin-guide/cgroup-v2.html).
    """
    cores = len(os.sched_getaffinity(0))
    quota = _quota(cgroup)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def suggested_workers(cores: int) -> int:
    """A worker for each two cores, at least 1.

    More were faster where there are many connections, but a single one is as slow as one worker's threads (two cores
    beside the client, best of two runs, requests/s by one worker and by two: mnist-tiny over 16 connections 36,500
    and 47,600; cifar10-cnn over 2, when both came to one worker, 6,200 and 3,600).
    """
    return max(1, cores // CORES_PER_WORKER)


def divide(
    workers: int, allowed: Collection[int] | None = None, cgroup: Path = CGROUP, topology: Path = TOPOLOGY
) -> list[Share]:
    """The allowed cores (our affinity) in as many shares, as even as they can be; each has one thread at least.

    Workers are bound to cores only where each gets one of its own, and no quota is in force. A quota is time on
    whatever core is idle: bound to 3 of 16 cores for a quota of 2.5, workers would wait behind their neighbours on
    those three while the other 13 had room. The quota then gives the threads.
    """
    cores = sorted(os.sched_getaffinity(0) if allowed is None else allowed, key=lambda core: _position(core, topology))
    quota = _quota(cgroup)
    limited = quota is not None and quota < len(cores)
    usable = max(1, math.ceil(quota)) if quota is not None and limited else len(cores)
    bound = not limited and workers <= len(cores)
    ends = [usable * number // workers for number in range(workers + 1)]
    return [
        Share(max(1, end - start), tuple(sorted(cores[start:end])) if bound else ()) for start, end in pairwise(ends)
    ]


def _position(core: int, topology: Path) -> tuple[int, int, int]:
    """Where a core is: hardware threads of one core are neighbours, and so are the cores of one package."""

    def number(name: str) -> int:
        try:
            return int((topology / f"cpu{core}" / "topology" / name).read_text())
        except (OSError, ValueError):
            return 0

    return number("physical_package_id"), number("core_id"), core


def _quota(cgroup: Path) -> float | None:
    try:
        if (cgroup / "cpu.max").exists():
            allowed, period = (cgroup / "cpu.max").read_text().split()
        else:
            allowed = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        return None if allowed == "max" or int(allowed) <= 0 else int(allowed) / int(period)
    except (OSError, ValueError):
        return None
