"""A client's side of HTTP/2: it sends one fixed gRPC request again and again, and reads statuses.

The request's bytes are laid out once; only stream ids are put in. Responses are not decoded: frame headers are read,
the message's bytes counted, and grpc-status looked up in the trailers (RFC 9113; header blocks by the library hpack).
We announce a header table of size 0, so that equal trailers are equal bytes.
"""

import select
import socket
import struct
from typing import NamedTuple

from hpack import Decoder, Encoder, NeverIndexedHeaderTuple

from benchmarks.errors import BenchmarkError
from benchmarks.request_payload import RequestPayload
from service.http2 import frames
from service.http2.frames import ACK, DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, frame_start

RENEW_BYTES = 2**29
"""Received, after which the connection's window is opened again."""
READ_BYTES = 2**18
CONNECT_S, PATIENCE_S = 10.0, 30.0
"""How long connecting may take, and how long nothing may come back."""
RESET = -1
"""Instead of a status: the server ended the stream without one."""


class StreamEnd(NamedTuple):
    """The end of one request."""

    number: int
    status: int
    """gRPC's code, or RESET."""
    data_bytes: int
    """Of the message with its frame header."""


class Connection:
    """A connection, for ``select``: write while ``pending``, read when there is something."""

    def __init__(self, address: str, payload: RequestPayload, more: dict[str, str] | None = None) -> None:
        """Connects and waits for the server's settings; raises BenchmarkError. ``more``: fields of each request."""
        self._pieces = layout(payload, address, more=more)
        self._request_bytes = len(payload.frame)
        self._stream = 1
        self._numbers: dict[int, int] = {}
        self._received: dict[int, int] = {}
        self._statuses: dict[bytes, int] = {}
        self._window = self._stream_window = frames.DEFAULT_WINDOW
        self._max_streams = frames.LARGEST_WINDOW
        self._since_renewal = 0
        self._input, self._output = b"", bytearray()
        self._settings_received = False
        host, _, port = address.rpartition(":")
        try:
            self._socket = socket.create_connection((host, int(port)), CONNECT_S)
        except OSError as error:
            raise BenchmarkError(f"nothing listens on {address}: {error}") from error
        try:
            self._exchange_settings(address)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """For ``select``."""
        return self._socket.fileno()

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    @property
    def pending(self) -> bool:
        """True while there are bytes that the socket did not take yet."""
        return bool(self._output)

    def start(self, number: int, pieces: list[bytes] | None = None) -> bool:
        """Lays the request, or these pieces, out to be sent; False where the server allows no more streams or bytes."""
        if len(self._numbers) >= self._max_streams or self._window < self._request_bytes:
            return False
        self._window -= self._request_bytes
        self._numbers[self._stream] = number
        self._output += self._stream.to_bytes(4, "big").join(pieces or self._pieces)
        self._stream += 2
        return True

    def finish(self) -> None:
        """Sends what is laid out and waits for all responses; raises BenchmarkError unless each says OK."""
        ends: list[StreamEnd] = []
        while self._numbers or self._output:
            readable, writable, _ = select.select([self], [self] if self._output else [], [], PATIENCE_S)
            if not readable and not writable:
                raise BenchmarkError(f"{len(self._numbers)} requests got no response within {PATIENCE_S:.0f} s")
            if writable:
                self.send()
            if readable:
                ends += self.receive()
        if any(end.status for end in ends):
            raise BenchmarkError(f"the server refused {sum(bool(end.status) for end in ends)} of {len(ends)} requests")

    def send(self) -> None:
        """Writes what the socket takes."""
        try:
            sent = self._socket.send(self._output)
        except BlockingIOError:
            return
        del self._output[:sent]

    def receive(self) -> list[StreamEnd]:
        """Reads what there is; raises BenchmarkError where the server ends the connection."""
        try:
            chunk = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return []
        if not chunk:
            raise BenchmarkError("the server closed the connection in the middle of the load")
        data = self._input + chunk if self._input else chunk
        ends: list[StreamEnd] = []
        at, last = 0, len(data) - frames.FRAME_HEADER.size
        while at <= last:
            high, low, kind, flags, stream = frames.FRAME_HEADER.unpack_from(data, at)
            start = at + frames.FRAME_HEADER.size
            end = start + (high << 8 | low)
            if end > len(data):
                break
            self._take_frame(kind, flags, stream, data[start:end], ends)
            at = end
        self._input = data[at:]
        if self._since_renewal >= RENEW_BYTES:
            self._output += frames.window_update(0, self._since_renewal)
            self._since_renewal = 0
        return ends

    def _take_frame(self, kind: int, flags: int, stream: int, payload: bytes, ends: list[StreamEnd]) -> None:
        if kind > HEADERS:
            self._control(kind, flags, stream, payload, ends)
        elif flags & PADDED or (kind == HEADERS and not flags & END_HEADERS):
            raise BenchmarkError("the server pads or splits its frames, which this load generator does not read")
        elif kind == DATA:
            self._received[stream] = self._received.get(stream, 0) + len(payload)
            self._since_renewal += len(payload)
            if flags & END_STREAM:  # without trailers
                self._ended(stream, RESET, ends)
        elif flags & END_STREAM:
            self._ended(stream, self._status(payload), ends)

    def _exchange_settings(self, address: str) -> None:
        """Sends the connection preface and waits for the server's."""
        largest = frames.LARGEST_WINDOW
        settings = frames.settings({frames.HEADER_TABLE_SIZE: 0, frames.INITIAL_WINDOW_SIZE: largest})
        preface = settings + frames.window_update(0, largest - frames.DEFAULT_WINDOW)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(frames.PREFACE + preface)
            while not self._settings_received:
                self.receive()
        except OSError as error:
            raise BenchmarkError(f"{address} does not respond as an HTTP/2 server: {error}") from error
        if self._request_bytes > self._stream_window:
            raise BenchmarkError(
                f"{address} takes {self._stream_window} bytes of a request at once, this one has {self._request_bytes}"
            )
        self._socket.settimeout(0)

    def _ended(self, stream: int, status: int, ends: list[StreamEnd]) -> None:
        number = self._numbers.pop(stream, None)
        if number is not None:
            ends.append(StreamEnd(number, status, self._received.pop(stream, 0)))

    def _control(self, kind: int, flags: int, stream: int, payload: bytes, ends: list[StreamEnd]) -> None:
        """Every frame but DATA and HEADERS."""
        if kind == frames.GOAWAY:
            raise BenchmarkError("the server sent GOAWAY in the middle of the load")
        if kind == frames.RST_STREAM:
            self._ended(stream, RESET, ends)
        elif kind == frames.WINDOW_UPDATE:
            self._window += 0 if stream else struct.unpack(">I", payload)[0]
        elif kind == frames.PING and not flags & ACK:
            self._output += frames.frame(frames.PING, ACK, 0, payload)
        elif kind == frames.SETTINGS and not flags & ACK:
            values = dict(frames.SETTING.iter_unpack(payload))
            self._max_streams = values.get(frames.MAX_CONCURRENT_STREAMS, self._max_streams)
            self._stream_window = values.get(frames.INITIAL_WINDOW_SIZE, self._stream_window)
            self._output += frames.frame(frames.SETTINGS, ACK, 0)
            self._settings_received = True

    def _status(self, block: bytes) -> int:
        """Of these trailers; those of a good response are always the same bytes."""
        status = self._statuses.get(block)
        if status is None:
            decoder = Decoder()
            decoder.max_allowed_table_size = decoder.header_table_size = 0
            fields = decoder.decode(block, raw=True)
            status = int(next((value for name, value in fields if name == b"grpc-status"), RESET))
            if status == 0:
                self._statuses[block] = status
        return status


def layout(
    payload: RequestPayload, address: str, encoder: Encoder | None = None, more: dict[str, str] | None = None
) -> list[bytes]:
    """The request's frames, cut where a stream id belongs.

    With ``encoder`` the fields are put into its table, as clients do, and requests must be sent in this order.
    """
    fields = {":method": "POST", ":scheme": "http", ":path": payload.path, ":authority": address}
    fields |= {"content-type": "application/grpc", "te": "trailers", **(more or {})}
    # Never indexed: a block that changes no table is right for every request.
    block = (encoder or Encoder()).encode(fields.items() if encoder else map(_never_indexed, fields.items()))
    pieces = [frame_start(HEADERS, END_HEADERS, len(block))]
    size = frames.DEFAULT_FRAME_SIZE
    parts = [payload.frame[at : at + size] for at in range(0, len(payload.frame), size)]
    ahead = block
    for number, part in enumerate(parts, 1):
        pieces.append(ahead + frame_start(DATA, END_STREAM if number == len(parts) else 0, len(part)))
        ahead = part
    return [*pieces, ahead]


def _never_indexed(field: tuple[str, str]) -> NeverIndexedHeaderTuple:
    return NeverIndexedHeaderTuple(*field)
