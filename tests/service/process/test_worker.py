"""From start to SIGTERM: what stops a start, what readiness tells, and that nothing in flight is lost."""

import os
import signal
import socket
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


def laborious(work: int) -> pb.ModelInferRequest:
    """A request of one row that takes so much work."""
    return infer_request("laborious", index=np.zeros(1, np.int64), work=np.full(1, work))


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


def test_sigterm_answers_all_in_flight(waiting_server: ServerProcess) -> None:
    """At SIGTERM readiness turns first; then all in flight are answered, and the exit code is 0.

    The first 64 of 104 requests fill a batch and are answered; the others wait, in the queue or on their way.
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


def test_calls_arriving_at_sigterm(transport: str, models_dir: Path) -> None:
    """Calls on their way at SIGTERM are answered or told why not; most have been accepted, and not handed over yet."""
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


def test_start_tells_what_is_open(odd_models_dir: Path, tmp_path: Path) -> None:
    """The log says where the server listens, who may call what, and how each model runs: for people as text."""
    file = tmp_path / "tokens.toml"
    digest = "0" * 64
    file.write_text(f'[[tokens]]\nname = "web"\nsha256 = "{digest}"\nrights = ["infer"]\n')
    options = ("--models", "linear,identity-fp32", "--tokens-file", str(file))
    with ServerProcess(odd_models_dir, *options) as server:
        told = server.events.await_one("serving")
    assert told["grpc"] == f"{server.address}, native, plain text, from this machine alone"
    assert (told["http"], told["metrics"]) == ("off", "off")
    assert told["open_to"] == {
        "inference": "tokens web",
        "statistics": "nobody: no token has the right",
        "loading models": "nobody (--model-control none)",
        "health": "whoever reaches the port",
    }
    assert told["models"][0] == "identity-fp32/1: cpu, fp32, no probe"
    assert told["models"][1].startswith("linear/1: cpu, fp32, logits off by ")
    command = [sys.executable, "-m", "service", "--models-dir", str(odd_models_dir), "--port", "0", *options]
    command += ["--workers", "1", "--log-format", "console"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        assert "  open to  inference: tokens web\n" in process.stderr
        process.terminate()
        process.communicate(timeout=START_S)


def test_idle_servers_end_on_sigint(transport: str, ragged_dir: Path) -> None:
    """A server without a request ends at once, with exit code 0."""
    with ServerProcess(ragged_dir, transport=transport) as process:
        process.process.send_signal(signal.SIGINT)
        assert process.process.wait(START_S) == 0
    assert [event["event"] for event in process.events][-2:] == ["draining", "stopped"]


@pytest.mark.parametrize(
    ("transport", "leaves"),
    [("native", False), ("grpcio", False), ("native", True)],
    ids=["native-caller waits", "grpcio-caller waits", "native-caller left"],
    indirect=["transport"],
)
def test_endless_runs_are_left(transport: str, odd_models_dir: Path, leaves: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A run that outlasts the grace period does not hold up the end; the exit code is 1 if its caller still waited.

    The model is set to work for days, in its own thread.
    """
    options = ("--models", "laborious", "--max-inline-us", "0", "--grace-s", "0.5")
    with ServerProcess(odd_models_dir, *options, transport=transport) as process, process.channel() as channel:
        endless = model_infer(channel).future(laborious(10**9), timeout=TIMEOUT_S)
        process.events.await_one("slow run")
        if leaves:
            endless.cancel()
        assert process.terminate() == (0 if leaves else 1)
        assert leaves or isinstance(endless.exception(), grpc.RpcError)
    assert leaves != any("still in flight" in event["event"] for event in process.events)


def test_abandoned_runs_are_ended(transport: str, odd_models_dir: Path) -> None:
    """A run whose only caller went away is ended, and the next request is answered.

    Runs of the model have been short, but it has a loop: it never runs in the receiving thread, whatever they took.
    """
    options = ("--models", "laborious", "--max-inline-us", "1000000")
    with ServerProcess(odd_models_dir, *options, transport=transport) as process, process.channel() as channel:
        call = model_infer(channel)
        for _ in range(3):
            call(laborious(0), timeout=TIMEOUT_S)
        endless = call.future(laborious(10**9), timeout=TIMEOUT_S)
        process.events.await_one("slow run")
        endless.cancel()
        call(laborious(0), timeout=TIMEOUT_S)
        assert process.terminate() == 0


