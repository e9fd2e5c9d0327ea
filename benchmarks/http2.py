"""A client's side of HTTP/2: it sends one fixed gRPC request again and again, and reads statuses.

The request's bytes are laid out once; only stream ids are put in. Responses are not decoded: frame headers are read,
the message's bytes counted, and grpc-status looked up in the trailers (RFC 9113; header blocks by the library hpack).
We announce a header table of size 0, so that equal trailers are equal bytes.
"""

import socket
import struct
from typing import NamedTuple

from hpack import Decoder, Encoder

from benchmarks.errors import BenchmarkError
from benchmarks.request_payload import RequestPayload

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8
HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 0x1, 0x3, 0x4
FRAME_BYTES = 16_384
"""The largest payload of a frame that every server takes."""
WINDOW, MAX_WINDOW = 65_535, 2**31 - 1
"""A window at the start, and the largest."""
RENEW_BYTES = 2**29
"""Received, after which the connection's window is opened again."""
FRAME_HEADER = struct.Struct(">HBBBI")
"""Length in 24 bits, kind, flags, stream."""
READ_BYTES = 2**18
CONNECT_S = 10.0
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

    def __init__(self, address: str, payload: RequestPayload) -> None:
        """Connects and waits for the server's settings; raises BenchmarkError."""
        self._pieces = _layout(payload, address)
        self._request_bytes = len(payload.frame)
        self._stream = 1
        self._numbers: dict[int, int] = {}
        self._received: dict[int, int] = {}
        self._statuses: dict[bytes, int] = {}
        self._window, self._stream_window, self._max_streams = WINDOW, WINDOW, MAX_WINDOW
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

    def start(self, number: int) -> bool:
        """Lays the request out to be sent; False where the server allows no more streams or bytes now."""
        if len(self._numbers) >= self._max_streams or self._window < self._request_bytes:
            return False
        self._window -= self._request_bytes
        self._numbers[self._stream] = number
        self._output += self._stream.to_bytes(4, "big").join(self._pieces)
        self._stream += 2
        return True

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
        at, last = 0, len(data) - FRAME_HEADER.size
        while at <= last:
            high, low, kind, flags, stream = FRAME_HEADER.unpack_from(data, at)
            start = at + FRAME_HEADER.size
            end = start + (high << 8 | low)
            if end > len(data):
                break
            self._take_frame(kind, flags, stream, data[start:end], ends)
            at = end
        self._input = data[at:]
        if self._since_renewal >= RENEW_BYTES:
            self._output += _frame(WINDOW_UPDATE, 0, struct.pack(">I", self._since_renewal))
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
        settings = struct.pack(">HIHI", HEADER_TABLE_SIZE, 0, INITIAL_WINDOW_SIZE, MAX_WINDOW)
        preface = _frame(SETTINGS, 0, settings) + _frame(WINDOW_UPDATE, 0, struct.pack(">I", MAX_WINDOW - WINDOW))
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + preface)
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
        if kind == GOAWAY:
            raise BenchmarkError("the server sent GOAWAY in the middle of the load")
        if kind == RST_STREAM:
            self._ended(stream, RESET, ends)
        elif kind == WINDOW_UPDATE:
            self._window += 0 if stream else struct.unpack(">I", payload)[0]
        elif kind == PING and not flags & ACK:
            self._output += _frame(PING, ACK, payload)
        elif kind == SETTINGS and not flags & ACK:
            values = dict(struct.iter_unpack(">HI", payload))
            self._max_streams = values.get(MAX_CONCURRENT_STREAMS, self._max_streams)
            self._stream_window = values.get(INITIAL_WINDOW_SIZE, self._stream_window)
            self._output += _frame(SETTINGS, ACK, b"")
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


def _layout(payload: RequestPayload, address: str) -> list[bytes]:
    """The request's frames, cut where a stream id belongs."""
    headers = {":method": "POST", ":scheme": "http", ":path": payload.path, ":authority": address}
    headers |= {"content-type": "application/grpc", "te": "trailers"}
    # Never indexed: a block that changes no table is right for every request.
    block = Encoder().encode([(name, value, True) for name, value in headers.items()])
    pieces = [_start(HEADERS, END_HEADERS, len(block))]
    parts = [payload.frame[at : at + FRAME_BYTES] for at in range(0, len(payload.frame), FRAME_BYTES)]
    ahead = block
    for number, part in enumerate(parts, 1):
        pieces.append(ahead + _start(DATA, END_STREAM if number == len(parts) else 0, len(part)))
        ahead = part
    return [*pieces, ahead]


def _start(kind: int, flags: int, length: int) -> bytes:
    """A frame's header without its stream id."""
    return length.to_bytes(3, "big") + bytes([kind, flags])


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    """A frame of the connection's."""
    return _start(kind, flags, len(payload)) + bytes(4) + payload
