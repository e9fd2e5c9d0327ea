"""What a Classify call asks, and its answer.

A call of many pictures is spread over as many requests to the batcher as its limit asks for.
"""

import threading
from dataclasses import dataclass

import numpy as np

from service.api.classify_response import ClassificationWriter
from service.api.model_errors import ModelErrors
from service.batching.batch import TensorMap
from service.batching.request import Request
from service.images.decode import ImageShape
from service.pb import image_classifier_pb2 as pb
from service.rpc import Call
from service.runtime.repository import Endpoint
from service.tensors import Array


@dataclass(frozen=True, slots=True)
class ClassifyOptions:
    """What a call wants to know of its pictures."""

    endpoint: Endpoint
    shape: ImageShape
    """What its model takes."""
    writer: ClassificationWriter
    top_k: int
    logits: bool
    model_errors: ModelErrors

    def results(self, outputs: TensorMap) -> list[bytes]:
        """The ImageResult of each row."""
        return self.writer.results(outputs, self.top_k, logits=self.logits)

    def response_of_one(self, outputs: TensorMap) -> bytes:
        """The whole response, where the call has one picture."""
        return self.writer.response_of_one(outputs, self.top_k, logits=self.logits)

    def explain(self, error: Exception) -> Exception:
        """What the caller is told of an error."""
        return self.model_errors.for_caller(error, self.endpoint)


class ClassifyJob:
    """The answer to one Classify call, filled by as many requests as it takes, given once."""

    def __init__(self, call: Call, options: ClassifyOptions, message: pb.ClassifyRequest) -> None:
        self.batcher = options.endpoint.batcher
        self.message = message
        self.results = [b""] * len(message.images)
        self.rows: list[Array | None] = [None] * len(message.images)
        """What the model takes, of the images that have it."""
        self._options = options
        self.done = False
        self._call = call
        self._lock = threading.Lock()
        self._missing = 0
        self._requests: list[Request] = []
        call.on_cancel(self.cancel)

    def queue(self) -> None:
        """Queues the rows in parts of the batcher's size; answers at once where there is none."""
        try:
            rows, self.rows = self.rows, []
            positions = [position for position, row in enumerate(rows) if row is not None]
            size = self.batcher.preferred_batch_size
            parts = [positions[at : at + size] for at in range(0, len(positions), size)]
            self._missing = len(parts)
            if not parts:
                self._respond()
            for part in parts:
                self._submit(part, np.stack([row for row in rows[part[0] : part[-1] + 1] if row is not None]))
                if self.done:  # the caller went away meanwhile
                    self.cancel()
                    return
        except Exception as error:
            self.fail(error)

    def _submit(self, positions: list[int], rows: Array) -> None:
        request = Request(
            {"images": rows},
            len(rows),
            lambda result: self._fill(positions, result),
            signature=(rows.shape[1:],),
            deadline=self._call.deadline,
        )
        self._requests.append(request)
        self.batcher.submit(request)

    def fail(self, error: Exception) -> None:
        """Answers the whole call with an error, and lets nothing of it run any more."""
        if self._claim():
            self._call.fail(error)
            self.cancel()

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        self.done = True
        for request in list(self._requests):
            self.batcher.cancel(request)

    def _fill(self, positions: list[int], result: TensorMap | Exception) -> None:
        if isinstance(result, Exception):
            self.fail(self._options.explain(result))
            return
        try:
            for position, encoded in zip(positions, self._options.results(result), strict=True):
                self.results[position] = encoded
            with self._lock:
                self._missing -= 1
                last = not self._missing
            if last:
                self._respond()
        except Exception as error:
            self.fail(error)

    def _respond(self) -> None:
        if self._claim():
            self._call.respond(self._options.writer.response(self.results))

    def _claim(self) -> bool:
        """Whether the caller of this is the one who may answer."""
        with self._lock:
            done, self.done = self.done, True
        return not done
