"""Envoy and nginx before the server, by the files in deploy/proxies, under load with deadlines and ids.

`make proxies` installs Envoy and runs these; without the programs they are skipped.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from service.pb import open_inference_pb2 as pb
from tests.servers import ROOT, ServerProcess

ENVOY = os.environ.get("CONVSERVE_ENVOY") or shutil.which("envoy")
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
SERVICE = "/inference.GRPCInferenceService"
CALLS, IN_FLIGHT, TIMEOUT_S = 2_000, 64, 30
ROWS = 12_000
"""Of a large request: 9.4 MB, beyond every window."""


def free_port() -> int:
    """A port nobody listens on: the proxies cannot choose one and tell."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def envoy(file: Path) -> list[str]:
    return [
        str(ENVOY),
        "--config-path",
        str(file),
        "--concurrency",
        "1",
        "--use-dynamic-base-id",
        "--log-level",
        "error",
    ]


def nginx(file: Path) -> list[str]:
    return [str(NGINX), "-p", str(file.parent), "-c", file.name]


PROXIES = [
    pytest.param(("envoy.yaml", envoy), id="envoy", marks=pytest.mark.skipif(ENVOY is None, reason="needs envoy")),
    pytest.param(("nginx.conf", nginx), id="nginx", marks=pytest.mark.skipif(NGINX is None, reason="needs nginx")),
]


@pytest.fixture(params=PROXIES, scope="module")
def proxied(
    request: pytest.FixtureRequest, server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a proxy before the server."""
    name, command = request.param
    folder, port = tmp_path_factory.mktemp("proxy"), free_port()
    text = (ROOT / "deploy" / "proxies" / name).read_text()
    (folder / name).write_text(text.replace("8001", server.address.rpartition(":")[2]).replace("8080", str(port)))
    with subprocess.Popen(command(folder / name), stdout=subprocess.DEVNULL) as process:
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                method = channel.unary_unary(f"{SERVICE}/ServerLive", None, None)
                assert method(b"", wait_for_ready=True, timeout=TIMEOUT_S) == b"\x08\x01"
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def question(number: int, rows: int = 1) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="mnist-tiny", id=f"request-{number}")
    request.inputs.add(name="images", datatype="UINT8", shape=[rows, 28, 28, 1])
    request.raw_input_contents.append(bytes(rows * 784))
    return request


async def load(address: str) -> list[str]:
    """The ids of the answers, in the order of their requests."""
    turns = asyncio.Semaphore(IN_FLIGHT)
    async with grpc.aio.insecure_channel(address) as channel:
        method: Callable[..., Any] = channel.unary_unary(
            f"{SERVICE}/ModelInfer", pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
        )

        async def ask(number: int) -> str:
            async with turns:
                trace = (("traceparent", f"00-{number + 1:032x}-{number + 1:016x}-01"),)
                answer = await method(question(number), timeout=TIMEOUT_S + number / 1000, metadata=trace)
                return str(answer.id)

        return await asyncio.gather(*map(ask, range(CALLS)))


def test_load_has_no_failure(proxied: str, server: ServerProcess) -> None:
    """Of 2,000 calls, 64 at a time, each with an id, a trace and a deadline of its own, all succeed."""
    began = time.perf_counter()
    assert asyncio.run(load(proxied)) == [f"request-{number}" for number in range(CALLS)]
    rate = CALLS / (time.perf_counter() - began)
    print(f"\n{server.transport}: {CALLS} calls, 0 failed, {rate:,.0f} a second")  # noqa: T201 - for docs/proxies.md


def test_large_and_streamed(proxied: str) -> None:
    """A request of 9 MB, the words that refuse so many rows, and a stream's answers come through."""
    with grpc.insecure_channel(proxied, [("grpc.max_receive_message_length", -1)]) as channel:
        kinds = pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(f"{SERVICE}/ModelInfer", *kinds)(question(1, ROWS), timeout=TIMEOUT_S)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert f"got {ROWS}" in (refused.value.details() or "")
        stream = channel.stream_stream(
            f"{SERVICE}/ModelStreamInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelStreamInferResponse.FromString,
        )
        found = [each.infer_response.id for each in stream(map(question, range(20)), timeout=TIMEOUT_S)]
        assert found == [f"request-{number}" for number in range(20)]
