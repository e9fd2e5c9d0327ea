"""Clients that are none of gRPC-core's: grpclib in Python, Node.js's own, and nghttp2's programs.

`make clients` installs Node's client and runs all of them; without it, or without the programs, theirs are skipped.
"""

import asyncio
import base64
import json
import shutil
import struct
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from service.pb import open_inference_pb2 as pb
from tests.servers import ServerProcess

NODE = Path(__file__).with_name("node")
INFER = "/inference.GRPCInferenceService/ModelInfer"
CALLS, TIMEOUT_S = 200, 60
needs_node = pytest.mark.skipif(not (NODE / "node_modules").is_dir(), reason="`make clients` installs Node's client")
needs_nghttp2 = pytest.mark.skipif(
    not (shutil.which("nghttp") and shutil.which("h2load")), reason="needs nghttp2's programs (nghttp2-client)"
)


def question(**fields: Any) -> pb.ModelInferRequest:
    """One black picture for mnist-tiny."""
    request = pb.ModelInferRequest(model_name="mnist-tiny", raw_input_contents=[bytes(784)])
    request.inputs.add(name="images", datatype="UINT8", shape=[1, 28, 28, 1])
    request.MergeFrom(pb.ModelInferRequest(**fields))
    return request


@pytest.fixture(scope="module")
def expected(server: ServerProcess) -> list[bytes]:
    """The outputs as gRPC-core's client gets them."""
    with server.channel() as channel:
        method = channel.unary_unary(INFER, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString)
        return list(method(question(), timeout=TIMEOUT_S).raw_output_contents)


@pytest.fixture(scope="module")
def tls(transport: str, models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a server with TLS, and the file of its authority."""
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    options = ("--tls-key-file", f"{folder}/key.pem", "--tls-certificate-file", f"{folder}/certificate.pem")
    with ServerProcess(models_dir, "--models", "mnist-tiny", *options, transport=transport) as process:
        yield process.address.replace("127.0.0.1", "localhost"), folder / "ca.pem"


async def by_grpclib(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    async with Channel(host, int(port)) as channel:
        method = UnaryUnaryMethod(channel, INFER, pb.ModelInferRequest, pb.ModelInferResponse)
        ids = [f"request-{number}" for number in range(CALLS)]
        answers = await asyncio.gather(
            *(method(question(id=each), timeout=TIMEOUT_S, metadata={"traceparent": f"00-{each}"}) for each in ids)
        )
        assert [answer.id for answer in answers] == ids
        with pytest.raises(GRPCError) as unknown:
            await method(question(model_name="nothing"), timeout=TIMEOUT_S)
        return {"outputs": list(answers[0].raw_output_contents), "unknown": unknown.value.status}


def test_grpclib(server: ServerProcess, expected: list[bytes]) -> None:
    """It gets each of 200 answers at once with its id, the same outputs, and the code of an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its own
        found = asyncio.run(by_grpclib(server.address))
    assert found == {"outputs": expected, "unknown": Status.NOT_FOUND}


def check_node(address: str, expected: list[bytes], *authority: str) -> None:
    command = ["node", str(NODE / "client.js"), address, *authority]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["ids"] == [f"request-{number}" for number in range(CALLS)]
    assert [base64.b64decode(output) for output in found["outputs"]] == expected
    assert found["unknown"]["code"] == Status.NOT_FOUND.value
    assert found["late"] == Status.DEADLINE_EXCEEDED.value
    assert found["streamed"] == found["ids"][:10]


@needs_node
def test_node(server: ServerProcess, expected: list[bytes]) -> None:
    """Node's client gets its answers with ids and deadlines, errors, and a stream's answers in order."""
    check_node(server.address, expected)


@needs_node
def test_node_with_tls(tls: tuple[str, Path], expected: list[bytes]) -> None:
    """The same through TLS."""
    address, authority = tls
    check_node(address, expected, str(authority))


@needs_nghttp2
def test_nghttp2_programs(server: ServerProcess, tmp_path: Path) -> None:
    """Its client sees gRPC's status in the trailers, and its load generator has all answers."""
    request = question().SerializeToString()
    (tmp_path / "request.bin").write_bytes(struct.pack(">BI", 0, len(request)) + request)
    fields = ("-H", "content-type: application/grpc", "-H", "te: trailers", "-d", str(tmp_path / "request.bin"))
    url = f"http://{server.address}{INFER}"
    for program, words in (
        (("nghttp", "-v", "-H", ":method: POST", *fields), "grpc-status: 0"),
        (("h2load", "-n500", "-c2", "-m20", *fields), "500 succeeded, 0 failed, 0 errored, 0 timeout"),
    ):
        ran = subprocess.run((*program, url), capture_output=True, encoding="latin-1", timeout=TIMEOUT_S, check=False)
        assert words in ran.stdout, ran.stdout + ran.stderr
