"""One request at a time: what the way to the session and back adds to its run."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from benchmarks import calls, session_ceiling
from benchmarks.bench import Bench, Results
from benchmarks.load import LONE
from benchmarks.samples import Figures
from benchmarks.section import Line, Section, Table, plain, spread

MODELS = ("mnist-tiny", "cifar10-cnn")
ADDED_US, TAIL = 120.0, 2.0
"""Targets: the mean over the bare run, and p99 over the mean."""
RANKS = ("mean", "p50", "p95", "p99")
SHARE = 0.5
"""Of the usual seconds: nothing has to settle."""


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where a server does not start, responds wrongly or refuses."""
    results: Results = {}
    for model in MODELS:
        workload = bench.workload(model)
        with ExitStack() as stack:
            bench.note("starting servers")
            server, ceiling = bench.serve(stack, model), bench.serve_transport_ceiling(stack, workload, "native")
            payload = calls.infer(server.address, workload)
            seconds = bench.seconds * SHARE
            without = bench.load(ceiling.address, calls.infer(ceiling.address, workload))
            measurements: dict[str, Callable[[], Figures]] = {
                f"{model}, served": bench.load(server.address, payload).for_about(seconds, LONE, timed=True),
                f"{model}, served, grpcio's client": partial(calls.lone, server.address, payload, seconds),
                f"{model}, transport ceiling": without.for_about(seconds, LONE, timed=True),
                f"{model}, session ceiling": session_ceiling.measurement(workload.model, 1, seconds),
            }
            results |= bench.interleave(measurements)
    lines = []
    for model in MODELS:
        served, session = results[f"{model}, served"], results[f"{model}, session ceiling"]
        because = f"{plain(served['mean_us'].median)} µs, the run {plain(session['mean_us'].median)} µs"
        less = served["mean_us"] - session["mean_us"]
        lines.append(Line(f"{model}: mean less the bare run", less, "µs", at_most=ADDED_US, because=because))
        because = f"p99 {plain(served['p99_us'].median)} µs"
        lines.append(Line(f"{model}: p99 / mean", served["p99_us"] / served["mean_us"], at_most=TAIL, because=because))
    return Section(
        "lone",
        "A lone request",
        lines,
        [_table(results)],
        ["One connection, one stream, the next request when the response is there; h2load unless said."],
        results,
    )


def _table(results: Results) -> Table:
    """Latencies, and the rate where there is one."""
    rows = [
        (
            name,
            *(plain(each[f"{rank}_us"].median) for rank in RANKS),
            spread(each["requests_per_s"]) if "requests_per_s" in each else "",
        )
        for name, each in results.items()
    ]
    return Table("Microseconds from request to response", ("measured", *RANKS, "requests/s"), rows)
