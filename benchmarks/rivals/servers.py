"""MLServer, started in its own environment with our model files, waited for, and always stopped."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc

from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError
from benchmarks.request_payload import MODEL_INFER
from benchmarks.workload import Workload

FOLDER = Path(__file__).parent
START_S, CALL_S, POLL_S = 90.0, 1.0, 0.1
PREFERRED_ROWS, MAX_DELAY_S = 64, 0.001
"""MLServer's batching, which is off by default and slower without."""


@contextmanager
def mlserver(bench: Bench, python: Path, workloads: Sequence[Workload]) -> Iterator[str]:
    """The address of MLServer, once it responds for each model; raises BenchmarkError where it does not start."""
    http, rpc, metrics = free_ports(3)
    folder = bench.folder / "mlserver"
    for workload in workloads:
        model = {
            "name": workload.model.name,
            "implementation": "mlserver_model.OnnxModel",
            "max_batch_size": PREFERRED_ROWS,
            "max_batch_time": MAX_DELAY_S,
            "parameters": {"uri": str(workload.model.path.resolve())},
        }
        (folder / workload.model.name).mkdir(parents=True)
        (folder / workload.model.name / "model-settings.json").write_text(json.dumps(model))
    settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": rpc, "metrics_port": metrics}
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0, "debug": False}))
    command = [str(python), "-c", "import mlserver.cli; mlserver.cli.main()", "start", str(folder)]
    own = {"PYTHONPATH": str(FOLDER), "SESSION_THREADS": str(bench.threads), "ORT_DISABLE_TELEMETRY": "1"}
    address, log = f"127.0.0.1:{rpc}", folder / "log.txt"
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **own}, cwd=folder) as process,
    ):
        try:
            if not all(responds(address, workload, process) for workload in workloads):
                said = log.read_text().strip().splitlines() or ["it said nothing"]
                raise BenchmarkError(f"MLServer did not start: {said[-1]}")
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
