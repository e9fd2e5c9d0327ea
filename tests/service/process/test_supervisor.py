"""Several workers on one port: shared work, deaths, stops, and renewal without a lost request."""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto

from service.pb import open_inference_pb2 as pb
from tests import onnx_models
from tests.servers import ROOT, START_S, ServerProcess, run_until_exit
from tests.wire import TIMEOUT_S, infer, infer_request, model_infer, refusal

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
ROW = np.zeros((1, 16), np.float32)


class Events(list[dict[str, Any]]):
    """The log so far, which can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()

    def append(self, event: dict[str, Any]) -> None:
        with self._changed:
            super().append(event)
            self._changed.notify_all()

    def await_one(self, name: str, nth: int = 1, **fields: Any) -> dict[str, Any]:
        """The nth event of this name and with these fields."""

        def found() -> list[dict[str, Any]]:
            return [event for event in self if event["event"] == name and event.items() >= fields.items()]

        with self._changed:
            assert self._changed.wait_for(lambda: len(found()) >= nth, START_S), f"no {name} in {self}"
            return found()[nth - 1]


class Workers(ServerProcess):
    """A server of several workers, all of which are ready on entry."""

    def __init__(
        self,
        models_dir: Path,
        *options: str,
        transport: str = "native",
        count: int = 2,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        super().__init__(models_dir, "--workers", str(count), *options, transport=transport)
        self.count = count
        self._credentials = credentials
        self.log = Events()
        self.events = self.log

    def __enter__(self) -> Self:
        super().__enter__()
        self.log.await_one("all workers are ready")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if error is None:
            assert [event for event in self.log if event["event"] == "not json"] == []

    def channel(self, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
        """With TLS where there are credentials; else a plain one."""
        if self._credentials is None:
            return super().channel(options)
        return grpc.secure_channel(f"localhost:{self.address.rpartition(':')[2]}", self._credentials, list(options))

    def pids(self) -> set[int]:
        """The processes of the workers."""
        pid = self.process.pid
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}

    def renewed(self, nth: int = 1) -> None:
        """SIGHUP, and its end: the old workers have gone."""
        old = self.pids()
        with watched(old) as gone:
            self.process.send_signal(signal.SIGHUP)
            self.log.await_one("the workers are renewed", nth)
            gone()
        assert len(self.pids() - old) == self.count


@contextlib.contextmanager
def watched(pids: set[int]) -> Iterator[Callable[[], None]]:
    """A function that waits until these processes have ended.

    A worker that has ended stays among the supervisor's children until the supervisor has taken note, so it may go
    between the listing and this; there is nothing to wait for then.
    """
    with contextlib.ExitStack() as stack:
        handles: set[int] = set()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                handle = os.pidfd_open(pid)
                stack.callback(os.close, handle)
                handles.add(handle)

        def wait() -> None:
            for handle in handles:
                assert select.select([handle], [], [], START_S)[0], f"of {pids}, some live on"

        yield wait


@pytest.fixture
def echo_dir(tmp_path: Path) -> Path:
    """A model that echoes rows of any length; the test may change the folder."""
    folder = tmp_path / "models"
    onnx_models.identity(folder, "echo", TensorProto.FLOAT, ("batch", "length"))
    return folder


@pytest.fixture
def workers(echo_dir: Path) -> Iterator[Workers]:
    """Two workers with the echo, where the transport makes no difference."""
    with Workers(echo_dir) as process:
        yield process


@pytest.fixture
def workers_on(transport: str, echo_dir: Path) -> Iterator[Workers]:
    """Two workers with the echo, on both transports, one after the other."""
    with Workers(echo_dir, transport=transport) as process:
        yield process


def ask(server: ServerProcess, model: str = "echo") -> None:
    """One request over a connection of its own, which must be answered."""
    with server.channel(OWN_CONNECTION) as channel:
        assert infer(server, infer_request(model, x=ROW), channel)["y"].tobytes() == ROW.tobytes()


def counted(channel: grpc.Channel) -> int:
    """How many requests the worker behind this channel has answered."""
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelStatistics",
        request_serializer=pb.ModelStatisticsRequest.SerializeToString,
        response_deserializer=pb.ModelStatisticsResponse.FromString,
    )
    statistics = call(pb.ModelStatisticsRequest(name="echo"), timeout=TIMEOUT_S).model_stats[0]
    return int(statistics.inference_stats.success.count)


def test_connections_are_spread_over_workers_on_one_free_port(workers_on: Workers) -> None:
    """32 connections, and no worker has answered all; each knows of its own requests only."""
    addresses = {
        event["address"] for event in workers_on.log if event["event"] in ("listening", "all workers are ready")
    }
    assert len(addresses) == 1
    assert {event["worker"] for event in workers_on.log if event["event"] == "listening"} == {0, 1}
    with contextlib.ExitStack() as stack:
        channels = [stack.enter_context(workers_on.channel(OWN_CONNECTION)) for _ in range(32)]
        for channel in channels:
            infer(workers_on, infer_request("echo", x=ROW), channel)
        counts = {counted(channel) for channel in channels}
    assert sum(counts) == 32 or counts == {16}


def test_workers_share_the_cores(workers: Workers) -> None:
    ours = os.sched_getaffinity(0)
    theirs = [os.sched_getaffinity(pid) for pid in workers.pids()]
    threads = [event["threads"] for event in workers.log if event["event"] == "listening"]
    assert set.union(*theirs) == ours
    if len(ours) > 1:
        assert not set.intersection(*theirs)
        assert sorted(threads) == sorted(len(cores) for cores in theirs)


def test_a_killed_worker_comes_back_and_the_other_answers_meanwhile(workers: Workers) -> None:
    victim = min(workers.pids())
    with watched({victim}) as gone:
        os.kill(victim, signal.SIGKILL)
        gone()
    for _ in range(8):
        ask(workers)
    death = workers.log.await_one("worker died")
    assert death["reason"] == f"worker {death['worker']} was ended by SIGKILL"
    workers.log.await_one("ready", 2, worker=death["worker"])
    assert len(workers.pids()) == 2
    ask(workers)
    assert workers.terminate() == 0


def test_a_crash_loop_ends_with_status_1_and_the_reason(workers: Workers, echo_dir: Path) -> None:
    shutil.rmtree(echo_dir)
    os.kill(min(workers.pids()), signal.SIGKILL)
    assert workers.process.wait(START_S) == 1
    deaths = [event["reason"] for event in workers.log if event["event"] == "worker died"]
    assert len(deaths) == 4
    assert "was ended by SIGKILL" in deaths[0]
    assert all(f"the models folder {echo_dir} cannot be read" in reason for reason in deaths[1:])
    assert "it was the 5th death in a row" in workers.log.await_one("worker died too often")["reason"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--models", "nix"), "there is no model 'nix' in"),
        (("--models-dir", "nowhere"), "the models folder nowhere cannot be read"),
        (("--host", "192.0.2.1"), "cannot listen on 192.0.2.1:0"),
    ],
)
def test_a_first_start_that_cannot_be_is_one_sentence_without_a_restart(
    echo_dir: Path, options: tuple[str, ...], words: str
) -> None:
    code, stderr = run_until_exit(echo_dir, "--workers", "2", *options)
    assert code == 1
    assert stderr.count(words) == 1
    assert "worker died" not in stderr
    assert "Traceback" not in stderr


def test_a_port_of_somebody_else_is_an_error(transport: str, workers_on: Workers, echo_dir: Path) -> None:
    """Even where it could be shared: the other is a server of several workers too, of the same user."""
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        port = foreign.getsockname()[1]
        code, stderr = run_until_exit(echo_dir, "--workers", "2", "--transport", transport, "--port", str(port))
    assert code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in stderr
    port = workers_on.address.rpartition(":")[2]
    for count in ("0", "2"):
        code, stderr = run_until_exit(echo_dir, "--workers", count, "--transport", transport, "--port", port)
        assert code == 1
        assert f"cannot listen on 127.0.0.1:{port}" in stderr


def test_sigterm_answers_what_is_in_flight_in_all_workers(transport: str, echo_dir: Path) -> None:
    """Requests on 16 connections wait for company.

    One that is refused at once, behind them, tells that they came, where calls are taken in their order.
    """
    limits = ("--max-batch-rows", "64", "--max-queue-rows", "128", "--max-queue-delay-us", "60000000")
    with Workers(echo_dir, *limits, transport=transport) as workers, contextlib.ExitStack() as stack:
        calls = []
        for _ in range(16):
            call = model_infer(stack.enter_context(workers.channel(OWN_CONNECTION)))
            calls += [call.future(infer_request("echo", x=ROW), timeout=TIMEOUT_S) for _ in range(3)]
            with pytest.raises(grpc.RpcError) as caught:
                call(infer_request("nix", x=ROW), timeout=TIMEOUT_S)
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert not any(call.done() for call in calls)
        workers.process.send_signal(signal.SIGTERM)
        refused = [error for call in calls if (error := call.exception()) is not None]
        assert workers.process.wait(START_S) == 0
    assert workers.log[-1]["event"] == "stopped"
    if transport == "native":  # which takes the calls of a connection in their order
        assert not refused
    # On grpcio one may be overtaken by those behind it, and come only after the gate was closed.
    assert {refusal(error) for error in refused} <= {
        (grpc.StatusCode.UNAVAILABLE, "The server is stopping and takes no more requests.")
    }
    assert len(refused) < len(calls)


def test_a_second_signal_ends_all_at_once(odd_models_dir: Path) -> None:
    """A worker is set to work for days."""
    workers = Workers(odd_models_dir, "--models", "laborious")
    with workers, workers.channel() as channel, watched(workers.pids()) as gone:
        endless = infer_request("laborious", index=np.zeros(1, np.int64), work=np.full(1, 10**9))
        call = model_infer(channel).future(endless, timeout=TIMEOUT_S)
        grpc.channel_ready_future(channel).result(TIMEOUT_S)
        workers.process.send_signal(signal.SIGINT)
        workers.log.await_one("stopping", signal="SIGINT")
        workers.process.send_signal(signal.SIGTERM)
        assert workers.process.wait(START_S) == 128 + signal.SIGTERM
        gone()
        assert isinstance(call.exception(), grpc.RpcError)


def test_workers_do_not_outlive_their_supervisor(workers: Workers) -> None:
    with watched(workers.pids()) as gone:
        workers.process.kill()
        gone()


def test_a_log_that_nobody_reads_keeps_nothing_from_ending(echo_dir: Path) -> None:
    command = [sys.executable, "-m", "service", "--models-dir", str(echo_dir), "--port", "0", "--workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        assert any("all workers are ready" in line for line in process.stderr)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        with watched({int(child) for child in children}) as gone:
            process.stderr.close()
            process.terminate()
            process.wait(START_S)
            gone()


class Load:
    """Clients that ask without a pause: some over one connection each, one over ever new ones."""

    def __init__(self, server: ServerProcess) -> None:
        self.failures: list[grpc.RpcError] = []
        self.answers = 0
        self._server = server
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(fresh,)) for fresh in (False, False, False, True)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, fresh: bool) -> None:
        while not self._done.is_set():
            with self._server.channel(OWN_CONNECTION) as channel:
                call = model_infer(channel)
                while not self._done.is_set():
                    calls = [call.future(infer_request("echo", x=ROW), timeout=TIMEOUT_S) for _ in range(4)]
                    for one in calls:
                        if one.exception() is None:
                            self.answers += 1
                        else:
                            self.failures.append(one)
                    if fresh:
                        break


def test_sighup_serves_a_new_model_without_one_failed_request(workers_on: Workers, echo_dir: Path) -> None:
    """Twice, for the second time the workers that leave are those that came."""
    with Load(workers_on) as load:
        onnx_models.identity(echo_dir, "second", TensorProto.FLOAT)
        workers_on.renewed()
        workers_on.renewed(2)
    assert load.failures == []
    assert load.answers
    rows = np.ones((1, 2), np.float32)
    for _ in range(8):
        with workers_on.channel(OWN_CONNECTION) as channel:
            infer(workers_on, infer_request("second", x=rows), channel)
    assert workers_on.terminate() == 0
    assert not [event for event in workers_on.log if event["level"] in ("warning", "error")]


def test_sighup_loses_no_request_over_tls_either(transport: str, echo_dir: Path, tmp_path: Path) -> None:
    """On grpcio, clients are told by the age of their connections then, which is why the grace period is short here."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    key, chain = tmp_path / "key.pem", tmp_path / "certificate.pem"
    certificate.private_key_pem.write_to_path(key)
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    options = ("--tls-key-file", str(key), "--tls-certificate-file", str(chain), "--grace-s", "4")
    with Workers(echo_dir, *options, transport=transport, credentials=credentials) as workers:
        with Load(workers) as load:
            workers.renewed()
        assert load.failures == []
        assert load.answers
    assert not [event for event in workers.log if event["level"] in ("warning", "error")]


