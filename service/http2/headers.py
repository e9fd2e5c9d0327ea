"""gRPC's header fields, in and out: what a request's say, and the few that are sent."""

from functools import lru_cache
from typing import Final
from urllib.parse import quote

from .frames import ErrorCode, ProtocolError, StreamError
from .hpack import ENTRY_BYTES, Decoder, DecodingError, Field

MAX_LIST_BYTES: Final = 16_384
"""SETTINGS_MAX_HEADER_LIST_SIZE: of a request's fields, as HPACK counts them."""
MAX_KNOWN_BLOCKS: Final = 64
"""Header blocks of a connection whose meaning is kept, and the longest of them in bytes: clients repeat themselves."""
MAX_KNOWN_BLOCK_BYTES: Final = 1024
MAX_REPEATED: Final = 64
MAX_REPEATED_BYTES: Final = 2048
"""Sequences of fields of a connection that are kept because they repeat, and the longest as HPACK counts it."""
MAX_VARYING: Final = 64
MAX_NAME_BYTES: Final = 64
"""Names of a connection's fields that are known to be right, and the longest of them."""
MAX_MESSAGE_BYTES: Final = 4_096
"""Of grpc-message, quoted: clients limit what trailers they take (8 KiB is usual)."""
UNITS: Final = {0x48: 3600.0, 0x4D: 60.0, 0x53: 1.0, 0x6D: 1e-3, 0x75: 1e-6, 0x6E: 1e-9}
"""Of grpc-timeout: H, M, S, m, u, n."""
GRPC_CONTENT_TYPES: Final = (b"application/grpc", b"application/grpc+proto")
ENCODINGS: Final = ("identity", "deflate", "gzip")
"""Of messages that are read; those sent are never compressed."""
TIMEOUT: Final = b"grpc-timeout"
CONTENT_LENGTH: Final = b"content-length"
ENCODING: Final = b"grpc-encoding"
OPTIONAL: Final = frozenset((TIMEOUT, CONTENT_LENGTH, ENCODING))
"""Names of fields that are read where a request has them."""
CONSTANT: Final = frozenset((b"content-type", b"te", b"user-agent", ENCODING))
"""Names of fields that are the same in all requests of a client to a method, beside the pseudo-headers."""
CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
PSEUDO_HEADERS: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
TOKEN: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
"""Octets of a field's name (RFC 9110, section 5.1, without capitals: RFC 9113, section 8.2)."""


class HeaderListTooLarge(Exception):
    """The fields of this request are more than is allowed; the connection can go on."""


class NotGrpc(Exception):
    """A request that is none of gRPC's: it is answered with a status of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class RequestHead:
    """What a request's fields say."""

    content_length: int | None = None
    timeout_s: float | None = None
    encoding = "identity"
    """Of compressed messages."""
    _found: dict[str, str | None] | None = None
    """Values that were asked for: a head is that of many requests where a client repeats itself."""

    def __init__(self, fields: list[Field], path: str) -> None:
        self._fields = fields
        self.path = path

    def read_optional(self, fields: list[Field]) -> None:
        """Reads from these fields what few requests have; raises StreamError, or NotGrpc for a wrong timeout."""
        for name, value in fields:
            if name not in OPTIONAL:
                continue
            if name == TIMEOUT:
                self.timeout_s = _timeout(value)
            elif name == ENCODING:
                self.encoding = value.decode("latin-1")
            elif value.isdigit() and len(value) <= 18:
                self.content_length = int(value)
            else:
                raise StreamError(ErrorCode.PROTOCOL_ERROR, "content-length is no number")

    def metadata(self, name: str) -> str | None:
        """Returns the value of a field by its name in lower case; of several the last, None of none."""
        found = self._found
        if found is None:
            found = self._found = {}
        elif name in found:
            return found[name]
        wanted = name.encode("latin-1")
        value = found[name] = next(
            (value.decode("latin-1") for name, value in reversed(self._fields) if name == wanted), None
        )
        return value


