"""One image a request over HTTP: the server's processor time, for tensors as bytes and in JSON, and for a PNG file."""

import http.client
import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from functools import partial

import numpy as np

from benchmarks import calls
from benchmarks.bench import Bench, Results
from benchmarks.errors import BenchmarkError
from benchmarks.processes import ServerProcess
from benchmarks.rivals.servers import free_ports
from benchmarks.samples import Figures
from benchmarks.section import Line, Section, Table, spread
from benchmarks.workload import Workload

MODEL = "mnist-tiny"
INFER, CLASSIFY = f"/v2/models/{MODEL}/infer", f"/v1/classify?model={MODEL}"
TARGETS_US = {"bytes": 250.0, "JSON": 360.0}
TIMEOUT_S = 20
Request = tuple[str, bytes, Mapping[str, str]]
"""Path, body and header fields."""
REMARK = (
    f"One request at a time over one connection by Python's http.client, {MODEL}; processor time of the whole server "
    "process, the model's run included. The first responses are compared with a direct run of the model."
)


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where the server does not start, or responds wrongly."""
    workload = bench.workload(MODEL)
    with ExitStack() as stack:
        bench.note("starting the server")
        (port,) = free_ports(1)
        server = bench.serve(stack, MODEL, "--http-port", str(port))
        server.address  # noqa: B018 - waits until it listens
        measurements: dict[str, Callable[[], Figures]] = {
            name: partial(_ask, port, server, workload, request, bench.seconds)
            for name, request in _requests(workload).items()
        }
        results: Results = bench.interleave(measurements)
    lines = [
        Line(f"HTTP, {name}: server's CPU", figures["server_cpu_us"], "µs", at_most=TARGETS_US.get(name))
        for name, figures in results.items()
    ]
    rows = [(name, spread(figures["server_cpu_us"]), spread(figures["mean_us"])) for name, figures in results.items()]
    columns = ("request", "server's CPU, µs", "mean time, µs")
    return Section("rest", "One image over HTTP", lines, [Table("A request", columns, rows)], [REMARK], results)


def _requests(workload: Workload) -> dict[str, Request]:
    """The same image in three forms."""
    images = workload.images
    about = {"name": workload.model.input_name, "datatype": "UINT8", "shape": list(images.shape)}
    binary = {
        "inputs": [about | {"parameters": {"binary_data_size": images.nbytes}}],
        "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
    }
    head = json.dumps(binary).encode()
    plain = {"inputs": [about | {"data": images.reshape(-1).tolist()}], "outputs": [{"name": "logits"}]}
    return {
        "bytes": (INFER, head + images.tobytes(), {"Inference-Header-Content-Length": str(len(head))}),
        "JSON": (INFER, json.dumps(plain).encode(), {}),
        "PNG": (f"{CLASSIFY}&include_logits=1", calls.png_files(workload)[0], {}),
    }


def _ask(port: int, server: ServerProcess, workload: Workload, request: Request, seconds: float) -> Figures:
    """Asks again and again for about so long."""
    path, body, fields = request
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)) as connection:

        def ask() -> http.client.HTTPResponse:
            connection.request("POST", path, body, dict(fields))
            return connection.getresponse()

        _check(ask(), workload)
        count, began, before = 0, time.perf_counter(), server.cpu_s()
        while (elapsed := time.perf_counter() - began) < seconds:
            ask().read()
            count += 1
        return {"server_cpu_us": (server.cpu_s() - before) / count * 1e6, "mean_us": elapsed / count * 1e6}


def _check(response: http.client.HTTPResponse, workload: Workload) -> None:
    """Raises BenchmarkError unless the response has the logits of a direct run."""
    content = response.read()
    if response.status != http.client.OK:
        raise BenchmarkError(f"the server refuses a request over HTTP: {content.decode(errors='replace')}")
    length = response.getheader("Inference-Header-Content-Length")
    if length is not None:
        served = np.frombuffer(content[int(length) :], np.float32)
    else:
        document = json.loads(content)
        found = document["outputs"][0]["data"] if "outputs" in document else document["results"][0]["logits"]
        served = np.array(found, np.float32)
    workload.check_output("logits", served)
