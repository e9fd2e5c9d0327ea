"""One image a request, many requests in flight: what is left of both ceilings."""

from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import calls, session_ceiling
from benchmarks.bench import ONE_PROCESS, Bench, Results
from benchmarks.load import SINGLE, Concurrency
from benchmarks.processes import ServerProcess
from benchmarks.samples import Figures, Spread
from benchmarks.section import Line, Section, Table, counted, ratio, spread
from benchmarks.workload import Workload

SMALL, LARGE = "mnist-tiny", {"cifar10-cnn": (0.97, 0.70), "cifar10-small": (0.97, 0.90)}
"""Its run is shorter than a call; theirs are what a call costs: the targets with one thread and with all."""
MANY = Concurrency(16, 4)
"""As many in flight as SINGLE, on so many connections that each worker gets its share of them."""
REMARK = (
    f"h2load, closed loop, {SINGLE.connections} connections of {SINGLE.streams} streams, for workers "
    f"{MANY.connections} of {MANY.streams}; the session ceiling in the batch size that does best, images/s. "
    "CPU: of the server's process, all its threads."
)


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where a server does not start, responds wrongly or refuses."""
    results = _transports(bench)
    lines = [
        _share(
            results,
            (f"{SMALL}, served, {transport}", f"{SMALL}, transport ceiling, {transport}"),
            f"{SMALL} x 1, {transport}: served / transport ceiling",
            least,
        )
        for transport, least in (("native", 0.80), ("grpcio", 0.85))
    ]
    for model, (least, least_of_all) in LARGE.items():
        measured = _sessions(bench, model)
        results |= measured
        one = (f"{model}, served, 1 thread", f"{model}, session ceiling, 1 thread")
        lines.append(_share(results, one, f"{model} x 1: served / session ceiling, 1 thread each", least))
        best = max((name for name in measured if "served" in name), key=lambda name: _rate(results, name).median)
        every = (best, f"{model}, session ceiling, {counted(bench.threads, 'thread')}")
        lines.append(_share(results, every, f"{model} x 1: served / session ceiling, all cores", least_of_all))
    rows = [
        (name, spread(_rate(results, name)), spread(cpu) if (cpu := figures.get("server_cpu_us")) else "")
        for name, figures in results.items()
    ]
    columns = ("measured", "requests/s", "server's CPU, µs a request")
    return Section(
        "single", "One image a request", lines, [Table("Requests per second", columns, rows)], [REMARK], results
    )


def _transports(bench: Bench) -> Results:
    """The small model on both transports, beside its ceiling."""
    workload = bench.workload(SMALL)
    with ExitStack() as stack:
        bench.note("starting servers")
        servers = {
            transport: (
                bench.serve(stack, SMALL, "--transport", transport, *ONE_PROCESS),
                bench.serve_transport_ceiling(stack, workload, transport),
            )
            for transport in ("native", "grpcio")
        }
        measurements: dict[str, Callable[[], Figures]] = {}
        for transport, (service, ceiling) in servers.items():
            measurements[f"{SMALL}, served, {transport}"] = _loaded(bench, service, workload)
            measurements[f"{SMALL}, transport ceiling, {transport}"] = _loaded(bench, ceiling, workload)
        return bench.interleave(measurements)


def _sessions(bench: Bench, large: str) -> Results:
    """A large model with one thread, and with all cores as threads of a run or, where there are such, as workers."""
    counts = sorted({1, bench.threads})
    ways = {counted(count, "thread"): ("--threads", str(count), *ONE_PROCESS) for count in counts}
    if ONE_PROCESS:
        ways[f"{bench.threads} workers of 1 thread"] = ("--threads", "1", "--workers", str(bench.threads))
    with ExitStack() as stack:
        bench.note("starting servers")
        servers = {way: bench.serve(stack, large, *options) for way, options in ways.items()}
        measurements: dict[str, Callable[[], Figures]] = {}
        for way, service in servers.items():
            spread_out = MANY if "workers" in way else SINGLE
            measurements[f"{large}, served, {way}"] = _loaded(bench, service, bench.workload(large), spread_out)
        for count in counts:
            model = bench.workload(large, threads=count).model
            name = f"{large}, session ceiling, {counted(count, 'thread')}"
            measurements[name] = session_ceiling.best_measurement(model, bench.seconds)
        return bench.interleave(measurements)


def _loaded(
    bench: Bench, server: ServerProcess, workload: Workload, concurrency: Concurrency = SINGLE
) -> Callable[[], Figures]:
    """Checks the server's response first."""
    payload = calls.infer(server.address, workload)
    return bench.load(server.address, payload).for_about(bench.seconds, concurrency, server=server)


def _rate(results: Results, name: str) -> Spread:
    figures = results[name]
    return figures["requests_per_s"] if "requests_per_s" in figures else figures["images_per_s"]


def _share(results: Results, names: tuple[str, str], what: str, least: float) -> Line:
    """The rate of the first measurement over that of the second."""
    served, ceiling = (_rate(results, name) for name in names)
    return ratio(what, served, ceiling, f"a second: {names[0]}", at_least=least)
