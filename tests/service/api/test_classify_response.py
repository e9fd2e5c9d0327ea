"""The results of Classify are written as protobuf would write them."""

from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from service.api.classify_response import ClassificationWriter
from service.batching.batch import split
from service.pb import image_classifier_pb2 as pb

LABELS = ["", "airplane", "Käse", *(f"class {index}" for index in range(3, 300))]
FLOATS = st.floats(width=32) | st.just(0.0) | st.just(-0.0)


def by_protobuf(probabilities: NDArray[Any], logits: NDArray[Any] | None, top_k: int) -> bytes:
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    results = [
        pb.ImageResult(
            classification=pb.Classification(
                classes=[
                    pb.Class(index=index, label=LABELS[index], probability=probabilities[row, index])
                    for index in order[row].tolist()
                ],
                logits=None if logits is None else logits[row],
            )
        )
        for row in range(len(probabilities))
    ]
    return pb.ClassifyResponse(model_name="möwe", model_version="12", results=results).SerializeToString()


@given(
    data=st.data(),
    rows=st.integers(1, 5),
    classes=st.integers(1, 300),
    top_k=st.integers(1, 12),
    with_logits=st.booleans(),
)
def test_results_are_written_as_by_protobuf(
    data: st.DataObject, rows: int, classes: int, top_k: int, *, with_logits: bool
) -> None:
    numbers = FLOATS.filter(lambda value: value == value)
    probabilities = data.draw(arrays(np.float32, (rows, classes), elements=numbers))
    logits = data.draw(arrays(np.float32, (rows, classes), elements=FLOATS)) if with_logits else None
    outputs = {"probabilities": probabilities} | ({} if logits is None else {"logits": logits})
    writer = ClassificationWriter("möwe", "12", LABELS[:classes])
    written = writer.response(writer.results(outputs, top_k, logits=with_logits))
    assert written == by_protobuf(probabilities, logits, top_k)
    for row, part in enumerate(split(outputs, [1] * rows)):
        written = writer.response_of_one(part, top_k, logits=with_logits)
        of_row = slice(row, row + 1)
        assert written == by_protobuf(probabilities[of_row], None if logits is None else logits[of_row], top_k)


def test_the_first_of_equal_classes_wins() -> None:
    writer = ClassificationWriter("m", "1", LABELS[:4])
    outputs = {"probabilities": np.array([[0.2, 0.4, 0.4, 0.0]], np.float32)}
    for top_k, expected in ((1, [1]), (2, [1, 2]), (9, [1, 2, 0, 3])):
        response = pb.ClassifyResponse.FromString(writer.response(writer.results(outputs, top_k, logits=False)))
        assert [each.index for each in response.results[0].classification.classes] == expected


def test_missing_logits_are_left_out() -> None:
    writer = ClassificationWriter("m", "1", LABELS[:2])
    result = writer.results({"probabilities": np.array([[0.25, 0.75]], np.float32)}, 1, logits=True)
    assert not pb.ImageResult.FromString(result[0]).classification.logits


def test_a_shared_run_gives_each_its_rows() -> None:
    """Each asks for as many classes as it likes."""
    outputs = {name: np.random.default_rng(0).random((7, 5), np.float32) for name in ("probabilities", "logits")}
    writer = ClassificationWriter("m", "1", LABELS[:5])
    start = 0
    for count, top_k, part in zip([1, 4, 2], [3, 1, 3], split(outputs, [1, 4, 2]), strict=True):
        alone = {name: array[start : start + count] for name, array in outputs.items()}
        for logits in (True, False):
            assert writer.results(part, top_k, logits=logits) == writer.results(alone, top_k, logits=logits)
        start += count
    assert start == 7


@pytest.mark.parametrize("top_k", [1, 2, 9])
def test_a_nan_is_its_images_error(top_k: int) -> None:
    """Images whose probabilities are not numbers get an error each; the others keep their results."""
    writer = ClassificationWriter("m", "1", LABELS[:3])
    probabilities = np.array([[0.1, 0.7, 0.2], [0.5, np.nan, 0.5], [np.nan] * 3, [0.2, 0.2, 0.6]], np.float32)
    results = [
        pb.ImageResult.FromString(each)
        for each in writer.results({"probabilities": probabilities}, top_k, logits=False)
    ]
    assert [result.WhichOneof("outcome") for result in results] == [
        "classification",
        "error",
        "error",
        "classification",
    ]
    assert results[1].error.code == grpc.StatusCode.INTERNAL.value[0]
    assert results[1].error.message == "the model's probabilities for this image are not numbers (NaN)"
    for row, result in enumerate(results):
        alone = writer.response_of_one({"probabilities": probabilities[row : row + 1]}, top_k, logits=False)
        assert pb.ClassifyResponse.FromString(alone).results[0] == result
