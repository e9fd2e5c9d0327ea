"""Several workers on one port: shared work, deaths, stops, and renewal without a lost request."""

import contextlib
import os
import select
import shutil
import signal
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

from tests import onnx_models
from tests.servers import ROOT, START_S, ServerProcess, run_until_exit
from tests.wire import TIMEOUT_S, change, infer, infer_request, model_infer, refusal, states

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
ROW = np.zeros((1, 16), np.float32)


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

    def __enter__(self) -> Self:
        super().__enter__()
        self.events.await_one("all workers are ready")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if error is None:
            assert [event for event in self.events if event["event"] == "not json"] == []

    def channel(self, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
        """With TLS where there are credentials; else a plain one."""
        if self._credentials is None:
            return super().channel(options)
        return grpc.secure_channel(f"localhost:{self.address.rpartition(':')[2]}", self._credentials, list(options))

    def pids(self) -> set[int]:
        """The processes of the workers."""
        pid = self.process.pid
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}

    def renewed(self) -> None:
        """SIGHUP, and its end: the old workers have gone."""
        old, since = self.pids(), len(self.events)
        with watched(old) as gone:
            self.process.send_signal(signal.SIGHUP)
            self.events.await_one("the workers are renewed", since=since)
            gone()
        assert len(self.pids() - old) == self.count

    def faults(self, since: int) -> list[dict[str, Any]]:
        """The warnings and errors from that place in the log on."""
        return [event for event in self.events[since:] if event["level"] in ("warning", "error")]


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


def make_models(folder: Path) -> Path:
    """Models that echo rows of any length."""
    onnx_models.identity(folder, "echo", TensorProto.FLOAT, ("batch", "length"))
    onnx_models.identity(folder, "counted", TensorProto.FLOAT, ("batch", "length"))
    return folder


@pytest.fixture
def echo_dir(tmp_path: Path) -> Path:
    """A folder of models for one test, which may change it."""
    return make_models(tmp_path / "models")


