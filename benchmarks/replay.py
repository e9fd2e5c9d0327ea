"""What a client sent is recorded once, and its bytes replayed through HTTP/2 in process: the protocol's cost alone.

No socket and no model: the calls are found and answered as the native transport does it, and all clients' requests come
in equal bursts. So the figures tell what a client's frames and header fields cost, not how it times them.
"""

import time
from collections.abc import Callable

from benchmarks.delay import DelayingProxy
from benchmarks.errors import BenchmarkError
from benchmarks.samples import Figures
from service.http2.connection import Connection
from service.http2.deframer import ReceiveBudget
from service.http2.events import CallStarted, MessageReceived

BURST = 16
"""Requests that come with one read, on average."""
SMALL_BYTES = 4096
"""Of a read that never has more frames than a turn's."""
MESSAGE_BYTES = 2**26
"""The largest message, the server's default."""


def record(address: str, call: Callable[[str], object]) -> bytes:
    """What a client sends that calls the server through a relay; of several connections, the longest."""
    recordings: list[bytearray] = []
    with DelayingProxy(address, 0.0, recordings) as relay:
        call(relay.address)
    return bytes(max(recordings, key=len))


def measurement(recording: bytes, response: bytes) -> Callable[[], Figures]:
    """Microseconds a request; raises BenchmarkError where no whole one was recorded."""
    requests = _replay(recording, SMALL_BYTES, response)
    if not requests:
        raise BenchmarkError("nothing was recorded that could be replayed")

    def run() -> Figures:
        before = time.process_time()
        answered = _replay(recording, len(recording) * BURST // requests, response)
        figures = {"replayed_us": (time.process_time() - before) / requests * 1e6}
        if answered != requests:
            raise BenchmarkError(f"of {requests} requests that were recorded, {answered} were answered when replayed")
        return figures

    return run


def _replay(recording: bytes, size: int, response: bytes) -> int:
    """Receives the recording in reads of so many bytes; returns how many calls were answered."""
    connection = Connection(ReceiveBudget(MESSAGE_BYTES, 8 * MESSAGE_BYTES, 2 * MESSAGE_BYTES))
    answered = 0
    for at in range(0, len(recording), size):
        streams = []
        for event in connection.receive_data(recording[at : at + size]):
            if isinstance(event, MessageReceived):
                streams.append(event.stream)
            elif isinstance(event, CallStarted):
                event.stream.whole_only = True  # as for every unary method
        for stream in streams:
            connection.send_unary(stream, response)
        answered += len(streams)
        connection.data_to_send()
    return 0 if connection.streams or connection.closed else answered
