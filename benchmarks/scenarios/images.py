"""ImageClassifier.Classify beside ModelInfer: with raw pixels, and with images that must be decoded."""

from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import calls
from benchmarks.bench import Bench, Results
from benchmarks.load import SINGLE
from benchmarks.samples import Figures
from benchmarks.section import Section, Table, ratio, spread

MODELS = ("mnist-tiny", "cifar10-cnn")
WAYS = ("ModelInfer", "Classify, pixels", "Classify, PNG")
REMARK = f"h2load, closed loop, {SINGLE.connections} connections of {SINGLE.streams} streams."


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where a server does not start, responds wrongly or refuses."""
    results: Results = {}
    lines, rows = [], []
    for model in MODELS:
        results |= _measure(bench, model)
        tensors, pixels, png = (results[f"{model}, {name}"]["requests_per_s"] for name in WAYS)
        lines.append(ratio(f"{model}: Classify with pixels / ModelInfer", pixels, tensors, "images/s", at_least=0.9))
        lines.append(ratio(f"{model}: Classify with PNG / with pixels", png, pixels, "images/s"))
        rows.append((model, *(spread(figure) for figure in (tensors, pixels, png))))
    columns = ("model", *WAYS)
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
        return bench.interleave(measurements)
