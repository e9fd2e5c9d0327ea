"""The same networks in int8: how much faster, and what it costs in accuracy."""

from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import calls, session_ceiling
from benchmarks.bench import Bench
from benchmarks.load import SINGLE
from benchmarks.samples import Figures
from benchmarks.section import Section, Table, ratio, spread
from benchmarks.workload import Model

FASTER = {"cifar10-cnn": 2.0, "cifar10": None}
"""How many times as many requests int8 should serve, where that is a target."""


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where a server does not start, responds wrongly or refuses."""
    pairs = [(name, f"{name}-int8") for name in FASTER]
    names = [name for pair in pairs for name in pair]
    measurements: dict[str, Callable[[], Figures]] = {}
    with ExitStack() as stack:
        bench.note("starting servers")
        for name in names:
            server, workload = bench.serve(stack, name), bench.workload(name)
            load = bench.load(server.address, calls.infer(server.address, workload))
            measurements[f"{name}, served"] = load.for_about(bench.seconds, SINGLE, server=server)
            measurements[f"{name}, session ceiling"] = session_ceiling.best_measurement(workload.model, bench.seconds)
        results = bench.interleave(measurements)
    served = {name: results[f"{name}, served"]["requests_per_s"] for name in names}
    session = {name: results[f"{name}, session ceiling"]["images_per_s"] for name in names}
    accuracy = {name: _accuracy(bench.workload(name).model) for name in names}
    faster = [
        ratio(
            f"{integer} x 1: served / {float_} served",
            *(served[integer], served[float_]),
            f"requests/s; right on the whole test set {accuracy[integer]} to {accuracy[float_]}",
            at_least=FASTER[float_],
        )
        for float_, integer in pairs
    ]
    rows = [(name, spread(served[name]), spread(session[name]), accuracy[name]) for name in names]
    columns = ("model", "served x 1, requests/s", "session ceiling, images/s", "test accuracy")
    return Section(
        "precision",
        "Precision",
        faster,
        [Table("fp32 and int8", columns, rows)],
        ["The accuracy is that of the file's own metadata, measured on all test images when it was exported."],
        results,
    )


def _accuracy(model: Model) -> str:
    """As the file tells it."""
    accuracy = model.session.get_modelmeta().custom_metadata_map.get("convserve.test_accuracy")
    return f"{100 * float(accuracy):.2f} %" if accuracy else "unknown"