def test_taken_ports_are_told_first(transport: str, odd_server: ServerProcess, tmp_path: Path) -> None:
    """A port that another has is told before any model is opened."""
    port = odd_server.address.rpartition(":")[2]
    code, stderr = run_until_exit(tmp_path / "none", "--port", port, "--transport", transport)
    assert code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in stderr


def test_health_of_servers_and_models(odd_server: ServerProcess) -> None:
    """The health protocol tells of the server, of each service and of each model."""
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


def test_tampered_files_are_refused(odd_server: ServerProcess) -> None:
    """A file that fails its probe is refused with its deviation, and the others serve."""
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
        (("--models", "linear,nix"), "there is no model 'nix' in"),
        (
            ("--models", "linear,broken"),
            "the model 'broken' must be served and cannot be: it is no ONNX file",
        ),
        (("--models-dir", "nowhere"), "the models folder nowhere cannot be read"),
    ],
    ids=["provider", "first provider", "unknown provider", "model", "broken model", "folder"],
)
def test_impossible_starts_are_one_sentence(odd_models_dir: Path, options: tuple[str, ...], words: str) -> None:
    """A start that cannot be is one sentence and exit code 1; what is missing is never replaced silently."""
    code, stderr = run_until_exit(odd_models_dir, "--log-format", "json", *options)
    assert code == 1
    assert words in stderr
    assert "Traceback" not in stderr
    assert '"listening"' not in stderr


def test_empty_folders_stop_the_start(tmp_path: Path) -> None:
    """A folder without a model that can be served is told, with exit code 1."""
    (tmp_path / "empty" / "1").mkdir(parents=True)
    code, stderr = run_until_exit(tmp_path)
    assert code == 1
    assert f"no model in {tmp_path} can be served; it has none" in stderr


def test_addresses_that_cannot_be(transport: str, ragged_dir: Path) -> None:
    """A port that is taken, and an address of another machine, are told with exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        port = str(foreign.getsockname()[1])
        for host, number in (("127.0.0.1", port), ("192.0.2.1", "0")):
            code, stderr = run_until_exit(ragged_dir, "--transport", transport, "--host", host, "--port", number)
            assert code == 1
            assert f"cannot listen on {host}:{number}" in stderr
            assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--port", "99999"), "--port Input should be less than or equal to 65535"),
        (("--tls-key-file", __file__), "TLS needs both --tls-certificate-file and --tls-key-file"),
        (("--max-batch-rows", "64", "--max-queue-rows", "8"), "--max-queue-rows must be at least --max-batch-rows"),
        (("--max-batch-row", "64"), "unrecognized arguments"),
    ],
    ids=["number", "half of TLS", "two that disagree", "unknown"],
)
def test_bad_settings_are_one_sentence(ragged_dir: Path, options: tuple[str, ...], words: str) -> None:
    """A setting that cannot be is one sentence and exit code 2."""
    code, stderr = run_until_exit(ragged_dir, *options)
    assert code == 2
    assert words in stderr
    assert "Traceback" not in stderr


def test_options_are_environment_variables(ragged_dir: Path) -> None:
    """Every option can be given as an environment variable."""
    env = {"CONVSERVE_SERVER_NAME": "triton", "CONVSERVE_MAX_BATCH_ROWS": "7"}
    with ServerProcess(ragged_dir, env=env) as process:
        assert ask(process, "ServerMetadata", pb.ServerMetadataRequest()).name == "triton"
        with pytest.raises(grpc.RpcError) as caught:
            infer(process, infer_request("ragged", x=np.zeros((8, 1), np.float32)))
    assert "batch-size must be <= 7" in refusal(caught.value)[1]


def test_help_explains_every_option() -> None:
    """``--help`` has a line for each option."""
    command = [sys.executable, "-m", "service", "--help"]
    env = os.environ | {"COLUMNS": "200"}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=env)
    options = [line for line in shown.stdout.splitlines() if line.strip().startswith("--")]
    assert len(options) >= 20
    assert "Most rows (images) in one run" in shown.stdout