@pytest.fixture(scope="module")
def shared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the workers that several tests share."""
    return make_models(tmp_path_factory.mktemp("workers") / "models")


@pytest.fixture(scope="module")
def workers(transport: str, shared_dir: Path) -> Iterator[Workers]:
    """Two workers for several tests; killed and renewed by them, they end with 0."""
    with Workers(shared_dir, transport=transport) as process:
        yield process
        assert process.terminate() == 0


native_only = pytest.mark.parametrize("transport", ["native"], indirect=True)
"""What the supervisor does by itself is the same on both transports."""


def ask(server: ServerProcess, model: str = "echo") -> None:
    """One request over a connection of its own, which must be answered."""
    with server.channel(OWN_CONNECTION) as channel:
        assert infer(server, infer_request(model, x=ROW), channel)["y"].tobytes() == ROW.tobytes()


def test_workers_share_one_port(workers: Workers) -> None:
    """Both listen on one free port, and a new connection reaches either."""
    for _ in range(8):
        ask(workers)
    listening = [event for event in workers.events if event["event"] in ("listening", "all workers are ready")]
    assert len({event["address"] for event in listening}) == 1
    assert {event["worker"] for event in listening if event["event"] == "listening"} == {0, 1}


@native_only
def test_workers_share_the_cores(workers: Workers) -> None:
    """Each core belongs to one worker, which computes in as many threads as it has cores."""
    ours = os.sched_getaffinity(0)
    theirs = [os.sched_getaffinity(pid) for pid in workers.pids()]
    threads = [event["threads"] for event in workers.events if event["event"] == "listening"][:2]
    assert set.union(*theirs) == ours
    if len(ours) > 1:
        assert not set.intersection(*theirs)
        assert sorted(threads) == sorted(len(cores) for cores in theirs)


@native_only
def test_killed_workers_come_back(workers: Workers) -> None:
    """Meanwhile the other worker answers."""
    since = len(workers.events)
    victim = min(workers.pids())
    with watched({victim}) as gone:
        os.kill(victim, signal.SIGKILL)
        gone()
    for _ in range(8):
        ask(workers)
    death = workers.events.await_one("worker died", since=since)
    assert death["reason"] == f"worker {death['worker']} was ended by SIGKILL"
    workers.events.await_one("ready", since=since, worker=death["worker"])
    assert len(workers.pids()) == 2
    ask(workers)


def test_stopped_workers_are_replaced(shared_dir: Path) -> None:
    """A worker all of whose threads stand still is killed after --watchdog-s, and another takes its place."""
    with Workers(shared_dir, "--watchdog-s", "3") as workers:
        victim = min(workers.pids())
        with watched({victim}) as gone:
            os.kill(victim, signal.SIGSTOP)
            number = workers.events.await_one("worker does not answer, and is killed")["worker"]
            gone()
        since = workers.events.index(workers.events.await_one("worker died", worker=number))
        workers.events.await_one("ready", since=since, worker=number)
        assert victim not in workers.pids()
        for _ in range(8):
            ask(workers)


def test_crash_loops_end_the_server(echo_dir: Path) -> None:
    """After five deaths in a row of the only worker all ends, with exit code 1 and the reason."""
    with Workers(echo_dir, count=1) as workers:
        shutil.rmtree(echo_dir)
        os.kill(min(workers.pids()), signal.SIGKILL)
        assert workers.process.wait(START_S) == 1
    deaths = [event["reason"] for event in workers.events if event["event"] == "worker died"]
    assert len(deaths) == 4
    assert "was ended by SIGKILL" in deaths[0]
    assert all(f"the models folder {echo_dir} cannot be read" in reason for reason in deaths[1:])
    assert "it was the 5th death in a row" in workers.events.await_one("worker died too often")["reason"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--models", "nix"), "there is no model 'nix' in"),
        (("--models-dir", "nowhere"), "the models folder nowhere cannot be read"),
        (("--host", "192.0.2.1"), "cannot listen on 192.0.2.1:0"),
    ],
    ids=["model", "folder", "address"],
)
def test_first_starts_are_not_repeated(shared_dir: Path, options: tuple[str, ...], words: str) -> None:
    """What stops the first start is told once, in one sentence, with exit code 1."""
    code, stderr = run_until_exit(shared_dir, "--workers", "2", *options)
    assert code == 1
    assert stderr.count(words) == 1
    assert "worker died" not in stderr
    assert "Traceback" not in stderr


def test_foreign_ports_are_not_shared(transport: str, workers: Workers, shared_dir: Path) -> None:
    """A port is refused even where it could be shared: by a server of several workers too, of the same user."""
    port = workers.address.rpartition(":")[2]
    for count in ("0", "2"):
        code, stderr = run_until_exit(shared_dir, "--workers", count, "--transport", transport, "--port", port)
        assert code == 1
        assert f"cannot listen on 127.0.0.1:{port}" in stderr


def test_sigterm_drains_all_workers(transport: str, shared_dir: Path) -> None:
    """Requests on 16 connections wait for company, and are answered at SIGTERM.

    One that is refused at once, behind them, tells that they came, where calls are taken in their order.
    """
    limits = ("--max-batch-rows", "64", "--max-queue-rows", "128", "--max-queue-delay-us", "60000000")
    with Workers(shared_dir, *limits, transport=transport) as workers, contextlib.ExitStack() as stack:
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
    assert workers.events[-1]["event"] == "stopped"
    if transport == "native":  # which takes the calls of a connection in their order
        assert not refused
    # On grpcio one may be overtaken by those behind it, and come only after the gate was closed.
    assert {refusal(error) for error in refused} <= {
        (grpc.StatusCode.UNAVAILABLE, "The server is stopping and takes no more requests.")
    }
    assert len(refused) < len(calls)


def test_second_signals_end_all(odd_models_dir: Path) -> None:
    """A worker is set to work for days; the second signal ends it and the others at once."""
    workers = Workers(odd_models_dir, "--models", "laborious")
    with workers, workers.channel() as channel, watched(workers.pids()) as gone:
        endless = infer_request("laborious", index=np.zeros(1, np.int64), work=np.full(1, 10**9))
        call = model_infer(channel).future(endless, timeout=TIMEOUT_S)
        grpc.channel_ready_future(channel).result(TIMEOUT_S)
        workers.process.send_signal(signal.SIGINT)
        workers.events.await_one("stopping", signal="SIGINT")
        workers.process.send_signal(signal.SIGTERM)
        assert workers.process.wait(START_S) == 128 + signal.SIGTERM
        gone()
        assert isinstance(call.exception(), grpc.RpcError)


def test_workers_end_with_their_supervisor(shared_dir: Path) -> None:
    """Workers do not outlive a supervisor that was killed."""
    with Workers(shared_dir) as workers, watched(workers.pids()) as gone:
        workers.process.kill()
        gone()


def test_unread_logs_hold_up_nothing(shared_dir: Path) -> None:
    """A server whose log has lost its reader ends all the same."""
    command = [sys.executable, "-m", "service", "--models-dir", str(shared_dir), "--port", "0", "--workers", "2"]
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
    """Clients that ask without a pause: one over one connection, one over ever new ones."""

    def __init__(self, server: ServerProcess) -> None:
        self.failures: list[grpc.RpcError] = []
        self.answers = 0
        self._server = server
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask, kwargs={"fresh": fresh}) for fresh in (False, True)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, *, fresh: bool) -> None:
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


def test_renewal_loses_no_request(workers: Workers, shared_dir: Path) -> None:
    """SIGHUP brings a new model without one failed request; the second time those leave that came the first time."""
    since = len(workers.events)
    with Load(workers) as load:
        onnx_models.identity(shared_dir, f"new-{workers.transport}", TensorProto.FLOAT, ("batch", "length"))
        workers.renewed()
        workers.renewed()
    assert load.failures == []
    assert load.answers
    for _ in range(8):
        ask(workers, f"new-{workers.transport}")
    assert workers.faults(since) == []


def test_renewal_loses_none_over_tls(transport: str, shared_dir: Path, tmp_path: Path) -> None:
    """On grpcio, clients are told by the age of their connections then, which is why the grace period is short here."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    key, chain = tmp_path / "key.pem", tmp_path / "certificate.pem"
    certificate.private_key_pem.write_to_path(key)
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    options = ("--tls-key-file", str(key), "--tls-certificate-file", str(chain), "--grace-s", "4")
    with Workers(shared_dir, *options, transport=transport, count=1, credentials=credentials) as workers:
        with Load(workers) as load:
            workers.renewed()
        assert load.failures == []
        assert load.answers
    assert workers.faults(0) == []


