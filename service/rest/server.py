"""HTTP, served by uvicorn: one event loop in one thread of the process."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import structlog
import uvicorn
import uvloop

from ..rpc import FlushScope, Methods, Transport, TransportOptions, listener_drain
from ..rpc.listener import listen
from ..rpc.tls_files import TlsContexts, TlsFiles
from ..runtime.repository import Repository
from .app import make_app
from .bodies import Bodies
from .connection import Connection, ConnectionPolicy
from .gateway import Gateway

KEEP_ALIVE_S = 75
"""How long a connection may be without a request: longer than proxies keep theirs, so that it is they who close."""
IDLE_S = 1.0
"""How long a connection must have been idle to be closed when all are to go: one in use gets a last response."""
POLL_S = 0.02
TICK_S = 1.0
"""Between two looks at the date, which responses tell."""
SILENCE_S = 0.1
CLOSE_S = 1.0
"""How long responses may take to be written, once all calls are answered."""
BACKLOG = 2048

log = structlog.get_logger(__name__)


class HttpTransport(Transport):
    """Serves HTTP on ``host:port``, by the same methods as gRPC."""

    def __init__(
        self,
        address: str,
        methods: Methods,
        repository: Repository,
        options: TransportOptions,
        flush_scope: FlushScope,
    ) -> None:
        """``flush_scope`` is that of those who answer calls."""
        self.port = 0
        self._address = address
        self._options = options
        self._gateway = Gateway(methods, repository.dispatch, options, flush_scope)
        self._policy = ConnectionPolicy(options.max_connection_age_s)
        self._tls = None if options.tls is None else _context(options.tls)
        self._server = _Server(
            uvicorn.Config(
                make_app(self._gateway, Bodies(options.max_message_bytes), partial(_folder, repository)),
                http=cast("type[asyncio.Protocol]", partial(Connection, self._policy)),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=round(options.connection_idle_s) or KEEP_ALIVE_S,
                ssl_context_factory=None if self._tls is None else lambda *_: cast("ssl.SSLContext", self._tls),
            )
        )
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="http transport", daemon=True)

    def __enter__(self) -> Self:
        """Listens; raises StartError where the address cannot be had."""
        self._listener = listen(self._address, reuse_port=self._options.reuse_port)
        self.port = self._listener.getsockname()[1]
        self._thread.start()
        self._ready.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends all calls and the event loop."""
        self.call_soon(self._server.stop)
        self._thread.join()

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Has something done by the thread that receives."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(callback)

    def set_ready(self, serving: Mapping[str, bool]) -> None:
        """Nothing is to be done: readiness is asked for, and the methods know it."""

    def hand_over(self, timeout_s: float, abort: Callable[[], bool]) -> bool:
        """Leaves the port to the others that serve it, and has its clients go there."""
        listener_drain.close_listener(self.port)
        self.send_goaway()
        ends = time.monotonic() + timeout_s
        while self._server.server_state.connections:
            if time.monotonic() > ends or abort():
                return False
            self.call_soon(self._close_idle)
            time.sleep(POLL_S)
        return True

    def send_goaway(self) -> None:
        """Has each connection end with its next response: HTTP/1.1 has no other word for it."""
        self._policy.closing = True

    def leave(self, timeout_s: float) -> None:
        """Accepts no more connections, and asks all clients to go; what they still send is served meanwhile."""
        self.hand_over(timeout_s, lambda: False)

    def stop_admitting(self) -> None:
        """Refuses new calls from now on."""
        self._policy.closing = True
        self._gateway.inflight.stop_admitting()

    def drain(self, timeout_s: float) -> bool:
        """Waits until the calls in flight have their answers, written as far as their clients take them."""
        if not self._gateway.inflight.drain(timeout_s):
            return False
        self._gateway.inflight.wait_quiescent(SILENCE_S, CLOSE_S)
        ends = time.monotonic() + CLOSE_S
        while self._server.server_state.tasks and time.monotonic() < ends:
            time.sleep(POLL_S)
        return True

    def _close_idle(self) -> None:
        now = time.monotonic()
        for connection in list(self._server.server_state.connections):
            if isinstance(connection, Connection) and connection.is_idle and now - connection.idle_since > IDLE_S:
                connection.shutdown()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_log_fault)
        self._gateway.start(self._loop)
        self._server.on_started = lambda: self._ready.set_result(None)
        await self._server.serve(sockets=[self._listener])


class _Server(uvicorn.Server):
    """uvicorn's, which wakes up once a second and not ten times."""

    on_started: Callable[[], None]

    def stop(self) -> None:
        """Ends it; in the loop's thread."""
        self.should_exit = True
        self._stopped.set()

    async def main_loop(self) -> None:
        """Waits for the end."""
        self._stopped = asyncio.Event()
        await self.on_tick(0)
        self.on_started()
        while not self.should_exit:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), TICK_S)
            await self.on_tick(0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Closes all connections, once what is written to them has been sent."""
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        for connection in list(self.server_state.connections):
            connection.transport.close()
        await asyncio.sleep(POLL_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _folder(repository: Repository, name: str, version: str) -> Path:
    return repository.find(name, version).file.path.parent


def _context(files: TlsFiles) -> ssl.SSLContext:
    """TLS for HTTP/1.1, by the newest certificate at each connection; raises StartError."""
    contexts = TlsContexts(files, alpn=("http/1.1",))

    def choose(connection: Any, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = contexts.current()

    context = files.context(("http/1.1",))
    context.sni_callback = choose
    return context


def _log_fault(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tells of what has no other place: a connection whose TLS failed, or a fault of ours."""
    error = context.get("exception")
    if isinstance(error, OSError):  # ssl.SSLError is one
        log.warning("an HTTP connection failed", reason=str(error), peer=True)
    else:
        log.error("HTTP failed", reason=context.get("message"), exc_info=error)
