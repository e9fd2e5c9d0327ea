"""The results of Classify, as the bytes of their messages.

Written here and not by protobuf, whose objects cost 9 µs for a picture, and these lines one.
"""

from collections.abc import Sequence

import numpy as np

from service.api.protobuf_wire import bytes_field, fixed32_tag
from service.batching.batch import BatchOutputs, BatchSlice, TensorMap
from service.errors import RequestFailed, ServiceError
from service.pb import image_classifier_pb2 as pb
from service.rpc.status import status_of
from service.tensors import Array

CLASSES = pb.Classification.CLASSES_FIELD_NUMBER
LOGITS = pb.Classification.LOGITS_FIELD_NUMBER
CLASSIFICATION = pb.ImageResult.CLASSIFICATION_FIELD_NUMBER
RESULTS = pb.ClassifyResponse.RESULTS_FIELD_NUMBER
PROBABILITY = fixed32_tag(pb.Class.PROBABILITY_FIELD_NUMBER)
FLOAT_BYTES = 4
ZERO = bytes(FLOAT_BYTES)
"""A probability that protobuf leaves out."""


def error_result(error: ServiceError) -> bytes:
    """The ImageResult of an image that gets an error."""
    code, message = status_of(error)
    return pb.ImageResult(error=pb.ImageError(code=code.value[0], message=message)).SerializeToString()


NO_NUMBER = error_result(RequestFailed("the model's probabilities for this image are not numbers (NaN)"))


class ClassificationWriter:
    """Writes the results of one model."""

    def __init__(self, name: str, version: str, labels: Sequence[str]) -> None:
        self._head = pb.ClassifyResponse(model_name=name, model_version=version).SerializeToString()
        self._classes = [
            pb.Class(index=index, label=label).SerializeToString() + PROBABILITY for index, label in enumerate(labels)
        ]
        self._beginnings = [self._beginning(content) for content in self._classes]

    def response_of_one(self, outputs: TensorMap, top_k: int, *, logits: bool) -> bytes:
        """The serialised ClassifyResponse of a call for one picture: its row, among those of a run."""
        part = outputs if isinstance(outputs, BatchSlice) else BatchSlice(BatchOutputs(outputs), 0, 1)
        if top_k == 1 and not logits:
            responses = part.shared.once(self, self._responses)
            if responses is not None:
                return responses[part.start]
        return self.response(self.results(part, top_k, logits=logits))

    def results(self, outputs: TensorMap, top_k: int, *, logits: bool) -> list[bytes]:
        """One ImageResult a row, the ``top_k`` most probable classes first; of equal ones the first."""
        # For one row, NumPy takes longer than all else here: those who share a run have it done once.
        if isinstance(outputs, BatchSlice):
            shared, rows = outputs.shared, range(outputs.start, outputs.stop)
        else:
            shared, rows = BatchOutputs(outputs), range(len(outputs["probabilities"]))
        order = shared.once(top_k, lambda arrays: _order(arrays["probabilities"], top_k))
        floats, size = shared.bytes_of("probabilities")
        results = [b"".join([self._class(index, floats, row * size) for index in order[row]]) for row in rows]
        broken = shared.once("broken", lambda arrays: _broken_rows(arrays["probabilities"]))
        if logits and "logits" in outputs:
            raw, size = shared.bytes_of("logits")
            field = bytes_field(LOGITS, size)
            results = [
                result + field + raw[row * size : (row + 1) * size] for row, result in zip(rows, results, strict=True)
            ]
        return [
            NO_NUMBER if row in broken else bytes_field(CLASSIFICATION, len(result)) + result
            for row, result in zip(rows, results, strict=True)
        ]

    def response(self, results: Sequence[bytes]) -> bytes:
        """The serialised ClassifyResponse with these results."""
        parts = [self._head]
        for result in results:
            parts += (bytes_field(RESULTS, len(result)), result)
        return b"".join(parts)

    def _responses(self, arrays: TensorMap) -> list[bytes] | None:
        """The responses that name the most probable class of each row, if they all differ from its beginning alike."""
        probabilities = arrays["probabilities"]
        order = probabilities.argmax(axis=1)
        best = probabilities[np.arange(len(order)), order]
        if not (best > 0).all():  # a zero is left out, and no number is an error
            return None
        floats = best.tobytes()
        beginnings = self._beginnings
        return [
            beginnings[index] + floats[row * FLOAT_BYTES : (row + 1) * FLOAT_BYTES]
            for row, index in enumerate(order.tolist())
        ]

    def _beginning(self, content: bytes) -> bytes:
        """The response that names one class, up to its probability."""
        size = len(content) + FLOAT_BYTES
        classes = bytes_field(CLASSES, size)
        size += len(classes)
        classification = bytes_field(CLASSIFICATION, size)
        size += len(classification)
        return self._head + bytes_field(RESULTS, size) + classification + classes + content

    def _class(self, index: int, floats: bytes, row: int) -> bytes:
        """The field of one class, its probability taken from the row at this place."""
        at = row + index * FLOAT_BYTES
        probability = floats[at : at + FLOAT_BYTES]
        content = self._classes[index] + probability
        if probability == ZERO:
            content = self._classes[index][: -len(PROBABILITY)]
        return bytes_field(CLASSES, len(content)) + content


def _order(probabilities: Array, top_k: int) -> list[list[int]]:
    """The classes of each row, the ``top_k`` most probable ones first."""
    if top_k == 1:
        order = probabilities.argmax(axis=1)[:, None]
    else:
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    result: list[list[int]] = order.tolist()
    return result


def _broken_rows(probabilities: Array) -> frozenset[int]:
    """The rows with a NaN, which no order can be made of."""
    return frozenset(np.flatnonzero(np.isnan(probabilities).any(axis=1)).tolist())
