"""Bearer tokens, asked for by a real server: who may call what, how often, and until when."""

import contextlib
import hashlib
import http.client
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.client import Client
from service.pb import image_classifier_pb2 as ic
from service.pb import open_inference_pb2 as pb
from tests.metrics import free_port
from tests.servers import ROOT, Serve, ServerProcess, run_until_exit
from tests.service.process.test_supervisor import Workers, native_only
from tests.wire import TIMEOUT_S, infer_request

UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
OIP = "/inference.GRPCInferenceService/"
WORDS = {"reader": "secret of reader", "operator": "secret of operator", "slow": "secret of slow"}
REQUEST = infer_request("identity-fp32", x=np.ones((1, 2), np.float32)).SerializeToString()
UNLOAD = pb.RepositoryModelUnloadRequest(model_name="identity-fp32").SerializeToString()


def entry(name: str, rights: str, more: str = "") -> str:
    """An entry of a tokens file."""
    digest = hashlib.sha256(WORDS[name].encode()).hexdigest()
    return f'[[tokens]]\nname = "{name}"\nsha256 = "{digest}"\nrights = {rights}\n{more}\n'


ENTRIES = (
    entry("reader", '["infer"]')
    + entry("operator", '["metrics"]')
    + entry("slow", '["infer"]', "requests_per_s = 0.001")
)


@pytest.fixture(scope="module")
def guarded(
    serve: Serve, transport: str, odd_models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> ServerProcess:
    """A server with three tokens."""
    file = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    file.write_text(ENTRIES)
    return serve(odd_models_dir, "--models", "identity-fp32,linear", "--tokens-file", str(file), transport=transport)


@pytest.fixture
def channel(guarded: ServerProcess) -> Iterator[grpc.Channel]:
    with guarded.channel() as channel:
        yield channel


def bearer(word: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {word}"),)


def code(channel: grpc.Channel, path: str, payload: bytes, word: str | None) -> grpc.StatusCode:
    """How a unary call ends that has this token."""
    metadata = () if word is None else bearer(word)
    try:
        channel.unary_unary(path, None, None)(payload, timeout=TIMEOUT_S, metadata=metadata)
    except grpc.RpcError as error:
        found: grpc.StatusCode = error.code()
        return found
    return grpc.StatusCode.OK


@pytest.mark.parametrize("word", [None, "wrong", "", "secret of reade"], ids=["none", "wrong", "empty", "part"])
@pytest.mark.parametrize(
    "path", [f"{OIP}ModelInfer", f"{OIP}ServerMetadata", f"{OIP}RepositoryModelUnload", "/no.Such/Method"]
)
def test_calls_need_a_token(channel: grpc.Channel, path: str, word: str | None) -> None:
    """Without one of the tokens nothing is answered, not even that a method is unknown."""
    assert code(channel, path, REQUEST, word) is UNAUTHENTICATED


def test_refusal_says_what_to_send(channel: grpc.Channel) -> None:
    """The sentence of a refusal tells what the call lacks."""
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"{OIP}ModelInfer", None, None)(REQUEST, timeout=TIMEOUT_S)
    assert refused.value.details() == "The call has no token: send one as the metadata 'authorization: Bearer …'."


def test_tokens_allow_their_rights(channel: grpc.Channel) -> None:
    """A token may do what its rights say, and no more."""
    reader, operator = WORDS["reader"], WORDS["operator"]
    statistics = pb.ModelStatisticsRequest().SerializeToString()
    assert code(channel, f"{OIP}ModelInfer", REQUEST, reader) is grpc.StatusCode.OK
    assert code(channel, f"{OIP}ServerMetadata", b"", reader) is grpc.StatusCode.OK
    assert code(channel, f"{OIP}ModelStatistics", statistics, reader) is DENIED
    assert code(channel, f"{OIP}RepositoryModelUnload", UNLOAD, reader) is DENIED
    assert code(channel, f"{OIP}ModelStatistics", statistics, operator) is grpc.StatusCode.OK
    assert code(channel, f"{OIP}ModelInfer", REQUEST, operator) is DENIED


def test_streams_need_a_token(channel: grpc.Channel) -> None:
    """A stream is refused before its first message, and served with the right."""
    stream = channel.stream_stream(f"{OIP}ModelStreamInfer", None, None)
    with pytest.raises(grpc.RpcError) as refused:
        list(stream(iter([REQUEST]), timeout=TIMEOUT_S))
    assert refused.value.code() is UNAUTHENTICATED
    answers = list(stream(iter([REQUEST] * 3), timeout=TIMEOUT_S, metadata=bearer(WORDS["reader"])))
    assert [pb.ModelStreamInferResponse.FromString(answer).error_message for answer in answers] == [""] * 3


def test_health_is_open(channel: grpc.Channel) -> None:
    """Health, its watch, and readiness need no token."""
    stub = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S).status == serving
    watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
    assert next(watch).status == serving
    watch.cancel()
    assert code(channel, f"{OIP}ServerReady", b"", None) is grpc.StatusCode.OK


