"""Many images a request: what is left of the session's rate."""

from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import bare, calls
from benchmarks.bench import Bench
from benchmarks.load import BULK
from benchmarks.rounds import Taken
from benchmarks.samples import Figures
from benchmarks.section import Line, Section, Table, plain, spread

MODELS, IMAGES = ("mnist-tiny", "cifar10-tiny", "cifar10-cnn"), (64, 256)


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where a server does not start, answers wrongly or refuses."""
    taken: Taken = {}
    for model in MODELS:
        with ExitStack() as stack:
            bench.note(f"{model}: starting the server, looking for the best batch")
            server = bench.serve(stack, model)
            best = bare.best_batch(bench.workload(model).model)
            measurements: dict[str, Callable[[], Figures]] = {
                f"{model}, session, batch {best}": bare.measurement(bench.workload(model).model, best, bench.seconds)
            }
            for images in IMAGES:
                exchange = calls.infer(server.address, bench.workload(model, images))
                measurements[f"{model} x {images}, served"] = bench.load(server.address, exchange).for_about(
                    bench.seconds, BULK, server=server
                )
            taken |= bench.take(measurements)
    lines, rows = [], []
    for model in MODELS:
        session = next(figures["images_per_s"] for name, figures in taken.items() if name.startswith(f"{model}, "))
        for images in IMAGES:
            figures = taken[f"{model} x {images}, served"]
            served = figures["requests_per_s"].scaled(images)
            lines.append(
                Line(
                    f"{model} x {images}: served / session",
                    served / session,
                    at_least=0.90,
                    because=f"{plain(served.median)} of {plain(session.median)} images/s",
                )
            )
            cpu = figures["server_cpu_us"].scaled(1 / images)
            rows.append((f"{model} x {images}", spread(served), spread(session), spread(cpu)))
    columns = ("asked", "served, images/s", "session alone, images/s", "server's CPU, µs an image")
    return Section(
        "bulk",
        "Many images a request",
        lines,
        [Table("Images per second", columns, rows)],
        remarks=[
            (
                f"h2load, closed loop, {BULK.connections} connections of {BULK.streams} streams; server and session "
                f"with {bench.threads} threads, the session in the batch size that does best."
            )
        ],
        figures=taken,
    )
