"""Many images a request: what is left of the session ceiling."""

from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import calls, session_ceiling
from benchmarks.bench import ONE_PROCESS, Bench, Results
from benchmarks.load import BULK
from benchmarks.samples import Figures
from benchmarks.section import Section, Table, counted, ratio, spread

MODELS, ROWS = ("mnist-tiny", "cifar10-cnn", "cifar10-small"), (64, 256)
REMARK = (
    f"h2load, closed loop, {BULK.connections} connections of {BULK.streams} streams; server and session with as many "
    "threads, the session in the batch size that does best. With one thread, the transport has the other cores "
    "to itself; with all it takes its share of them. --max-queue-ms 60000: a closed loop waits for its turn."
)


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where a server does not start, responds wrongly or refuses."""
    results: Results = {}
    lines, table = [], []
    for model in MODELS:
        for threads in sorted({1, bench.threads}):
            results |= _measure(bench, model, threads)
            ceiling = results[_name(model, threads)]["images_per_s"]
            for rows in ROWS:
                figures = results[_name(model, threads, rows)]
                served, cpu = figures["requests_per_s"].scaled(rows), figures["server_cpu_us"].scaled(1 / rows)
                load = f"{model} x {rows}, {counted(threads, 'thread')}"
                lines.append(ratio(f"{load}: served / session ceiling", served, ceiling, "images/s", at_least=0.90))
                table.append((load, spread(served), spread(ceiling), spread(cpu)))
    columns = ("load", "served, images/s", "session ceiling, images/s", "server's CPU, µs an image")
    tables = [Table("Images per second", columns, table)]
    return Section("bulk", "Many images a request", lines, tables, [REMARK], results)


def _measure(bench: Bench, model: str, threads: int) -> Results:
    """One model with so many threads: the session in the batch size that does best, and served."""
    with ExitStack() as stack:
        bench.note(f"{model}, {counted(threads, 'thread')}: starting the server, looking for the best batch")
        server = bench.serve(stack, model, "--threads", str(threads), "--max-queue-ms", "60000", *ONE_PROCESS)
        alone = bench.workload(model, threads=threads).model
        measurements: dict[str, Callable[[], Figures]] = {
            _name(model, threads): session_ceiling.best_measurement(alone, bench.seconds)
        }
        for rows in ROWS:
            payload = calls.infer(server.address, bench.workload(model, rows))
            measurements[_name(model, threads, rows)] = bench.load(server.address, payload).for_about(
                bench.seconds, BULK, server=server
            )
        return bench.interleave(measurements)


def _name(model: str, threads: int, rows: int = 0) -> str:
    """Of a measurement: served with so many images a request, or else the session ceiling."""
    what = f"{model} x {rows}, served" if rows else f"{model}, session ceiling"
    return f"{what}, {counted(threads, 'thread')}"
