"""The profile says where the processor time goes that the server spends on a request."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import calls, profilers
from benchmarks.bench import ONE_PROCESS, Bench
from benchmarks.errors import BenchmarkError
from benchmarks.load import SINGLE
from benchmarks.section import Section, Table, plain

MODELS = ("mnist-tiny", "cifar10-cnn")
LENGTH = 2.0
"""Times the usual seconds."""
SHOWN, LEAST_US = 16, 0.05
"""At most so many rows in a table, and none shorter."""


@dataclass(frozen=True)
class Sampler:
    """A program that says which share of a process's time goes where."""

    by: str
    shares: Callable[[str, int, float, Path], dict[str, float]]
    package: str


SAMPLERS = {
    "perf": Sampler("library, all threads", profilers.by_library, "Debian: linux-perf"),
    "py-spy": Sampler("Python function, with the C that it calls", profilers.by_function, "`pip install py-spy`"),
}


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where the server does not start or responds wrongly."""
    tables: list[Table] = []
    remarks = [
        "One image a request, native transport, h2load 4 x 16. The shares that a sampler sees, of the server's CPU."
    ]
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for model in MODELS:
        figures[model] = spent = _profile(bench, model, remarks)
        for by, us in spent.items():
            longest = sorted(us.items(), key=lambda item: -item[1])[:SHOWN]
            rows = [(name, plain(each)) for name, each in longest if each >= LEAST_US]
            tables.append(Table(f"{model}: by {by}", ("where", "µs a request"), rows))
    return Section(
        "profile", "Where the time goes", tables=tables, remarks=list(dict.fromkeys(remarks)), figures=figures
    )


def _profile(bench: Bench, model: str, remarks: list[str]) -> dict[str, dict[str, float]]:
    """Microseconds a request, by what each sampler tells apart; a remark for each that is left out."""
    seconds, spent = bench.seconds * LENGTH, {}
    with ExitStack() as stack:
        bench.note(f"{model}: starting the server")
        server = bench.serve(stack, model, *ONE_PROCESS)
        pool = stack.enter_context(ThreadPoolExecutor(1))
        payload = calls.infer(server.address, bench.workload(model))
        load = bench.load(server.address, payload).for_about(seconds, SINGLE, server=server)
        for name, sampler in SAMPLERS.items():
            program = profilers.find(name)
            if program is None:
                remarks.append(f"The table by {sampler.by} was left out: {name} is missing ({sampler.package}).")
                continue
            bench.note(name)
            running = pool.submit(load)
            try:
                shares = sampler.shares(program, server.pid, seconds / 2, bench.folder)
            except BenchmarkError as error:
                remarks.append(f"The table by {sampler.by} was left out: {error}.")
                shares = {}
            us = running.result()["server_cpu_us"]
            if shares:
                spent[sampler.by] = {where: share * us for where, share in shares.items()}
    return spent
