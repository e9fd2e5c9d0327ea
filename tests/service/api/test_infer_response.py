"""A response is the one that protobuf would write, whether its beginning is remembered or not."""

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
def test_any_response_is_written_as_protobuf_writes_it(request_id: str, specs: list[TensorSpec]) -> None:
    reply = InferResponseEncoder("mnist", "3", request_id, [(spec, 0) for spec in specs])
    generator = np.random.default_rng(0)
    for rows in (1, 64, 1, 300, 64):
        outputs: dict[str, NDArray[Any]] = {
            "logits": generator.normal(size=(rows, 10)).astype(np.float32),
            "index": generator.integers(0, 10, rows),
            "text": np.array([f"text {row}".encode() for row in range(rows)], dtype=object),
        }
        assert reply.encode(outputs) == by_protobuf(request_id, [(spec, outputs[spec.name]) for spec in specs])


def test_rows_of_a_larger_array_are_written_alone() -> None:
    reply = InferResponseEncoder("mnist", "3", "", [(LOGITS, 0)])
    array = np.arange(100, dtype=np.float32).reshape(10, 10)
    assert reply.encode({"logits": array[3:5]}) == by_protobuf("", [(LOGITS, array[3:5])])


@pytest.mark.parametrize("specs", [[LOGITS], [INDEX, LOGITS], [LOGITS, TEXT]])
def test_requests_that_share_a_run_get_the_responses_of_their_rows_alone(specs: list[TensorSpec]) -> None:
    reply = InferResponseEncoder("mnist", "3", "", [(spec, 0) for spec in specs])
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
            assert reply.encode(part) == by_protobuf("", [(spec, alone[spec.name]) for spec in specs])
            start += count
