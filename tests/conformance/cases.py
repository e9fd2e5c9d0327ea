"""The cases: what a client sends behind its preface and SETTINGS, and what a server may do then.

Section numbers are those of RFC 9113, where not said otherwise. Every request is for ``ServerLive``.
"""

import gzip
import zlib
from dataclasses import dataclass

from service.http2 import frames
from service.http2.frames import frame
from tests.conformance.outcome import (
    Expectation,
    Outcome,
    ends,
    http,
    malformed,
    not_served,
    pings,
    resets,
    served,
    status,
)

PATH = "/inference.GRPCInferenceService/ServerLive"
AFTER = 99
"""The stream of the request that follows each case on a connection that must live."""
PSEUDO = ((":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", "localhost"))
GRPC = (("te", "trailers"), ("content-type", "application/grpc"))
METHOD, SCHEME, PATH_FIELD, AUTHORITY = PSEUDO


@dataclass(frozen=True)
class Case:
    """One case."""

    section: str
    name: str
    wire: bytes
    expect: Expectation
    lives: bool = True
    """The connection can be used afterwards."""
    first: bytes = frames.PREFACE + frames.settings({})

    @property
    def id(self) -> str:
        """Section and name."""
        return f"{self.section} {self.name}"


def literal(*fields: tuple[str | bytes, str | bytes]) -> bytes:
    """Header fields as literals without indexing (RFC 7541, 6.2.2)."""
    return b"".join(b"\0" + text(name) + text(value) for name, value in fields)


def text(value: str | bytes) -> bytes:
    """A string literal, its length in the HPACK integer of 7 bits."""
    raw = value if isinstance(value, bytes) else value.encode()
    if len(raw) < 127:
        return bytes([len(raw)]) + raw
    rest, length = len(raw) - 127, b"\x7f"
    while rest >= 128:
        length += bytes([rest & 127 | 128])
        rest >>= 7
    return length + bytes([rest]) + raw


BLOCK = literal(*PSEUDO, *GRPC)
ANY = bytes(8)
CLOSED = frames.settings({4: 0})
OPENED = frames.settings({4: 65_535})
"""The windows of streams as they were at first."""


def message(payload: bytes = b"", flag: int = 0) -> bytes:
    """A length-prefixed message."""
    return bytes([flag]) + len(payload).to_bytes(4, "big") + payload


def head(stream: int = 1, block: bytes = BLOCK, flags: int = frames.END_HEADERS) -> bytes:
    """A HEADERS frame."""
    return frame(frames.HEADERS, flags, stream, block)


def data(stream: int = 1, payload: bytes = b"\0\0\0\0\0", flags: int = frames.END_STREAM) -> bytes:
    """A DATA frame."""
    return frame(frames.DATA, flags, stream, payload)


def request(stream: int = 1, *more: tuple[str, str | bytes]) -> bytes:
    """A whole request, with these fields more."""
    return head(stream, BLOCK + literal(*more)) + data(stream)


def fields(*names: tuple[str | bytes, str | bytes]) -> bytes:
    """A whole request of these fields alone."""
    return head(1, literal(*names)) + data()


def both(*expectations: Expectation) -> Expectation:
    """All of them."""
    return lambda outcome: all(expectation(outcome) for expectation in expectations)


def acknowledged(times: int) -> Expectation:
    """So many SETTINGS are acknowledged, the first ones of the connection among them."""
    return lambda outcome: outcome.settings_acks >= times


def _nothing_for(stream: int) -> Expectation:
    def check(outcome: Outcome) -> bool:
        return stream not in outcome.grpc_status and stream not in outcome.data and not outcome.ended

    return check


