"""A client's side of HTTP/2, as much of it as sends one fixed gRPC request again and again and reads statuses.

The request's bytes are laid out once; only stream ids are put in. Answers are not decoded: frame
headers are read, the message's bytes counted, and grpc-status looked up in the trailers. Frames are
those of RFC 9113, header blocks those of RFC 7541. We announce a header table of size 0, so that
equal trailers are equal bytes.
"""

import socket
import struct

from benchmarks.errors import BenchmarkError
from benchmarks.exchange import Exchange

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8
HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 0x1, 0x3, 0x4
FRAME_BYTES = 16_384
"""The largest payload of a frame that every peer takes."""
WINDOW, MOST = 65_535, 2**31 - 1
"""A window at the start, and the largest."""
RENEW_BYTES = 2**29
"""Received, after which the connection's window is opened again."""
HEAD = struct.Struct(">HBBBI")
"""Length in 24 bits, kind, flags, stream."""
READ_BYTES = 2**18
CONNECT_S = 10.0
RESET = -1
"""Instead of a status: the server ended the stream without one."""
NAME = b"grpc-status"
HUFFMAN_NAME = bytes.fromhex("9acac8b21234da8f")
"""The same in the code of RFC 7541, appendix B."""
HUFFMAN_DIGITS = [f"{digit:05b}" for digit in range(3)] + [f"{digit + 22:06b}" for digit in range(3, 10)]


Answer = tuple[int, int, int]
"""The end of one request: its number, gRPC's code or RESET, bytes of the message with its frame header."""


class Connection:
    """A connection, for ``select``: write while ``pending``, read when there is something."""

    def __init__(self, address: str, exchange: Exchange) -> None:
        """Connects and waits for the server's settings; raises BenchmarkError."""
        self._pieces = _layout(exchange, address)
        self._request_bytes = len(exchange.frame)
        self._stream = 1
        self._numbers: dict[int, int] = {}
        self._received: dict[int, int] = {}
        self._statuses: dict[bytes, int] = {}
        self._window, self._stream_window, self._most_streams = WINDOW, WINDOW, MOST
        self._since_renewal = 0
        self._input, self._output = b"", bytearray()
        self._greeted = False
        host, _, port = address.rpartition(":")
        try:
            self._socket = socket.create_connection((host, int(port)), CONNECT_S)
        except OSError as error:
            raise BenchmarkError(f"nothing listens on {address}: {error}") from error
        try:
            self._greet(address)
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
        """Whether there are bytes that the socket did not take yet."""
        return bool(self._output)

    def start(self, number: int) -> bool:
        """Lays the request out to be sent; False where the server allows no more streams or bytes now."""
        if len(self._numbers) >= self._most_streams or self._window < self._request_bytes:
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

    def receive(self) -> list[Answer]:
        """Reads what there is; raises BenchmarkError where the server ends the connection."""
        try:
            chunk = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return []
        if not chunk:
            raise BenchmarkError("the server closed the connection in the middle of the load")
        data = self._input + chunk if self._input else chunk
        answers: list[Answer] = []
        at, last = 0, len(data) - HEAD.size
        while at <= last:  # one loop without calls: this is where the generator's time goes
            high, low, kind, flags, stream = HEAD.unpack_from(data, at)
            end = at + HEAD.size + (high << 8 | low)
            if end > len(data):
                break
            if kind == DATA and not flags & PADDED:
                size = end - at - HEAD.size
                self._received[stream] = self._received.get(stream, 0) + size
                self._since_renewal += size
                if flags & END_STREAM:  # without trailers
                    self._ended(stream, RESET, answers)
            elif kind == HEADERS and flags & END_HEADERS and not flags & PADDED:
                if flags & END_STREAM:
                    self._ended(stream, self._status(data[at + HEAD.size : end]), answers)
            elif kind == RST_STREAM:
                self._ended(stream, RESET, answers)
            else:
                self._control(kind, flags, stream, data[at + HEAD.size : end])
            at = end
        self._input = data[at:]
        if self._since_renewal >= RENEW_BYTES:
            self._output += _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._since_renewal))
            self._since_renewal = 0
        return answers

    def _greet(self, address: str) -> None:
        """Exchanges settings."""
        settings = struct.pack(">HIHI", HEADER_TABLE_SIZE, 0, INITIAL_WINDOW_SIZE, MOST)
        hello = _frame(SETTINGS, 0, 0, settings) + _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", MOST - WINDOW))
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + hello)
            while not self._greeted:
                self.receive()
        except OSError as error:
            raise BenchmarkError(f"{address} does not answer as an HTTP/2 server: {error}") from error
        if self._request_bytes > self._stream_window:
            raise BenchmarkError(
                f"{address} takes {self._stream_window} bytes of a request at once, this one has {self._request_bytes}"
            )
        self._socket.setblocking(False)

    def _ended(self, stream: int, status: int, answers: list[Answer]) -> None:
        number = self._numbers.pop(stream, None)
        if number is not None:
            answers.append((number, status, self._received.pop(stream, 0)))

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (DATA, HEADERS):
            raise BenchmarkError("the server pads or splits its frames, which this load generator does not read")
        if kind == GOAWAY:
            raise BenchmarkError("the server sent the connection away in the middle of the load")
        if kind == WINDOW_UPDATE:
            self._window += 0 if stream else struct.unpack(">I", payload)[0]
        elif kind == PING and not flags & ACK:
            self._output += _frame(PING, ACK, 0, payload)
        elif kind == SETTINGS and not flags & ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == MAX_CONCURRENT_STREAMS:
                    self._most_streams = value
                elif name == INITIAL_WINDOW_SIZE:
                    self._stream_window = value
            self._output += _frame(SETTINGS, ACK, 0, b"")
            self._greeted = True

    def _status(self, block: bytes) -> int:
        """Of these trailers; those of a good answer are always the same bytes."""
        status = self._statuses.get(block)
        if status is None:
            status = read_status(block)
            if status == 0:
                self._statuses[block] = status
        return status


