"""What a request's fields say is understood, also from memory; and ours are what they should be."""

from typing import Any
from urllib.parse import unquote

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http2 import fields
from service.http2.fields import FieldReader, Malformed, RequestHead
from tests.service.http2.peer import request_fields

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
def test_a_block_that_is_remembered_never_means_what_it_meant_before(requests: list[Request]) -> None:
    """Of one encoder, whose blocks repeat themselves while its table changes between them."""
    encoder, reader = hpack.Encoder(), FieldReader(str.upper)
    for path, timeout, value, indexed in requests:
        more: list[Any] = [] if timeout is None else [("grpc-timeout", timeout)]
        if value is not None:
            more.append(("x-value", value) if indexed else hpack.NeverIndexedHeaderTuple("x-value", value))
        head = reader.read(encoder.encode(request_fields(path, *more)))
        assert head.method == path.upper()
        assert (head.timeout_s is None) == (timeout is None)
        if timeout is not None and timeout.endswith("u"):
            assert head.timeout_s == pytest.approx(int(timeout[:-1]) / 1e6)


def read(*more: tuple[str, str]) -> RequestHead[str]:
    return FieldReader(str).read(hpack.Encoder().encode(request_fields("/a/A", *more)))


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [("2H", 7200), ("3M", 180), ("99999999S", 99_999_999), ("5m", 5e-3), ("7u", 7e-6), ("9n", 9e-9)],
)
def test_a_timeout_is_read_in_all_units(timeout: str, seconds: float) -> None:
    assert read(("grpc-timeout", timeout)).timeout_s == pytest.approx(seconds)


@pytest.mark.parametrize("timeout", ["", "5", "S", "-1S", "123456789S", "1.5S", "1s", "٣S"])
def test_what_is_no_timeout_is_refused(timeout: str) -> None:
    with pytest.raises(Malformed, match="no grpc-timeout"):
        read(("grpc-timeout", timeout))


def test_an_encoding_is_read_and_metadata_of_any_bytes_does_no_harm() -> None:
    assert read().encoding == "identity"
    block = hpack.Encoder().encode([*request_fields("/a/A"), ("grpc-encoding", "gzip"), (b"x", b"\xff\xfe")])
    assert FieldReader(str).read(block).encoding == "gzip"


def decoded(block: bytes) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in hpack.Decoder().decode(block)]


@pytest.mark.parametrize(
    "message", ["", "plain words", "Käse, 100 % \n\t\x00", "ü" * 5000, "~!\"#$&'()*+,/:;<=>?@[\\]^`{|}"]
)
def test_a_failure_says_its_code_and_its_message_in_printable_ascii(message: str) -> None:
    found = dict(decoded(fields.failure(3, message)))
    assert found["grpc-status"] == "3"
    assert found["grpc-message"].isprintable()
    assert found["grpc-message"].isascii()
    assert unquote(found["grpc-message"]) == message[: fields.MAX_MESSAGE_CHARACTERS]


def test_fields_of_ours_are_what_clients_expect() -> None:
    assert decoded(fields.RESPONSE) == [(":status", "200"), ("content-type", "application/grpc")]
    assert decoded(fields.DONE) == [("grpc-status", "0")]
    assert decoded(fields.refusal(415, "no"))[0] == (":status", "415")
    assert decoded(fields.block(("a", "b" * 500))) == [("a", "b" * 500)]
