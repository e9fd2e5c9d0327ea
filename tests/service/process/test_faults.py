"""Faults as operators meet them: logs that nobody reads, signals at the wrong time, runs without an end, deploys."""

import array
import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper

from service.pb import open_inference_pb2 as pb
from tests import onnx_models
from tests.servers import ROOT, START_S, ServerProcess
from tests.wire import TIMEOUT_S, infer_request, model_infer

SERVING = health_pb2.HealthCheckResponse.SERVING
SIDE = 1500
DIGIT = infer_request("mnist-tiny", images=np.zeros((1, 28, 28, 1), np.uint8))
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


def endless(model: str) -> pb.ModelInferRequest:
    """A request whose run takes minutes."""
    if model == "laborious":
        return infer_request(model, index=np.zeros(1, np.int64), work=np.full(1, 10**9))
    return infer_request(model, x=np.zeros((1, SIDE, SIDE), np.float32))


def short(model: str) -> pb.ModelInferRequest:
    """A request of the same model whose run takes next to nothing."""
    if model == "laborious":
        return infer_request(model, index=np.zeros(1, np.int64), work=np.zeros(1, np.int64))
    return infer_request(model, x=np.zeros((1, 2, 2), np.float32))


@pytest.fixture(scope="module")
def freezing_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models whose run time depends on more than rows: on an axis, and on a loop; and one that is short."""
    folder = tmp_path_factory.mktemp("freezing")
    onnx_models.laborious(folder)
    products = [helper.make_node("MatMul", [f"p{step}", "x"], [f"p{step + 1}"]) for step in range(1, 1000)]
    nodes = [helper.make_node("MatMul", ["x", "x"], ["p1"]), *products, helper.make_node("Identity", ["p1000"], ["y"])]
    ends = [onnx_models.value(name, TensorProto.FLOAT, ("batch", "side", "side")) for name in "xy"]
    onnx_models.save(folder, "squares", nodes, ends[:1], ends[1:])
    (folder / "mnist-tiny").symlink_to(ROOT / "models" / "mnist-tiny")
    return folder


def check_serves(server: ServerProcess) -> None:
    """Health and another model are answered over a connection of their own."""
    with server.channel(OWN_CONNECTION) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S).status == SERVING
        assert model_infer(channel)(DIGIT, timeout=TIMEOUT_S).model_name == "mnist-tiny"


@pytest.mark.parametrize("model", ["squares", "laborious"], ids=["axes", "loop"])
def test_long_runs_freeze_nothing(transport: str, freezing_dir: Path, model: str) -> None:
    """While a run without an end is under way, though the model's runs were short, everything else is answered."""
    options = ("--max-inline-us", "1000000")
    with ServerProcess(freezing_dir, *options, transport=transport) as server, server.channel() as channel:
        call = model_infer(channel)
        for _ in range(20):
            call(short(model), timeout=TIMEOUT_S)
        long = call.future(endless(model), timeout=TIMEOUT_S)
        server.events.await_one("slow run", model=model)
        check_serves(server)
        assert not long.done()
        long.cancel()
        call(short(model), timeout=TIMEOUT_S)
        assert server.terminate() == 0


def test_endless_runs_end_the_process(freezing_dir: Path) -> None:
    """A run that lasts beyond --watchdog-s ends the process with exit code 70, so that it is started again."""
    options = ("--watchdog-s", "2")
    with ServerProcess(freezing_dir, *options) as server, server.channel() as channel:
        call = model_infer(channel).future(endless("laborious"), timeout=TIMEOUT_S)
        assert server.process.wait(START_S) == 70
        assert isinstance(call.exception(), grpc.RpcError)
    assert "a run of 'laborious' has lasted" in server.events.await_one("the process ends itself")["reason"]


FROZEN = """
import threading
from pathlib import Path
from service.logs import configure
from service.process.watchdog import Watchdog
from service.rpc import FlushScope, Methods, NativeTransport, TransportOptions
from service.rpc.grpc_aio_server import GrpcioTransport

configure("json", "info")
frozen = threading.Event()
methods = Methods(deferred={"/test.Test/Freeze": lambda call: frozen.wait()}, immediate={}, bidi={})
options = TransportOptions(2**20)
native = {NATIVE}
made = (
    NativeTransport("127.0.0.1:0", methods, lambda: False, options, FlushScope())
    if native
    else GrpcioTransport("127.0.0.1:0", methods, lambda: False, options)
)
with made as transport, Watchdog([transport.call_soon], tuple, busy=threading.Event(), limit_s=1.0):
    print(transport.port, flush=True)
    frozen.wait()
"""


