"""What an idle server costs: memory, time to start, processor time."""

import time
from contextlib import ExitStack

from benchmarks.bench import Bench, Results
from benchmarks.samples import Figures
from benchmarks.section import Line, Section, Table, plain, spread

SMALL = "mnist-tiny"
IDLE_SHARE = 3.0
"""Times the usual seconds: an idle server does little, and it must be seen."""


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where a server does not start."""
    results: Results = bench.interleave(
        {"all bundled models": lambda: _start(bench, ""), SMALL: lambda: _start(bench, SMALL, idle=True)}
    )
    every, small = results["all bundled models"], results[SMALL]
    lines = [
        Line(f"a worker with {SMALL}, idle: memory", small["rss_mb"], "MB", at_most=150),
        Line("start to ready, all bundled models", every["ready_s"], "s", at_most=2.0),
        Line("idle: processor time a second", small["idle_ms_a_s"], "ms"),
    ]
    rows = [
        (name, spread(figures["ready_s"]), spread(figures["rss_mb"]), spread(figures["processes"]))
        for name, figures in results.items()
    ]
    columns = ("models", "start to ready, s", "memory of the largest process, MB", "processes")
    return Section(
        "cost",
        "What it costs",
        lines,
        [Table("Starting and idling", columns, rows)],
        remarks=[
            (
                "From the start of the process until it logs that it is ready, the files in the page cache. Memory "
                f"is resident set size; {plain(bench.seconds * IDLE_SHARE)} s of idling in a round."
            )
        ],
        figures=results,
    )


def _start(bench: Bench, models: str, *, idle: bool = False) -> Figures:
    with ExitStack() as stack:
        server = bench.serve(stack, models)
        figures = {"ready_s": server.ready_s}
        if idle:
            before, seconds = server.cpu_s(), bench.seconds * IDLE_SHARE
            time.sleep(seconds)
            figures["idle_ms_a_s"] = (server.cpu_s() - before) / seconds * 1e3
        resident = server.rss_mb()
        return {**figures, "rss_mb": max(resident), "processes": float(len(resident))}
