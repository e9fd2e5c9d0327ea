"""The hot methods in Rust threads (pygrpc-native), everything else on grpc.aio behind a Unix socket.

HTTP/2 and gRPC framing happen outside the interpreter lock; calls cross it in bursts. It buffers a
whole message before Python sees it, so the size limit can only refuse late, and it has no TLS.
"""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from pygrpc_native import EVENT_CALL, NativeGrpcFront

from service.cores import usable_cores
from service.errors import StartError
from service.status import status_of
from service.transport import sockets
from service.transport.call import Call, Methods, Settle, Traffic, Transport
from service.transport.grpcio import GrpcioTransport

BURST = 64
"""Most calls taken in one crossing of the interpreter lock."""
FLUSH_POLL_S = 0.005
FLUSH_SETTLE_S = 0.05


class NativeTransport(Transport):
    """Serves on ``host:port``; see GrpcioTransport for what runs behind it."""

    def __init__(
        self,
        address: str,
        methods: Methods,
        settle: Settle,
        *,
        max_message_bytes: int,
        io_threads: int = 0,
        reuse_port: bool = False,
    ) -> None:
        """``settle`` is called after each burst of calls; ``io_threads`` 0 means one for each four cores.

        See GrpcioTransport for the rest.
        """
        self._address = address
        self._methods = methods
        self._settle = settle
        self._io_threads = io_threads or max(1, usable_cores() // 4)
        self._max_message_bytes = max_message_bytes
        self._reuse_port = reuse_port
        self._traffic = Traffic(max_message_bytes)
        self._stack = ExitStack()
        self._thread = threading.Thread(target=self._receive, name="native transport", daemon=True)

    def __enter__(self) -> Self:
        """Listens; raises StartError where the address cannot be had."""
        with ExitStack() as stack:
            folder = _socket_folder()
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            socket = folder / "grpcio.sock"
            self._behind = stack.enter_context(
                GrpcioTransport(
                    f"unix:{socket}", self._methods, self._settle, max_message_bytes=self._max_message_bytes
                )
            )
            self._paths = list(self._methods.hot)
            try:
                self._front = NativeGrpcFront(
                    self._address,
                    [(path, False) for path in self._paths],
                    io_threads=self._io_threads,
                    call_details=True,
                    metrics=True,
                    reuse_port=self._reuse_port,
                )
            except OSError as error:
                raise StartError(f"cannot listen on {self._address}: {error}") from error
            self._front.set_fallback(str(socket))
            self._front.start()
            self.port = self._front.bound_port
            self._thread.start()
            stack.callback(self._close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends all calls, and what runs behind."""
        self._stack.close()

    def set_ready(self, serving: Mapping[str, bool]) -> None:
        """Tells the health protocol which names are serving."""
        self._behind.set_ready(serving)

    def retire(self, timeout_s: float, hurried: Callable[[], bool]) -> bool:
        """Leaves the port to the others that serve it, and has its clients go there; see sockets.see_off."""
        sockets.stop_accepting(self.port)
        return sockets.see_off(self.port, timeout_s, hurried)

    def refuse(self) -> None:
        """Refuses new hot calls from now on, and those of streams, which run behind."""
        self._traffic.refuse()
        self._behind.refuse()

    def drain(self, timeout_s: float) -> bool:
        """Waits until the hot calls in flight have their answers, on the wire; False if time ran out."""
        ends = time.monotonic() + timeout_s
        drained = self._traffic.drain(timeout_s) and self._behind.drain(ends - time.monotonic())
        return drained and self._flushed(ends)

    def _receive(self) -> None:
        """Takes calls in bursts until the front is closed; the path of every hot request starts here."""
        front, traffic = self._front, self._traffic
        methods = [self._methods.hot[path] for path in self._paths]
        while (events := front.recv_batch_details(BURST)) is not None:
            for kind, call_id, method, payload, _, details in events:
                if kind == EVENT_CALL and payload is not None:
                    call = _NativeCall(payload, details[2] if details else None, call_id, front, traffic)
                    traffic.serve(call_id, call, methods[method])
                else:
                    traffic.cancel(call_id)
            self._settle(inline=True)

    def _flushed(self, ends: float) -> bool:
        """Waits until the answers given are sent: closing the front throws away what it still holds.

        Its metrics count a call as ended only when its last frame has been handed to the
        connection; the settling time is for the socket below.
        """
        while time.monotonic() < ends:
            methods = (self._front.metrics() or {}).get("methods", {})
            counts = [methods[path] for path in self._paths if path in methods]
            if all(each["started"] == sum(status["count"] for status in each["status"].values()) for each in counts):
                time.sleep(FLUSH_SETTLE_S)
                return True
            time.sleep(FLUSH_POLL_S)
        return False

    def _close(self) -> None:
        self._front.close()
        self._thread.join()


class _NativeCall(Call):
    """A call known to the front by its id."""

    __slots__ = ("_call_id", "_front", "_traffic")

    def __init__(
        self, payload: bytes, time_remaining_s: float | None, call_id: int, front: NativeGrpcFront, traffic: Traffic
    ) -> None:
        super().__init__(payload, time_remaining_s)
        self._call_id = call_id
        self._front = front
        self._traffic = traffic

    def respond(self, payload: bytes) -> None:
        self._front.respond(self._call_id, payload)
        self._traffic.finished(self._call_id)

    def fail(self, error: Exception) -> None:
        code, message = status_of(error)
        self._front.fail(self._call_id, code.value[0], message)
        self._traffic.finished(self._call_id)


def _socket_folder() -> Path:
    """A new private folder for a socket; /dev/shm is writable in containers with a read-only root."""
    for parent in (None, "/dev/shm"):  # noqa: S108 - mkdtemp makes the folder ours alone
        try:
            return Path(tempfile.mkdtemp(prefix="convserve-", dir=parent))
        except OSError:
            continue
    raise StartError("no folder can be written for the socket between the transports; mount a tmpfs on /tmp")