def test_frozen_receivers_end_the_process(transport: str) -> None:
    """A receiving thread that stands still for longer than the limit ends the process, and its stack is logged."""
    script = FROZEN.replace("{NATIVE}", str(transport == "native"))
    with (
        subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        ) as process,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stderr is not None
        with grpc.insecure_channel(f"127.0.0.1:{process.stdout.readline().strip()}") as channel:
            call = channel.unary_unary("/test.Test/Freeze", None, None).future(b"", timeout=TIMEOUT_S)
            assert process.wait(START_S) == 70
            assert isinstance(call.exception(), grpc.RpcError)
        last = json.loads(process.stderr.read().splitlines()[-1])
    assert "the receiving thread has stood still" in last["reason"]
    assert "frozen.wait()" in last["stack"] or "<string>" in last["stack"]


class PipedServer:
    """A server whose log goes into a pipe of ours, which is read until the server listens."""

    def __init__(self, models_dir: Path, transport: str) -> None:
        self.reading, self.writing = os.pipe()
        command = [
            *(sys.executable, "-m", "service", "--models-dir", str(models_dir), "--models", "mnist-tiny"),
            *("--port", "0", "--transport", transport, "--log-format", "json", "--providers", "cpu"),
        ]
        self.process = subprocess.Popen(command, stderr=self.writing, stdout=subprocess.DEVNULL, cwd=ROOT)
        log = b""
        while not (found := re.search(rb'"address": "([\d.:]+)", .*"listening"', log)):
            log += os.read(self.reading, 65536)
            assert self.process.poll() is None, log
        self.address = found[1].decode()

    def __enter__(self) -> Self:
        """It listens."""
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for descriptor in (self.reading, self.writing):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def have_lines_logged(self) -> None:
        """Peers that do not speak HTTP/2 are logged; so is a reload."""
        host, _, port = self.address.rpartition(":")
        for _ in range(20):
            with socket.create_connection((host, int(port)), TIMEOUT_S) as peer:
                peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
                with contextlib.suppress(ConnectionError):
                    while peer.recv(65536):
                        pass
        self.process.send_signal(signal.SIGHUP)

    def check_serves_and_ends(self) -> None:
        """Health and inference are answered, and SIGTERM ends it with 0."""
        with grpc.insecure_channel(self.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            assert health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S).status == SERVING
            model_infer(channel)(DIGIT, timeout=TIMEOUT_S)
        self.process.terminate()
        assert self.process.wait(START_S) == 0

    def fill(self) -> None:
        """Leaves no room in the pipe."""
        os.set_blocking(self.writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.writing, b"\n" * 4096)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.writing, b"\n")
        os.set_blocking(self.writing, True)

    def unread(self) -> int:
        """Bytes in the pipe."""
        count = array.array("i", [0])
        fcntl.ioctl(self.reading, termios.FIONREAD, count)
        return count[0]


def test_closed_logs_stop_nothing(transport: str, models_dir: Path) -> None:
    """A server whose log has lost its reader goes on serving, whatever it has to say."""
    with PipedServer(models_dir, transport) as server:
        os.close(server.reading)
        os.close(server.writing)
        server.have_lines_logged()
        server.check_serves_and_ends()


def test_full_logs_stop_nothing(transport: str, models_dir: Path) -> None:
    """A server whose log is not read any more, and whose pipe is full, goes on serving, and can be ended."""
    with PipedServer(models_dir, transport) as server:
        server.fill()
        full = server.unread()
        server.have_lines_logged()
        server.check_serves_and_ends()
        assert server.unread() == full


FAILING = """
import os
import sys

def fail(event, _arguments):
    if event == "socket.bind" and ("CONVSERVE_WORKER_SLOT" in INHERITED) == {IN_WORKER}:
        if {CAPTURES}:
            os.write(2, b"a line of a library\\nits last words")
        raise RuntimeError("no socket will do")

INHERITED = dict(os.environ)
sys.addaudithook(fail)
"""
"""A site's own start, by which nothing can be bound: an exception that no part of the server expects."""


