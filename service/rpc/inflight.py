"""The deferred calls in flight, and admission in front of them."""

import threading
import time
from collections.abc import Hashable

from ..errors import Overloaded, Stopping
from .call import Call, DeferredMethod
from .status import count_failure


class InFlightCalls:
    """The deferred calls in flight, and the gate in front of them."""

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._calls: dict[Hashable, Call] = {}
        self._closed = False
        self._refused = 0
        self._idle = threading.Event()

    def serve(self, key: Hashable, call: Call, method: DeferredMethod) -> None:
        """Gives the call to its method, or refuses it; what the method raises becomes its answer."""
        self._calls[key] = call
        try:
            if self._closed:
                self._refused += 1
                raise Stopping("The server is stopping and takes no more requests.")
            if len(call.payload) > self._max_message_bytes:
                raise Overloaded(
                    f"Received message larger than max ({len(call.payload)} vs. {self._max_message_bytes} bytes)",
                    retry_after_s=None,
                )
            method(call)
        except Exception as error:
            count_failure(error, call.deadline)
            call.fail(error)

    def cancel(self, key: Hashable) -> None:
        """The caller of this call has gone away."""
        call = self._calls.pop(key, None)
        if call is not None:
            call.cancel()
            self._note_idle()

    def finished(self, key: Hashable) -> None:
        """The call has its answer."""
        self._calls.pop(key, None)
        if self._closed:
            self._note_idle()

    def stop_admitting(self) -> None:
        """Refuses new calls from now on."""
        self._closed = True
        self._note_idle()

    def drain(self, timeout_s: float) -> bool:
        """Waits until the calls in flight are answered, after ``stop_admitting``; False if time ran out."""
        return self._idle.wait(timeout_s)

    def wait_quiescent(self, silence_s: float, timeout_s: float) -> None:
        """Waits, after ``stop_admitting``, until no call has come for so long; no longer than the timeout.

        What was on its way then has been refused with a sentence, and not by the end of its connection.
        """
        ends = time.monotonic() + timeout_s
        refused = -1
        while self._refused != refused and time.monotonic() < ends:
            refused = self._refused
            time.sleep(silence_s)

    def _note_idle(self) -> None:
        if self._closed and not self._calls:
            self._idle.set()
