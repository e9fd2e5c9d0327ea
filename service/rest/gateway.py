"""The door by which HTTP enters: the same methods, check, limits, observers and drain that gRPC has."""

import asyncio
import time

from google.protobuf.message import Message

from ..errors import Cancelled, Expired
from ..rpc import Call, FlushScope, ImmediateCall, Methods, TransportOptions
from ..rpc.call import Dispatch
from ..rpc.inflight import InFlightCalls
from .call import Outcome, Outcomes, RestCall
from .exchange import Exchange

WATCH_AFTER_S = 0.005
"""A client is watched for having gone once its call has taken so long: watching costs a tenth of a short call."""


class Gateway:
    """Has requests answered by methods. All but its making is done in the loop's thread."""

    def __init__(
        self, methods: Methods, dispatch: Dispatch, options: TransportOptions, flush_scope: FlushScope
    ) -> None:
        self._methods = methods
        self._dispatch = dispatch
        self._options = options
        self._flush_scope = flush_scope
        self._dispatch_scheduled = False
        self.inflight = InFlightCalls(options.max_message_bytes)
        self._loop: asyncio.AbstractEventLoop
        self._outcomes: Outcomes

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called once, before the first request."""
        self._loop = loop
        self._outcomes = Outcomes(loop, self._flush_scope)

    def check(self, rpc: str, exchange: Exchange) -> None:
        """Raises what answers a request that may not be, before its body is read."""
        check = self._options.check
        if check is not None:
            check(rpc, exchange.header("authorization"))

    def is_immediate(self, rpc: str) -> bool:
        """Whether `ask` answers it, and not `call`."""
        return rpc in self._methods.immediate

    def ask(self, rpc: str, message: Message, exchange: Exchange) -> Message:
        """The answer of an immediate method."""
        began_ns = time.monotonic_ns()
        fault = None
        try:
            return self._methods.immediate[rpc].answer(message)
        except Exception as error:
            fault = error
            raise
        finally:
            if self._options.on_immediate is not None:
                self._options.on_immediate(ImmediateCall(rpc, exchange.header, exchange.peer_name, fault, began_ns))

    async def call(self, rpc: str, payload: bytes, exchange: Exchange) -> bytes:
        """The answer of a deferred method; raises what it answered with instead.

        The call is cancelled when its client has gone, or its deadline has passed.
        """
        call = RestCall(rpc, payload, exchange, self._outcomes, self._loop.create_future())
        outcome = await self._outcome(call, exchange)
        self._tell_if_slow(call, outcome)
        if isinstance(outcome, bytes):
            return outcome
        raise outcome

    async def _outcome(self, call: RestCall, exchange: Exchange) -> Outcome:
        watch = _DisconnectWatch(self, call, exchange)
        expiry: asyncio.TimerHandle | None = None
        try:
            self.inflight.serve(call, call, self._methods.deferred[call.path])
            self._schedule_dispatch()
            if call.deadline is not None:
                expiry = self._loop.call_later(call.deadline - time.monotonic(), self._expire, call)
            return await call.answer
        except asyncio.CancelledError:
            call.cancel()
            raise
        finally:
            watch.cancel()
            if expiry is not None:
                expiry.cancel()
            self.inflight.finished(call)

    def give_up(self, call: RestCall, error: Exception) -> None:
        """Cancels a call, and answers it with this error."""
        call.settle(error)  # before its method says that it was cancelled
        self.inflight.cancel(call)

    def _expire(self, call: RestCall) -> None:
        self.give_up(call, Expired("The caller's deadline has passed."))

    def _schedule_dispatch(self) -> None:
        """Has what the calls of this turn of the loop have queued run together."""
        if not self._dispatch_scheduled:
            self._dispatch_scheduled = True
            self._loop.call_soon(self._run_dispatch)

    def _run_dispatch(self) -> None:
        self._dispatch_scheduled = False
        self._dispatch()

    def _tell_if_slow(self, call: Call, outcome: Outcome) -> None:
        slow, request = self._options.slow_calls, call.request
        if slow is None or request is None:
            return
        if time.monotonic_ns() - request.arrived_ns > slow.limit_s * 1e9:
            slow.tell(call, outcome)


class _DisconnectWatch:
    """Gives a call up when its client has gone."""

    __slots__ = ("_call", "_exchange", "_gateway", "_task", "_timer")

    def __init__(self, gateway: Gateway, call: RestCall, exchange: Exchange) -> None:
        self._gateway = gateway
        self._call = call
        self._exchange = exchange
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._start)

    def cancel(self) -> None:
        """Watches no longer."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._exchange.receive())["type"] != "http.disconnect":
            pass
        self._gateway.give_up(self._call, Cancelled("The caller went away."))
