"""One request at a time, what the way to the session and back adds to its run; and up to 256 in flight."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from benchmarks import calls, session_ceiling
from benchmarks.bench import Bench, Results
from benchmarks.load import LONE, Concurrency
from benchmarks.samples import Figures
from benchmarks.section import Line, Section, Table, plain, spread

MODELS = ("mnist-tiny", "cifar10-cnn")
ADDED_US, TAIL = 120.0, 2.0
"""Targets: the mean over the bare run, and p99 over the mean."""
RANKS = ("mean", "p50", "p95", "p99")
IN_FLIGHT, CONNECTIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256), 4
"""Requests, over at most so many connections."""
SHARE, ROUNDS = 0.5, 3
"""Of the usual seconds: nothing has to settle; at most so many rounds of the many points in flight."""


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
        added = served["mean_us"] - session["mean_us"]
        lines.append(Line(f"{model}: mean less the bare run", added, "µs", at_most=ADDED_US, because=because))
        tail = served["p99_us"] / served["mean_us"]
        because = f"p99 {plain(served['p99_us'].median)} µs"
        lines.append(Line(f"{model}: p99 / mean", tail, at_most=TAIL, because=because))
    crowds = _in_flight(bench)
    rows = [(name, *(plain(figures[f"{rank}_us"].median) for rank in RANKS)) for name, figures in results.items()]
    return Section(
        "lone",
        "A lone request",
        lines,
        [
            Table("Microseconds from request to response", ("measured", *RANKS), rows),
            Table("In flight", ("model, in flight", "requests/s", "p50, µs", "p99, µs"), _crowded(crowds)),
        ],
        remarks=["One connection, one stream, the next request when the response is there; h2load unless said."],
        figures=results | crowds,
    )


def _crowded(results: Results) -> list[tuple[str, ...]]:
    return [
        (name, spread(each["requests_per_s"]), plain(each["p50_us"].median), plain(each["p99_us"].median))
        for name, each in results.items()
    ]


def _in_flight(bench: Bench) -> Results:
    with ExitStack() as stack:
        servers = {model: bench.serve(stack, model) for model in MODELS}
        measurements: dict[str, Callable[[], Figures]] = {}
        for model, server in servers.items():
            load = bench.load(server.address, calls.infer(server.address, bench.workload(model)))
            for count in IN_FLIGHT:
                connections = min(CONNECTIONS, count)
                each = Concurrency(connections, count // connections)
                measurements[f"{model}, {count}"] = load.for_about(bench.seconds * SHARE, each, timed=True)
        return bench.interleave(measurements, min(ROUNDS, bench.rounds))