def test_sighup_keeps_the_workers_where_new_ones_cannot_start(workers: Workers, echo_dir: Path) -> None:
    before = workers.pids()
    away = echo_dir.rename(echo_dir.with_name("away"))
    workers.process.send_signal(signal.SIGHUP)
    failure = workers.log.await_one("the workers are not renewed, and go on serving")
    assert f"the models folder {echo_dir} cannot be read" in failure["reason"]
    for _ in range(8):
        ask(workers)
    assert before <= workers.pids()
    away.rename(echo_dir)
    workers.renewed()
    ask(workers)


def test_a_client_that_does_not_go_is_left_when_the_grace_period_ends(transport: str, echo_dir: Path) -> None:
    """It watches the health of the worker it is connected to, which is a stream without an end."""
    with Workers(echo_dir, "--grace-s", "1", transport=transport) as workers, workers.channel() as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        workers.renewed()
        assert workers.log.await_one("clients did not go when they were told to")["grace_s"] == 1
        with pytest.raises(grpc.RpcError):
            list(watch)
        ask(workers)


def test_a_single_worker_has_a_supervisor_too(echo_dir: Path) -> None:
    with Workers(echo_dir, count=1) as workers:
        workers.renewed()
        ask(workers)
        assert workers.terminate() == 0


@pytest.mark.parametrize("count", ["-1", "many", "257"])
def test_a_number_of_workers_that_cannot_be_is_told(echo_dir: Path, count: str) -> None:
    code, stderr = run_until_exit(echo_dir, f"--workers={count}")
    assert code == 2
    assert "--workers Input should be" in stderr
