"""Throughput and latency against the number of requests in flight."""

from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import calls
from benchmarks.bench import Bench
from benchmarks.load import Concurrency
from benchmarks.samples import Figures
from benchmarks.section import Plot, Section, Table, plain, spread

MODELS = ("mnist-tiny", "cifar10-cnn")
IN_FLIGHT = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONNECTIONS = 4
"""At most."""
SHARE, ROUNDS = 0.5, 3
"""Of the usual seconds; at most so many rounds: there are many points."""


def in_flight(count: int) -> Concurrency:
    """Spread over at most CONNECTIONS connections."""
    connections = min(CONNECTIONS, count)
    return Concurrency(connections, count // connections)


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where a server does not start, answers wrongly or refuses."""
    with ExitStack() as stack:
        bench.note("starting servers")
        measurements: dict[str, Callable[[], Figures]] = {}
        servers = {model: bench.serve(stack, model) for model in MODELS}
        for model, server in servers.items():
            load = bench.load(server.address, calls.infer(server.address, bench.workload(model)))
            for count in IN_FLIGHT:
                measurements[f"{model}, {count}"] = load.for_about(bench.seconds * SHARE, in_flight(count), timed=True)
        taken = bench.take(measurements, min(ROUNDS, bench.rounds))
    rows, rates, waits = [], {}, {}
    for model in MODELS:
        figures = [taken[f"{model}, {count}"] for count in IN_FLIGHT]
        rows += [
            (f"{model}, {count}", spread(each["requests_per_s"]), *(plain(each[f"{p}_us"].median) for p in RANKS))
            for count, each in zip(IN_FLIGHT, figures, strict=True)
        ]
        rates[model] = [(n, each["requests_per_s"].median) for n, each in zip(IN_FLIGHT, figures, strict=True)]
        for rank in RANKS:
            waits[f"{model}, {rank}"] = [
                (n, each[f"{rank}_us"].median / 1e3) for n, each in zip(IN_FLIGHT, figures, strict=True)
            ]
    return Section(
        "concurrency",
        "Requests in flight",
        tables=[Table("Closed loop", ("model, in flight", "requests/s", *(f"{rank}, µs" for rank in RANKS)), rows)],
        plots=[
            Plot("concurrency-rate", "Closed loop", "requests in flight", "requests/s", rates, log_x=True, log_y=True),
            Plot(
                "concurrency-latency", "Closed loop", "requests in flight", "latency, ms", waits, log_x=True, log_y=True
            ),
        ],
        remarks=[f"h2load, at most {CONNECTIONS} connections, the streams shared out among them."],
        figures=taken,
    )


RANKS = ("p50", "p99")
