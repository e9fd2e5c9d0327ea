"""One request at a time: what the way to the session and back adds to its run."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from benchmarks import bare, calls
from benchmarks.bench import Bench
from benchmarks.load import LONE
from benchmarks.rounds import Taken
from benchmarks.samples import Figures, Spread
from benchmarks.section import Line, Section, Table, plain

MODELS = ("mnist-tiny", "cifar10-cnn")
ADDED_US, TAIL = 120.0, 2.0
"""Targets: the mean over the bare run, and p99 over the mean."""
SHARE = 0.5
"""Of the usual seconds: nothing has to settle."""


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where a server does not start, answers wrongly or refuses."""
    taken: Taken = {}
    for model in MODELS:
        workload = bench.workload(model)
        with ExitStack() as stack:
            bench.note("starting servers")
            server, empty = bench.serve(stack, model), bench.serve_empty(stack, workload, "native")
            exchange = calls.infer(server.address, workload)
            seconds = bench.seconds * SHARE
            without = bench.load(empty.address, calls.infer(empty.address, workload))
            measurements: dict[str, Callable[[], Figures]] = {
                f"{model}, served": bench.load(server.address, exchange).for_about(seconds, LONE, timed=True),
                f"{model}, served, grpcio's client": partial(calls.lone, server.address, exchange, seconds),
                f"{model}, no model": without.for_about(seconds, LONE, timed=True),
                f"{model}, session": bare.measurement(workload.model, 1, seconds),
            }
            taken |= bench.take(measurements)
    lines = []
    for model in MODELS:
        served, session = taken[f"{model}, served"], taken[f"{model}, session"]
        because = f"{plain(served['mean_us'].median)} µs, the run {plain(session['mean_us'].median)} µs"
        added = served["mean_us"] - session["mean_us"]
        lines.append(Line(f"{model}: mean less the bare run", added, "µs", at_most=ADDED_US, because=because))
        tail = served["p99_us"] / served["mean_us"]
        because = f"p99 {plain(served['p99_us'].median)} µs"
        lines.append(Line(f"{model}: p99 / mean", tail, at_most=TAIL, because=because))
    rows = [(name, *(_microseconds(figures[f"{rank}_us"]) for rank in RANKS)) for name, figures in taken.items()]
    return Section(
        "lone",
        "A lone request",
        lines,
        [Table("Microseconds from request to answer", ("measured", *RANKS), rows)],
        remarks=["One connection, one stream, the next request when the answer is there; h2load unless said."],
        figures=taken,
    )


RANKS = ("mean", "p50", "p95", "p99")


def _microseconds(value: Spread) -> str:
    return plain(value.median)
