"""The real server as a subprocess, and what a test asks of it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

ROOT = Path(__file__).parent.parent
START_S = 60
"""Bound on a start; a healthy one takes a second."""


class Events(list[dict[str, Any]]):
    """A server's log so far, which can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()

    def append(self, event: dict[str, Any]) -> None:
        """Add one event."""
        with self._changed:
            super().append(event)
            self._changed.notify_all()

    def await_one(self, name: str, *, since: int = 0, **fields: Any) -> dict[str, Any]:
        """Wait for the first event of this name and with these fields, from that place in the log on."""

        def found() -> list[dict[str, Any]]:
            return [event for event in self[since:] if event["event"] == name and event.items() >= fields.items()]

        with self._changed:
            assert self._changed.wait_for(found, START_S), f"no {name} in {self[since:]}"
            return found()[0]


class ServerProcess:
    """``python -m service`` with these options on a free port, started on entry and ended on exit.

    It computes in one thread, unless an option says otherwise: other tests run beside this one.
    """

    def __init__(
        self,
        models_dir: Path,
        *options: str,
        transport: str = "native",
        env: dict[str, str] | None = None,
        folder: bool = True,
    ):
        """Without ``folder``, the server is not told of ``models_dir``."""
        self.transport = transport
        self.events = Events()
        self.address = ""
        if "--providers" not in options:  # what is compared with the CPU must run there, on a machine with a GPU too
            options = ("--providers", "cpu", *options)
        self._command = [
            *(sys.executable, "-W", "error", "-m", "service", "--port", "0"),
            *(("--models-dir", str(models_dir)) if folder else ()),
            *("--transport", transport, "--log-format", "json", *options),
        ]
        alone = {} if "--workers" in options else {"CONVSERVE_THREADS": "1"}
        self._env = os.environ | alone | (env or {})
        self._cwd = ROOT
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        """Wait until it listens, or has ended."""
        self.process = subprocess.Popen(
            self._command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=self._env, cwd=self._cwd
        )
        self._reader.start()
        if not self._listening.wait(START_S):
            self.process.kill()
        if not self.address:
            raise AssertionError(f"the server did not start: {self.events}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, by force if it must be."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(START_S)
        finally:
            self.process.kill()
            self._reader.join()
            assert self.process.stderr is not None
            self.process.stderr.close()

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(START_S)

    def channel(self, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
        """A plain channel that takes answers of any size."""
        return grpc.insecure_channel(self.address, [("grpc.max_receive_message_length", -1), *options])

    @property
    def url(self) -> str:
        """Where it serves HTTP."""
        scheme = "https" if "--tls-key-file" in self._command else "http"
        return f"{scheme}://{self.events.await_one('listening')['http_address']}"

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "not json", "line": line}
            self.events.append(event)
            if event.get("event") == "listening":
                self.address = event["address"]
                self._listening.set()
        self._listening.set()


class Serve:
    """Starts servers, one for the same folder, options and transport; the stack ends them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._started: dict[tuple[Path, tuple[str, ...], str], ServerProcess] = {}

    def __call__(self, models_dir: Path, *options: str, transport: str = "native") -> ServerProcess:
        """The server, started now or for an earlier test."""
        key = (models_dir, options, transport)
        if key not in self._started:
            self._started[key] = self._stack.enter_context(ServerProcess(models_dir, *options, transport=transport))
        return self._started[key]


def run_until_exit(models_dir: Path, *options: str) -> tuple[int, str]:
    """Exit code and standard error of a server that is expected to refuse to start."""
    command = [sys.executable, "-W", "error", "-m", "service", "--models-dir", str(models_dir), "--port", "0", *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=START_S, cwd=ROOT, check=False)
    return ended.returncode, ended.stderr
