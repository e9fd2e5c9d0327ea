"""What the native transport serves, by path."""

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from ..http2.stream import Stream
from .builtin_services import HEALTH, REFLECTIONS, Health, Reflection, parse, service_names
from .call import (
    DeferredMethod,
    ImmediateCall,
    ImmediateMethod,
    ImmediateObserver,
    Methods,
    SlowCalls,
    request_id,
)
from .event_loop import EventLoop
from .flush_scope import FlushScope
from .handlers import StreamingMethod, UnaryMethod
from .inflight import InFlightCalls
from .peer import Peer
from .status import status_of
from .streaming import BidiStreaming, DeliverableCall, HealthWatch, ReflectionStream

NEVER_NS = 2**63


class Completions:
    """Outcomes of calls, from any thread, for the loop to deliver at the end of its turn."""

    def __init__(self, flush_scope: FlushScope, slow_calls: SlowCalls | None = None) -> None:
        self._slow_calls = slow_calls
        self._slow_ns = NEVER_NS if slow_calls is None else round(slow_calls.limit_s * 1e9)
        self._outcomes: deque[tuple[DeliverableCall, bytes | Exception]] = deque()
        self._flush_scope = flush_scope
        self.flush_scheduled = False
        self.loop: EventLoop
        """Set before the first call."""

    def add(self, call: DeliverableCall, outcome: bytes | Exception) -> None:
        """Has a call's outcome delivered; the loop is woken up once for a batch of them."""
        self._outcomes.append((call, outcome))
        if threading.get_ident() != self.loop.thread_id:
            self._flush_scope.schedule_flush(self)

    def flush(self) -> None:
        """Wakes the loop up."""
        self.loop.wake_up()

    @property
    def pending(self) -> bool:
        """True while an outcome waits to be delivered."""
        return bool(self._outcomes)

    def deliver(self) -> None:
        """Delivers what there is; in the loop's thread."""
        outcomes = self._outcomes
        if not outcomes:
            return
        slow_since_ns = time.monotonic_ns() - self._slow_ns
        while outcomes:
            call, outcome = outcomes.popleft()
            call.deliver(outcome)
            request = call.request
            if request is not None and request.arrived_ns < slow_since_ns:
                self._tell_slow(call, outcome)

    def _tell_slow(self, call: DeliverableCall, outcome: bytes | Exception) -> None:
        if self._slow_calls is not None:
            self._slow_calls.tell(call, outcome)


class Router:
    """Finds what serves a path."""

    def __init__(self, methods: Methods, inflight: InFlightCalls, loop: EventLoop, completions: Completions) -> None:
        observer = loop.options.on_immediate
        self.health = Health(loop.call_soon_threadsafe)
        names = service_names(methods.services)
        reflection = ReflectionStream(Reflection(names))
        self._methods: dict[str, UnaryMethod | StreamingMethod] = {
            **{path: _Deferred(method, inflight, loop, completions) for path, method in methods.deferred.items()},
            **{path: _Immediate(method, loop, observer) for path, method in methods.immediate.items()},
            **{path: BidiStreaming(method, inflight, completions) for path, method in methods.bidi.items()},
            f"/{HEALTH}/Check": _Immediate(self.health.check, loop),
            f"/{HEALTH}/Watch": HealthWatch(self.health),
            **{f"/{name}/ServerReflectionInfo": reflection for name in REFLECTIONS},
        }
        self.find: Callable[[str], UnaryMethod | StreamingMethod | None] = self._methods.get
        """Returns what serves a path."""


class _Deferred(UnaryMethod):
    """A method whose calls are answered later, from any thread."""

    def __init__(
        self, method: DeferredMethod, inflight: InFlightCalls, loop: EventLoop, completions: Completions
    ) -> None:
        self.method = method
        self.inflight = inflight
        self.loop = loop
        self.completions = completions

    def call(self, peer: Peer, stream: Stream, payload: bytes) -> None:
        call = stream.call = _NativeCall(payload, peer, stream, self)
        self.inflight.serve(call, call, self.method)


class _NativeCall(DeliverableCall):
    """A call of a deferred method."""

    __slots__ = ("_method", "_stream")

    def __init__(self, payload: bytes, peer: Peer, stream: Stream, method: _Deferred) -> None:
        # As Call.__init__ does, whose clock has been read already.
        self.payload = payload
        self.source: Peer = peer
        self.deadline = stream.deadline
        self.model = self.request = None
        self._on_cancel = None
        self._abandoned = False
        self._stream = stream
        self._method = method

    @property
    def path(self) -> str:
        return self._stream.head.path

    @property
    def peer_name(self) -> str:
        return self.source.name

    def metadata(self, name: str) -> str | None:
        return self._stream.head.metadata(name)

    def respond(self, payload: bytes) -> None:
        self._method.completions.add(self, payload)

    def fail(self, error: Exception) -> None:
        self._method.completions.add(self, error)

    def deliver(self, outcome: bytes | Exception) -> None:
        """Sends the outcome; in the loop's thread."""
        method, stream = self._method, self._stream
        method.inflight.finished(self)
        if stream.closed:
            return
        stream.call = None
        peer = self.source
        if type(outcome) is bytes:
            peer.http2.send_unary(stream, outcome)
        else:
            # What is not bytes is an error.
            status = status_of(outcome, self.request_id)  # type: ignore[arg-type]
            peer.http2.send_trailers(stream, status.code.value[0], status.message, status.pushback_ms)
        method.loop.schedule_flush(peer)

    def cancel(self) -> None:
        self._method.inflight.finished(self)
        super().cancel()


class _Immediate(UnaryMethod):
    """A method that answers at once."""

    def __init__(self, method: ImmediateMethod, loop: EventLoop, observer: ImmediateObserver | None = None) -> None:
        self._method = method
        self._loop = loop
        self._observer = observer

    def call(self, peer: Peer, stream: Stream, payload: bytes) -> None:
        stream.call = None
        began_ns = time.monotonic_ns()
        fault = None
        try:
            answer = self._method.answer(parse(self._method.request, payload)).SerializeToString()
        except Exception as error:
            fault = error
            status = status_of(error, partial(request_id, stream.head.metadata))
            peer.http2.send_trailers(stream, status.code.value[0], status.message, status.pushback_ms)
        else:
            peer.http2.send_unary(stream, answer)
        self._loop.schedule_flush(peer)
        if self._observer is not None:
            head = stream.head
            self._observer(ImmediateCall(head.path, head.metadata, peer.name, fault, began_ns))
