"""One workload on trial: servers up, answers checked, everything measured in turns, servers down."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import bare, calls
from benchmarks.load import LONE, Concurrency, H2load
from benchmarks.processes import ServerProcess
from benchmarks.rounds import Budget, Key, Taken, alternate
from benchmarks.samples import Figures
from benchmarks.workload import Workload

SINGLE, BULK = Concurrency(4, 16), Concurrency(4, 4)
"""Connections and streams where a request has one image, and where it has more."""
PILOT = 4
"""Requests for each stream in the pilot run, which warms up and finds the pace."""
SIDE_SHARE = 0.5
"""Part of the budget that lone requests and the Python client get."""
LEAST_LONE = 50
"""Lone requests in any case: fewer have no 99th percentile to speak of."""


@dataclass(frozen=True)
class Setup:
    """How the servers are run, and for how long they are asked."""

    models_dir: Path
    transports: tuple[str, ...]
    providers: str
    threads: int
    rounds: int
    budget: Budget
    bare_s: float
    """Seconds of one measurement of the bare session."""


@dataclass(frozen=True)
class Result:
    """All figures of one workload."""

    model: str
    images: int
    threads: int
    concurrency: Concurrency
    best_batch: int
    transports: tuple[str, ...]
    taken: Taken
    """("session", "best batch" | "same batch") and (transport, "served" | "empty" | "client" |
    "lone served" | "lone empty" | "lone grpcio client")."""


def measure(workload: Workload, setup: Setup, note: Callable[[str], None]) -> Result:
    """Raises BenchmarkError where a server does not start, answers wrongly or refuses."""
    model = workload.model
    concurrency = SINGLE if workload.images == 1 else BULK
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="convserve-benchmark-")))
        load = H2load(workload, folder)
        answer = folder / "answer.bin"
        answer.write_bytes(workload.answer)
        note("starting servers")
        servers = [
            (
                transport,
                stack.enter_context(ServerProcess("service", *_settings(model.name, transport, setup))),
                stack.enter_context(ServerProcess("benchmarks.empty", *_empty(transport, answer))),
            )
            for transport in setup.transports
        ]
        note("looking for the best batch")
        best = bare.best_batch(model)
        measurements: dict[Key, Callable[[], Figures]] = {
            ("session", "best batch"): partial(bare.run, model, best, setup.bare_s),
            ("session", "same batch"): partial(bare.run, model, workload.images, setup.bare_s),
        }
        for transport, service, empty in servers:
            note(f"checking answers, warming up {transport}")
            calls.check(service.address, workload)
            side = _side(load, service.address, workload, setup.budget)
            measurements |= {
                (transport, "served"): _loaded(load, service, concurrency, workload, setup.budget),
                (transport, "empty"): _loaded(load, empty, concurrency, workload, setup.budget),
                (transport, "client"): _client(service.address, workload, setup.budget),
                (transport, "lone served"): partial(load.lone, service.address, side),
                (transport, "lone empty"): partial(load.lone, empty.address, side),
                (transport, "lone grpcio client"): partial(calls.lone, service.address, workload, side),
            }
        taken = alternate(measurements, setup.rounds, note)
    return Result(model.name, workload.images, setup.threads, concurrency, best, setup.transports, taken)


def _settings(model: str, transport: str, setup: Setup) -> Sequence[str]:
    """The service's command line."""
    return (
        *("--models-dir", str(setup.models_dir), "--models", model, "--host", "127.0.0.1", "--port", "0"),
        *("--transport", transport, "--providers", setup.providers, "--threads", str(setup.threads)),
        *("--log-format", "json", "--log-level", "info"),
    )


def _empty(transport: str, answer: Path) -> Sequence[str]:
    """The command line of the server without a model."""
    return ("--transport", transport, "--answer", str(answer))


def _loaded(
    load: H2load, server: ServerProcess, concurrency: Concurrency, workload: Workload, budget: Budget
) -> Callable[[], Figures]:
    """Warms up; then as many requests as the budget allows at this pace, and what CPU time the server spends on one."""
    least = PILOT * concurrency.in_flight
    pace = load.rate(server.address, concurrency, least)["requests_per_s"]
    requests = budget.count(pace, workload.images, least=least)

    def run() -> Figures:
        before = server.cpu_s()
        figures = load.rate(server.address, concurrency, requests)
        return {**figures, "server_cpu_us": (server.cpu_s() - before) / requests * 1e6}

    return run


def _side(load: H2load, address: str, workload: Workload, budget: Budget) -> int:
    """How many lone requests the budget allows."""
    pace = load.rate(address, LONE, LEAST_LONE)["requests_per_s"]
    return budget.count(pace, workload.images, least=LEAST_LONE, share=SIDE_SHARE)


def _client(address: str, workload: Workload, budget: Budget) -> Callable[[], Figures]:
    least = PILOT * calls.CLIENT_THREADS
    pace = calls.client_rate(address, workload, least)["requests_per_s"]
    count = budget.count(pace, workload.images, least=least, share=SIDE_SHARE)
    return partial(calls.client_rate, address, workload, count)
