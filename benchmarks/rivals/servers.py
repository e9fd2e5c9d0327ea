"""Servers of others, each in its own environment, started with our model files and always stopped."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError
from benchmarks.request_payload import MODEL_INFER
from benchmarks.workload import Workload

FOLDER = Path(__file__).parent
QUIET = {"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}
"""Nothing calls home."""
START_S, CALL_S, POLL_S = 90.0, 1.0, 0.1
PREFERRED_ROWS, MAX_DELAY_S = 64, 0.001
"""Their batching, which is off by default and slower without; as in ``ray_serve.py``."""


@dataclass(frozen=True)
class Start:
    """What a server is started with: its folder, the models, and its own interpreter."""

    folder: Path
    python: Path
    threads: int
    workloads: Sequence[Workload]


Launch = tuple[list[str], dict[str, str], int]
"""A command, what it needs in its environment, and the port that it will listen on."""


def _mlserver(start: Start) -> Launch:
    http, rpc, metrics = free_ports(3)
    settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": rpc, "metrics_port": metrics}
    (start.folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0, "debug": False}))
    for workload in start.workloads:
        model = {
            "name": workload.model.name,
            "implementation": "mlserver_model.OnnxModel",
            "max_batch_size": PREFERRED_ROWS,
            "max_batch_time": MAX_DELAY_S,
            "parameters": {"uri": str(workload.model.path.resolve())},
        }
        (start.folder / workload.model.name).mkdir()
        (start.folder / workload.model.name / "model-settings.json").write_text(json.dumps(model))
    command = [str(start.python), "-c", "import mlserver.cli; mlserver.cli.main()", "start", str(start.folder)]
    return command, {"PYTHONPATH": str(FOLDER), "SESSION_THREADS": str(start.threads)}, rpc


def _ray(start: Start) -> Launch:
    http, rpc = free_ports(2)
    models = [f"{workload.model.name}={workload.model.path.resolve()}" for workload in start.workloads]
    command = [str(start.python), str(FOLDER / "ray_serve.py"), str(http), str(rpc), str(start.threads), *models]
    return command, {"PYTHONPATH": str(FOLDER.parents[1])}, rpc


@dataclass(frozen=True)
class Server:
    """A server of others."""

    name: str
    launch: Callable[[Start], Launch]
    packages: str
    """That its environment needs."""
    how: str
    """It is set up."""


SERVERS = {
    "mlserver": Server(
        "MLServer",
        _mlserver,
        "mlserver and onnxruntime",
        "a model of its own (benchmarks/rivals/mlserver_model.py), no worker process",
    ),
    "ray": Server(
        "Ray Serve",
        _ray,
        "ray[serve-grpc] and onnxruntime",
        "its gRPC proxy before one replica (benchmarks/rivals/ray_serve.py)",
    ),
}


@contextmanager
def running(server: Server, bench: Bench, python: Path, workloads: Sequence[Workload]) -> Iterator[str]:
    """The address of the server, once it responds for each model; raises BenchmarkError where it does not start."""
    folder = bench.folder / server.name
    folder.mkdir()
    command, environment, port = server.launch(Start(folder, python, bench.threads, workloads))
    address, log, env = f"127.0.0.1:{port}", folder / "log.txt", {**os.environ, **QUIET, **environment}
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=env, cwd=folder) as process,
    ):
        try:
            if not all(responds(address, workload, process) for workload in workloads):
                said = log.read_text().strip().splitlines() or ["it said nothing"]
                raise BenchmarkError(f"{server.name} did not start: {said[-1]}")
            yield address
        finally:
            process.terminate()
            try:
                process.wait(START_S)
            except subprocess.TimeoutExpired:
                process.kill()


def responds(address: str, workload: Workload, process: "subprocess.Popen[bytes]") -> bool:
    """Waits for the first response; False where the process ends before, or takes too long."""
    ends = time.monotonic() + START_S
    with grpc.insecure_channel(address) as channel:
        method = channel.unary_unary(MODEL_INFER, request_serializer=None, response_deserializer=None)
        while process.poll() is None and time.monotonic() < ends:
            with suppress(grpc.RpcError):
                method(workload.request, timeout=CALL_S, wait_for_ready=True)
                return True
            time.sleep(POLL_S)  # it is there, and the model is not yet
    return False


def free_ports(count: int) -> list[int]:
    """Ports that are free now; what is told one by number cannot take just any."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
