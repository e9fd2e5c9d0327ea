"""The batching policy against its alternatives: run what is there at once, join nothing, or wait for company."""

from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import calls
from benchmarks.bench import Bench
from benchmarks.parts.concurrency import in_flight
from benchmarks.samples import Figures
from benchmarks.section import Plot, Section, Table, plain

MODELS = ("mnist-tiny", "cifar10-cnn")
POLICIES = {
    "default": (),
    "no joining": ("--join-rows", "1"),
    "never inline": ("--max-inline-us", "0"),
    "wait 200 µs": ("--max-queue-delay-us", "200"),
    "wait 1 ms": ("--max-queue-delay-us", "1000"),
    "wait 5 ms": ("--max-queue-delay-us", "5000"),
}
IN_FLIGHT = (1, 4, 16, 64, 256)
SHARE, ROUNDS = 0.35, 3
"""Of the usual seconds; at most so many rounds: there are many points."""


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where a server does not start, answers wrongly or refuses."""
    with ExitStack() as stack:
        bench.note("starting servers")
        measurements: dict[str, Callable[[], Figures]] = {}
        servers = {policy: bench.serve(stack, ",".join(MODELS), *options) for policy, options in POLICIES.items()}
        for model in MODELS:
            for count in IN_FLIGHT:
                for policy, server in servers.items():
                    exchange = calls.infer(server.address, bench.workload(model))
                    measurements[f"{model}, {policy}, {count}"] = bench.load(server.address, exchange).for_about(
                        bench.seconds * SHARE, in_flight(count), timed=True
                    )
        taken = bench.take(measurements, min(ROUNDS, bench.rounds))
    tables, plots = [], []
    for model in MODELS:
        rows = []
        lines = {}
        for policy in POLICIES:
            points = [taken[f"{model}, {policy}, {count}"] for count in IN_FLIGHT]
            rows.append(
                (policy, *(f"{plain(p['requests_per_s'].median)} / {plain(p['p99_us'].median)}" for p in points))
            )
            lines[policy] = [(p["requests_per_s"].median, p["p99_us"].median / 1e3) for p in points]
        columns = ("policy", *(f"{count} in flight" for count in IN_FLIGHT))
        tables.append(Table(f"{model}: requests/s / p99 in µs", columns, rows))
        plots.append(
            Plot(
                f"policy-{model}",
                f"{model}, {', '.join(str(count) for count in IN_FLIGHT)} in flight",
                *("requests/s", "p99, ms"),
                lines,
                log_x=True,
                log_y=True,
            )
        )
    return Section(
        "policy",
        "Batching policies",
        tables=tables,
        plots=plots,
        remarks=[
            "Each policy is a server of its own with these options: "
            + "; ".join(f"{name}: {' '.join(options) or 'none'}" for name, options in POLICIES.items())
            + "."
        ],
        figures=taken,
    )
