"""What every scenario works with: models, servers, load, and how long to measure."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.load import H2load
from benchmarks.processes import ServerProcess
from benchmarks.request_payload import RequestPayload
from benchmarks.samples import Figures, Spread
from benchmarks.workload import Model, Workload, open_model

Results = dict[str, dict[str, Spread]]
"""The figures of each measurement from all rounds."""
ONE_PROCESS = ("--workers", "0")
"""Options of a server whose figures are to be those of one process."""


@dataclass(frozen=True, eq=False)
class Bench:
    """Settings of one run of the suite, and its folder for what passes between processes."""

    models_dir: Path
    data_dir: Path
    providers: str
    threads: int
    """That compute one run, of the server by default and of the bare session: as many as the cores."""
    seconds: float
    """Of one measurement."""
    rounds: int
    folder: Path
    note: Callable[[str], None]
    """Told what is being done."""
    mlserver: Path | None = None
    """The interpreter of an environment with MLServer."""
    triton: str | None = None
    """``host:port`` of a running Triton with the same models."""

    def workload(self, model: str, rows: int = 1, *, threads: int | None = None) -> Workload:
        """So many images at once for this model; raises BenchmarkError."""
        return Workload(_open(self.models_dir, model, self.data_dir, self.providers, threads or self.threads), rows)

    def serve(self, stack: ExitStack, models: str, *options: str) -> ServerProcess:
        """Starts the service with these models, separated by commas; it ends with the stack."""
        return stack.enter_context(
            ServerProcess(
                "service",
                *("--models-dir", str(self.models_dir), "--models", models, "--host", "127.0.0.1", "--port", "0"),
                *("--providers", self.providers, "--log-format", "json", "--log-level", "info", *options),
            )
        )

    def serve_transport_ceiling(self, stack: ExitStack, workload: Workload, transport: str) -> ServerProcess:
        """Starts the same transport without a model, which always gives the right response; it ends with the stack."""
        response = self.folder / f"{workload.model.name}-{workload.rows}.bin"
        response.write_bytes(workload.response)
        arguments = ("--transport", transport, "--response", str(response))
        return stack.enter_context(ServerProcess("benchmarks.transport_ceiling", *arguments))

    def load(self, address: str, payload: RequestPayload) -> H2load:
        """Load of this request on this address."""
        return H2load(address, payload, self.folder)

    def interleave(self, measurements: Mapping[str, Callable[[], Figures]], rounds: int | None = None) -> Results:
        """The figures of all measurements from all rounds, in turns."""
        return interleave(measurements, rounds or self.rounds, self.note)


@cache
def _open(models_dir: Path, name: str, data_dir: Path, providers: str, threads: int) -> Model:
    return open_model(models_dir, name, data_dir, providers=providers, threads=threads)


def interleave(measurements: Mapping[str, Callable[[], Figures]], rounds: int, note: Callable[[str], None]) -> Results:
    """Takes every measurement once a round, every second round backwards.

    Backwards, because a drift would otherwise always favour the same ones.
    """
    samples: dict[str, list[Figures]] = {name: [] for name in measurements}
    for number in range(rounds):
        names = list(measurements)
        for name in reversed(names) if number % 2 else names:
            note(f"round {number + 1} of {rounds}: {name}")
            samples[name].append(measurements[name]())
    return {
        name: {figure: Spread(tuple(sample[figure] for sample in taken)) for figure in taken[0]}
        for name, taken in samples.items()
    }
