"""Other servers that a user can install, on the same model files and under the same load."""

from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import calls
from benchmarks.bench import Bench, Results
from benchmarks.load import BULK, SINGLE
from benchmarks.rivals.servers import MAX_DELAY_S, PREFERRED_ROWS, mlserver
from benchmarks.samples import Figures
from benchmarks.section import Section, Table, ratio, spread

MODELS, ROWS = ("mnist-tiny", "cifar10-cnn"), (1, 64)
OURS = "convserve"


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where a rival that was named does not start or responds wrongly."""
    remarks: list[str] = []
    results = _measure(bench, remarks)
    lines, rows = [], []
    for name, figures in results.items():
        load, _, server = name.partition(": ")
        rate, ours = figures["requests_per_s"], results[f"{load}: {OURS}"]["requests_per_s"]
        rows.append((load, server, spread(rate)))
        if server != OURS:
            lines.append(ratio(f"{load}: {OURS} / {server}", ours, rate, "requests/s"))
    tables = [Table("The same load", ("load", "server", "requests/s"), rows)] if rows else []
    return Section("rivals", "Rivals", lines, tables, remarks, results)


def _measure(bench: Bench, remarks: list[str]) -> Results:
    with ExitStack() as stack:
        addresses: dict[str, str] = {}
        if bench.mlserver is None:
            remarks.append("MLServer was left out: name the interpreter of an environment that has it.")
        else:
            bench.note("starting MLServer")
            workloads = [bench.workload(model) for model in MODELS]
            addresses["MLServer"] = stack.enter_context(mlserver(bench, bench.mlserver, workloads))
            remarks.append(
                f"MLServer: a model of its own (benchmarks/rivals/mlserver_model.py), no worker process, "
                f"{bench.threads} threads, joins up to {PREFERRED_ROWS} rows within {MAX_DELAY_S * 1e3:g} ms."
            )
        if bench.triton is None:
            remarks.append("Triton was left out: name the address of one that serves the same models with --triton.")
        else:
            addresses["Triton"] = bench.triton
        if not addresses:
            return {}
        addresses[OURS] = bench.serve(stack, ",".join(MODELS)).address
        measurements: dict[str, Callable[[], Figures]] = {}
        for model in MODELS:
            for rows in ROWS:
                for server_name, address in addresses.items():
                    load = bench.load(address, calls.infer(address, bench.workload(model, rows)))
                    concurrency = SINGLE if rows == 1 else BULK
                    measurements[f"{model} x {rows}: {server_name}"] = load.for_about(bench.seconds, concurrency)
        return bench.interleave(measurements)
