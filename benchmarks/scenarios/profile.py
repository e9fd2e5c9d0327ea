"""Where each microsecond of the server's processor time goes that a request takes."""

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import calls, stacks
from benchmarks.bench import ONE_PROCESS, Bench
from benchmarks.errors import BenchmarkError
from benchmarks.load import SINGLE
from benchmarks.processes import ServerProcess
from benchmarks.samples import Figures
from benchmarks.section import Section, Table, plain

MODELS = ("mnist-tiny", "cifar10-cnn")
LENGTH = 2.0
"""Times the usual seconds."""
SHOWN = 16
"""Python functions."""
LEAST_US = 0.05
"""Shorter is not shown."""


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where the server does not start or answers wrongly; without the samplers it says less."""
    tables: list[Table] = []
    remarks = [
        (
            "One image a request, native transport, h2load 4 x 16. Threads: the kernel's account of their time on a "
            "core, over the requests. Libraries and functions: the shares that a sampler sees in a run of its own, "
            "of that time."
        )
    ]
    figures: dict[str, Any] = {}
    for model in MODELS:
        with ExitStack() as stack:
            bench.note(f"{model}: starting the server")
            server = bench.serve(stack, model, *ONE_PROCESS)
            pool = stack.enter_context(ThreadPoolExecutor(1))
            exchange = calls.infer(server.address, bench.workload(model))
            seconds = bench.seconds * LENGTH
            load = bench.load(server.address, exchange).for_about(seconds, SINGLE, server=server)
            figures[model] = taken = _profile(bench, server, load, pool, seconds, remarks)
        for title, spent in taken.items():
            rows = [
                (name, plain(us)) for name, us in sorted(spent.items(), key=lambda item: -item[1]) if us >= LEAST_US
            ]
            rows = rows[:SHOWN]
            if title == THREADS:
                rows.append(("all", plain(sum(spent.values()))))
            tables.append(Table(f"{model}: {title}", ("where", "µs a request"), rows))
    return Section(
        "profile", "Where the time goes", tables=tables, remarks=list(dict.fromkeys(remarks)), figures=figures
    )


THREADS, LIBRARIES, FUNCTIONS = "by thread", "by library, all threads", "by Python function, with the C that it calls"


def _profile(
    bench: Bench,
    server: ServerProcess,
    load: Callable[[], Figures],
    pool: ThreadPoolExecutor,
    seconds: float,
    remarks: list[str],
) -> dict[str, dict[str, float]]:
    """Microseconds a request, by thread, by library and by function."""
    py_spy, perf = stacks.find("py-spy"), stacks.find("perf")
    names = stacks.threads(py_spy, server.pid) if py_spy else {}
    bench.note("threads")
    before = _thread_us(server.pid)
    us = load()["server_cpu_us"]
    spent: dict[str, float] = defaultdict(float)
    after = _thread_us(server.pid)
    total = sum(after[tid] - before.get(tid, 0.0) for tid in after)
    for tid, until in after.items():
        name = names.get(tid) or _system_name(server.pid, tid)
        spent[name] += (until - before.get(tid, 0.0)) / total * us
    taken = {THREADS: dict(spent)}
    if perf is None:
        remarks.append("The table by library was left out: perf is missing (Debian: linux-perf).")
    else:
        bench.note("perf")
        running = pool.submit(load)
        try:
            shares = stacks.libraries(perf, server.pid, seconds / 2, bench.folder)
            taken[LIBRARIES] = {kind: share * us for kind, share in shares.items()}
        except BenchmarkError as error:
            remarks.append(f"The table by library was left out: {error}.")
        running.result()
    if py_spy is None:
        remarks.append("The table by Python function was left out: py-spy is missing (`pip install py-spy`).")
    else:
        bench.note("py-spy")
        running = pool.submit(load)
        try:
            ran: dict[str, float] = defaultdict(float)
            for thread, parts in stacks.functions(py_spy, server.pid, seconds / 2, bench.folder).items():
                for function, share in parts.items():
                    ran[function] += share * spent.get(thread, 0.0)
            taken[FUNCTIONS] = dict(ran)
        except BenchmarkError as error:
            remarks.append(f"The table by Python function was left out: {error}.")
        running.result()
    return taken


def _thread_us(pid: int) -> dict[int, float]:
    """Microseconds that each thread has been on a core."""
    return {
        int(path.name): int((path / "schedstat").read_text().split()[0]) / 1e3
        for path in Path(f"/proc/{pid}/task").iterdir()
    }


def _system_name(pid: int, tid: int) -> str:
    """As the kernel knows the thread; threads of the session's pool have the program's name."""
    return Path(f"/proc/{pid}/task/{tid}/comm").read_text().strip()
