"""Many images a request: what is left of the session's rate."""

from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import bare, calls
from benchmarks.bench import ONE_PROCESS, Bench
from benchmarks.load import BULK
from benchmarks.rounds import Taken
from benchmarks.samples import Figures
from benchmarks.section import Line, Section, Table, counted, plain, spread

MODELS, IMAGES = ("mnist-tiny", "cifar10-tiny", "cifar10-cnn"), (64, 256)


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where a server does not start, answers wrongly or refuses."""
    taken: Taken = {}
    counts = sorted({1, bench.threads})
    for model in MODELS:
        for threads in counts:
            taken |= _take(bench, model, threads)
    lines, rows = [], []
    for model in MODELS:
        for threads in counts:
            session = taken[_name(model, threads)]["images_per_s"]
            for images in IMAGES:
                figures = taken[_name(model, threads, images)]
                served = figures["requests_per_s"].scaled(images)
                lines.append(
                    Line(
                        f"{model} x {images}, {counted(threads, 'thread')}: served / session",
                        served / session,
                        at_least=0.90,
                        because=f"{plain(served.median)} of {plain(session.median)} images/s",
                    )
                )
                cpu = figures["server_cpu_us"].scaled(1 / images)
                rows.append(
                    (f"{model} x {images}, {counted(threads, 'thread')}", spread(served), spread(session), spread(cpu))
                )
    columns = ("asked", "served, images/s", "session alone, images/s", "server's CPU, µs an image")
    return Section(
        "bulk",
        "Many images a request",
        lines,
        [Table("Images per second", columns, rows)],
        remarks=[
            (
                f"h2load, closed loop, {BULK.connections} connections of {BULK.streams} streams; server and session "
                "with as many threads, the session in the batch size that does best. With one thread, what sends and "
                "receives has the other cores to itself; with all it takes its share of them."
            )
        ],
        figures=taken,
    )


def _take(bench: Bench, model: str, threads: int) -> Taken:
    """One model with so many threads: the session in the batch size that does best, and served."""
    with ExitStack() as stack:
        bench.note(f"{model}, {counted(threads, 'thread')}: starting the server, looking for the best batch")
        server = bench.serve(stack, model, "--threads", str(threads), *ONE_PROCESS)
        alone = bench.workload(model, threads=threads).model
        measurements: dict[str, Callable[[], Figures]] = {
            _name(model, threads): bare.measurement(alone, bare.best_batch(alone), bench.seconds)
        }
        for images in IMAGES:
            exchange = calls.infer(server.address, bench.workload(model, images))
            measurements[_name(model, threads, images)] = bench.load(server.address, exchange).for_about(
                bench.seconds, BULK, server=server
            )
        return bench.take(measurements)


def _name(model: str, threads: int, images: int = 0) -> str:
    """Of a measurement: served, so many images a request, or else the session alone."""
    what = f"{model} x {images}, served" if images else f"{model}, session"
    return f"{what}, {counted(threads, 'thread')}"
