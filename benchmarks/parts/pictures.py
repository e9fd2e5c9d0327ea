"""ImageClassifier.Classify beside ModelInfer: with raw pixels, and with pictures that must be decoded."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

from benchmarks import bare, calls
from benchmarks.bench import Bench
from benchmarks.load import SINGLE
from benchmarks.rounds import Taken
from benchmarks.samples import Figures
from benchmarks.section import Line, Section, Table, plain, spread
from benchmarks.workload import Workload
from service.images.decode import decode as images
from service.cpu import usable_cores

MODELS = ("mnist-tiny", "cifar10-cnn")
MAX_PIXELS = 50_000_000
"""As the server's default."""
GROUP = 32
"""Pictures that a thread decodes in one go."""


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where a server does not start, answers wrongly or refuses."""
    taken: Taken = {}
    for model in MODELS:
        workload = bench.workload(model)
        with ExitStack() as stack:
            bench.note("starting the server")
            server = bench.serve(stack, model)
            exchanges = {
                "ModelInfer": calls.infer(server.address, workload),
                "Classify, pixels": calls.classify(server.address, workload, encoded=False),
                "Classify, PNG": calls.classify(server.address, workload, encoded=True),
            }
            measurements: dict[str, Callable[[], Figures]] = {
                f"{model}, {name}": bench.load(server.address, exchange).for_about(bench.seconds, SINGLE, server=server)
                for name, exchange in exchanges.items()
            }
            best = bare.best_batch(workload.model)
            measurements[f"{model}, session"] = bare.measurement(workload.model, best, bench.seconds)
            pool = stack.enter_context(ThreadPoolExecutor(usable_cores()))
            measurements[f"{model}, decoder"] = partial(_decoder, bench.workload(model, GROUP), pool, bench.seconds)
            taken |= bench.take(measurements)
    lines, rows = [], []
    for model in MODELS:
        tensors, pixels, png = (
            taken[f"{model}, {name}"]["requests_per_s"] for name in ("ModelInfer", "Classify, pixels", "Classify, PNG")
        )
        decoder = taken[f"{model}, decoder"]["images_per_s"]
        because = f"{plain(pixels.median)} of {plain(tensors.median)}/s"
        lines.append(
            Line(f"{model}: Classify with pixels / ModelInfer", pixels / tensors, at_least=0.9, because=because)
        )
        because = f"{plain(png.median)} of {plain(decoder.median)}/s"
        lines.append(Line(f"{model}: Classify with PNG / decoder alone", png / decoder, because=because))
        session = taken[f"{model}, session"]["images_per_s"]
        rows.append((model, *(spread(figure) for figure in (tensors, pixels, png, decoder, session))))
    columns = ("model", "ModelInfer", "Classify, pixels", "Classify, PNG", "decoder alone", "session alone")
    return Section(
        "pictures",
        "Pictures",
        lines,
        [Table("Images per second, one a request", columns, rows)],
        remarks=[
            (
                f"h2load, closed loop, {SINGLE.connections} connections of {SINGLE.streams} streams. The decoder "
                f"alone: the server's own, {GROUP} PNG files in turn, {usable_cores()} threads."
            )
        ],
        figures=taken,
    )


def _decoder(workload: Workload, pool: ThreadPoolExecutor, seconds: float) -> Figures:
    """Pictures per second that the server's decoder turns into pixels on all cores."""
    files = calls.png_files(workload)
    shape = images.ImageShape(*workload.pictures.shape[1:])
    ends = time.perf_counter() + seconds

    def decode() -> int:
        decoded = 0
        while time.perf_counter() < ends:
            for file in files:
                images.decode(file, shape, MAX_PIXELS)
            decoded += len(files)
        return decoded

    started = time.perf_counter()
    decoded = sum(task.result() for task in [pool.submit(decode) for _ in range(usable_cores())])
    return {"images_per_s": decoded / (time.perf_counter() - started)}
