"""What every part of the suite works with: models, servers, load, and how long to measure."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.exchange import Exchange
from benchmarks.load import H2load
from benchmarks.processes import ServerProcess
from benchmarks.rounds import Taken, alternate
from benchmarks.samples import Figures
from benchmarks.workload import Model, Workload, open_model
from service.settings import Settings

ONE_PROCESS = ("--workers", "0") if hasattr(Settings, "workers") else ()
"""Options of a server whose figures are to be those of one process."""


@dataclass(frozen=True)
class Peers:
    """Where other servers and runtimes are."""

    pythons: Mapping[str, Path]
    """The interpreters of their environments, by the names of ``foreign.ENVIRONMENTS``; who is missing is left out."""
    triton: str | None = None
    """``host:port`` of a Triton that runs, with the same models."""


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
    peers: Peers
    folder: Path
    note: Callable[[str], None]
    """Told what is being done."""

    def workload(self, model: str, images: int = 1, *, threads: int | None = None) -> Workload:
        """So many pictures at once for this model; raises BenchmarkError."""
        return Workload(self._model(model, threads or self.threads), images)

    def serve(self, stack: ExitStack, models: str, *options: str) -> ServerProcess:
        """Starts the service with these models, separated by commas; it ends with the stack."""
        return stack.enter_context(
            ServerProcess(
                "service",
                *("--models-dir", str(self.models_dir), "--models", models, "--host", "127.0.0.1", "--port", "0"),
                *("--providers", self.providers, "--log-format", "json", "--log-level", "info", *options),
            )
        )

    def serve_empty(self, stack: ExitStack, workload: Workload, transport: str) -> ServerProcess:
        """Starts the same transport without a model, which always gives the right answer; it ends with the stack."""
        answer = self.folder / f"{workload.model.name}-{workload.images}.bin"
        answer.write_bytes(workload.answer)
        arguments = ("--transport", transport, "--answer", str(answer))
        return stack.enter_context(ServerProcess("benchmarks.empty", *arguments))

    def load(self, address: str, exchange: Exchange) -> H2load:
        """Load of this exchange on this address."""
        return H2load(address, exchange, self.folder)

    def take(self, measurements: Mapping[str, Callable[[], Figures]], rounds: int | None = None) -> Taken:
        """The figures of all measurements from all rounds, in turns."""
        return alternate(measurements, rounds or self.rounds, self.note)

    def _model(self, name: str, threads: int) -> Model:
        return _open(self.models_dir, name, self.data_dir, self.providers, threads)


@cache
def _open(models_dir: Path, name: str, data_dir: Path, providers: str, threads: int) -> Model:
    return open_model(models_dir, name, data_dir, providers=providers, threads=threads)
