"""Everything on grpc.aio: one event loop in one thread.

The conservative second implementation: HTTP/2 is grpc-core's, which is in wide use, at five to ten times the processor
time a call. For those who would rather have it than speed, and for tests that hold the native transport to its ways.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import uvloop
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from ..errors import InvalidRequest, StartError, Unsupported
from . import listener_drain
from .builtin_services import HEALTH, REFLECTIONS, Health, Reflection, service_names
from .burst_window import BurstWindow
from .call import (
    STREAM_AHEAD,
    BidiMethod,
    Call,
    Check,
    DeferredMethod,
    Dispatch,
    ImmediateCall,
    ImmediateMethod,
    ImmediateObserver,
    Methods,
    Transport,
    TransportOptions,
    request_id,
)
from .inflight import InFlightCalls
from .status import Status, status_of

MAX_PENDING = 2**20
"""Calls that gRPC has accepted and not yet given to us. By default it ends some beyond 1,000 with CANCELLED; it is we
who refuse, with RESOURCE_EXHAUSTED."""
SILENCE_S = 0.1
"""How long no call may come before the server is stopped, after which no call is answered."""
GOAWAY_S = 0.1
"""How long clients are told to go, each between two frames of others."""
CLOSE_S = 1.0
"""How long what is not a deferred call, an open health watch say, may hold up the end."""


class GrpcioTransport(Transport):
    """Serves everything on ``host:port``."""

    def __init__(
        self,
        address: str,
        methods: Methods,
        dispatch: Dispatch,
        options: TransportOptions,
    ) -> None:
        """``dispatch`` is called after each burst of calls of deferred methods, which may put work off until then."""
        self.port = 0
        self._address = address
        self._methods = methods
        self._burst_window = BurstWindow(dispatch)
        self._given = options
        self._tls = options.tls
        self._inflight = InFlightCalls(options.max_message_bytes)
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="grpcio transport", daemon=True)

    def __enter__(self) -> Self:
        """Listens; raises StartError where the address cannot be had."""
        self._thread.start()
        self._ready.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends all calls and the event loop."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Has something done by the thread that receives."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(callback)

    def set_ready(self, serving: Mapping[str, bool]) -> None:
        """Tells the health protocol which names are serving."""
        self._health.set_ready(serving)

    def hand_over(self, timeout_s: float, abort: Callable[[], bool]) -> bool:
        """Leaves the port to the others that serve it, and has its clients go there; see listener_drain."""
        listener_drain.close_listener(self.port)
        return listener_drain.send_goaway_all(self.port, timeout_s, abort, told=self._tls is not None)

    def send_goaway(self) -> None:
        """Asks the clients that are connected to connect anew; what they still send is served."""
        listener_drain.send_goaway_all(self.port, GOAWAY_S, lambda: False, told=self._tls is not None)

    def leave(self, timeout_s: float) -> None:
        """Accepts no more connections, and asks all clients to go; what they still send is served meanwhile."""
        self.hand_over(timeout_s, lambda: False)

    def stop_admitting(self) -> None:
        """Refuses new deferred calls from now on."""
        self._inflight.stop_admitting()

    def drain(self, timeout_s: float) -> bool:
        """Waits, after ``stop_admitting``, until all calls in flight are answered; False if time ran out."""
        if not self._inflight.drain(timeout_s):
            return False
        # gRPC has calls that it has not handed over yet; stopping ends these with CANCELLED.
        self._inflight.wait_quiescent(SILENCE_S, CLOSE_S)
        return True

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
        self._stop = asyncio.Event()
        check = self._given.check
        interceptors = [] if check is None else [_CheckFirst(check)]
        server = grpc.aio.server(options=self._options(), interceptors=interceptors)
        self._health = Health(self.call_soon)
        self._reflection = Reflection(service_names(self._methods.services))
        server.add_generic_rpc_handlers((*self._handlers(), _NoSuchMethod()))
        try:
            self.port = self._listen(server)
        except RuntimeError as error:
            raise StartError(f"cannot listen on {self._address}: {error}") from error
        await server.start()
        self._ready.set_result(None)
        await self._stop.wait()
        await server.stop(CLOSE_S)

    def _options(self) -> list[tuple[str, int]]:
        given = self._given
        options = [
            ("grpc.max_receive_message_length", given.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.server.max_pending_requests", MAX_PENDING),
            ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
            ("grpc.so_reuseport", int(given.reuse_port)),  # without it, a port that is taken is an error
            # Keepalive pings never end a connection: some clients ping every ten seconds, with and without calls.
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
        if given.max_connection_age_s:
            options.append(("grpc.max_connection_age_ms", round(given.max_connection_age_s * 1000)))
        if given.connection_idle_s:
            options.append(("grpc.max_connection_idle_ms", round(given.connection_idle_s * 1000)))
        return options

    def _listen(self, server: grpc.aio.Server) -> int:
        if self._tls is None:
            return server.add_insecure_port(self._address)
        return server.add_secure_port(self._address, self._tls.credentials())

    def _handlers(self) -> "tuple[grpc.GenericRpcHandler[Any, Any], ...]":
        services: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
        for path, deferred in self._methods.deferred.items():
            _, service, name = path.split("/")
            services.setdefault(service, {})[name] = grpc.unary_unary_rpc_method_handler(self._deferred(path, deferred))
        for path, immediate in (*self._methods.immediate.items(), (f"/{HEALTH}/Check", self._health.check)):
            _, service, name = path.split("/")
            services.setdefault(service, {})[name] = grpc.unary_unary_rpc_method_handler(
                _immediate(path, immediate, self._given.on_immediate),
                request_deserializer=immediate.request.FromString,
                response_serializer=_serialized,
            )
        for path, stream in self._methods.bidi.items():
            _, service, name = path.split("/")
            services.setdefault(service, {})[name] = grpc.stream_stream_rpc_method_handler(self._stream(path, stream))
        services[HEALTH]["Watch"] = grpc.unary_stream_rpc_method_handler(
            self._watch,
            request_deserializer=health_pb2.HealthCheckRequest.FromString,
            response_serializer=_serialized,
        )
        for service in REFLECTIONS:
            services[service] = {
                "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                    self._reflect,
                    request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
                    response_serializer=_serialized,
                )
            }
        return tuple(grpc.method_handlers_generic_handler(service, methods) for service, methods in services.items())

    def _deferred(self, path: str, method: DeferredMethod) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def answer(payload: bytes, context: Any) -> bytes | Status:
            call = _AioCall(path, payload, context, self._loop)
            self._inflight.serve(call, call, method)
            self._burst_window.add(self._loop)
            try:
                outcome = await call.answer
            except asyncio.CancelledError:
                call.cancel()
                raise
            finally:
                self._inflight.finished(call)
            self._tell_if_slow(call, outcome)
            if isinstance(outcome, bytes):
                return outcome
            status = status_of(outcome, call.request_id)
            call.release()
            del outcome  # its traceback holds this frame too
            return status

        return _unary(answer)

    def _stream(self, path: str, stream: BidiMethod) -> Callable[[AsyncIterator[bytes], Any], AsyncIterator[bytes]]:
        async def behaviour(payloads: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            """Answers in the order of the requests, of which STREAM_AHEAD may be in flight."""
            calls: asyncio.Queue[_AioCall | None] = asyncio.Queue(STREAM_AHEAD)

            async def read() -> None:
                try:
                    async for payload in payloads:
                        call = _AioCall(path, payload, context, self._loop)
                        await calls.put(call)
                        self._inflight.serve(call, call, stream.method)
                        self._burst_window.add(self._loop)
                except Exception:
                    await calls.put(None)
                    raise
                await calls.put(None)

            reader = asyncio.create_task(read())
            call: _AioCall | None = None
            try:
                while (call := await calls.get()) is not None:
                    answer = await call.answer
                    self._inflight.finished(call)
                    self._tell_if_slow(call, answer)
                    if not isinstance(answer, bytes):
                        message = status_of(answer, call.request_id).message
                        call.release()
                        del answer
                        yield stream.wrap(call.payload, message)
                        continue
                    yield stream.wrap(call.payload, answer)
                await reader
            finally:
                reader.cancel()
                for left in (call, *(calls.get_nowait() for _ in range(calls.qsize()))):
                    if left is not None:
                        self._inflight.cancel(left)

        return behaviour

    def _tell_if_slow(self, call: "_AioCall", answer: bytes | Exception) -> None:
        slow, request = self._given.slow_calls, call.request
        if slow is None or request is None:
            return
        if time.monotonic_ns() - request.arrived_ns > slow.limit_s * 1e9:
            slow.tell(call, answer)

    async def _watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> AsyncIterator[Message]:
        name, states = request.service, asyncio.Queue[Message]()
        try:
            self._health.watch(name, states.put_nowait)
        except InvalidRequest as error:
            status = status_of(error)
        else:
            try:
                while True:
                    yield await states.get()
            finally:
                self._health.unwatch(name, states.put_nowait)
        del request, name
        await _abort(context, status)

    async def _reflect(self, requests: AsyncIterator[Message], _context: Any) -> AsyncIterator[Message]:
        async for request in requests:
            for answer in self._reflection.answer(request):
                yield answer


class _NoSuchMethod(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # the stubs alone are generic
    """Asked last: the library refuses what no handler serves, and it is only counted here."""

    def service(self, _details: object) -> None:
        status_of(Unsupported("Method not found!"))


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


def _unary(answer: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    """A method for the library from one that returns its message, or else the status that ends the call.

    The library keeps the error by which a call is aborted in a cycle with the frames that it passed, so these must not
    hold the request: 20 refused messages of 60 MB stayed until the garbage collector's next full turn.
    """

    async def behaviour(request: Any, context: Any) -> Any:
        pending = answer(request, context)
        del request
        outcome = await pending
        if isinstance(outcome, Status):
            del pending
            await _abort(context, outcome)
        return outcome

    return behaviour


def _immediate(
    path: str, method: ImmediateMethod, observer: ImmediateObserver | None
) -> Callable[[Any, Any], Awaitable[Any]]:
    async def answer(request: Any, context: Any) -> Message | Status:
        began_ns = time.monotonic_ns()
        metadata = partial(_value, context.invocation_metadata())
        fault = None
        try:
            return method.answer(request)
        except Exception as error:
            fault = error
            return status_of(error, partial(request_id, metadata))
        finally:
            if observer is not None and not path.startswith(f"/{HEALTH}/"):
                observer(ImmediateCall(path, metadata, context.peer(), fault, began_ns))
            fault = None  # whose traceback holds this frame

    return _unary(answer)


class _CheckFirst(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # it is generic in the stubs only
    """Answers calls that may not be, before they have sent anything but their metadata."""

    def __init__(self, check: Check) -> None:
        self._check = check

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Checks a call, and goes on with it."""
        try:
            self._check(handler_call_details.method, _value(handler_call_details.invocation_metadata, "authorization"))
        except Exception as error:
            status = status_of(error)

            async def refuse(_requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
                await _abort(context, status)
                yield b""  # never: it makes this a generator

            return grpc.stream_stream_rpc_method_handler(refuse)  # which reads nothing
        return await continuation(handler_call_details)


def _value(metadata: Any, name: str) -> str | None:
    """The value of a field of metadata by its name in lower case; of several the last."""
    found = None
    for key, value in metadata or ():
        if key == name:
            found = value if isinstance(value, str) else value.decode("latin-1")
    return found


async def _abort(context: Any, status: Status) -> None:
    await context.abort(status.code, status.message, status.metadata)


class _AioCall(Call):
    """A call whose answer is a future of the event loop; errors travel as values."""

    __slots__ = ("_context", "_loop", "_path", "_thread", "answer")

    def __init__(self, path: str, payload: bytes, context: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(payload, context.time_remaining(), context.peer())
        self._path = path
        self._context = context
        self._loop = loop
        self._thread = threading.get_ident()
        self.answer: asyncio.Future[bytes | Exception] = loop.create_future()

    @property
    def path(self) -> str:
        return self._path

    @property
    def peer_name(self) -> str:
        return str(self.source)  # the context's own is not to be asked for by other threads, behind the answer

    def metadata(self, name: str) -> str | None:
        return _value(self._context.invocation_metadata(), name)

    def respond(self, payload: bytes) -> None:
        self._hand_over(payload)

    def fail(self, error: Exception) -> None:
        self._hand_over(error)

    def _hand_over(self, answer: bytes | Exception) -> None:
        if threading.get_ident() == self._thread:
            self._set(answer)
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended, and every call with it
            self._loop.call_soon_threadsafe(self._set, answer)

    def release(self) -> None:
        """Lets go of the error that was the answer: its traceback holds this call, and so what the call holds."""
        self.answer = self._loop.create_future()
        self.answer.cancel()  # what still comes is dropped

    def _set(self, answer: bytes | Exception) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)
