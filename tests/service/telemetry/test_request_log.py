"""What the log tells of single requests: ids, the access log, slow requests, and the first line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import service
from service.client import Client
from service.pb import open_inference_pb2 as pb
from tests.servers import Serve, ServerProcess
from tests.wire import TIMEOUT_S, ask, infer_request, model_infer

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
SEVEN = Path(__file__).parents[2] / "pictures" / "seven.png"


@pytest.fixture(scope="module")
def logged(serve: Serve, transport: str, odd_models_dir: Path) -> ServerProcess:
    """A server with an access log, to which every request is a slow one."""
    models = "identity-fp32,halves,linear,laborious"
    return serve(odd_models_dir, "--models", models, "--access-log", "--slow-request-ms", "1", transport=transport)


def request(request_id: str = "", rows: int = 3) -> pb.ModelInferRequest:
    message = infer_request("identity-fp32", x=np.ones((rows, 2), np.float32))
    message.id = request_id
    return message


def test_access_log_tells_each_request(logged: ServerProcess) -> None:
    """A line has method, model, code, rows, times, caller, and the request's own id."""
    with logged.channel() as channel:
        model_infer(channel)(request("from the message"), timeout=TIMEOUT_S)
    line = logged.events.await_one("access", id="from the message")
    expected = {"method": MODEL_INFER, "code": "OK", "model": "identity-fp32", "version": "1", "rows": 3}
    assert line.items() >= expected.items()
    assert line["peer_address"].startswith("ipv4:127.0.0.1:")
    assert line["batch_rows"] >= 3
    assert 0 < line["queue_ms"] + line["run_ms"] < line["total_ms"]


def test_callers_id_comes_first(logged: ServerProcess) -> None:
    """The metadata x-request-id names a request, whatever its message says; unprintable characters are left out."""
    metadata = (("x-request-id", "from the metadata"),)
    with logged.channel() as channel:
        model_infer(channel)(request("from the message too"), timeout=TIMEOUT_S, metadata=metadata)
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer", None, None)
        list(stream(iter([request("in a stream").SerializeToString()]), timeout=TIMEOUT_S))
    assert logged.events.await_one("access", id="from the metadata")["code"] == "OK"
    assert logged.events.await_one("access", id="in a stream")["method"].endswith("/ModelStreamInfer")


def test_access_log_tells_refusals(logged: ServerProcess) -> None:
    """A request that is refused has a line with its code."""
    wrong = infer_request("identity-fp32", y=np.ones((1, 2), np.float32))
    wrong.id = "refused"
    with logged.channel() as channel, pytest.raises(grpc.RpcError):
        model_infer(channel)(wrong, timeout=TIMEOUT_S)
    line = logged.events.await_one("access", id="refused")
    assert (line["code"], line["model"]) == ("INVALID_ARGUMENT", "identity-fp32")


def test_access_log_tells_other_methods(logged: ServerProcess) -> None:
    """Methods that run no model have lines too."""
    ask(logged, "ModelMetadata", pb.ModelMetadataRequest(name="identity-fp32"))
    with pytest.raises(grpc.RpcError):
        ask(logged, "ModelMetadata", pb.ModelMetadataRequest(name="absent"))
    method = "/inference.GRPCInferenceService/ModelMetadata"
    assert logged.events.await_one("access", method=method, code="OK")["id"]
    assert logged.events.await_one("access", method=method, code="NOT_FOUND")


def test_access_log_tells_classify(logged: ServerProcess) -> None:
    """A call of several images has one line, with its rows."""
    with Client(logged.address) as client:
        client.classify([SEVEN, SEVEN], model="linear")
    line = logged.events.await_one("access", model="linear", rows=2)
    assert (line["method"], line["code"]) == ("/convserve.v1.ImageClassifier/Classify", "OK")


def test_cancelled_requests_have_lines(logged: ServerProcess) -> None:
    """A request whose deadline passes in its run ends with DEADLINE_EXCEEDED in the log."""
    slow = infer_request("laborious", index=np.zeros(1, np.int64), work=np.full(1, 20_000_000))
    slow.id = "late"
    with logged.channel() as channel, pytest.raises(grpc.RpcError) as late:
        model_infer(channel)(slow, timeout=0.2)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert logged.events.await_one("access", id="late")["code"] == "DEADLINE_EXCEEDED"


def test_slow_requests_are_told(logged: ServerProcess) -> None:
    """A request that takes long is logged with what it waited and ran, and its batch."""
    work = infer_request("laborious", index=np.zeros(1, np.int64), work=np.full(1, 20))
    work.id = "slow"
    with logged.channel() as channel:
        model_infer(channel)(work, timeout=TIMEOUT_S)
    line = logged.events.await_one("slow request", id="slow")
    assert line["total_ms"] >= line["run_ms"] > 0
    assert (line["model"], line["rows"], line["batch_rows"]) == ("laborious", 1, 1)


@pytest.mark.parametrize("given", ["", "given by the caller"], ids=["ours", "the caller's"])
def test_internal_errors_name_the_request(logged: ServerProcess, given: str) -> None:
    """A failure's details and its line in the log have the same id."""
    odd = infer_request("halves", x=np.ones((1, 3), np.float32))
    metadata = (("x-request-id", given),) if given else ()
    since = len(logged.events)
    with logged.channel() as channel, pytest.raises(grpc.RpcError) as failed:
        model_infer(channel)(odd, timeout=TIMEOUT_S, metadata=metadata)
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    told = str(failed.value.details()).rpartition("(request id ")[2].removesuffix(")")
    assert told
    assert told == (given or told)
    assert logged.events.await_one("request failed", since=since, id=told)["model"] == "halves"


def test_quiet_by_default(odd_models_dir: Path, transport: str) -> None:
    """Without the options no request leaves a line; the first line tells version, runtime and options."""
    with ServerProcess(odd_models_dir, "--models", "identity-fp32", transport=transport) as server:
        with server.channel() as channel:
            model_infer(channel)(request(), timeout=TIMEOUT_S)
        assert server.terminate() == 0
    first = server.events[0]
    assert (first["event"], first["version"]) == ("starting", service.__version__)
    assert first["python"] == ".".join(map(str, sys.version_info[:3]))
    assert first["runtimes"]["onnxruntime"]
    assert first["options"]["models"] == "identity-fp32"
    assert not [event for event in server.events if event["event"] in ("access", "slow request")]


def test_full_queue_does_not_end_the_client(models_dir: Path, data_dir: Path) -> None:
    """The client's dataset command finishes although the queue refuses some of its calls."""
    limits = ("--max-batch-rows", "1024", "--max-queue-rows", "1024", "--models", "cifar10-cnn")
    with ServerProcess(models_dir, *limits, "--access-log") as server:
        line = ("dataset", "cifar10", "--batch", "1024", "--concurrency", "3", "--limit", "3072", "--json")
        command = [
            sys.executable,
            "-m",
            "service.client",
            *line,
            "--address",
            server.address,
            "--data-dir",
            str(data_dir),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
        score: dict[str, Any] = json.loads(done.stdout)
        codes = [event["code"] for event in server.events if event["event"] == "access" and "rows" in event]
    assert sum(score["accuracy_interval"]) > 1
    assert codes.count("OK") == 3
    assert "RESOURCE_EXHAUSTED" in codes