def test_limit_of_a_token(channel: grpc.Channel) -> None:
    """Beyond its requests a second a token is refused, and told when to try again."""
    classify = ic.ClassifyRequest(model_name="linear").SerializeToString()
    metadata = bearer(WORDS["slow"])
    call = channel.unary_unary(f"{OIP}ModelInfer", None, None)
    codes = [code(channel, f"{OIP}ModelInfer", REQUEST, WORDS["slow"]) for _ in range(2)]
    assert codes[-1] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert code(channel, "/convserve.v1.ImageClassifier/Classify", classify, WORDS["slow"]) is codes[-1]
    with pytest.raises(grpc.RpcError, match=r"allows 0\.001 requests a second") as refused:
        call(REQUEST, timeout=TIMEOUT_S, metadata=metadata)
    trailers: Any = refused.value.trailing_metadata()
    assert 900_000 < int(dict(trailers)["grpc-retry-pushback-ms"]) <= 1_000_000


@native_only
def test_workers_share_a_limit(odd_models_dir: Path, transport: str, tmp_path: Path) -> None:
    """Three workers let through what one would, also after SIGHUP and after the file has been read again."""
    file = tmp_path / "tokens.toml"
    limited = entry("slow", '["infer"]', "requests_per_s = 0.001")
    file.write_text(limited)
    options = ("--models", "identity-fp32", "--tokens-file", str(file))
    with Workers(odd_models_dir, *options, transport=transport, count=3) as server:

        def answered() -> int:
            codes = []
            for _ in range(12):
                with server.channel([("grpc.use_local_subchannel_pool", 1)]) as channel:
                    codes.append(code(channel, f"{OIP}ModelInfer", REQUEST, WORDS["slow"]))
            assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
            return codes.count(grpc.StatusCode.OK)

        assert answered() == 1
        file.write_text(limited + entry("reader", '["infer"]'))
        for number in range(3):
            server.events.await_one("tokens read again", worker=number)
        assert answered() == 0
        server.renewed()
        assert answered() == 0


def test_requests_at_a_time_are_limited(odd_models_dir: Path, transport: str, tmp_path: Path) -> None:
    """Of all workers together no more are in flight; a caller that goes, and a worker that is killed, free theirs."""
    file = tmp_path / "tokens.toml"
    file.write_text(entry("slow", '["infer"]', "max_in_flight = 2"))
    options = ("--models", "laborious,identity-fp32", "--tokens-file", str(file))
    endless = infer_request("laborious", index=np.zeros(1, np.int64), work=np.full(1, 10**9)).SerializeToString()
    own = [("grpc.use_local_subchannel_pool", 1)]
    with Workers(odd_models_dir, *options, transport=transport) as server, contextlib.ExitStack() as stack:
        channels = [stack.enter_context(server.channel(own)) for _ in range(8)]

        def ask(channel: grpc.Channel) -> grpc.StatusCode:
            return code(channel, f"{OIP}ModelInfer", REQUEST, WORDS["slow"])

        def begin(channel: grpc.Channel) -> Any:
            call = channel.unary_unary(f"{OIP}ModelInfer", None, None)
            return call.future(endless, timeout=TIMEOUT_S, metadata=bearer(WORDS["slow"]))

        assert {ask(channel) for channel in channels} == {grpc.StatusCode.OK}
        under_way = [begin(channel) for channel in channels[:2]]
        while ask(channels[2]) is grpc.StatusCode.OK:  # which may take the place of one that has not begun yet
            under_way = [
                begin(channel) if call.done() else call for call, channel in zip(under_way, channels, strict=False)
            ]
        assert {ask(channel) for channel in channels[3:]} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        under_way[0].cancel()
        while ask(channels[2]) is grpc.StatusCode.RESOURCE_EXHAUSTED:
            continue
        for pid in server.pids():
            os.kill(pid, signal.SIGKILL)
        for number in range(2):
            death = server.events.await_one("worker died", worker=number)
            server.events.await_one("ready", worker=number, since=server.events.index(death))
        with server.channel(own) as channel:
            assert [ask(channel) for _ in range(3)] == [grpc.StatusCode.OK] * 3


def test_our_client_sends_its_token(guarded: ServerProcess) -> None:
    """The client of this project carries a token in each call."""
    with Client(guarded.address, token=WORDS["reader"]) as client:
        assert "linear" in [model.name for model in client.list_models()]


