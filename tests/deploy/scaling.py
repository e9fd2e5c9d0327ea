"""``python -m tests.deploy.scaling``: what 1 to 4 servers behind Envoy do, and what Envoy costs.

Each server is held to a tenth of a core, which needs root. It prints the tables of docs/many-machines.md.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.deploy.fleet import FleetServer, Front, Load, request

CGROUPS = Path("/sys/fs/cgroup")
PERIOD_US, QUOTA_US = 20_000, 2_000
SERVERS = 4
MODEL, ROWS = "mnist", 16
"""Calls that cost a server much and Envoy little: the servers are to be the limit, on a machine of two cores."""
CALLERS_EACH = 8
SETTLE_CALLS, SECONDS = 40, 10.0
TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def tenth_of_a_core(pid: int, number: int) -> Iterator[None]:
    """Holds a process and its threads to a tenth of a core, by cgroups of version 1 or 2; raises OSError."""
    version_1 = (CGROUPS / "cpu").is_dir()
    group = (CGROUPS / "cpu" if version_1 else CGROUPS) / f"convserve-{os.getpid()}-{number}"
    group.mkdir()
    try:
        if version_1:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(QUOTA_US))
        else:
            (group / "cpu.max").write_text(f"{QUOTA_US} {PERIOD_US}")
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        (group.parent / "cgroup.procs").write_text(str(pid))
        group.rmdir()


def cpu_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measured(front: Front, load: Load) -> tuple[float, float]:
    """Calls each second, and Envoy's processor time for each call in microseconds."""
    load.await_calls(SETTLE_CALLS)
    calls, cpu, began = load.calls, cpu_s(front.process.pid), time.monotonic()
    time.sleep(SECONDS)
    done, took = load.calls - calls, time.monotonic() - began
    return done / took, (cpu_s(front.process.pid) - cpu) / done * 1e6


def curve(folder: Path) -> Iterator[str]:
    """The table's lines: so many servers, each held to a tenth of a core."""
    yield "| servers | calls/s | of one | failed | calls of each server |"
    yield "|---:|---:|---:|---:|---|"
    with ExitStack() as stack:
        servers = []
        for number in range(SERVERS):
            options = ("--models", MODEL, "--max-queue-ms", "60000")
            servers.append(stack.enter_context(FleetServer(*options)))
            stack.enter_context(tenth_of_a_core(servers[-1].process.pid, number))
        alone = 0.0
        for count in range(1, SERVERS + 1):
            addresses = [server.address for server in servers[:count]]
            payload = request(ROWS, MODEL)
            with Front(folder, addresses) as front, Load(front, CALLERS_EACH * count, payload) as load:
                rate, _ = measured(front, load)
                alone = alone or rate
                shares = ", ".join(f"{share:,}" for share in front.shares())
            failed = load.calls - load.codes["OK"]
            yield f"| {count} | {rate:,.1f} | {rate / alone:.2f} | {failed} | {shares} |"


def cost(folder: Path) -> Iterator[str]:
    """The table's lines: what a call of one row costs Envoy, beside callers that take what is left of two cores."""
    yield "| callers | calls/s | Envoy's processor time for a call |"
    yield "|---:|---:|---:|"
    with FleetServer() as server:
        for callers in (1, 8, 32):
            with Front(folder, [server.address], "--access-log", "off") as front, Load(front, callers) as load:
                rate, envoy_us = measured(front, load)
            yield f"| {callers} | {rate:,.0f} | {envoy_us:.0f} µs |"


def main() -> int:
    """Prints both tables."""
    with tempfile.TemporaryDirectory() as folder:
        for lines in (curve(Path(folder)), cost(Path(folder))):
            for line in lines:
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
            sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