def run_with_site(folder: Path, site: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A server within the start of a site, to its end."""
    (folder / "sitecustomize.py").write_text(site)
    command = [sys.executable, "-W", "error", "-m", "service", "--models-dir", str(ROOT / "models"), "--port", "0"]
    env = os.environ | {"PYTHONPATH": str(folder)}
    command += ["--models", "mnist-tiny", "--providers", "cpu", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=START_S, cwd=ROOT, env=env, check=False)


@pytest.mark.parametrize("where", ["alone", "worker", "supervisor"])
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_uncaught_exceptions_are_logged(tmp_path: Path, where: str, log_format: str) -> None:
    """What nothing catches is one line with name, message and traceback; what libraries wrote last is there too.

    A supervisor has no such libraries, and leaves its standard error as it is.
    """
    captures = where != "supervisor"
    site = FAILING.replace("{IN_WORKER}", str(where == "worker")).replace("{CAPTURES}", str(captures))
    ended = run_with_site(tmp_path, site, "--workers", str(int(where != "alone")), "--log-format", log_format)
    assert ended.returncode == 1
    if log_format == "console":
        assert ended.stderr.count("RuntimeError: no socket will do") == 1
        assert ended.stderr.count("Traceback") == 1
        assert ended.stderr.count("its last words") == captures
        return
    events = [json.loads(line) for line in ended.stderr.splitlines() if line.startswith("{")]
    (last,) = [event for event in events if event["level"] == "critical"]
    assert last["event"] == "the process ends by an exception"
    (raised,) = last["exception"]
    assert (raised["exc_type"], raised["exc_value"]) == ("RuntimeError", "no socket will do")
    assert raised["frames"][-1]["name"] == "fail"
    told = [event["text"] for event in events if event["event"] == "standard error"]
    assert [text for text in told if "Warning" not in text] == (
        ["a line of a library", "its last words"] if captures else []
    )


@pytest.mark.parametrize("workers", ["0", "2"], ids=["alone", "workers"])
def test_early_signals_end_it(models_dir: Path, workers: str) -> None:
    """A signal that comes before anything has been imported ends the start with 0: nothing is served yet."""
    command = [sys.executable, "-m", "service", "--models-dir", str(models_dir), "--port", "0", "--workers", workers]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        status = Path(f"/proc/{process.pid}/status")
        while not int(dict(line.split(":", 1) for line in status.read_text().splitlines())["SigCgt"], 16) >> 14 & 1:
            os.sched_yield()
        process.terminate()
        assert process.wait(START_S) == 0
        assert process.stderr is not None
        assert "listening" not in process.stderr.read()


LATE = """
import os
import signal
import sys

class Late:
    def __del__(self, kill=os.kill, pid=os.getpid, number=signal.SIGTERM):
        kill(pid(), number)

sys.late = Late()
"""
"""A site's own start, by which each process gets SIGTERM when the interpreter takes its modules apart."""


@pytest.mark.parametrize("workers", ["0", "2"], ids=["alone", "workers"])
def test_late_signals_change_nothing(tmp_path: Path, models_dir: Path, workers: str) -> None:
    """A signal that comes when all is answered, in the last moment of a process, leaves its exit code 0."""
    (tmp_path / "sitecustomize.py").write_text(LATE)
    options = ("--models", "mnist-tiny", "--workers", workers)
    with ServerProcess(models_dir, *options, env={"PYTHONPATH": str(tmp_path)}) as server:
        server.events.await_one("serving")
        assert server.terminate() == 0


class Callers:
    """Four callers, each with one channel to both servers, as gRPC makes it.

    gRPC sends a call again that it had not put on the wire when GOAWAY came. It does no more than that without a retry
    policy; with ``grpc.enable_retries`` 0 it does not even that, and fails the call itself.
    """

    def __init__(self, target: str, policy: str) -> None:
        config = json.dumps({"loadBalancingConfig": [{policy: {}}]})
        self._options = [("grpc.service_config", config), *OWN_CONNECTION]
        self._target = target
        self.statuses: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._ended = False
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        for thread in self._threads:
            thread.join()

    def await_more(self, count: int) -> None:
        """Waits for so many further answers."""
        with self._changed:
            until = self.statuses.total() + count
            assert self._changed.wait_for(lambda: self.statuses.total() >= until, START_S)

    def _ask(self) -> None:
        with grpc.insecure_channel(self._target, self._options) as channel:
            call = model_infer(channel)
            while not self._ended:
                try:
                    call(DIGIT, timeout=TIMEOUT_S)
                    status = "OK"
                except grpc.RpcError as error:
                    status = f"{error.code().name}: {error.details()}"
                with self._changed:
                    self.statuses[status] += 1
                    self._changed.notify()


@pytest.fixture
def pair(transport: str, models_dir: Path) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Two servers of one model, as in a rolling deploy."""
    options = ("--models", "mnist-tiny", "--drain-delay-s", "1")
    with (
        ServerProcess(models_dir, *options, transport=transport) as first,
        ServerProcess(models_dir, *options, transport=transport) as second,
    ):
        yield first, second


@pytest.mark.parametrize("policy", ["round_robin", "pick_first"])
def test_rolling_deploys_lose_nothing(pair: tuple[ServerProcess, ServerProcess], policy: str) -> None:
    """One of two servers gets SIGTERM under load: its clients see no failure, and it ends with 0."""
    first, second = pair
    with Callers(f"ipv4:{first.address},{second.address}", policy) as callers:
        callers.await_more(200)
        assert first.terminate() == 0
        callers.await_more(200)
    assert callers.statuses.keys() == {"OK"}
