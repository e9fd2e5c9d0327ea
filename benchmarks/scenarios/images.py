"""ImageClassifier.Classify beside ModelInfer: with raw pixels, and with images that must be decoded."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

from benchmarks import calls, session_ceiling
from benchmarks.bench import Bench, Results
from benchmarks.load import SINGLE
from benchmarks.samples import Figures
from benchmarks.section import Section, Table, ratio, spread
from benchmarks.workload import Workload
from service.cpu import usable_cores
from service.images.decode import ImageShape, decode

MODELS = ("mnist-tiny", "cifar10-cnn")
MAX_PIXELS = 50_000_000
"""As the server's default."""
GROUP = 32
"""Images that a thread decodes in one go."""
WAYS = ("ModelInfer", "Classify, pixels", "Classify, PNG")
REMARK = (
    f"h2load, closed loop, {SINGLE.connections} connections of {SINGLE.streams} streams. The decoder ceiling: the "
    f"server's own decoder, {GROUP} PNG files in turn, {usable_cores()} threads."
)


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where a server does not start, responds wrongly or refuses."""
    results: Results = {}
    lines, rows = [], []
    for model in MODELS:
        results |= _measure(bench, model)
        tensors, pixels, png = (results[f"{model}, {name}"]["requests_per_s"] for name in WAYS)
        decoder, session = (results[f"{model}, {name} ceiling"]["images_per_s"] for name in ("decoder", "session"))
        lines.append(ratio(f"{model}: Classify with pixels / ModelInfer", pixels, tensors, "images/s", at_least=0.9))
        lines.append(ratio(f"{model}: Classify with PNG / decoder ceiling", png, decoder, "images/s"))
        rows.append((model, *(spread(figure) for figure in (tensors, pixels, png, decoder, session))))
    columns = ("model", *WAYS, "decoder ceiling", "session ceiling")
    tables = [Table("Images per second, one a request", columns, rows)]
    return Section("images", "Images to be decoded", lines, tables, [REMARK], results)


def _measure(bench: Bench, model: str) -> Results:
    workload = bench.workload(model)
    with ExitStack() as stack:
        bench.note("starting the server")
        server = bench.serve(stack, model)
        payloads = (
            calls.infer(server.address, workload),
            calls.classify(server.address, workload, encoded=False),
            calls.classify(server.address, workload, encoded=True),
        )
        measurements: dict[str, Callable[[], Figures]] = {
            f"{model}, {name}": bench.load(server.address, payload).for_about(bench.seconds, SINGLE, server=server)
            for name, payload in zip(WAYS, payloads, strict=True)
        }
        measurements[f"{model}, session ceiling"] = session_ceiling.best_measurement(workload.model, bench.seconds)
        pool = stack.enter_context(ThreadPoolExecutor(usable_cores()))
        group = bench.workload(model, GROUP)
        measurements[f"{model}, decoder ceiling"] = partial(_decoder_ceiling, group, pool, bench.seconds)
        return bench.interleave(measurements)


def _decoder_ceiling(workload: Workload, pool: ThreadPoolExecutor, seconds: float) -> Figures:
    """Images per second that the server's decoder turns into pixels on all cores."""
    files = calls.png_files(workload)
    shape = ImageShape(*workload.images.shape[1:])
    ends = time.perf_counter() + seconds

    def decode_all() -> int:
        decoded = 0
        while time.perf_counter() < ends:
            for file in files:
                decode(file, shape, MAX_PIXELS)
            decoded += len(files)
        return decoded

    started = time.perf_counter()
    decoded = sum(task.result() for task in [pool.submit(decode_all) for _ in range(usable_cores())])
    return {"images_per_s": decoded / (time.perf_counter() - started)}