def read_status(block: bytes) -> int:
    """grpc-status in a header block without references to a dynamic table; RESET where there is none."""
    for name in (bytes([0x80 | len(HUFFMAN_NAME)]) + HUFFMAN_NAME, bytes([len(NAME)]) + NAME):
        _before, found, rest = block.partition(name)
        if found:
            coded, value = rest[0] & 0x80, rest[1 : 1 + (rest[0] & 0x7F)]
            return int(_digits(value) if coded else value)
    return RESET


def _digits(coded: bytes) -> str:
    """Decimal digits in the Huffman code, which is padded with ones."""
    bits = "".join(f"{byte:08b}" for byte in coded)
    digits, word = "", ""
    for bit in bits:
        word += bit
        if word in HUFFMAN_DIGITS:
            digits += str(HUFFMAN_DIGITS.index(word))
            word = ""
    return digits


def _layout(exchange: Exchange, address: str) -> list[bytes]:
    """The request's frames, cut where a stream id belongs."""
    headers = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))
    # Static table: 3 is POST, 6 is http, 4 and 1 are the names :path and :authority.
    block = b"\x83\x86" + b"\x04" + _text(exchange.path.encode()) + b"\x01" + _text(address.encode())
    block += b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers)
    pieces = [_start(HEADERS, END_HEADERS, len(block))]
    parts = [exchange.frame[at : at + FRAME_BYTES] for at in range(0, len(exchange.frame), FRAME_BYTES)]
    ahead = block
    for number, part in enumerate(parts, 1):
        pieces.append(ahead + _start(DATA, END_STREAM if number == len(parts) else 0, len(part)))
        ahead = part
    return [*pieces, ahead]


def _text(text: bytes) -> bytes:
    """A string literal of a header block; none of ours is longer than 126 bytes."""
    return bytes([len(text)]) + text


def _start(kind: int, flags: int, length: int) -> bytes:
    """A frame's header without its stream id."""
    return length.to_bytes(3, "big") + bytes([kind, flags])


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _start(kind, flags, len(payload)) + stream.to_bytes(4, "big") + payload
