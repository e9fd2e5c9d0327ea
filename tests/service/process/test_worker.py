"""From start to SIGTERM: what stops a start, what readiness tells, and that nothing in flight is lost."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto

from service.pb import open_inference_pb2 as pb
from tests import onnx_models
from tests.servers import ROOT, START_S, ServerProcess, run_until_exit
from tests.wire import TIMEOUT_S, ask, infer, infer_request, model_infer, refusal

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
ROW = np.zeros((1, 100_000), np.float32)


@pytest.fixture(scope="module")
def ragged_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that echo rows of any length."""
    folder = tmp_path_factory.mktemp("ragged")
    onnx_models.identity(folder, "ragged", TensorProto.FLOAT, ("batch", "length"))
    return folder


@pytest.fixture
def waiting_server(transport: str, ragged_dir: Path) -> Iterator[ServerProcess]:
    """Requests wait a minute for company, which is how a test has them in flight."""
    limits = ("--max-batch-rows", "64", "--max-queue-rows", "128", "--max-queue-delay-us", "60000000")
    with ServerProcess(ragged_dir, *limits, transport=transport) as process:
        yield process


def test_sigterm_turns_readiness_first_answers_all_in_flight_and_exits_with_0(waiting_server: ServerProcess) -> None:
    """The first 64 of 104 requests fill a batch and are answered; the others wait, in the queue or on their way.

    Their answers are 16 MB, more than sockets hold, so that none of them may be dropped at the end.
    """
    with waiting_server.channel() as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        assert next(watch).status == SERVING
        call = model_infer(channel)
        calls = [call.future(infer_request("ragged", x=ROW + i), timeout=TIMEOUT_S) for i in range(104)]
        answered = threading.Semaphore(0)
        for one in calls:
            one.add_done_callback(lambda _: answered.release())
        for _ in range(64):
            assert answered.acquire(timeout=TIMEOUT_S)
        in_flight = [(i, one) for i, one in enumerate(calls) if not one.done()]
        assert in_flight
        waiting_server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        outcomes = {grpc.StatusCode.OK: 0, grpc.StatusCode.UNAVAILABLE: 0}
        for i, one in in_flight:
            outcomes[one.code()] += 1
            if one.code() == grpc.StatusCode.OK:
                assert one.result().raw_output_contents[0] == (ROW + i).tobytes()
            else:  # it came to the server after the gate was closed, and was told so
                assert one.details() == "The server is stopping and takes no more requests."
        assert outcomes[grpc.StatusCode.OK]
    assert waiting_server.process.wait(START_S) == 0


def test_calls_on_their_way_at_sigterm_are_answered_or_told_why_not(transport: str, models_dir: Path) -> None:
    """Most of them have been accepted by gRPC, and not been handed to us when the signal comes."""
    request = infer_request("mnist-tiny", images=np.zeros((64, 28, 28, 1), np.uint8))
    options = ("--models", "mnist-tiny", "--max-queue-rows", "65536", "--max-queue-ms", "60000")
    with ServerProcess(models_dir, *options, transport=transport) as process, process.channel() as channel:
        answered = threading.Semaphore(0)
        call = model_infer(channel)
        calls = [call.future(request, timeout=TIMEOUT_S) for _ in range(600)]
        for each in calls:
            each.add_done_callback(lambda _: answered.release())
        for _ in range(50):
            assert answered.acquire(timeout=TIMEOUT_S)
        process.process.send_signal(signal.SIGTERM)
        refused = [each for each in calls if each.code() != grpc.StatusCode.OK]
        assert {(each.code(), each.details()) for each in refused} <= {
            (grpc.StatusCode.UNAVAILABLE, "The server is stopping and takes no more requests.")
        }
        assert process.process.wait(START_S) == 0


def test_an_idle_server_ends_at_once_on_sigint(transport: str, ragged_dir: Path) -> None:
    with ServerProcess(ragged_dir, transport=transport) as process:
        process.process.send_signal(signal.SIGINT)
        assert process.process.wait(START_S) == 0
    assert [event["event"] for event in process.events][-2:] == ["draining", "stopped"]


@pytest.mark.parametrize("leaves", [False, True], ids=["caller waits", "caller left"])
def test_a_run_that_outlasts_the_grace_period_is_left(transport: str, odd_models_dir: Path, leaves: bool) -> None:
    """The model is set to work for days, in its own thread; the server ends all the same, with 1 if anybody waited."""
    limits = ("--max-batch-rows", "64", "--max-queue-rows", "64", "--max-inline-us", "0")
    options = ("--models", "laborious", *limits, "--grace-s", "1")
    process = ServerProcess(odd_models_dir, *options, transport=transport)

    def rows(count: int, work: int = 0) -> pb.ModelInferRequest:
        return infer_request("laborious", index=np.zeros(count, np.int64), work=np.full(count, work))

    with process, process.channel() as channel:
        call = model_infer(channel)
        endless = call.future(rows(1, work=10**9), timeout=TIMEOUT_S)
        while call.future(rows(1), timeout=2).code() != grpc.StatusCode.DEADLINE_EXCEEDED:
            pass  # it runs when one that takes no time gets no answer
        if leaves:
            endless.cancel()
        assert process.terminate() == (0 if leaves else 1)
        assert leaves or isinstance(endless.exception(), grpc.RpcError)
    assert leaves != any("still in flight" in event["event"] for event in process.events)


