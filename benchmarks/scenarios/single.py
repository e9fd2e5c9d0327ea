"""One image a request, many requests in flight: what is left of the transport's rate, and of the session's."""

from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import bare, calls
from benchmarks.bench import ONE_PROCESS, Bench
from benchmarks.load import SINGLE, Concurrency
from benchmarks.processes import ServerProcess
from benchmarks.samples import Figures, Spread
from benchmarks.section import Line, Section, Table, counted, plain, spread
from benchmarks.workload import Workload

SMALL, LARGE = "mnist-tiny", "cifar10-cnn"
"""Its run is shorter than a call; its run is what a call costs."""
MANY = Concurrency(16, 4)
"""As many in flight as SINGLE, on so many connections that each worker gets its share of them."""


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where a server does not start, answers wrongly or refuses."""
    taken = _transports(bench) | _sessions(bench)
    served, session = "served", "session"
    ways = [name for name in taken if name.startswith(f"{LARGE}, {served}")]
    lines = [
        Line(
            f"{SMALL} x 1, {transport}: served / same transport without a model",
            _rate(taken, f"{SMALL}, served, {transport}") / _rate(taken, f"{SMALL}, no model, {transport}"),
            at_least=least,
            because=_both(taken, f"{SMALL}, served, {transport}", f"{SMALL}, no model, {transport}"),
        )
        for transport, least in (("native", 0.80), ("grpcio", 0.85))
    ]
    alone = f"{LARGE}, {session}, 1 thread"
    lines.append(
        Line(
            f"{LARGE} x 1: served / session, 1 thread each",
            _rate(taken, f"{LARGE}, {served}, 1 thread") / _rate(taken, alone),
            at_least=0.97,
            because=_both(taken, f"{LARGE}, {served}, 1 thread", alone),
        )
    )
    alone = f"{LARGE}, {session}, {counted(bench.threads, 'thread')}"
    best = max(ways, key=lambda name: _rate(taken, name).median)
    lines.append(
        Line(
            f"{LARGE} x 1: served / session, all {bench.threads} cores",
            _rate(taken, best) / _rate(taken, alone),
            at_least=0.70,
            because=f"{_both(taken, best, alone)}, {best.partition(f'{served}, ')[2]}",
        )
    )
    rows = [
        (
            name,
            spread(_rate(taken, name)),
            spread(figures["server_cpu_us"]) if "server_cpu_us" in figures else "",
        )
        for name, figures in taken.items()
    ]
    return Section(
        "single",
        "One image a request",
        lines,
        [Table("Requests per second", ("measured", "requests/s", "server's CPU, µs a request"), rows)],
        remarks=[
            (
                f"h2load, closed loop, {SINGLE.connections} connections of {SINGLE.streams} streams, for workers "
                f"{MANY.connections} of {MANY.streams}; the session alone in the batch size that does best, images/s. "
                "CPU: of the server's process, all its threads."
            )
        ],
        figures=taken,
    )


def _transports(bench: Bench) -> dict[str, dict[str, Spread]]:
    """The small model on both transports, beside the same without a model."""
    workload = bench.workload(SMALL)
    with ExitStack() as stack:
        bench.note("starting servers")
        servers = {
            transport: (
                bench.serve(stack, SMALL, "--transport", transport, *ONE_PROCESS),
                bench.serve_empty(stack, workload, transport),
            )
            for transport in ("native", "grpcio")
        }
        measurements: dict[str, Callable[[], Figures]] = {}
        for transport, (service, empty) in servers.items():
            measurements[f"{SMALL}, served, {transport}"] = _loaded(bench, service, workload)
            measurements[f"{SMALL}, no model, {transport}"] = _loaded(bench, empty, workload)
        return bench.take(measurements)


def _sessions(bench: Bench) -> dict[str, dict[str, Spread]]:
    """The large model with one thread, and with all cores as threads of a run or, where there are such, as workers."""
    counts = sorted({1, bench.threads})
    ways = {counted(count, "thread"): ("--threads", str(count), *ONE_PROCESS) for count in counts}
    if ONE_PROCESS:
        ways[f"{bench.threads} workers of 1 thread"] = ("--threads", "1", "--workers", str(bench.threads))
    with ExitStack() as stack:
        bench.note("starting servers")
        servers = {way: bench.serve(stack, LARGE, *options) for way, options in ways.items()}
        measurements: dict[str, Callable[[], Figures]] = {}
        for way, service in servers.items():
            spread_out = MANY if "workers" in way else SINGLE
            measurements[f"{LARGE}, served, {way}"] = _loaded(bench, service, bench.workload(LARGE), spread_out)
        for count in counts:
            model = bench.workload(LARGE, threads=count).model
            best = bare.best_batch(model)
            measurements[f"{LARGE}, session, {counted(count, 'thread')}"] = bare.measurement(model, best, bench.seconds)
        return bench.take(measurements)


def _loaded(
    bench: Bench, server: ServerProcess, workload: Workload, concurrency: Concurrency = SINGLE
) -> Callable[[], Figures]:
    """Checks the server's answer first."""
    exchange = calls.infer(server.address, workload)
    return bench.load(server.address, exchange).for_about(bench.seconds, concurrency, server=server)


def _rate(taken: dict[str, dict[str, Spread]], name: str) -> Spread:
    figures = taken[name]
    return figures["requests_per_s"] if "requests_per_s" in figures else figures["images_per_s"]


def _both(taken: dict[str, dict[str, Spread]], name: str, other: str) -> str:
    return f"{plain(_rate(taken, name).median)} of {plain(_rate(taken, other).median)}/s"
