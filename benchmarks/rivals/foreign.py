"""Servers of others, each in its own environment, started with our model files and always stopped."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError
from benchmarks.exchange import MODEL_INFER
from benchmarks.workload import Workload

SCRIPTS = Path(__file__).parent / "peers"
ROOT = Path(__file__).parent.parent
QUIET = {"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}
"""Nothing calls home."""
START_S, ASK_S, POLL_S = 90.0, 1.0, 0.1
JOIN_ROWS, JOIN_S = 64, 0.001
"""Their batching, which is off by default and slower without; as in ``peers/ray_serve.py``."""


@contextmanager
def mlserver(bench: Bench, python: Path, workloads: Sequence[Workload]) -> Iterator[str]:
    """MLServer with these models; its address. Raises BenchmarkError where it does not start."""
    folder = bench.folder / "mlserver"
    folder.mkdir()
    http, rpc, metrics = _free_ports(3)
    settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": rpc, "metrics_port": metrics}
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0, "debug": False}))
    for workload in workloads:
        model = {
            "name": workload.model.name,
            "implementation": "mlserver_model.OnnxModel",
            "max_batch_size": JOIN_ROWS,
            "max_batch_time": JOIN_S,
            "parameters": {"uri": str(workload.model.path.resolve())},
        }
        (folder / workload.model.name).mkdir()
        (folder / workload.model.name / "model-settings.json").write_text(json.dumps(model))
    command = [str(python), "-c", "import mlserver.cli; mlserver.cli.main()", "start", str(folder)]
    environment = {"PYTHONPATH": str(SCRIPTS), "PEER_THREADS": str(bench.threads)}
    with _running("MLServer", command, environment, folder, f"127.0.0.1:{rpc}", workloads) as address:
        yield address


@contextmanager
def ray_serve(bench: Bench, python: Path, workloads: Sequence[Workload]) -> Iterator[str]:
    """Ray Serve's gRPC proxy before one replica with these models; its address. Raises BenchmarkError."""
    folder = bench.folder / "ray"
    folder.mkdir()
    http, rpc = _free_ports(2)
    models = [f"{workload.model.name}={workload.model.path.resolve()}" for workload in workloads]
    command = [str(python), str(SCRIPTS / "ray_serve.py"), str(http), str(rpc), str(bench.threads), *models]
    environment = {"PYTHONPATH": str(ROOT)}
    with _running("Ray Serve", command, environment, folder, f"127.0.0.1:{rpc}", workloads) as address:
        yield address


@contextmanager
def _running(
    name: str,
    command: list[str],
    environment: dict[str, str],
    folder: Path,
    address: str,
    workloads: Sequence[Workload],
) -> Iterator[str]:
    """The process, from when it answers for each model."""
    log = folder / "log.txt"
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **QUIET, **environment}, cwd=folder
        ) as process,
    ):
        try:
            if not all(_answers(address, workload, process) for workload in workloads):
                said = log.read_text().strip().splitlines() or ["it said nothing"]
                raise BenchmarkError(f"{name} did not start: {said[-1]}")
            yield address
        finally:
            process.terminate()
            try:
                process.wait(START_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(address: str, workload: Workload, process: "subprocess.Popen[bytes]") -> bool:
    """Waits until a request is answered; False where the process ends before, or takes too long."""
    ends = time.monotonic() + START_S
    with grpc.insecure_channel(address) as channel:
        method = channel.unary_unary(MODEL_INFER, request_serializer=None, response_deserializer=None)
        while process.poll() is None and time.monotonic() < ends:
            with suppress(grpc.RpcError):
                method(workload.request, timeout=ASK_S, wait_for_ready=True)
                return True
            time.sleep(POLL_S)  # it is there, and the model is not yet
    return False


def _free_ports(count: int) -> list[int]:
    """Ports that are free now; what is told one by number cannot take just any."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@dataclass(frozen=True)
class Foreign:
    """A server of others."""

    name: str
    start: Callable[[Bench, Path, Sequence[Workload]], AbstractContextManager[str]]
    how: str
    """It is set up."""


SERVERS = {
    "mlserver": Foreign(
        "MLServer", mlserver, "a model of its own (benchmarks/peers/mlserver_model.py), no worker process"
    ),
    "ray": Foreign("Ray Serve", ray_serve, "its gRPC proxy before one replica (benchmarks/peers/ray_serve.py)"),
}
ENVIRONMENTS = {
    "mlserver": "mlserver and onnxruntime",
    "ray": "ray[serve-grpc] and onnxruntime",
    "openvino": "openvino",
}
"""What must be installed in each environment that can be named."""
