"""Throughput and latency against the number of requests in flight."""

from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import calls
from benchmarks.bench import Bench
from benchmarks.load import Concurrency
from benchmarks.samples import Figures
from benchmarks.section import Section, Table, plain, spread

MODELS = ("mnist-tiny", "cifar10-cnn")
IN_FLIGHT = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONNECTIONS = 4
"""At most."""
RANKS = ("p50", "p99")
SHARE, ROUNDS = 0.5, 3
"""Of the usual seconds; at most so many rounds: there are many points."""


def in_flight(count: int) -> Concurrency:
    """Spread over at most CONNECTIONS connections."""
    connections = min(CONNECTIONS, count)
    return Concurrency(connections, count // connections)


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where a server does not start, responds wrongly or refuses."""
    with ExitStack() as stack:
        bench.note("starting servers")
        measurements: dict[str, Callable[[], Figures]] = {}
        servers = {model: bench.serve(stack, model) for model in MODELS}
        for model, server in servers.items():
            load = bench.load(server.address, calls.infer(server.address, bench.workload(model)))
            for count in IN_FLIGHT:
                measurements[f"{model}, {count}"] = load.for_about(bench.seconds * SHARE, in_flight(count), timed=True)
        results = bench.interleave(measurements, min(ROUNDS, bench.rounds))
    rows = [
        (name, spread(each["requests_per_s"]), *(plain(each[f"{rank}_us"].median) for rank in RANKS))
        for name, each in results.items()
    ]
    columns = ("model, in flight", "requests/s", *(f"{rank}, µs" for rank in RANKS))
    remarks = [f"h2load, at most {CONNECTIONS} connections, the streams shared out among them."]
    tables = [Table("Closed loop", columns, rows)]
    return Section("concurrency", "Requests in flight", tables=tables, remarks=remarks, figures=results)