PREFACE = [
    Case("3.4", "preface and request", request(), served(1)),
    Case("3.4", "HTTP/1.1", b"", ends(1), lives=False, first=b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    Case("3.4", "wrong preface", b"", ends(1), lives=False, first=frames.PREFACE[:-2] + b"XX"),
    Case("3.4", "no SETTINGS first", frame(frames.PING, 0, 0, ANY), ends(1), lives=False, first=frames.PREFACE),
    Case("3.4", "HEADERS first", request(), ends(1), lives=False, first=frames.PREFACE),
    Case("3.4", "values in SETTINGS", request(), served(1), first=frames.PREFACE + frames.settings({1: 0, 4: 70_000})),
]

FRAMES = [
    Case("4.1", "unknown type", frame(0x42, 0, 0, b"x") + request(), served(1)),
    Case("4.1", "unknown type on a stream", head() + frame(0x42, 0xFF, 1, b"x") + data(), served(1)),
    Case("4.1", "unknown flags", frame(frames.PING, 0xFE, 0, b"12345678"), pings(b"12345678")),
    Case("4.1", "reserved bit", head() + data(1 | 1 << 31), served(1)),
    Case("4.2", "unknown type of 16,384", frame(0x42, 0, 0, bytes(16_384)) + request(), served(1)),
    Case("4.2", "unknown type of 16,385", frame(0x42, 0, 0, bytes(16_385)), ends(6), lives=False),
    Case("4.2", "DATA of 16,384", head() + data(1, message(bytes(16_379))), status(3)),
    Case("4.2", "DATA of 16,385", head() + data(1, bytes(16_385)), resets(6), lives=False),
    Case("4.2", "HEADERS of 16,385", head(1, bytes(16_385)), ends(6), lives=False),
    Case("4.2", "length of all ones", b"\xff\xff\xff\0\0\0\0\0\1", ends(6), lives=False),
    Case("4.3", "block interrupted by PING", head(1, BLOCK[:9], 0) + frame(6, 0, 0, ANY), ends(1), lives=False),
    Case("4.3", "block interrupted by DATA", head(1, BLOCK[:9], 0) + data(), ends(1), lives=False),
    Case("4.3", "block interrupted by HEADERS", head(1, BLOCK[:9], 0) + head(3), ends(1), lives=False),
    Case("4.3", "block interrupted by unknown", head(1, BLOCK[:9], 0) + frame(0x42, 0, 1), ends(1), lives=False),
    Case("4.3", "block continued elsewhere", head(1, BLOCK[:9], 0) + frame(9, 4, 3, BLOCK[9:]), ends(1), lives=False),
]

# RFC 7541.
INDEXED = b"\x83\x86" + b"\x44" + text(PATH) + b"\x41" + text("x") + b"\x40" + text("te") + text("trailers")
INDEXED += b"\x5f" + text("application/grpc")
AGAIN = b"\x83\x86\xc1\xc0\xbf\xbe"


def broken(name: str, block: bytes, section: str) -> Case:
    """A block that cannot be decoded: a connection error COMPRESSION_ERROR."""
    return Case(f"7541 {section}", name, head(1, block), ends(9), lives=False)


HPACK = [
    Case("7541 2.3", "table used by the next", head(1, INDEXED) + data() + head(3, AGAIN) + data(3), served(1, 3)),
    Case("7541 4.2", "size 0 empties", head(1, INDEXED) + data() + head(3, b"\x20" + BLOCK) + data(3), served(1, 3)),
    Case("7541 4.2", "size 0 and 4,096", head(1, b"\x20\x3f\xe1\x1f" + BLOCK) + data(), served(1)),
    Case("7541 6.2.2", "not indexed", request(1, ("x", "y")), served(1)),
    Case("7541 6.2.3", "never indexed", head(1, BLOCK + b"\x10" + text("x") + text("y")) + data(), served(1)),
    Case("7541 6.2.1", "larger than the table", head(1, BLOCK + b"\x40\x01x" + text("y" * 5000)) + data(), served(1)),
    Case(
        "7541 5.2",
        "Huffman",
        head(1, BLOCK + b"\0\x01x" + bytes.fromhex("8cf1e3c2e5f23a6ba0ab90f4ff")) + data(),
        served(1),
    ),
    Case("7541 5.2", "empty Huffman", head(1, BLOCK + b"\0\x01x\x80") + data(), served(1)),
    Case("7541 5.1", "integer of several octets", head(1, BLOCK + b"\0\x01x" + text("y" * 300)) + data(), served(1)),
    Case("7541 5.1", "integer with zeros", head(1, BLOCK + b"\0\x01x\x7f\x80\x00" + b"y" * 127) + data(), served(1)),
    broken("index 0", b"\x80", "6.1"),
    broken("index beyond the table", BLOCK + b"\xbe", "2.3.3"),
    broken("index far beyond", BLOCK + b"\xff\xff\xff\x00", "2.3.3"),
    broken("name beyond the table", BLOCK + b"\x7e\x01x", "2.3.3"),
    broken("index evicted", INDEXED + b"\x20" + AGAIN, "4.2"),
    broken("size above the limit", b"\x3f\xe2\x1f" + BLOCK, "6.3"),
    broken("size within the block", BLOCK + b"\x20", "4.2"),
    broken("integer without end", BLOCK + b"\xff\xff\xff\xff\xff\xff\xff\xff\xff", "5.1"),
    broken("integer cut", BLOCK + b"\x7f", "5.1"),
    broken("string cut", BLOCK + b"\0\x05ab", "5.2"),
    broken("value missing", BLOCK + b"\0\x01x", "5.2"),
    broken("Huffman padded by zeros", BLOCK + b"\0\x01x\x81\x00", "5.2"),
    broken("Huffman padded by 8 bits", BLOCK + b"\0\x01x\x82\x1f\xff", "5.2"),
    broken("Huffman with EOS", BLOCK + b"\0\x01x\x84\xff\xff\xff\xff", "5.2"),
]

STREAMS = [
    Case("5.1", "DATA on idle", data(5), ends(1), lives=False),
    Case("5.1", "RST_STREAM on idle", frames.rst_stream(5, frames.ErrorCode.CANCEL), ends(1), lives=False),
    Case("5.1", "WINDOW_UPDATE on idle", frames.window_update(5, 1), ends(1), lives=False),
    Case("5.1", "CONTINUATION on idle", frame(9, 4, 1, BLOCK), ends(1), lives=False),
    Case("5.1", "PRIORITY on idle", frame(2, 0, 7, bytes(5)) + request(), served(1)),
    Case("5.1", "DATA after END_STREAM", head() + data() + data(), resets(5)),
    Case("5.1", "HEADERS after END_STREAM", head() + data() + head(), resets(5, 1), lives=False),
    Case("5.1", "CONTINUATION after the block", head() + frame(9, 4, 1, BLOCK), ends(1), lives=False),
    Case("5.1", "DATA after RST_STREAM", head() + frames.rst_stream(1, frames.ErrorCode.CANCEL) + data(), resets(5)),
    Case(
        "5.1",
        "HEADERS after RST_STREAM",
        head() + frames.rst_stream(1, frames.ErrorCode.CANCEL) + head(),
        ends(5, 1),
        lives=False,
    ),
    Case("5.1", "WINDOW_UPDATE after the answer", request() + frames.window_update(1, 9), served(1)),
    Case(
        "5.1", "RST_STREAM after the answer", request() + frames.rst_stream(1, frames.ErrorCode.CANCEL), lambda _: True
    ),
    Case("5.1", "PRIORITY after the answer", request() + frame(2, 0, 1, bytes(5)), served(1)),
    Case("5.1", "half-closed takes WINDOW_UPDATE", head() + frames.window_update(1, 9) + data(), served(1)),
    Case("5.1", "cancelled", head() + frames.rst_stream(1, frames.ErrorCode.CANCEL), _nothing_for(1)),
    Case("5.1.1", "even stream", head(2) + data(2), ends(1), lives=False),
    Case("5.1.1", "stream 0", head(0), ends(1), lives=False),
    Case("5.1.1", "lower stream", request(5) + request(3), ends(1, 5), lives=False),
    Case("5.1.1", "streams skipped", request(9), served(9)),
    Case("5.1.2", "interleaved", head() + head(3) + data(3) + data(), served(1, 3)),
]

TYPES = [
    Case("6.1", "DATA on stream 0", data(0), ends(1), lives=False),
    Case("6.1", "padded", head() + data(1, b"\x02" + message() + b"\0\0", 9), served(1)),
    Case("6.1", "padding and nothing else", head() + data(1, b"\x04" + bytes(4), 8) + data(), served(1)),
    Case("6.1", "padding as long as the frame", head() + data(1, b"\x05" + bytes(4), 9), ends(1), lives=False),
    Case("6.1", "padded without a length", head() + data(1, b"", 9), ends(1, 6), lives=False),
    Case("6.2", "padded", head(1, b"\x03" + BLOCK + bytes(3), 12) + data(), served(1)),
    Case("6.2", "padding longer than the frame", head(1, b"\xff" + BLOCK, 12), ends(1), lives=False),
    Case("6.2", "with priority", head(1, b"\0\0\0\0\x10" + BLOCK, 0x24) + data(), served(1)),
    Case("6.2", "padded with priority", head(1, b"\x02\0\0\0\0\x10" + BLOCK + bytes(2), 0x2C) + data(), served(1)),
    Case("6.2", "too short for priority", head(1, b"\0\0", 0x24), ends(1, 6), lives=False),
    Case("6.3", "PRIORITY on stream 0", frame(2, 0, 0, bytes(5)), ends(1), lives=False),
    Case("6.3", "PRIORITY of 4", head() + frame(2, 0, 1, bytes(4)), resets(6)),
    Case("6.3", "PRIORITY of 6", head() + frame(2, 0, 1, bytes(6)), resets(6)),
    Case("6.4", "RST_STREAM on stream 0", frame(3, 0, 0, bytes(4)), ends(1), lives=False),
    Case("6.4", "RST_STREAM of 3", head() + frame(3, 0, 1, bytes(3)), ends(6), lives=False),
    Case("6.4", "RST_STREAM of 5", head() + frame(3, 0, 1, bytes(5)), ends(6), lives=False),
    Case("6.5", "SETTINGS on a stream", frame(4, 0, 1), ends(1), lives=False),
    Case("6.5", "SETTINGS of 5", frame(4, 0, 0, bytes(5)), ends(6), lives=False),
    Case("6.5", "acknowledgement with payload", frame(4, 1, 0, bytes(6)), ends(6), lives=False),
    Case("6.5", "acknowledgement", frame(4, 1, 0) + request(), served(1)),
    Case("6.5", "empty is acknowledged", frame(4, 0, 0), acknowledged(2)),
    Case("6.5", "unknown setting", frames.settings({0xF000: 7}), acknowledged(2)),
    Case("6.5.2", "ENABLE_PUSH 2", frames.settings({2: 2}), ends(1), lives=False),
    Case("6.5.2", "ENABLE_PUSH 0", frames.settings({2: 0}) + request(), served(1)),
    Case("6.5.2", "INITIAL_WINDOW_SIZE 2^31", frames.settings({4: 2**31}), ends(3), lives=False),
    Case("6.5.2", "INITIAL_WINDOW_SIZE 2^31-1", frames.settings({4: 2**31 - 1}) + request(), served(1)),
    Case("6.5.2", "MAX_FRAME_SIZE 16,383", frames.settings({5: 16_383}), ends(1), lives=False),
    Case("6.5.2", "MAX_FRAME_SIZE 2^24", frames.settings({5: 2**24}), ends(1), lives=False),
    Case("6.5.2", "MAX_FRAME_SIZE 2^24-1", frames.settings({5: 2**24 - 1}) + request(), served(1)),
    Case("6.5.2", "HEADER_TABLE_SIZE 0", frames.settings({1: 0}) + request(), served(1)),
    Case("6.5.3", "acknowledged each", frames.settings({3: 9}) * 3, acknowledged(4)),
    Case("6.6", "PUSH_PROMISE", frame(5, 4, 1, bytes(4) + BLOCK), ends(1), lives=False),
    Case("6.7", "PING", frame(6, 0, 0, b"abcdefgh"), pings(b"abcdefgh")),
    Case("6.7", "PING with ACK", frame(6, 1, 0, b"abcdefgh"), lambda outcome: b"abcdefgh" not in outcome.pings),
    Case("6.7", "PING on a stream", frame(6, 0, 1, ANY), ends(1), lives=False),
    Case("6.7", "PING of 7", frame(6, 0, 0, bytes(7)), ends(6), lives=False),
    Case("6.7", "PING of 9", frame(6, 0, 0, bytes(9)), ends(6), lives=False),
    Case(
        "6.7", "PING between frames", head() + frame(6, 0, 0, b"abcdefgh") + data(), both(served(1), pings(b"abcdefgh"))
    ),
    Case("6.8", "GOAWAY on a stream", frame(7, 0, 1, bytes(8)), ends(1), lives=False),
    Case("6.8", "GOAWAY of 7", frame(7, 0, 0, bytes(7)), ends(6), lives=False),
    Case("6.8", "GOAWAY behind a request", request() + frames.goaway(0), served(1), lives=False),
    Case("6.9", "WINDOW_UPDATE by 0", frames.window_update(0, 0), ends(1), lives=False),
    Case("6.9", "WINDOW_UPDATE by 0 on a stream", head() + frames.window_update(1, 0), resets(1)),
    Case("6.9", "WINDOW_UPDATE of 3", frame(8, 0, 0, bytes(3)), ends(6), lives=False),
    Case("6.9", "WINDOW_UPDATE of 5", frame(8, 0, 0, bytes(5)), ends(6), lives=False),
    Case("6.9.1", "window overflows", frames.window_update(0, 2**31 - 1), ends(3), lives=False),
    Case("6.9.1", "stream's window overflows", head() + frames.window_update(1, 2**31 - 1), resets(3)),
    Case("6.9.1", "largest window", frames.window_update(0, 2**31 - 1 - 65_535) + request(), served(1)),
    Case(
        "6.9.2",
        "SETTINGS overflow a window",
        head() + frames.window_update(1, 2**31 - 1 - 65_535) + frames.settings({4: 65_536}),
        ends(3),
        lives=False,
    ),
    Case("6.9.2", "window opened", frames.settings({4: 0}) + request() + frames.settings({4: 99}), served(1)),
    Case(
        "6.9.2",
        "stream opened",
        frames.settings({4: 0}) + head() + frames.window_update(1, 99) + data() + OPENED,
        served(1),
    ),
    Case(
        "6.9.2", "opened after", frames.settings({4: 1}) + request() + frames.window_update(1, 99) + OPENED, served(1)
    ),
    Case(
        "6.10",
        "in three frames",
        head(1, BLOCK[:9], 0) + frame(9, 0, 1, BLOCK[9:20]) + frame(9, 4, 1, BLOCK[20:]) + data(),
        served(1),
    ),
    Case("6.10", "empty parts", head(1, b"", 0) + frame(9, 0, 1) + frame(9, 4, 1, BLOCK) + data(), served(1)),
    Case("6.10", "END_STREAM from HEADERS", head(1, BLOCK[:9], 1) + frame(9, 4, 1, BLOCK[9:]), status(3)),
    Case("6.10", "on stream 0", head(1, BLOCK[:9], 0) + frame(9, 4, 0, BLOCK[9:]), ends(1), lives=False),
    Case("6.10", "without HEADERS", frame(9, 4, 1, BLOCK), ends(1), lives=False),
    Case(
        "6.10", "without end", head(1, BLOCK, 0) + frame(9, 0, 1, literal(("a", "b"))) * 5000, ends(11, 1), lives=False
    ),
]


def bad(name: str, wire: bytes, section: str = "8.2") -> Case:
    """A malformed request (section 8.1.1), which must not be served; the RFC allows to end the connection for it."""
    return Case(section, name, wire, malformed())


TRAILERS = frames.END_HEADERS | frames.END_STREAM
STATED = head(1, BLOCK + literal(("content-length", "5")))
REQUESTS = [
    bad("capital in a name", request(1, ("X-Upper", "1"))),
    bad("empty name", request(1, ("", "1"))),
    bad("space in a name", request(1, ("a b", "1"))),
    bad("colon in a name", request(1, ("a:b", "1"))),
    bad("CR LF in a value", request(1, ("a", "x\r\ny"))),
    bad("LF in a value", request(1, ("a", "x\ny"))),
    bad("NUL in a value", request(1, ("a", b"x\0y"))),
    bad("connection", request(1, ("connection", "close")), "8.2.2"),
    bad("keep-alive", request(1, ("keep-alive", "1")), "8.2.2"),
    bad("proxy-connection", request(1, ("proxy-connection", "x")), "8.2.2"),
    bad("transfer-encoding", request(1, ("transfer-encoding", "chunked")), "8.2.2"),
    bad("upgrade", request(1, ("upgrade", "h2c")), "8.2.2"),
    bad("te that is not trailers", fields(*PSEUDO, ("te", "gzip"), GRPC[1]), "8.2.2"),
    bad("unknown pseudo-header", fields(*PSEUDO, (":odd", "1"), *GRPC), "8.3"),
    bad("response's pseudo-header", fields(*PSEUDO, (":status", "200"), *GRPC), "8.3"),
    bad("pseudo-header behind fields", fields(*PSEUDO[:3], *GRPC, AUTHORITY), "8.3"),
    bad("two methods", fields(METHOD, *PSEUDO, *GRPC), "8.3.1"),
    bad("two schemes", fields(SCHEME, *PSEUDO, *GRPC), "8.3.1"),
    bad("two paths", fields(PATH_FIELD, *PSEUDO, *GRPC), "8.3.1"),
    bad("two authorities", fields(AUTHORITY, *PSEUDO, *GRPC), "8.3.1"),
    bad("no method", fields(*PSEUDO[1:], *GRPC), "8.3.1"),
    bad("no scheme", fields(METHOD, *PSEUDO[2:], *GRPC), "8.3.1"),
    bad("no path", fields(*PSEUDO[:2], AUTHORITY, *GRPC), "8.3.1"),
    bad("empty path", fields(*PSEUDO[:2], (":path", ""), AUTHORITY, *GRPC), "8.3.1"),
    bad("no fields", head(1, b"") + data(), "8.3.1"),
    bad("content-length too large", request(1, ("content-length", "100")), "8.1.1"),
    bad("content-length too small", request(1, ("content-length", "1")), "8.1.1"),
    bad("content-length no number", request(1, ("content-length", "five")), "8.1.1"),
    bad("content-length with no data", head(1, BLOCK + literal(("content-length", "5")), 5), "8.1.1"),
    bad(
        "content-length and trailers",
        head(1, BLOCK + literal(("content-length", "6")))
        + data(1, message(), 0)
        + head(1, literal(("a", "b")), TRAILERS),
        "8.1.1",
    ),
    bad(
        "pseudo-header in trailers", head() + data(1, message(), 0) + head(1, literal((":path", "/")), TRAILERS), "8.1"
    ),
    bad("trailers that do not end", head() + data(1, message(), 0) + head(1, literal(("a", "b"))), "8.1"),
    bad("capital in trailers", head() + data(1, message(), 0) + head(1, literal(("A", "b")), TRAILERS), "8.1"),
    Case("8.1.1", "content-length right", request(1, ("content-length", "5")), served(1)),
    Case("8.1.1", "content-length, end alone", STATED + data(1, message(), 0) + data(1, b""), served(1)),
    Case("8.1.1", "content-length in pieces", STATED + data(1, message()[:2], 0) + data(1, message()[2:]), served(1)),
    Case("8.1.1", "content-length exceeded", STATED + data(1, message(), 0) + data(1, b"x"), malformed()),
    Case("8.1", "trailers", head() + data(1, message(), 0) + head(1, literal(("a", "b")), TRAILERS), served(1)),
    Case("8.1", "trailers without fields", head() + data(1, message(), 0) + head(1, b"", TRAILERS), served(1)),
    Case("8.3.1", "no authority", fields(*PSEUDO[:3], *GRPC), served(1)),
    Case("8.3.1", "host beside authority", request(1, ("host", "localhost")), served(1)),
    Case("8.2.3", "cookies in two fields", request(1, ("cookie", "a=b"), ("cookie", "c=d")), served(1)),
    Case("8.2", "the same field twice", request(1, ("x-a", "1"), ("x-a", "2")), served(1)),
    Case(
        "8.2",
        "a refused value is not the table's",
        head(1, BLOCK + b"\x40\x01x" + text("a\nb")) + data() + head(3, BLOCK + b"\xbe") + data(3),
        both(malformed(), malformed(3)),
    ),
    Case(
        "6.5.2",
        "17 KB of metadata",
        head(1, BLOCK + literal(("a", "v" * 8_000)), 0) + frame(9, 4, 1, literal(("b", "v" * 9_000))) + data(),
        not_served(),
    ),
]


def timeout(value: str, expect: Expectation) -> Case:
    """A request with this grpc-timeout."""
    return Case("gRPC Timeout", repr(value), request(1, ("grpc-timeout", value)), expect)


def refused(outcome: Outcome) -> bool:
    """Not served, by HTTP's 400 or a reset."""
    return outcome.grpc_status.get(1) != 0


def compressed(name: str, encoding: str, payload: bytes, expect: Expectation, flag: int = 1) -> Case:
    """A request whose message is, or says to be, compressed."""
    wire = head(1, BLOCK + literal(("grpc-encoding", encoding))) + data(1, message(payload, flag))
    return Case("gRPC Compression", name, wire, expect)


GRPC_CASES = [
    *(timeout(value, served(1)) for value in ("1H", "1M", "10S", "9999m", "99999999u", "99999999n")),
    *(timeout(value, refused) for value in ("1", "S", "123456789S", "1X", "-1S", "1.5S", "1 S", "")),
    Case("gRPC Request", "unknown method", fields(*PSEUDO[:2], (":path", "/a.B/C"), *GRPC), status(12)),
    Case(
        "gRPC Request", "unknown method of the service", fields(*PSEUDO[:2], (":path", PATH + "X"), *GRPC), status(12)
    ),
    Case("gRPC Request", "GET", fields((":method", "GET"), *PSEUDO[1:], *GRPC), lambda o: o.grpc_status.get(1) != 0),
    Case("gRPC Request", "no te", fields(*PSEUDO, GRPC[1]), served(1)),
    Case("gRPC Request", "user-agent", request(1, ("user-agent", "grpc-test/1.0")), served(1)),
    Case("gRPC Request", "metadata", request(1, ("a-key", "a value"), ("a-bin", "/w")), served(1)),
    Case("gRPC Request", "percent in metadata", request(1, ("a", "%zz")), served(1)),
    Case(
        "gRPC Content-Type", "+proto", fields(*PSEUDO, GRPC[0], ("content-type", "application/grpc+proto")), served(1)
    ),
    Case("gRPC Content-Type", "text/html", fields(*PSEUDO, GRPC[0], ("content-type", "text/html")), http(415)),
    Case("gRPC Content-Type", "none", fields(*PSEUDO, GRPC[0]), http(415)),
    Case("gRPC Content-Type", "application/grpcx", fields(*PSEUDO, ("content-type", "application/grpcx")), http(415)),
    compressed("gzip", "gzip", gzip.compress(b""), served(1)),
    compressed("deflate", "deflate", zlib.compress(b""), served(1)),
    compressed("gzip said and not used", "gzip", b"", served(1), flag=0),
    compressed("unknown and not used", "snappy", b"", lambda o: o.grpc_status.get(1) in (0, 12), flag=0),
    compressed("unknown", "snappy", b"x", lambda o: o.grpc_status.get(1) in (12, 13)),
    compressed("identity and flagged", "identity", b"x", lambda o: o.grpc_status.get(1) in (12, 13)),
    compressed("no gzip", "gzip", b"no gzip at all", lambda o: o.grpc_status.get(1, 0) != 0),
    compressed("gzip cut", "gzip", gzip.compress(b"abc")[:-9], lambda o: o.grpc_status.get(1, 0) != 0),
    Case("gRPC Message", "flag of 2", head() + data(1, message(b"", 2)), lambda o: o.grpc_status.get(1, 0) != 0),
    Case("gRPC Message", "none", head(1, BLOCK, TRAILERS), lambda o: o.grpc_status.get(1, 0) != 0),
    Case("gRPC Message", "none, in DATA", head() + data(1, b""), lambda o: o.grpc_status.get(1, 0) != 0),
    Case("gRPC Message", "two", head() + data(1, message() * 2), lambda o: o.grpc_status.get(1) in (3, 12, 13)),
    Case("gRPC Message", "prefix cut", head() + data(1, b"\0\0"), lambda o: o.grpc_status.get(1, 0) != 0),
    Case("gRPC Message", "payload cut", head() + data(1, message(b"abc")[:-1]), lambda o: o.grpc_status.get(1, 0) != 0),
    Case("gRPC Message", "no protobuf", head() + data(1, message(b"\xff\xff")), lambda o: o.grpc_status.get(1, 0) != 0),
    Case("gRPC Message", "too long", head() + data(1, b"\0\xff\xff\xff\xff", 0), status(8)),
    Case(
        "gRPC Message",
        "prefix in pieces",
        head() + b"".join(data(1, b"\0", 0) for _ in range(4)) + data(1, b"\0"),
        served(1),
    ),
    Case(
        "gRPC Message",
        "two in two frames",
        head() + data(1, message(), 0) + data(),
        lambda o: o.grpc_status.get(1) in (3, 12, 13),
    ),
    Case("gRPC Message", "trailers end it", head() + data(1, message(), 0) + head(1, b"", TRAILERS), served(1)),
    Case("gRPC Message", "END_STREAM alone", head() + data(1, message(), 0) + data(1, b""), served(1)),
    Case("gRPC Message", "empty DATA between", head() + data(1, b"", 0) * 9 + data(), served(1)),
]

CASES = [*PREFACE, *FRAMES, *HPACK, *STREAMS, *TYPES, *REQUESTS, *GRPC_CASES]
FOLLOWING = request(AFTER) + frame(frames.PING, 0, 0, b"finished")
"""What follows a case: a request that is served, and a ping, whose answer says that all has been read."""
