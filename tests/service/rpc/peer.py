"""A client of HTTP/2 by the library h2, which is strict, and one that sends whatever a test likes."""

import socket
import struct
from collections import defaultdict
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.events
import h2.settings

TIMEOUT_S = 20.0


def message(payload: bytes, flag: int = 0) -> bytes:
    """A message as gRPC frames it."""
    return struct.pack(">BL", flag, len(payload)) + payload


def request_fields(path: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    """What a gRPC client sends first."""
    return [
        *((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "test")),
        *(("te", "trailers"), ("content-type", "application/grpc"), *more),
    ]


class Response:
    """What has come on one stream."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.data = b""
        self.ended = False
        self.reset: int | None = None

    @property
    def status(self) -> int:
        """The code of gRPC."""
        return int(self.fields["grpc-status"])

    @property
    def messages(self) -> list[bytes]:
        """The messages in its data, all complete."""
        found, data = [], self.data
        while data:
            flag, length = struct.unpack_from(">BL", data)
            assert flag == 0
            assert len(data) >= 5 + length
            found.append(data[5 : 5 + length])
            data = data[5 + length :]
        return found


class Peer:
    """A connection. A context manager: leaving closes it."""

    def __init__(self, port: int, *, window: int | None = None) -> None:
        """``window``: the initial window of its streams."""
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.answers: dict[int, Response] = defaultdict(Response)
        self.gone: h2.events.ConnectionTerminated | None = None
        self.seen: list[h2.events.Event] = []
        self.h2.initiate_connection()
        if window is not None:
            self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def flush(self) -> None:
        """Sends what h2 has laid out."""
        self.socket.sendall(self.h2.data_to_send())

    def begin(self, path: str, *more: tuple[str, str], end: bool = False) -> int:
        """A request's fields; gives its stream."""
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, request_fields(path, *more), end_stream=end)
        self.flush()
        return stream

    def ask(self, path: str, payload: bytes, *more: tuple[str, str]) -> int:
        """A whole unary request; gives its stream."""
        stream = self.begin(path, *more)
        self.send(stream, message(payload), end=True)
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Data, as fast as the server's windows allow."""
        while True:
            size = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(data))
            last = size == len(data)
            if size or last:
                self.h2.send_data(stream, data[:size], end_stream=end and last)
                self.flush()
            data = data[size:]
            if last:
                return
            if not self.h2.local_flow_control_window(stream):
                self.receive()

    def receive(self, *, acknowledge: bool = True) -> list[h2.events.Event]:
        """What comes next; ``acknowledge``: windows are opened again by what was received."""
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionResetError("the server has closed the connection")
        events = self.h2.receive_data(data)
        for event in events:
            self._note(event, acknowledge=acknowledge)
        self.flush()
        self.seen += events
        return events

    def wait(self, *streams: int, acknowledge: bool = True) -> Sequence[Response]:
        """The answers on these streams, when they have ended."""
        while not all(self.answers[stream].ended for stream in streams):
            self.receive(acknowledge=acknowledge)
        return [self.answers[stream] for stream in streams]

    def call(self, path: str, payload: bytes, *more: tuple[str, str]) -> Response:
        """A unary call and its answer."""
        (answer,) = self.wait(self.ask(path, payload, *more))
        return answer

    def goodbye(self) -> tuple[int, bytes]:
        """Code and words of the GOAWAY with which the server ends the connection."""
        try:
            while True:
                self.receive()
        except OSError:
            assert self.gone is not None
            return int(self.gone.error_code or 0), self.gone.additional_data or b""

    def _note(self, event: h2.events.Event, *, acknowledge: bool) -> None:
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self.answers[event.stream_id].fields |= {str(name): str(value) for name, value in event.headers}
        elif isinstance(event, h2.events.DataReceived):
            self.answers[event.stream_id].data += event.data
            if acknowledge and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.answers[event.stream_id].ended = True
        elif isinstance(event, h2.events.StreamReset):
            self.answers[event.stream_id].reset = int(event.error_code or 0)
            self.answers[event.stream_id].ended = True
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.gone = event