@native_only
def test_failed_renewals_keep_the_workers(workers: Workers, shared_dir: Path) -> None:
    """Where new workers cannot start, the reason is logged, and the old ones go on serving."""
    since = len(workers.events)
    before = workers.pids()
    away = shared_dir.rename(shared_dir.with_name("away"))
    workers.process.send_signal(signal.SIGHUP)
    failure = workers.events.await_one("the workers are not renewed, and go on serving", since=since)
    away.rename(shared_dir)
    assert f"the models folder {shared_dir} cannot be read" in failure["reason"]
    for _ in range(8):
        ask(workers)
    assert before <= workers.pids()
    workers.renewed()
    ask(workers)


def test_lossy_renewals_are_refused(echo_dir: Path) -> None:
    """A renewal that would lose a model is refused: the old workers go on, and their index tells why."""
    with Workers(echo_dir) as workers:
        before = workers.pids()
        shutil.copy(echo_dir / "echo" / "1" / "model.onnx", echo_dir / "kept.onnx")
        (echo_dir / "counted" / "1" / "model.onnx").write_bytes(b"no model")
        workers.process.send_signal(signal.SIGHUP)
        failure = workers.events.await_one("the workers are not renewed, and go on serving")
        assert "'counted' would be lost" in failure["reason"]
        for number in (0, 1):
            workers.events.await_one("the models are not renewed, and go on serving", worker=number)
        for _ in range(8):
            ask(workers, "counted")
        assert before <= workers.pids()
        assert "the last reload was refused" in states(workers)["counted", "1"][1]


