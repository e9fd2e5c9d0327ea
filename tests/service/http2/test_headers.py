"""What a request's fields say is understood, also from memory; and ours are what they should be."""

from typing import Any
from urllib.parse import unquote

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http2 import headers
from service.http2.headers import HeaderListTooLarge, HeaderReader, NotGrpc, RequestHead
from tests.service.rpc.peer import request_fields

REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["/a/A", "/a/B", "/a/" + "long" * 40]),
        st.none() | st.sampled_from(["1S", "20m"]) | st.integers(1, 99_999_999).map("{}u".format),
        st.none() | st.sampled_from(["1", "2", "x" * 900, "y" * 1100]),
        st.booleans(),
    ),
    max_size=30,
)
Request = tuple[str, str | None, str | None, bool]


@given(REQUESTS)
def test_known_block_follows_the_table(requests: list[Request]) -> None:
    """Of one encoder, whose blocks repeat themselves while its table changes between them."""
    encoder, reader = hpack.Encoder(), HeaderReader()
    for path, timeout, value, indexed in requests:
        more: list[Any] = [] if timeout is None else [("grpc-timeout", timeout)]
        if value is not None:
            more.append(("x-value", value) if indexed else hpack.NeverIndexedHeaderTuple("x-value", value))
        head = reader.read(encoder.encode(request_fields(path, *more)))
        assert (head.path, head.metadata("x-value")) == (path, value)
        assert (head.timeout_s is None) == (timeout is None)
        if timeout is not None and timeout.endswith("u"):
            assert head.timeout_s == pytest.approx(int(timeout[:-1]) / 1e6)


def read(*more: tuple[str, str]) -> RequestHead:
    return HeaderReader().read(hpack.Encoder().encode(request_fields("/a/A", *more)))


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [("2H", 7200), ("3M", 180), ("99999999S", 99_999_999), ("5m", 5e-3), ("7u", 7e-6), ("9n", 9e-9)],
)
def test_timeout_in_all_units(timeout: str, seconds: float) -> None:
    """A timeout is read in all units."""
    assert read(("grpc-timeout", timeout)).timeout_s == pytest.approx(seconds)


@pytest.mark.parametrize("timeout", ["", "5", "S", "-1S", "123456789S", "1.5S", "1s", "٣S"])
def test_wrong_timeout_is_refused(timeout: str) -> None:
    """What is no timeout is refused."""
    with pytest.raises(NotGrpc, match="no grpc-timeout"):
        read(("grpc-timeout", timeout))


def test_encoding_is_read() -> None:
    """An encoding is read, and metadata of any bytes does no harm."""
    assert read().encoding == "identity"
    block = hpack.Encoder().encode([*request_fields("/a/A"), ("grpc-encoding", "gzip"), (b"x", b"\xff\xfe")])
    assert HeaderReader().read(block).encoding == "gzip"


def decoded(block: bytes) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in hpack.Decoder().decode(block)]


@pytest.mark.parametrize(
    "message", ["", "plain words", "Käse, 100 % \n\t\x00", "ü" * 5000, "~!\"#$&'()*+,/:;<=>?@[\\]^`{|}"]
)
def test_error_is_printable_ascii(message: str) -> None:
    """An error says its code, and its message in printable ASCII."""
    found = dict(decoded(headers.error_trailers(3, message)))
    assert found["grpc-status"] == "3"
    assert found["grpc-message"].isprintable()
    assert found["grpc-message"].isascii()
    assert len(found["grpc-message"]) <= headers.MAX_MESSAGE_BYTES
    unquoted = unquote(found["grpc-message"], errors="strict")
    assert message.startswith(unquoted)
    assert unquoted == message or len(found["grpc-message"]) > headers.MAX_MESSAGE_BYTES - 12


def test_metadata_by_name() -> None:
    """A field is found by its name, of several the last, of none None; reading costs nothing before."""
    head = read(("traceparent", "00-1"), ("x-request-id", "a"), ("x-request-id", "b"))
    assert (head.metadata("traceparent"), head.metadata("x-request-id")) == ("00-1", "b")
    assert head.metadata("authorization") is None


def test_large_metadata_refuses_one_request() -> None:
    """Fields beyond 16 KiB are refused, and the table goes on: also an entry named ten thousand times."""
    encoder, reader = hpack.Encoder(), HeaderReader()
    with pytest.raises(HeaderListTooLarge, match="header fields"):
        reader.read(encoder.encode([*request_fields("/a/A"), ("x", "y" * 3000)]) + b"\xbe" * 10_000)
    assert reader.read(encoder.encode([*request_fields("/a/A"), ("x", "y" * 3000)])).path == "/a/A"


def test_own_fields_are_right() -> None:
    """The fields that are sent are what clients expect."""
    assert decoded(headers.RESPONSE) == [(":status", "200"), ("content-type", "application/grpc")]
    assert decoded(headers.OK) == [("grpc-status", "0")]
    assert decoded(headers.refusal(415, "no"))[0] == (":status", "415")
    assert decoded(headers.encode(("a", "b" * 500))) == [("a", "b" * 500)]
