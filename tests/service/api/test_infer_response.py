"""A response is the one that protobuf would write, whether its layout is remembered or not."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.api.infer_response import InferResponseEncoder
from service.batching.batch import split
from service.pb import open_inference_pb2 as pb
from service.tensors import DATATYPES, TensorSpec
from tests.wire import raw_bytes

LOGITS = TensorSpec("logits", DATATYPES["FP32"], (-1, 10))
INDEX = TensorSpec("index", DATATYPES["INT64"], (-1,))
TEXT = TensorSpec("text", DATATYPES["BYTES"], (-1,))


def by_protobuf(request_id: str, wanted: list[tuple[TensorSpec, NDArray[Any]]]) -> bytes:
    message = pb.ModelInferResponse(model_name="mnist", model_version="3", id=request_id)
    for spec, array in wanted:
        message.outputs.add(name=spec.name, datatype=spec.datatype.name, shape=array.shape)
        message.raw_output_contents.append(raw_bytes(array))
    return message.SerializeToString()


@pytest.mark.parametrize("request_id", ["", "an id, nämlich"])
@pytest.mark.parametrize("specs", [[LOGITS], [INDEX, LOGITS], [LOGITS, TEXT]])
def test_responses_are_written_as_by_protobuf(request_id: str, specs: list[TensorSpec]) -> None:
    encoder = InferResponseEncoder("mnist", "3", [(spec, 0) for spec in specs])
    id_field = pb.ModelInferResponse(id=request_id).SerializeToString()
    generator = np.random.default_rng(0)
    for rows in (1, 64, 1, 300, 64):
        outputs: dict[str, NDArray[Any]] = {
            "logits": generator.normal(size=(rows, 10)).astype(np.float32),
            "index": generator.integers(0, 10, rows),
            "text": np.array([f"text {row}".encode() for row in range(rows)], dtype=object),
        }
        assert encoder.encode(outputs, id_field) == by_protobuf(
            request_id, [(spec, outputs[spec.name]) for spec in specs]
        )


def test_rows_of_a_larger_array() -> None:
    encoder = InferResponseEncoder("mnist", "3", [(LOGITS, 0)])
    array = np.arange(100, dtype=np.float32).reshape(10, 10)
    assert encoder.encode({"logits": array[3:5]}) == by_protobuf("", [(LOGITS, array[3:5])])


@pytest.mark.parametrize("specs", [[LOGITS], [INDEX, LOGITS], [LOGITS, TEXT]])
def test_a_shared_run_gives_each_its_rows(specs: list[TensorSpec]) -> None:
    encoder = InferResponseEncoder("mnist", "3", [(spec, 0) for spec in specs])
    generator = np.random.default_rng(0)
    for counts in ([1, 1, 1], [2, 1, 5], [1, 2], [3]):
        rows = sum(counts)
        outputs: dict[str, NDArray[Any]] = {
            "logits": generator.normal(size=(rows, 10)).astype(np.float32),
            "index": generator.integers(0, 10, rows),
            "text": np.array([f"text {row}".encode() for row in range(rows)], dtype=object),
        }
        start = 0
        for count, part in zip(counts, split(outputs, counts), strict=True):
            alone = {name: array[start : start + count] for name, array in outputs.items()}
            assert encoder.encode(part) == by_protobuf("", [(spec, alone[spec.name]) for spec in specs])
            start += count


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[3, 250, 250]], np.uint8), ["250:1", "250:2", "3:0"]),
        (np.array([[-(2**63), 2**53, 2**53 + 1]]), [f"{2**53 + 1}:2", f"{2**53}:1", f"{-(2**63)}:0"]),
        (np.array([[0.25, 1.5, 1e9]], np.float32), ["1000000000.000000:2", "1.500000:1", "0.250000:0"]),
        (np.array([[0.5, 2.0, 1.0]], np.float16), ["2.000000:1", "1.000000:2", "0.500000:0"]),
    ],
    ids=["uint8", "int64", "fp32", "fp16"],
)
def test_classes_are_printed_as_by_triton(values: NDArray[Any], expected: list[str]) -> None:
    """Whole numbers have no decimal places, others six; the highest comes first, of equal ones the first."""
    datatype = {"u1": "UINT8", "i8": "INT64", "f4": "FP32", "f2": "FP16"}[values.dtype.str[1:]]
    encoder = InferResponseEncoder("m", "1", [(TensorSpec("y", DATATYPES[datatype], (-1, 3)), 3)])
    response = pb.ModelInferResponse.FromString(encoder.encode({"y": values}))
    raw, texts = response.raw_output_contents[0], []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        texts.append(raw[4 : 4 + size].decode())
        raw = raw[4 + size :]
    assert texts == expected
