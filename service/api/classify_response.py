"""The results of Classify, as the bytes of their messages.

Written here and not by protobuf, whose objects cost 9 µs for a picture, and these lines one.
"""

import math
from collections.abc import Iterable, Sequence

from ..batching.batch import TensorMap
from ..errors import RequestFailed, ServiceError
from ..pb import image_classifier_pb2 as pb
from ..rpc.status import status_of
from ..tensors import Array
from .protobuf_wire import bytes_field, fixed32_tag

CLASSES = pb.Classification.CLASSES_FIELD_NUMBER
LOGITS = pb.Classification.LOGITS_FIELD_NUMBER
INPUT = pb.Classification.INPUT_FIELD_NUMBER
CLASSIFICATION = pb.ImageResult.CLASSIFICATION_FIELD_NUMBER
RESULTS = pb.ClassifyResponse.RESULTS_FIELD_NUMBER
PROBABILITY = fixed32_tag(pb.Class.PROBABILITY_FIELD_NUMBER)
FLOAT_BYTES = 4
ZERO = bytes(FLOAT_BYTES)
"""A probability that protobuf leaves out."""


def error_result(error: ServiceError) -> bytes:
    """The ImageResult of an image that gets an error."""
    code, message, _ = status_of(error)
    return pb.ImageResult(error=pb.ImageError(code=code.value[0], message=message)).SerializeToString()


NO_NUMBER = "the model's probabilities for this image are not numbers (NaN)"


class ClassificationWriter:
    """Writes the results of one model."""

    def __init__(self, name: str, version: str, labels: Sequence[str]) -> None:
        self._model = name, version
        self._head = pb.ClassifyResponse(model_name=name, model_version=version).SerializeToString()
        self._classes = [
            pb.Class(index=index, label=label).SerializeToString() + PROBABILITY for index, label in enumerate(labels)
        ]
        self._beginnings = [self._beginning(content) for content in self._classes]

    def response_of_one(self, outputs: TensorMap, top_k: int, *, logits: bool) -> bytes:
        """The serialised ClassifyResponse of a call for one image."""
        probabilities = outputs["probabilities"]
        if top_k == 1 and not logits:
            index = int(probabilities.argmax())
            if probabilities[0, index] > 0:  # a zero is left out, and NaN is an error
                return self._beginnings[index] + probabilities.tobytes()[index * FLOAT_BYTES :][:FLOAT_BYTES]
        return self.response(self.results(outputs, top_k, logits=logits))

    def results(self, outputs: TensorMap, top_k: int, *, logits: bool, images: Array | None = None) -> list[bytes]:
        """One ImageResult a row, the ``top_k`` most probable classes first; of equal ones the first.

        ``images``: what the model took, where that is to be told.
        """
        probabilities = outputs["probabilities"]
        floats, size = probabilities.tobytes(), probabilities.shape[1] * FLOAT_BYTES
        raw_logits = outputs["logits"].tobytes() if logits and "logits" in outputs else b""
        raw_size = len(raw_logits) // len(probabilities)
        tail = bytes_field(LOGITS, raw_size) if raw_logits else b""
        results = []
        for row, (order, last) in enumerate(_orders(probabilities, top_k)):
            if math.isnan(probabilities.item(row, last)):
                error = RequestFailed(NO_NUMBER)
                error.model = self._model
                results.append(error_result(error))
                continue
            start = row * size
            parts = [self._class(index, floats, start) for index in order]
            seen = () if images is None else _input(images[row])
            result = b"".join([*parts, tail, raw_logits[row * raw_size : (row + 1) * raw_size], *seen])
            results.append(bytes_field(CLASSIFICATION, len(result)) + result)
        return results

    def response(self, results: Sequence[bytes]) -> bytes:
        """The serialised ClassifyResponse with these results."""
        parts = [self._head]
        for result in results:
            parts += (bytes_field(RESULTS, len(result)), result)
        return b"".join(parts)

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


def _input(image: Array) -> tuple[bytes, bytes]:
    """The field of what the model took."""
    height, width, channels = image.shape
    content = pb.Pixels(height=height, width=width, channels=channels, data=image.tobytes()).SerializeToString()
    return bytes_field(INPUT, len(content)), content


def _orders(probabilities: Array, top_k: int) -> Iterable[tuple[list[int], int]]:
    """For each row, the ``top_k`` most probable classes, best first; and the class that is NaN if any is."""
    if top_k == 1:
        best: list[int] = probabilities.argmax(axis=1).tolist()
        return [([index], index) for index in best]
    order = (-probabilities).argsort(axis=1, kind="stable")
    return zip(order[:, :top_k].tolist(), order[:, -1].tolist(), strict=True)