def test_health_can_be_protected(odd_models_dir: Path, transport: str, tmp_path: Path) -> None:
    """With --protect-health, probes need a token, and the probe's command sends one."""
    file = tmp_path / "tokens.toml"
    file.write_text(ENTRIES)
    options = ("--models", "identity-fp32", "--tokens-file", str(file), "--protect-health")
    with ServerProcess(odd_models_dir, *options, transport=transport) as server:
        command = [sys.executable, "-m", "service.health_check", "--address", server.address]
        for token, expected in ((WORDS["operator"], 0), ("wrong", 1)):
            environment = os.environ | {"CONVSERVE_TOKEN": token}
            assert subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode == expected


def test_tokens_are_read_again(odd_models_dir: Path, transport: str, tmp_path: Path) -> None:
    """A changed file counts at once, in open streams too; a broken one leaves the tokens as they were."""
    file = tmp_path / "tokens.toml"
    file.write_text(ENTRIES)
    options = ("--models", "identity-fp32", "--tokens-file", str(file))
    with ServerProcess(odd_models_dir, *options, transport=transport) as server, server.channel() as channel:
        assert code(channel, f"{OIP}ModelInfer", REQUEST, WORDS["reader"]) is grpc.StatusCode.OK

        def requests() -> Iterator[bytes]:
            yield REQUEST
            server.events.await_one("tokens read again")
            yield REQUEST

        stream = channel.stream_stream(f"{OIP}ModelStreamInfer", None, None)
        answers: Any = stream(requests(), timeout=TIMEOUT_S, metadata=bearer(WORDS["reader"]))
        assert pb.ModelStreamInferResponse.FromString(next(answers)).error_message == ""
        file.write_text("[[tokens]")
        broken = server.events.await_one("the tokens file cannot be read again; the old tokens are kept")
        assert str(file) in broken["reason"]
        assert code(channel, f"{OIP}ModelInfer", REQUEST, WORDS["reader"]) is grpc.StatusCode.OK
        file.write_text(entry("operator", '["infer"]'))
        server.events.await_one("tokens read again")
        assert code(channel, f"{OIP}ModelInfer", REQUEST, WORDS["reader"]) is UNAUTHENTICATED
        assert code(channel, f"{OIP}ModelInfer", REQUEST, WORDS["operator"]) is grpc.StatusCode.OK
        assert "not valid any more" in pb.ModelStreamInferResponse.FromString(next(answers)).error_message


def test_metrics_need_their_right(odd_models_dir: Path, tmp_path: Path) -> None:
    """With tokens, /metrics is for those that have its right."""
    file = tmp_path / "tokens.toml"
    file.write_text(ENTRIES)
    port = free_port()
    options = ("--models", "identity-fp32", "--tokens-file", str(file), "--metrics-port", str(port))
    with ServerProcess(odd_models_dir, *options) as server:
        server.events.await_one("ready")
        for word, expected in ((None, 401), ("wrong", 401), (WORDS["reader"], 403), (WORDS["operator"], 200)):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
            connection.request("GET", "/metrics", headers={} if word is None else {"Authorization": f"Bearer {word}"})
            assert connection.getresponse().status == expected
            connection.close()


def test_command_makes_usable_tokens(odd_models_dir: Path, tmp_path: Path) -> None:
    """The entry goes to the file, the token to its owner, and the server takes it."""
    command = [sys.executable, "-m", "service.tokens", "new", 'of "us"', "--rights", "infer,metrics"]
    made = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    file = tmp_path / "tokens.toml"
    file.write_text(made.stdout)
    token = made.stderr.strip()
    assert token not in made.stdout
    options = ("--models", "identity-fp32", "--tokens-file", str(file))
    with ServerProcess(odd_models_dir, *options) as server, server.channel() as channel:
        assert code(channel, f"{OIP}ModelInfer", REQUEST, token) is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[tokens]]\nname = 'a'\n", "sha256 of 'a' must be 64 hexadecimal digits"),
        (ENTRIES + ENTRIES, "'reader' is there twice"),
        (ENTRIES.replace("infer", "everything"), "must be a list of infer, control, metrics"),
        (ENTRIES.replace("0.001", "0"), "requests_per_s of 'slow' must be a number above 0"),
        (ENTRIES.replace("requests_per_s", "max_in_flight"), "max_in_flight of 'slow' must be a whole number above 0"),
        (ENTRIES.replace("name", "nmae"), "nmae is unknown"),
        ("tokens = 3", "has [[tokens]] entries and nothing else"),
    ],
    ids=["no hash", "twice", "unknown right", "no rate", "no number", "unknown field", "no entries"],
)
def test_wrong_files_stop_the_start(odd_models_dir: Path, tmp_path: Path, text: str, words: str) -> None:
    """A tokens file that cannot be used is told at the start, with the entry that is wrong."""
    file = tmp_path / "tokens.toml"
    file.write_text(text)
    exit_code, said = run_until_exit(odd_models_dir, "--models", "identity-fp32", "--tokens-file", str(file))
    assert exit_code == 1
    assert words in said