class _Repeated:
    """What those fields of a request say that its client repeats, checked once for all requests that have them."""

    __slots__ = ("fields", "has_optional", "last_name", "last_pseudo", "list_bytes", "path")

    def __init__(self, fields: list[Field]) -> None:
        """Raises HeaderListTooLarge, NotGrpc, or StreamError where they are malformed."""
        self.fields = fields
        self.list_bytes = _check_values(fields)
        names = [name for name, _ in fields]
        fault = _fault(names) or next(
            (f"{name.decode()} is missing" for name in (b":method", b":scheme", b":path") if name not in names), None
        )
        if fault is not None:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, fault)
        values = dict(fields)  # of several the last
        self.path = _request_path(
            values[b":method"], values[b":path"], values.get(b"content-type", b""), values.get(b"te", b"trailers")
        )
        self.last_pseudo = sum(name.startswith(b":") for name in names) - 1
        """The place of the last pseudo-header."""
        self.last_name = names[self.last_pseudo]
        self.has_optional = not OPTIONAL.isdisjoint(names)

    def check_varied(self, varied: list[Field], fields: list[Field]) -> list[Field]:
        """Checks the other fields of a request, whose names are right; raises HeaderListTooLarge or StreamError.

        Returns those fields among which optional ones are.
        """
        size, has_optional = self.list_bytes, False
        for name, value in varied:
            size += len(name) + len(value) + ENTRY_BYTES
            if name in OPTIONAL:
                has_optional = True
            if 0 in value or 0x0A in value or 0x0D in value:
                raise StreamError(ErrorCode.PROTOCOL_ERROR, WRONG_VALUE)
        if size > MAX_LIST_BYTES:
            raise HeaderListTooLarge(_too_large(size))
        if fields[self.last_pseudo][0] != self.last_name:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "a pseudo-header is behind other fields")
        if self.has_optional:
            return fields
        return varied if has_optional else []


def _fault(names: list[bytes], *, trailers: bool = False) -> str | None:
    """Returns what makes fields of these names malformed (RFC 9113, section 8), if anything."""
    regular = False
    seen = set()
    for name in names:
        if name.startswith(b":"):
            if trailers or regular or name in seen or name not in PSEUDO_HEADERS:
                return f"the pseudo-header {name[:40]!r} is unknown, repeated, or out of its place"
            seen.add(name)
        else:
            regular = True
            if not name or not TOKEN.issuperset(name):
                return f"{name[:40]!r} is no name of a field"
            if name in CONNECTION_SPECIFIC:
                return f"{name.decode()} is not for HTTP/2"
    return None


def _request_path(method: bytes, path: bytes, content_type: bytes, te: bytes) -> str:
    """Returns :path; raises StreamError where a request is malformed, NotGrpc where it is HTTP and not gRPC."""
    if method != b"POST":
        raise NotGrpc(405, "gRPC asks by POST")
    if not path:
        raise StreamError(ErrorCode.PROTOCOL_ERROR, ":path is empty")
    if content_type not in GRPC_CONTENT_TYPES and not content_type.startswith(
        (b"application/grpc+", b"application/grpc;")
    ):
        text = content_type.decode("latin-1")[:80]
        raise NotGrpc(415, f"gRPC's content-type is application/grpc, not {text!r}")
    if te != b"trailers":
        raise StreamError(ErrorCode.PROTOCOL_ERROR, "te may say trailers and nothing else")
    return path.decode("latin-1")


class HeaderReader:
    """Reads the header blocks of one connection, each of which may change what the next ones mean.

    Most requests of a client have the same fields, but for a deadline, a trace or an id. So the others are checked as
    a whole, once, and found by what the table says they are.
    """

    def __init__(self) -> None:
        self._varying = {TIMEOUT, CONTENT_LENGTH}  # names that are known to be right
        self._decoder = Decoder(self._varying)
        self._repeated: dict[tuple[Field, ...], _Repeated] = {}
        self._last: _Repeated | None = None  # of the request before
        self.known: dict[bytes, RequestHead] = {}
        """What blocks say that left the table alone: a client repeats them, for 0.1 µs instead of 2."""

    def read(self, block: bytes) -> RequestHead:
        """Returns a request's head.

        Raises ProtocolError, and what is this request's alone: StreamError, HeaderListTooLarge, NotGrpc.
        """
        decoder = self._decoder
        changes = decoder.changes
        fields = self._decode(block)
        repeated = self._last
        if repeated is None or repeated.fields != decoder.repeated:
            repeated = self._last = self._repeated.get(tuple(decoder.repeated)) or self._learn(decoder.repeated)
            repeated.fields = decoder.repeated  # the same objects are found to be equal at once
        head = RequestHead(fields, repeated.path)
        optional = repeated.check_varied(decoder.varied, fields)
        if optional:
            head.read_optional(optional)
        if decoder.changes == changes and len(block) <= MAX_KNOWN_BLOCK_BYTES:
            if len(self.known) >= MAX_KNOWN_BLOCKS:
                self.known.clear()
            self.known[block] = head
        return head

    def read_trailers(self, block: bytes) -> None:
        """Reads a request's trailers, of which nothing is asked; raises as `read` does."""
        fields = self._decode(block)
        _check_values(fields)
        fault = _fault([name for name, _ in fields], trailers=True)
        if fault is not None:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, fault)

    def skip(self, block: bytes) -> None:
        """Reads a block only because it may change the table; raises ProtocolError."""
        self._decode(block)

    def _decode(self, block: bytes) -> list[Field]:
        """Returns the fields of a block; raises ProtocolError, or HeaderListTooLarge where they are too many."""
        decoder, known = self._decoder, self.known
        changes = decoder.changes
        try:
            fields = decoder.decode(block)
        except DecodingError as error:
            raise ProtocolError(ErrorCode.COMPRESSION_ERROR, f"a header block cannot be decoded: {error}") from error
        if known and decoder.changes != changes:
            known.clear()
        return fields

    def _learn(self, fields: list[Field]) -> _Repeated:
        """Checks fields that have not been met; raises as `read` does."""
        repeated = _Repeated(fields)
        if repeated.list_bytes <= MAX_REPEATED_BYTES:
            if len(self._repeated) >= MAX_REPEATED:
                self._repeated.clear()
            self._repeated[tuple(fields)] = repeated
        # From now on those that a table does not have are fields that vary.
        if len(self._varying) >= MAX_VARYING:
            self._varying.intersection_update(OPTIONAL)
        self._varying.update(
            name
            for name, _ in fields
            if len(name) <= MAX_NAME_BYTES and name not in CONSTANT and not name.startswith(b":")
        )
        return repeated


