"""The native transport: events of HTTP/2 become calls, and their results are written together.

Calls of one connection that arrive together are read, run and answered together, with one system call each way;
between them and the model is no other thread, unless the run is long. Results of other threads are handed to the loop.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Self

import structlog

from ..errors import Expired, InvalidRequest, Overloaded, Unsupported
from ..http2.deframer import ReceiveBudget
from ..http2.events import (
    CallStarted,
    Cancelled,
    ConnectionEnded,
    Event,
    HalfClosed,
    MessageReceived,
    RequestRejected,
    ResponseDrained,
)
from ..http2.frames import ErrorCode
from ..http2.stream import Stream
from . import listener_drain
from .call import Check, Dispatch, Methods, Transport, TransportOptions, request_id
from .event_loop import TICK_S, EventLoop
from .flush_scope import FlushScope
from .handlers import Responder, StreamingMethod, UnaryMethod
from .inflight import InFlightCalls
from .peer import Peer
from .router import Completions, Router
from .status import status_of

log = structlog.get_logger(__name__)

LARGE_MESSAGES, LARGE_MESSAGES_A_CONNECTION = 8, 2
"""Messages of the largest size that may be received at a time, in all and on one connection."""
POLL_S = 0.005
SILENCE_S = 0.05
"""How long no call may come before the connections are closed: what is on its way is told that the server stops."""
CLOSE_S = 1.0
STALL_S = 2.0
"""How long no client may take anything of its answers before the end does not wait for them any more."""
LINGER_S = 0.25
"""How long clients have to close their connections themselves: ending one with bytes unread may cost it answers."""
UPLOAD_S = 30.0
"""How long a message that has begun may stand still, at least; it is ended before twice that."""


class NativeTransport(Transport):
    """Serves everything on ``host:port``."""

    def __init__(
        self,
        address: str,
        methods: Methods,
        dispatch: Dispatch,
        options: TransportOptions,
        flush_scope: FlushScope | None = None,
    ) -> None:
        """``dispatch`` is called after each burst of calls; ``flush_scope`` is that of those who answer them."""
        most = options.max_message_bytes
        budget = ReceiveBudget(most, LARGE_MESSAGES * most, LARGE_MESSAGES_A_CONNECTION * most)
        flush_scope = flush_scope or FlushScope()
        self._address = address
        self._dispatch = dispatch
        self._inflight = InFlightCalls(most)
        self._loop = EventLoop(self, budget, flush_scope, options)  # it may raise StartError
        self._completions = Completions(flush_scope, options.slow_calls)
        self._completions.loop = self._loop
        self._router = Router(methods, self._inflight, self._loop, self._completions)
        self._check = options.check
        self._has_deadlines = False
        self._next_upload_check = time.monotonic() + UPLOAD_S

    def __enter__(self) -> Self:
        """Listens; raises StartError where the address cannot be had."""
        try:
            self.port = self._loop.listen(self._address)
        except BaseException:
            self._loop.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends all calls."""
        self._loop.call_soon_threadsafe(lambda: self._send_goaway(final=True))
        ends = time.monotonic() + LINGER_S
        while self._loop.peers and time.monotonic() < ends:
            time.sleep(POLL_S)
        self._loop.close()

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Has something done by the thread that receives."""
        self._loop.call_soon_threadsafe(callback)

    def set_ready(self, serving: Mapping[str, bool]) -> None:
        """Tells the health protocol which names are serving."""
        self._router.health.set_ready(serving)

    def hand_over(self, timeout_s: float, abort: Callable[[], bool]) -> bool:
        """Leaves the port to the others that serve it, and has its clients go there."""
        listener_drain.close_listener(self.port)
        ends = time.monotonic() + timeout_s
        while self._loop.peers:
            if time.monotonic() > ends or abort():
                return False
            self.send_goaway()
            time.sleep(POLL_S)
        return True

    def send_goaway(self) -> None:
        """Asks the clients that are connected to connect anew; what they still send is served."""
        self._loop.call_soon_threadsafe(self._send_goaway)

    def leave(self, timeout_s: float) -> None:
        """Accepts no more connections, and asks all clients to go; what they still send is served meanwhile."""
        self.hand_over(timeout_s, lambda: False)

    def stop_admitting(self) -> None:
        """Refuses new deferred calls from now on."""
        self._inflight.stop_admitting()

    def drain(self, timeout_s: float) -> bool:
        """Waits until the deferred calls in flight have their answers, written as far as their clients take them."""
        ends = time.monotonic() + timeout_s
        if not self._inflight.drain(timeout_s):
            return False
        self._inflight.wait_quiescent(SILENCE_S, CLOSE_S)
        sent, since = -1, time.monotonic()
        while self._completions.pending or any(
            peer.unsent or peer.http2.pending_bytes for peer in list(self._loop.peers.values())
        ):
            now = time.monotonic()
            if self._loop.sent_bytes != sent:
                sent, since = self._loop.sent_bytes, now
            if now - since > STALL_S:
                log.info("clients do not take their answers; they are not waited for", stalled_s=STALL_S)
                break
            if now > ends:
                return False
            time.sleep(POLL_S)
        return True

    # What follows runs in the loop's thread.

    def receive(self, peer: Peer, data: bytes) -> None:
        """Takes what a client has sent; the path of every request."""
        http2, find, check = peer.http2, self._router.find, self._check
        now = 0.0
        for event in http2.receive_data(data):
            if isinstance(event, MessageReceived):
                stream, payload, half_closed = event
                method = stream.call
                if half_closed and isinstance(method, UnaryMethod):
                    method.call(peer, stream, payload)
                else:
                    self._on_message(peer, stream, payload, half_closed=half_closed)
            elif isinstance(event, CallStarted):
                stream = event.stream
                timeout_s = stream.head.timeout_s
                if timeout_s is not None:
                    now = now or self._watch_deadlines()
                    stream.deadline = now + timeout_s
                if check is not None and not self._may_call(peer, stream, check):
                    continue
                method = stream.call = find(stream.head.path)
                if isinstance(method, UnaryMethod):
                    stream.whole_only = True
                else:
                    self._open(peer, stream, method)
            else:
                self._on_event(peer, event)
        self._loop.schedule_flush(peer)
        if http2.has_unread:
            self._loop.schedule_read(peer)

    def lost(self, peer: Peer) -> None:
        """Takes note that a connection is over: so are its calls."""
        peer.http2.close()
        for stream in list(peer.http2.streams.values()):
            _cancel(stream)

    def end_turn(self) -> bool:
        """Has the turn's calls run, and delivers what has been answered meanwhile."""
        busy = self._dispatch()
        self._completions.deliver()
        return busy

    def tick(self, now: float) -> bool:
        """Ends the calls whose time is over, and uploads that stand still."""
        if self._has_deadlines:
            self._has_deadlines = False
            for peer in list(self._loop.peers.values()):
                for stream in list(peer.http2.streams.values()):
                    if stream.deadline is not None:
                        if now < stream.deadline:
                            self._has_deadlines = True
                        else:
                            self._expire(peer, stream)
        if now > self._next_upload_check:
            self._next_upload_check = now + UPLOAD_S
            self._check_uploads()
        return self._has_deadlines

    def _watch_deadlines(self) -> float:
        """Has deadlines looked at, and returns the time from which those of this turn count."""
        now = time.monotonic()
        if not self._has_deadlines:
            self._has_deadlines = True
            self._loop.tick_by(now + TICK_S)
        return now

    def _may_call(self, peer: Peer, stream: Stream, check: Check) -> bool:
        """Answers a call that may not be, before it has sent anything but its header fields."""
        try:
            check(stream.head.path, stream.head.metadata("authorization"))
        except Exception as error:
            self._fail(peer, stream, error)
            return False
        return True

    def _open(self, peer: Peer, stream: Stream, method: StreamingMethod | None) -> None:
        if method is None:
            self._fail(peer, stream, Unsupported("Method not found!"))
        else:
            stream.call = method.open(Responder(self._loop, peer, stream))

    def _on_message(self, peer: Peer, stream: Stream, payload: bytes, *, half_closed: bool) -> None:
        call = stream.call
        if isinstance(call, UnaryMethod):
            self._fail(peer, stream, InvalidRequest("the method takes one message, and this is the second"))
            return
        try:
            call.on_message(payload)
            if half_closed and not stream.closed:
                call.on_half_close()
        except Exception as error:
            self._fail(peer, stream, error)

    def _on_event(self, peer: Peer, event: Event) -> None:
        if isinstance(event, HalfClosed):
            self._on_half_close(peer, event.stream)
        elif isinstance(event, Cancelled):
            _cancel(event.stream)
        elif isinstance(event, RequestRejected):
            self._fail(peer, event.stream, event.error)
        elif isinstance(event, ResponseDrained):
            on_drained = getattr(event.stream.call, "on_drained", None)
            if on_drained is not None:
                on_drained()
        elif isinstance(event, ConnectionEnded):
            log.info("connection ended", reason=event.reason, code=event.code.name)
            self._loop.fail(peer)

    def _on_half_close(self, peer: Peer, stream: Stream) -> None:
        call = stream.call
        if isinstance(call, UnaryMethod):
            self._fail(peer, stream, InvalidRequest("the request has no message"))
        elif call is not None:
            try:
                call.on_half_close()
            except Exception as error:
                self._fail(peer, stream, error)

    def _fail(self, peer: Peer, stream: Stream, error: Exception) -> None:
        """Answers a request with an error, and has nothing more done about it."""
        status = status_of(error, partial(request_id, stream.head.metadata))
        peer.http2.send_trailers(stream, status.code.value[0], status.message, status.pushback_ms)
        _cancel(stream)
        self._loop.schedule_flush(peer)

    def _expire(self, peer: Peer, stream: Stream) -> None:
        stream.deadline = None
        if stream.trailers is not None:  # it is answered, and its client does not take the answer
            peer.http2.reset(stream, ErrorCode.CANCEL)
            self._loop.schedule_flush(peer)
        else:
            self._fail(peer, stream, Expired("The caller's deadline has passed."))
            if not stream.closed:  # messages of the answer wait for its windows
                peer.http2.reset(stream, ErrorCode.CANCEL)

    def _check_uploads(self) -> None:
        for peer in list(self._loop.peers.values()):
            for stream in list(peer.http2.streams.values()):
                deframer = stream.deframer
                if deframer is None or stream.half_closed or not deframer.is_partial or stream.paused:
                    continue
                if stream.progress == stream.received:
                    message = f"Nothing of the request's message has come for {UPLOAD_S:.0f} seconds. Send it again."
                    self._fail(peer, stream, Overloaded(message, retry_after_s=0.0))
                stream.progress = stream.received

    def _send_goaway(self, *, final: bool = False) -> None:
        for peer in list(self._loop.peers.values()):
            if peer.http2.preface_received:
                peer.http2.goaway(final=final)
                self._loop.schedule_flush(peer)
            else:
                self._loop.remove(peer)


def _cancel(stream: Stream) -> None:
    """Has the call of a stream stopped."""
    call, stream.call = stream.call, None
    if call is not None and not isinstance(call, UnaryMethod | StreamingMethod):
        call.cancel()