def test_a_run_in_the_receiving_thread_that_never_ends_does_not_hold_up_the_end(
    transport: str, odd_models_dir: Path
) -> None:
    """Runs of the model have been short, so this one keeps the transport from all else, and so from the end too."""
    options = ("--models", "laborious", "--max-inline-us", "1000000", "--grace-s", "1")
    index = np.zeros(1, np.int64)
    with ServerProcess(odd_models_dir, *options, transport=transport) as process, process.channel() as channel:
        call = model_infer(channel)
        for _ in range(3):
            call(infer_request("laborious", index=index, work=index), timeout=TIMEOUT_S)
        endless = call.future(infer_request("laborious", index=index, work=index + 10**9), timeout=TIMEOUT_S)
        while call.future(infer_request("laborious", index=index, work=index), timeout=2).code() == grpc.StatusCode.OK:
            pass
        assert process.terminate() == 1
        assert isinstance(endless.exception(), grpc.RpcError)


def test_health_follows_the_server_and_each_model(odd_server: ServerProcess) -> None:
    with odd_server.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel)

        def check(name: str) -> int:
            status: int = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT_S).status
            return status

        for name in ("", "inference.GRPCInferenceService", "convserve.v1.ImageClassifier", "model/linear"):
            assert check(name) == SERVING
        assert check("model/broken") == NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            check("model/nix")
        assert refusal(caught.value)[0] == grpc.StatusCode.NOT_FOUND


def test_a_tampered_file_is_refused_with_its_deviation_and_the_others_serve(odd_server: ServerProcess) -> None:
    rejected = {
        (event["model"], event["version"]): event["reason"]
        for event in odd_server.events
        if event["event"] == "model rejected"
    }
    assert rejected.keys() == {("linear", 4), ("broken", 1)}
    assert "the logits are off by 0.5, 0.0001 is allowed" in rejected["linear", 4]
    images = np.zeros((1, 8, 8, 1), np.uint8)
    assert infer(odd_server, infer_request("linear", images=images))["logits"].shape == (1, 10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--providers", "cuda"), "the execution provider 'cuda' was asked for and does not run here"),
        (("--providers", "cuda,cpu"), "the execution provider 'cuda' was asked for and does not run here"),
        (("--providers", "tpu"), "no execution provider ['tpu']; there are auto, cuda, openvino, cpu"),
        (("--models", "ragged,nix"), "there is no model 'nix' in"),
        (("--models-dir", "nowhere"), "the models folder nowhere cannot be read"),
        (("--host", "192.0.2.1"), "cannot listen on 192.0.2.1:0"),
    ],
)
def test_a_start_that_cannot_be_is_one_sentence_and_exit_code_1(
    transport: str, ragged_dir: Path, options: tuple[str, ...], words: str
) -> None:
    code, stderr = run_until_exit(ragged_dir, "--transport", transport, *options)
    assert code == 1
    assert words in stderr
    assert "Traceback" not in stderr


def test_a_provider_that_is_asked_for_and_missing_is_never_replaced_silently(odd_models_dir: Path) -> None:
    """No fallback: the server does not even listen."""
    code, stderr = run_until_exit(odd_models_dir, "--providers", "cuda", "--log-format", "json")
    assert code == 1
    assert '"listening"' not in stderr


def test_a_model_that_must_be_served_and_cannot_be_stops_the_start(odd_models_dir: Path) -> None:
    code, stderr = run_until_exit(odd_models_dir, "--models", "linear,broken")
    assert code == 1
    assert "the model 'broken' must be served and cannot be: it is no ONNX file" in stderr


def test_a_folder_without_a_model_that_can_be_served_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "empty" / "1").mkdir(parents=True)
    code, stderr = run_until_exit(tmp_path)
    assert code == 1
    assert f"no model in {tmp_path} can be served; it has none" in stderr


def test_a_port_that_is_taken_is_told(transport: str, ragged_dir: Path) -> None:
    with ServerProcess(ragged_dir, transport=transport) as process:
        port = process.address.rpartition(":")[2]
        code, stderr = run_until_exit(ragged_dir, "--transport", transport, "--port", port)
    assert code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--port", "99999"), "--port Input should be less than or equal to 65535"),
        (("--tls-key-file", __file__), "TLS needs both --tls-certificate-file and --tls-key-file"),
        (("--max-batch-rows", "64", "--max-queue-rows", "8"), "--max-queue-rows must be at least --max-batch-rows"),
        (("--max-batch-row", "64"), "unrecognized arguments"),
    ],
)
def test_bad_settings_are_one_sentence_and_exit_code_2(ragged_dir: Path, options: tuple[str, ...], words: str) -> None:
    code, stderr = run_until_exit(ragged_dir, *options)
    assert code == 2
    assert words in stderr
    assert "Traceback" not in stderr


def test_every_option_is_an_environment_variable(ragged_dir: Path) -> None:
    env = {"CONVSERVE_SERVER_NAME": "triton", "CONVSERVE_MAX_BATCH_ROWS": "7"}
    with ServerProcess(ragged_dir, env=env) as process:
        assert ask(process, "ServerMetadata", pb.ServerMetadataRequest()).name == "triton"
        with pytest.raises(grpc.RpcError) as caught:
            infer(process, infer_request("ragged", x=np.zeros((8, 1), np.float32)))
    assert "batch-size must be <= 7" in refusal(caught.value)[1]


def test_help_explains_every_option() -> None:
    command = [sys.executable, "-m", "service", "--help"]
    env = os.environ | {"COLUMNS": "200"}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=env)
    options = [line for line in shown.stdout.splitlines() if line.strip().startswith("--")]
    assert len(options) >= 20
    assert "Most rows (images) in one run" in shown.stdout
