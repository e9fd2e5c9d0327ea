"""What a server has answered, read from its bytes, and what a case may expect of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import hpack

from service.http2 import frames


@dataclass
class Outcome:
    """What came: statuses by stream, resets, and whether the connection was ended."""

    grpc_status: dict[int, int] = field(default_factory=dict)
    http_status: dict[int, int] = field(default_factory=dict)
    resets: dict[int, int] = field(default_factory=dict)
    goaways: list[int] = field(default_factory=list)
    pings: list[bytes] = field(default_factory=list)
    settings_acks: int = 0
    data: dict[int, int] = field(default_factory=dict)
    """Octets of DATA by stream."""
    closed: bool = False
    """The server has closed the connection."""

    @property
    def ended(self) -> bool:
        """The connection was ended, with a reason or without."""
        return self.closed or any(self.goaways)


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yields the frames in the data: type, flags, stream, payload."""
    at = 0
    while len(data) - at >= 9:
        high, low, kind, flags, stream = frames.FRAME_HEADER.unpack_from(data, at)
        end = at + 9 + (high << 8 | low)
        if end > len(data):
            return
        yield kind, flags, stream, data[at + 9 : end]
        at = end


def read(data: bytes, *, closed: bool = False) -> Outcome:
    """Reads what a server has sent."""
    outcome, decoder = Outcome(closed=closed), hpack.Decoder()
    block = b""
    for kind, flags, stream, payload in split(data):
        if kind in (frames.HEADERS, frames.CONTINUATION):
            assert len(payload) <= frames.DEFAULT_FRAME_SIZE
            block += payload
            if flags & frames.END_HEADERS:
                _note_fields(outcome, stream, {str(name): str(value) for name, value in decoder.decode(block)})
                block = b""
        else:
            _note(outcome, kind, flags & frames.ACK, stream, payload)
    return outcome


def _note_fields(outcome: Outcome, stream: int, fields: dict[str, str]) -> None:
    if ":status" in fields:
        outcome.http_status[stream] = int(fields[":status"])
    if "grpc-status" in fields:
        outcome.grpc_status[stream] = int(fields["grpc-status"])


def _note(outcome: Outcome, kind: int, ack: int, stream: int, payload: bytes) -> None:
    if kind == frames.DATA:
        outcome.data[stream] = outcome.data.get(stream, 0) + len(payload)
    elif kind == frames.RST_STREAM:
        outcome.resets[stream] = int.from_bytes(payload, "big")
    elif kind == frames.GOAWAY:
        outcome.goaways.append(int.from_bytes(payload[4:8], "big"))
    elif kind == frames.PING and ack:
        outcome.pings.append(payload)
    elif kind == frames.SETTINGS and ack:
        outcome.settings_acks += 1


Expectation = Callable[[Outcome], bool]


def served(*streams: int) -> Expectation:
    """These requests succeed."""
    return lambda outcome: all(outcome.grpc_status.get(stream) == 0 for stream in streams)


def status(code: int, stream: int = 1) -> Expectation:
    """The request fails with this code of gRPC."""
    return lambda outcome: outcome.grpc_status.get(stream) == code


def http(code: int, stream: int = 1) -> Expectation:
    """The request is answered with this status of HTTP."""
    return lambda outcome: outcome.http_status.get(stream) == code


def ends(*codes: int) -> Expectation:
    """A connection error of one of these codes; a peer may close without GOAWAY (section 5.4.1)."""
    return lambda outcome: any(code in codes for code in outcome.goaways) or (outcome.closed and not outcome.goaways)


def resets(*codes: int, stream: int = 1) -> Expectation:
    """A stream error of one of these codes, or a connection error instead of it (section 5.4.2)."""
    return lambda outcome: outcome.resets.get(stream) in codes or ends(*codes)(outcome)


def malformed(stream: int = 1) -> Expectation:
    """What section 8.1.1 asks for malformed requests: a stream error PROTOCOL_ERROR, or a status of 4xx."""
    return lambda outcome: (
        outcome.grpc_status.get(stream) != 0
        and (resets(1, stream=stream)(outcome) or 400 <= outcome.http_status.get(stream, 0) < 500)
    )


def pings(payload: bytes) -> Expectation:
    """A ping is answered with its own octets."""
    return lambda outcome: payload in outcome.pings


def not_served(stream: int = 1) -> Expectation:
    """The request is not served, and the connection lives."""
    return lambda outcome: outcome.grpc_status.get(stream) != 0 and not outcome.ended