def test_successors_serve_the_same_files(echo_dir: Path) -> None:
    """A worker that dies after the folder has changed comes back only with the files that the others serve."""
    model = echo_dir / "counted" / "1" / "model.onnx"
    with Workers(echo_dir) as workers:
        model.rename(echo_dir / "away")
        os.kill(min(workers.pids()), signal.SIGKILL)
        death = workers.events.await_one("worker died")
        refused = workers.events.await_one("worker died", since=workers.events.index(death) + 1)
        assert "it would serve other files than the others do (counted/1)" in refused["reason"]
        for _ in range(8):
            ask(workers, "counted")
        since = len(workers.events)
        (echo_dir / "away").rename(model)
        workers.events.await_one("ready", since=since, worker=refused["worker"])
        for _ in range(8):
            ask(workers, "counted")


def test_workers_load_models_as_one(transport: str, echo_dir: Path) -> None:
    """A model that one worker is asked to load, or to unload, is served by all, or by none, when that is answered.

    One that is killed meanwhile is followed by one that serves the same.
    """
    options = ("--model-control", "explicit", "--models", "echo")
    with Workers(echo_dir, *options, transport=transport) as workers:
        change(workers, "Load", "counted")
        for _ in range(8):
            ask(workers, "counted")
        since = len(workers.events)
        os.kill(min(workers.pids()), signal.SIGKILL)
        death = workers.events.await_one("worker died", since=since)
        workers.events.await_one("ready", since=since, worker=death["worker"])
        for _ in range(8):
            ask(workers, "counted")
        change(workers, "Unload", "counted")
        with contextlib.ExitStack() as stack:
            channels = [stack.enter_context(workers.channel(OWN_CONNECTION)) for _ in range(8)]
            assert {states(workers, channel)["counted", "1"] for channel in channels} == {("UNAVAILABLE", "unloaded")}
        with pytest.raises(grpc.RpcError) as caught:
            change(workers, "Load", "nix")
        assert refusal(caught.value)[0] == grpc.StatusCode.FAILED_PRECONDITION
        assert "failed to load 'nix'" in refusal(caught.value)[1]


def test_workers_follow_the_folder(echo_dir: Path) -> None:
    """With --model-control poll, a new version is served by all workers without a new process."""
    with Workers(echo_dir, "--model-control", "poll", "--model-poll-s", "0.1") as workers:
        before = workers.pids()
        onnx_models.identity(echo_dir, "new", TensorProto.FLOAT, ("batch", "length"))
        workers.events.await_one("the models of all workers are renewed")
        for _ in range(8):
            ask(workers, "new")
        assert workers.pids() == before


def test_staying_clients_are_left(transport: str, shared_dir: Path) -> None:
    """A client that does not go when it is told to is left when the grace period ends.

    It watches the health of the one worker, which is a stream without an end.
    """
    options = ("--grace-s", "0.5")
    with Workers(shared_dir, *options, transport=transport, count=1) as workers, workers.channel() as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        workers.renewed()
        assert workers.events.await_one("clients did not go when they were told to")["grace_s"] == 0.5
        with pytest.raises(grpc.RpcError):
            list(watch)
        ask(workers)
        assert workers.terminate() == 0


@pytest.mark.parametrize("count", ["-1", "many", "257"])
def test_impossible_numbers_of_workers(shared_dir: Path, count: str) -> None:
    """A number of workers that cannot be is told, with exit code 2."""
    code, stderr = run_until_exit(shared_dir, f"--workers={count}")
    assert code == 2
    assert "--workers Input should be" in stderr