WRONG_VALUE: Final = "a field's value has CR, LF or NUL"


def _too_large(size: int) -> str:
    return f"the request's header fields have {size} bytes: {MAX_LIST_BYTES} may be. Send less metadata."


def _check_values(fields: list[Field]) -> int:
    """Returns how large fields are, as HPACK counts them.

    Raises HeaderListTooLarge, or StreamError for an octet that no value may have (RFC 9113, section 8.2.1).
    """
    if len(fields) > MAX_LIST_BYTES // ENTRY_BYTES:
        raise HeaderListTooLarge(f"the request has {len(fields)} header fields. Send less metadata.")
    text = b"".join([value for _, value in fields])
    size = len(text) + sum(len(name) for name, _ in fields) + ENTRY_BYTES * len(fields)
    if size > MAX_LIST_BYTES:
        raise HeaderListTooLarge(_too_large(size))
    if 0x0A in text or 0x0D in text or 0 in text:
        raise StreamError(ErrorCode.PROTOCOL_ERROR, WRONG_VALUE)
    return size


def _timeout(text: bytes) -> float:
    digits = text[:-1]
    if not digits.isdigit() or len(digits) > 8 or text[-1] not in UNITS:
        shown = text.decode("latin-1")[:80]
        raise NotGrpc(400, f"{shown!r} is no grpc-timeout: up to 8 digits and one of H, M, S, m, u, n")
    return int(digits) * UNITS[text[-1]]


def _integer(value: int, prefix_bits: int) -> bytes:
    """Returns an integer as HPACK writes it (RFC 7541, section 5.1), with the bits before the prefix zero."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes([value])
    encoded = bytearray([most])
    value -= most
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode(*fields: tuple[str, str]) -> bytes:
    """Returns a header block of literals that change no table: which of two blocks is sent first does not matter."""
    return b"".join(
        b"\0" + _integer(len(name), 7) + name + _integer(len(value), 7) + value
        for name, value in ((name.encode("ascii"), value.encode("ascii")) for name, value in fields)
    )


# :status 200 is entry 8 of the static table, content-type the name of entry 31.
RESPONSE: Final = b"\x88\x0f\x10" + _integer(16, 7) + b"application/grpc"
OK: Final = encode(("grpc-status", "0"))
"""The trailers of a call that succeeded."""


@lru_cache(maxsize=256)
def error_trailers(code: int, message: str, pushback_ms: int | None = None) -> bytes:
    """Returns the trailers of a call that failed, the message shortened to what clients take.

    ``pushback_ms``: when the client may repeat the call; negative: never.
    """
    return encode(
        ("grpc-status", str(code)),
        ("grpc-message", quoted(message)),
        ("grpc-accept-encoding", ",".join(ENCODINGS)),
        *(() if pushback_ms is None else (("grpc-retry-pushback-ms", str(pushback_ms)),)),
    )


def quoted(message: str) -> str:
    """Returns a message percent-encoded, and then shortened without cutting an encoded character in two."""
    text = quote(message[:MAX_MESSAGE_BYTES], safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}~", errors="replace")
    if len(text) <= MAX_MESSAGE_BYTES:
        return text
    text = text[:MAX_MESSAGE_BYTES]
    cut = text.rfind("%", MAX_MESSAGE_BYTES - 2)
    text = text[:cut] if cut >= 0 else text
    while text[-3:-2] == "%" and 0x80 <= int(text[-2:], 16) < 0xC0:  # the rest of a character that was cut
        text = text[:-3]
    if text[-3:-2] == "%" and int(text[-2:], 16) >= 0xC0:
        text = text[:-3]
    return text


def refusal(status: int, message: str) -> bytes:
    """Returns the whole answer to what is no request of gRPC's: HTTP's status, and gRPC's for proxies that read it."""
    return encode((":status", str(status)), ("content-type", "application/grpc")) + error_trailers(2, message)
