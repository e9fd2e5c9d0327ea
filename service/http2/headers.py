"""gRPC's header fields, in and out: what a request's say, and the few that are sent."""

from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import quote

from .frames import ErrorCode, ProtocolError, StreamError
from .hpack import ENTRY_BYTES, Decoder, DecodingError

MAX_LIST_BYTES = 16_384
"""SETTINGS_MAX_HEADER_LIST_SIZE: of a request's fields, as HPACK counts them."""
MAX_KNOWN_BLOCKS = 64
"""Header blocks of a connection whose meaning is kept, and the longest of them in bytes: clients repeat themselves."""
MAX_KNOWN_BLOCK_BYTES = 1024
MAX_SHAPE = 64
"""Fields of a request whose names, in their order, are worth remembering."""
MAX_MESSAGE_BYTES = 4_096
"""Of grpc-message, quoted: clients limit what trailers they take (8 KiB is usual)."""
UNITS = {0x48: 3600.0, 0x4D: 60.0, 0x53: 1.0, 0x6D: 1e-3, 0x75: 1e-6, 0x6E: 1e-9}
"""Of grpc-timeout: H, M, S, m, u, n."""
GRPC_CONTENT_TYPES = (b"application/grpc", b"application/grpc+proto")
ENCODINGS = ("identity", "deflate", "gzip")
"""Of messages that are read; those sent are never compressed."""
CONNECTION_SPECIFIC = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
PSEUDO_HEADERS = frozenset((b":method", b":scheme", b":path", b":authority"))
TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
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

    def __init__(self, names: Sequence[bytes], values: Sequence[bytes], path: str) -> None:
        self._names = names
        self._values = values
        self.path = path

    def read_optional(self, shape: "_Shape") -> None:
        """Reads what few requests have; raises StreamError, or NotGrpc for a timeout that is none."""
        values = self._values
        if shape.timeout is not None:
            self.timeout_s = _timeout(values[shape.timeout])
        if shape.encoding is not None:
            self.encoding = values[shape.encoding].decode("latin-1")
        if shape.content_length is not None:
            length = values[shape.content_length]
            if not length.isdigit() or len(length) > 18:
                raise StreamError(ErrorCode.PROTOCOL_ERROR, "content-length is no number")
            self.content_length = int(length)

    def metadata(self, name: str) -> str | None:
        """Returns the value of a field by its name in lower case; of several the last, None of none."""
        found = self._found
        if found is None:
            found = self._found = {}
        elif name in found:
            return found[name]
        value = found[name] = self._find(name)
        return value

    def _find(self, name: str) -> str | None:
        wanted = name.encode("latin-1")
        for at in range(len(self._names) - 1, -1, -1):
            if self._names[at] == wanted:
                return self._values[at].decode("latin-1")
        return None


class _Shape:
    """What the names of a request's fields say, in their order: the same for most requests of a client."""

    __slots__ = (
        *("content_length", "content_type", "encoding", "fault", "is_plain", "list_bytes"),
        *("method", "path", "te", "timeout"),
    )

    def __init__(self, names: tuple[bytes, ...]) -> None:
        at = {name: place for place, name in enumerate(names)}  # of several the last
        self.list_bytes = sum(map(len, names)) + ENTRY_BYTES * len(names)
        self.fault = _fault(names) or next(
            (f"{name.decode()} is missing" for name in (b":method", b":scheme", b":path") if name not in at), None
        )
        self.method, self.path = at.get(b":method", 0), at.get(b":path", 0)
        self.content_type, self.te = at.get(b"content-type"), at.get(b"te")
        self.timeout, self.encoding = at.get(b"grpc-timeout"), at.get(b"grpc-encoding")
        self.content_length = at.get(b"content-length")
        self.is_plain = self.timeout is None and self.encoding is None and self.content_length is None


def _fault(names: Sequence[bytes], *, trailers: bool = False) -> str | None:
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


_shape = lru_cache(maxsize=256)(_Shape)


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


_usual_path = lru_cache(maxsize=256)(_request_path)
MAX_USUAL_BYTES = 1024
"""Of a request's fields, where its path is worth remembering."""


class HeaderReader:
    """Reads the header blocks of one connection, each of which may change what the next ones mean."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self.known: dict[bytes, RequestHead] = {}
        """What blocks say that left the table alone: a client repeats them, for 0.1 µs instead of 3."""

    def read(self, block: bytes) -> RequestHead:
        """Returns a request's head.

        Raises ProtocolError, and what is this request's alone: StreamError, HeaderListTooLarge, NotGrpc.
        """
        decoder = self._decoder
        changes = decoder.changes
        fields = self._decode(block)
        unchanged = decoder.changes == changes
        if not unchanged and self.known:
            self.known.clear()
        count = len(fields)
        if count > MAX_LIST_BYTES // ENTRY_BYTES:
            raise HeaderListTooLarge(f"the request has {count} header fields. Send less metadata.")
        names, values = zip(*fields, strict=True) if fields else ((), ())
        shape = _shape(names) if count <= MAX_SHAPE else _Shape(names)
        text = b"".join(values)
        _check_values(text, shape.list_bytes)
        if shape.fault is not None:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, shape.fault)
        content_type, te = shape.content_type, shape.te
        head = RequestHead(
            names,
            values,
            (_usual_path if len(text) <= MAX_USUAL_BYTES else _request_path)(
                values[shape.method],
                values[shape.path],
                b"" if content_type is None else values[content_type],
                b"trailers" if te is None else values[te],
            ),
        )
        if not shape.is_plain:
            head.read_optional(shape)
        if unchanged and len(block) <= MAX_KNOWN_BLOCK_BYTES:
            if len(self.known) >= MAX_KNOWN_BLOCKS:
                self.known.clear()
            self.known[block] = head
        return head

    def read_trailers(self, block: bytes) -> None:
        """Reads a request's trailers, of which nothing is asked; raises as `read` does."""
        changes = self._decoder.changes
        fields = self._decode(block)
        if self._decoder.changes != changes:
            self.known.clear()
        if len(fields) > MAX_LIST_BYTES // ENTRY_BYTES:
            raise HeaderListTooLarge(f"the trailers have {len(fields)} fields")
        names = [name for name, _ in fields]
        _check_values(b"".join([value for _, value in fields]), sum(map(len, names)) + ENTRY_BYTES * len(names))
        fault = _fault(names, trailers=True)
        if fault is not None:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, fault)

    def skip(self, block: bytes) -> None:
        """Reads a block only because it may change the table; raises ProtocolError."""
        changes = self._decoder.changes
        self._decode(block)
        if self._decoder.changes != changes:
            self.known.clear()

    def _decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        try:
            return self._decoder.decode(block)
        except DecodingError as error:
            raise ProtocolError(ErrorCode.COMPRESSION_ERROR, f"a header block cannot be decoded: {error}") from error


def _check_values(text: bytes, names_bytes: int) -> None:
    """Raises HeaderListTooLarge, or StreamError for an octet that no value may have (RFC 9113, section 8.2.1)."""
    if len(text) + names_bytes > MAX_LIST_BYTES:
        size = len(text) + names_bytes
        raise HeaderListTooLarge(
            f"the request's header fields have {size} bytes: {MAX_LIST_BYTES} may be. Send less metadata."
        )
    if 0x0A in text or 0x0D in text or 0 in text:
        raise StreamError(ErrorCode.PROTOCOL_ERROR, "a field's value has CR, LF or NUL")


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
RESPONSE = b"\x88\x0f\x10" + _integer(16, 7) + b"application/grpc"
OK = encode(("grpc-status", "0"))
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
