"""The results of Classify are written as protobuf would write them."""

from typing import Any

import numpy as np
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


@given(st.data(), st.integers(1, 5), st.integers(1, 300), st.integers(1, 12), st.booleans())
def test_any_result_is_written_as_protobuf_writes_it(
    data: st.DataObject, rows: int, classes: int, top_k: int, with_logits: bool
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


def test_of_equal_probabilities_the_first_class_wins() -> None:
    writer = ClassificationWriter("m", "1", LABELS[:4])
    outputs = {"probabilities": np.array([[0.2, 0.4, 0.4, 0.0]], np.float32)}
    for top_k, expected in ((1, [1]), (2, [1, 2]), (9, [1, 2, 0, 3])):
        response = pb.ClassifyResponse.FromString(writer.response(writer.results(outputs, top_k, logits=False)))
        assert [each.index for each in response.results[0].classification.classes] == expected


def test_logits_that_the_model_does_not_give_are_left_out() -> None:
    writer = ClassificationWriter("m", "1", LABELS[:2])
    result = writer.results({"probabilities": np.array([[0.25, 0.75]], np.float32)}, 1, logits=True)
    assert not pb.ImageResult.FromString(result[0]).classification.logits


def test_requests_that_share_a_run_get_the_results_of_their_rows_alone() -> None:
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
