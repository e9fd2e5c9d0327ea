"""Several servers behind the real Envoy, under load from callers that retry nothing by themselves."""

import collections
import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import pytest

from service.pb import open_inference_pb2 as pb
from tests.metrics import POLL_S, free_port
from tests.servers import ROOT, START_S, ServerProcess

ENVOY = os.environ.get("CONVSERVE_ENVOY") or shutil.which("envoy")
needs_envoy = pytest.mark.skipif(ENVOY is None, reason="needs envoy: `make front`, or its path in CONVSERVE_ENVOY")
MODEL = "mnist-tiny"
INFER = "/inference.GRPCInferenceService/ModelInfer"
DRAIN_DELAY_S = 1.0
"""Of the servers; the front asks their health four times in it."""
WAIT_S = 240.0
"""How long calls and Envoy's view of the servers are waited for: a bound, on a machine that much else may share."""
CALL_S = 15.0
"""The callers' deadline: far more than a fault costs, far less than a hung test."""
ALONE = (("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1))
"""Callers that retry nothing, each over a connection of its own."""


def write_front(file: Path, *options: str) -> Path:
    """Envoy's configuration, written as users do."""
    command = [sys.executable, "-W", "error", "-m", "service.front", *options]
    file.write_bytes(subprocess.run(command, capture_output=True, cwd=ROOT, check=True, timeout=START_S).stdout)
    return file


def request(rows: int = 1, model: str = MODEL) -> bytes:
    """A request of this many black digits."""
    message = pb.ModelInferRequest(model_name=model)
    message.inputs.add(name="images", datatype="UINT8", shape=[rows, 28, 28, 1])
    message.raw_input_contents.append(bytes(rows * 784))
    return message.SerializeToString()


class FleetServer(ServerProcess):
    """A server with one model, which drains as a front wants it; ``within`` is a command that runs it."""

    def __init__(self, *options: str, transport: str = "native", within: tuple[str, ...] = ()) -> None:
        self._made_of = options, transport, within
        drain = ("--models", MODEL, "--drain-delay-s", str(DRAIN_DELAY_S))
        super().__init__(ROOT / "models", *drain, *options, transport=transport)
        self._command = [*within, *self._command]

    def again(self) -> "FleetServer":
        """The same server, not started, for the same port."""
        options, transport, within = self._made_of
        return FleetServer(*options, "--port", self.address.rpartition(":")[2], transport=transport, within=within)


class Front:
    """Envoy before these servers, from the first answer of ``ready`` servers to the block's end."""

    def __init__(self, folder: Path, servers: list[str], *options: str, ready: int | None = None) -> None:
        self._ready = len(servers) if ready is None else ready
        listen, admin = free_port(), free_port()
        self.address, self._admin = f"127.0.0.1:{listen}", f"127.0.0.1:{admin}"
        self.lines: list[dict[str, Any]] = []
        """The access log."""
        self._file = write_front(
            folder / "envoy.yaml",
            *("--hosts", ",".join(servers), "--listen", self.address, "--admin", self._admin),
            *("--drain-delay-s", str(DRAIN_DELAY_S), *options),
        )

    def __enter__(self) -> Self:
        command = [str(ENVOY), "--config-path", str(self._file), "--concurrency", "1", "--use-dynamic-base-id"]
        self.process = subprocess.Popen([*command, "--log-level", "error"], stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.await_healthy(self._ready)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(START_S)
        finally:
            self.process.kill()
            self._reader.join()
            assert self.process.stdout is not None
            self.process.stdout.close()

    def await_healthy(self, servers: int) -> None:
        """Waits until Envoy sends calls to just so many servers."""
        until = time.monotonic() + WAIT_S
        while (found := self._healthy()) != servers:
            assert time.monotonic() < until, f"Envoy finds {found} of {servers} servers healthy"
            assert self.process.poll() is None, "Envoy has ended"
            time.sleep(POLL_S)

    def counter(self, name: str, *, http: bool = False) -> int:
        """One of Envoy's counters of the servers, as it knows them for gRPC or for HTTP."""
        cluster = "http" if http else "grpc"
        found = json.loads(self._get(f"/stats?format=json&filter=^cluster.{cluster}.{name}$"))["stats"]
        return int(found[0]["value"]) if found else 0

    def channel(self, *options: tuple[str, Any]) -> grpc.Channel:
        """A plain channel of its own that retries nothing."""
        return grpc.insecure_channel(self.address, [*ALONE, *options])

    def shares(self) -> list[int]:
        """How many calls each server has had."""
        totals = [{each["name"]: int(each.get("value", 0)) for each in host["stats"]} for host in self._hosts()]
        return [counters["rq_total"] for counters in totals]

    def _hosts(self) -> list[dict[str, Any]]:
        """The gRPC servers, as Envoy sees them."""
        clusters = json.loads(self._get("/clusters?format=json"))["cluster_statuses"]
        found: list[dict[str, Any]] = next(each["host_statuses"] for each in clusters if each["name"] == "grpc")
        return found

    def _healthy(self) -> int:
        try:
            hosts = self._hosts()
        except OSError:
            return -1  # it does not listen yet
        unwell = ("failed_active_health_check", "failed_outlier_check", "pending_active_hc")
        return sum(not any(host["health_status"].get(word) for word in unwell) for host in hosts)

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{self._admin}{path}", timeout=START_S) as response:
            return bytes(response.read())

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))


class Load:
    """Callers that call without a pause until the block ends."""

    def __init__(self, front: Front, callers: int = 4, payload: bytes | None = None) -> None:
        self._front = front
        self._payload = request() if payload is None else payload
        self._ended = threading.Event()
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(callers)]
        self.codes: collections.Counter[str] = collections.Counter()
        """Calls by status code."""
        self.failures: collections.Counter[str] = collections.Counter()
        """What failed calls were told."""
        self.longest_s = 0.0

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    @property
    def calls(self) -> int:
        """Calls that have ended."""
        return sum(self.codes.values())

    def await_calls(self, number: int) -> None:
        """Waits until so many more calls have ended."""
        with self._changed:
            aim = self.calls + number
            assert self._changed.wait_for(lambda: self.calls >= aim, WAIT_S), f"{self.calls} of {aim} calls"

    def _call(self) -> None:
        with self._caller() as ask:
            while not self._ended.is_set():
                began = time.monotonic()
                code, told = ask()
                with self._changed:
                    self.longest_s = max(self.longest_s, time.monotonic() - began)
                    self.codes[code] += 1
                    if code != "OK":
                        self.failures[f"{code}: {told}"] += 1
                    self._changed.notify_all()

    @contextlib.contextmanager
    def _caller(self) -> Iterator[Callable[[], tuple[str, str]]]:
        """What calls once, and returns the code and what was told."""
        with self._front.channel(("grpc.max_receive_message_length", -1)) as channel:
            method = channel.unary_unary(INFER, None, None)

            def ask() -> tuple[str, str]:
                try:
                    method(self._payload, timeout=CALL_S)
                except grpc.RpcError as error:
                    return error.code().name, error.details() or ""
                return "OK", ""

            yield ask


class HttpLoad(Load):
    """Callers of HTTP, which have an image classified again and again over one connection."""

    @contextlib.contextmanager
    def _caller(self) -> Iterator[Callable[[], tuple[str, str]]]:
        host, _, port = self._front.address.rpartition(":")
        picture = (ROOT / "tests" / "pictures" / "seven.png").read_bytes()
        with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=CALL_S)) as connection:

            def ask() -> tuple[str, str]:
                try:
                    connection.request("POST", f"/v1/classify?model={MODEL}", picture)
                    response = connection.getresponse()
                    told = response.read().decode()
                except (OSError, http.client.HTTPException) as error:
                    connection.close()
                    return "no response", str(error)
                return ("OK", "") if response.status == HTTPStatus.OK else (str(response.status), told)

            yield ask
