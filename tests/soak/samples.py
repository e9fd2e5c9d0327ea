"""What the server's processes hold: memory, descriptors, threads."""

from dataclasses import dataclass
from pathlib import Path

from tests.servers import ServerProcess
from tests.soak.faults import children

MEMORY_MIB, MEMORY_SHARE = 16, 0.10
"""How much more the last quarter may hold than the second: the larger of the two."""
DESCRIPTORS, THREADS = 8, 4


@dataclass(frozen=True)
class Sample:
    """Sums over all processes of the server, after so many requests."""

    requests: int
    processes: int
    resident_mib: int
    descriptors: int
    threads: int


def sample(server: ServerProcess, requests: int) -> Sample | None:
    """The values now; None where a process ended meanwhile."""
    pids = [server.process.pid, *children(server.process.pid)]
    try:
        status = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
        descriptors = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
        fields = [dict(line.split(":", 1) for line in each.splitlines()) for each in status]
        resident = sum(int(each["VmRSS"].split()[0]) for each in fields) // 1024
        threads = sum(int(each["Threads"]) for each in fields)
    except (OSError, KeyError):  # a zombie has no VmRSS
        return None
    return Sample(requests, len(pids), resident, descriptors, threads)


def growth(samples: list[Sample], idle: Sample, after: Sample) -> list[str]:
    """What grew more than it may: each a sentence.

    The second quarter of the samples is compared with the last, and the idle server before with the one after.
    """
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    faults = []
    for name, allowed in (("resident_mib", 0), ("descriptors", DESCRIPTORS), ("threads", THREADS)):
        before, now = (max(getattr(each, name) for each in part) for part in (early, late))
        most = before + (allowed or max(MEMORY_MIB, int(before * MEMORY_SHARE)))
        if now > most:
            faults.append(f"{name} grew from {before} in the second quarter to {now} in the last; {most} are allowed")
    if after.descriptors > idle.descriptors + DESCRIPTORS:
        faults.append(f"{after.descriptors} descriptors are open after the last caller, {idle.descriptors} before")
    return faults
