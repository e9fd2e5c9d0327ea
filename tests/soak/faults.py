"""What happens to the server meanwhile: swaps, bad files, reloads, killed workers, peers that speak nonsense."""

import contextlib
import os
import shutil
import signal
import socket
import struct
import time
from collections import Counter
from pathlib import Path

import grpc

from tests.servers import ServerProcess
from tests.soak.requests import FILES, file_of
from tests.wire import change

NONSENSE = (b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64, b"\x16\x03\x01" + b"\0" * 64)
RESET = struct.pack("ii", 1, 0)


def make_models(folder: Path) -> None:
    """The models at the start, each in version 1."""
    for model in FILES:
        put(folder, model, 1)


def put(folder: Path, model: str, version: int, content: bytes | None = None) -> None:
    """Puts a version in place with one rename; without content, the right file."""
    draft = folder.parent / "draft.onnx"
    if content is None:
        shutil.copyfile(file_of(model, version), draft)
    else:
        draft.write_bytes(content)
    (folder / model / str(version)).mkdir(parents=True, exist_ok=True)
    draft.replace(folder / model / str(version) / "model.onnx")


class Faults:
    """Does one fault at a time, and returns when the server has dealt with it."""

    def __init__(self, server: ServerProcess, folder: Path, workers: int) -> None:
        self._server = server
        self._folder = folder
        self._workers = workers
        self._version = 1
        self.counts: Counter[str] = Counter()
        self.kinds = ["swap", "nonsense", "bad_version", "reload", *(["kill"] if workers else [])]
        """The methods below; there is no worker to kill in a single process."""

    def swap(self) -> None:
        """A new version comes, and the one before the last goes."""
        put(self._folder, "swapped", self._version + 1)
        self._version += 1
        if self._version > 2:
            shutil.rmtree(self._folder / "swapped" / str(self._version - 2))
        change(self._server, "Load", "swapped")
        self.counts["versions swapped"] += 1

    def bad_version(self) -> None:
        """A damaged file comes; its load must be refused."""
        put(self._folder, "swapped", self._version + 1, b"no model")
        with contextlib.suppress(grpc.RpcError):
            change(self._server, "Load", "swapped")
            raise AssertionError("a damaged version was loaded")
        shutil.rmtree(self._folder / "swapped" / str(self._version + 1))
        self.counts["damaged versions refused"] += 1

    def reload(self) -> None:
        """SIGHUP: all workers by new ones, or the models anew in a single process."""
        since, old = len(self._server.events), children(self._server.process.pid)
        self._server.process.send_signal(signal.SIGHUP)
        if self._workers:
            self._server.events.await_one("the workers are renewed", since=since)
            while set(old) & set(children(self._server.process.pid)):  # they serve their last requests
                time.sleep(0.05)
        else:
            self._server.events.await_one("the models are renewed", since=since)
        self.counts["SIGHUP"] += 1

    def kill(self) -> None:
        """A worker dies, and another takes its slot."""
        since = len(self._server.events)
        os.kill(children(self._server.process.pid)[0], signal.SIGKILL)
        death = self._server.events.await_one("worker died", since=since)
        self._server.events.await_one("ready", since=since, worker=death["worker"])
        self.counts["workers killed"] += 1

    def nonsense(self) -> None:
        """Peers that do not speak HTTP/2, and go with a reset."""
        host, _, port = self._server.address.rpartition(":")
        for words in NONSENSE:
            with contextlib.suppress(ConnectionError), socket.create_connection((host, int(port)), 10) as peer:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                peer.sendall(words)
            self.counts["peers that sent nonsense"] += 1


def children(pid: int) -> list[int]:
    """The processes that this one has started, the oldest first."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
