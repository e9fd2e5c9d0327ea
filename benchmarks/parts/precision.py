"""The same network in int8: how much faster, and what it costs in accuracy."""

from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import bare, calls
from benchmarks.bench import Bench
from benchmarks.load import SINGLE
from benchmarks.samples import Figures
from benchmarks.section import Line, Section, Table, plain, spread
from benchmarks.workload import Model

FLOAT, INTEGER = "cifar10-cnn", "cifar10-cnn-int8"


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where a server does not start, answers wrongly or refuses."""
    measurements: dict[str, Callable[[], Figures]] = {}
    with ExitStack() as stack:
        bench.note("starting servers")
        servers = {name: bench.serve(stack, name) for name in (FLOAT, INTEGER)}
        for name, server in servers.items():
            workload = bench.workload(name)
            load = bench.load(server.address, calls.infer(server.address, workload))
            measurements[f"{name}, served"] = load.for_about(bench.seconds, SINGLE, server=server)
            best = bare.best_batch(workload.model)
            measurements[f"{name}, session"] = bare.measurement(workload.model, best, bench.seconds)
        taken = bench.take(measurements)
    served = {name: taken[f"{name}, served"]["requests_per_s"] for name in servers}
    session = {name: taken[f"{name}, session"]["images_per_s"] for name in servers}
    accuracy = {name: _accuracy(bench.workload(name).model) for name in servers}
    faster = Line(
        f"{INTEGER} x 1: served / {FLOAT} served",
        served[INTEGER] / served[FLOAT],
        at_least=2.0,
        because=f"{plain(served[INTEGER].median)} to {plain(served[FLOAT].median)}/s; right on the whole test set "
        f"{accuracy[INTEGER]} to {accuracy[FLOAT]}",
    )
    rows = [(name, spread(served[name]), spread(session[name]), accuracy[name]) for name in servers]
    columns = ("model", "served x 1, requests/s", "session alone, images/s", "test accuracy")
    return Section(
        "precision",
        "Precision",
        [faster],
        [Table("fp32 and int8", columns, rows)],
        remarks=[
            "The accuracy is that of the file's own metadata, measured on all test pictures when it was exported."
        ],
        figures=taken,
    )


def _accuracy(model: Model) -> str:
    """As the file tells it."""
    accuracy = model.session.get_modelmeta().custom_metadata_map.get("convserve.test_accuracy")
    return f"{100 * float(accuracy):.2f} %" if accuracy else "unknown"
