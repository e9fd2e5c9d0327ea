"""Serialised ModelInferRequests of every form that protobuf allows, as hypothesis strategies: lists of fields."""

from hypothesis import strategies as st

from service.api.protobuf_wire import varint
from service.pb import open_inference_pb2 as pb

MODEL, VERSION, ID, PARAMETERS, INPUTS, OUTPUTS, RAW = range(1, 8)
ELEMENTS = 4
"""Bytes of raw contents: a vector of one FP32."""


def long_varint(value: int, extra: int) -> bytes:
    """A varint with so many bytes more than it needs."""
    short = varint(value)
    return short if not extra else short[:-1] + bytes([short[-1] | 0x80]) + b"\x80" * (extra - 1) + b"\0"


def field(number: int, content: bytes, extra: int = 0) -> bytes:
    """A length-delimited field; ``extra`` bytes in its length that it does not need."""
    return varint(number << 3 | 2) + long_varint(len(content), extra) + content


def input_tensor(name: str, shape: list[int], *, packed: bool, swapped: bool) -> bytes:
    """An InferInputTensor of FP32."""
    axes = (
        field(3, b"".join(varint(axis) for axis in shape))
        if packed
        else b"".join(b"\x18" + varint(axis) for axis in shape)
    )
    parts = [field(1, name.encode()), field(2, b"FP32"), axes]
    return b"".join(reversed(parts) if swapped else parts)


def parameter(name: str, value: int) -> bytes:
    """An entry of the map of parameters."""
    return pb.ModelInferRequest(parameters={name: pb.InferParameter(int64_param=value)}).SerializeToString()[2:]


EXTRA = st.sampled_from([0, 0, 0, 0, 0, 1, 3, 9])
MODELS = st.sampled_from([b"sum", b"sum", b"sum", b"nix", b"\xff"])
IDS = st.sampled_from([b"", b"a", b"request 7", "nämlich".encode(), b"i" * 200, b"\xff"])
TENSORS = st.builds(
    input_tensor,
    st.sampled_from(["left", "right"]),
    st.sampled_from([[1, 1], [1], [2, 1], [1, 1, 1]]),
    packed=st.booleans(),
    swapped=st.booleans(),
)
NUMBERS = st.builds(parameter, st.sampled_from(["timeout", "priority", "sequence_id", "other"]), st.integers(-1, 9))
UNKNOWN = st.sampled_from(
    [
        field(9, b"unknown"),
        b"\x48\1",
        b"\x4d" + bytes(4),
        b"\x49" + bytes(8),
        field(999, b"far"),
        b"\x08\1",
        b"\x4b\x4c",
    ]
)
RAWS = st.binary(min_size=ELEMENTS, max_size=ELEMENTS) | st.sampled_from([b"", bytes(8), bytes(300)])


def of(number: int, contents: st.SearchStrategy[bytes]) -> st.SearchStrategy[tuple[int, bytes]]:
    """A field of this number, and the number."""
    return st.builds(lambda content, extra: (number, field(number, content, extra)), contents, EXTRA)


USUAL: list[tuple[int, bytes]] = [
    (MODEL, field(MODEL, b"sum")),
    (INPUTS, field(INPUTS, input_tensor("left", [1, 1], packed=True, swapped=False))),
    (INPUTS, field(INPUTS, input_tensor("right", [1, 1], packed=True, swapped=False))),
]
ODD = st.one_of(
    of(MODEL, MODELS),
    of(VERSION, st.sampled_from([b"", b"1", b"x"])),
    of(INPUTS, TENSORS),
    of(OUTPUTS, st.sampled_from([field(1, b"total"), field(1, b"nix")])),
    st.tuples(st.just(0), UNKNOWN),
)
FREE = st.one_of(of(ID, IDS), of(PARAMETERS, NUMBERS))
"""Fields of no key."""


Fields = list[tuple[int, bytes]]
"""Serialised fields, each with its number."""


@st.composite
def request_fields(draw: st.DrawFn) -> Fields:
    """The fields of a request, most of them in the usual order."""
    fields = list(USUAL)
    for extra in draw(st.lists(st.one_of(ODD, FREE, FREE, FREE), max_size=3)):
        fields.insert(draw(st.integers(0, len(fields))), extra)
    fields += draw(st.lists(of(RAW, RAWS), min_size=2, max_size=2) | st.lists(of(RAW, RAWS), max_size=3))
    return draw(st.permutations(fields)) if draw(st.integers(0, 5)) == 0 else fields


@st.composite
def with_other_free_fields(draw: st.DrawFn, fields: Fields) -> Fields:
    """The same request with another id, other parameters and other elements."""
    plain = len(field(RAW, bytes(ELEMENTS)))
    others = [
        (number, field(RAW, draw(st.binary(min_size=ELEMENTS, max_size=ELEMENTS))))
        if number == RAW and len(content) == plain
        else (number, content)
        for number, content in fields
        if number not in (ID, PARAMETERS)
    ]
    for extra in draw(st.lists(FREE, max_size=2)):
        others.insert(draw(st.integers(0, len(others))), extra)
    return others


def serialise(fields: Fields) -> bytes:
    """The message of these fields."""
    return b"".join(content for _, content in fields)
