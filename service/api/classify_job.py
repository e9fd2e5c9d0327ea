"""What a Classify call asks for, and the job of answering one of several images."""

import threading
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..batching.batch import TensorMap
from ..batching.request import Request
from ..images.decode import ImageShape
from ..pb import image_classifier_pb2 as pb
from ..rpc import Call
from ..runtime.endpoint import Endpoint
from ..tensors import Array
from . import outcomes
from .classify_response import ClassificationWriter
from .model_errors import ModelErrors


@dataclass(frozen=True, slots=True)
class ClassifyOptions:
    """What a call wants to know of its pictures."""

    endpoint: Endpoint
    shape: ImageShape
    """What its model takes."""
    writer: ClassificationWriter
    top_k: int
    logits: bool
    pixels: bool
    """Whether the model's own input is part of a result."""
    model_errors: ModelErrors

    def results(self, outputs: TensorMap, images: Array) -> list[bytes]:
        """The ImageResult of each row; ``images`` are what the model took."""
        return self.writer.results(outputs, self.top_k, logits=self.logits, images=images if self.pixels else None)

    def response_of_one(self, outputs: TensorMap, images: Array) -> bytes:
        """The whole response, where the call has one picture."""
        if self.pixels:
            return self.writer.response(self.results(outputs, images))
        return self.writer.response_of_one(outputs, self.top_k, logits=self.logits)

    def explain(self, error: Exception, call: Call) -> Exception:
        """What the caller is told of an error."""
        return self.model_errors.for_caller(error, self.endpoint, call.request_id())


class ClassifyJob:
    """The response to one Classify call of several images: each fails alone, and the others share a request."""

    def __init__(self, call: Call, options: ClassifyOptions, message: pb.ClassifyRequest) -> None:
        self.endpoint = options.endpoint
        self.batcher = options.endpoint.batcher
        self.message = message
        self.results = [b""] * len(message.images)
        self.rows: list[Array | None] = [None] * len(message.images)
        """What the model takes, of the images that have it."""
        self.done = False
        """True once the call is answered, or its caller has gone."""
        self._options = options
        self._call = call
        call.model = options.endpoint
        self._lock = threading.Lock()
        self._request: Request | None = None
        call.on_cancel(self.cancel)

    def queue(self) -> None:
        """Queues the rows; responds at once where there is none."""
        try:
            rows, self.rows = self.rows, []
            positions = [position for position, row in enumerate(rows) if row is not None]
            if not positions:
                self._respond()
                return
            images = np.stack([row for row in rows if row is not None])
            self._request = self._call.request = Request(
                {"images": images},
                len(images),
                partial(self._fill, positions, images),
                signature=(images.shape[1:],),
                deadline=self._call.deadline,
                source=self._call.source,
            )
            self.batcher.submit(self._request)
            if self.done:  # the caller went away meanwhile
                self.batcher.cancel(self._request)
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Answers the whole call with an error."""
        if self._claim():
            outcomes.fail(self._call, error, self.endpoint)

    def cancel(self) -> None:
        """Lets nothing of the call run any more: its caller has gone."""
        if self._claim():
            outcomes.abandon(self._call, self.endpoint)
        if self._request is not None:
            self.batcher.cancel(self._request)

    def _fill(self, positions: list[int], images: Array, result: TensorMap | Exception) -> None:
        if isinstance(result, Exception):
            self.fail(self._options.explain(result, self._call))
            return
        try:
            for position, encoded in zip(positions, self._options.results(result, images), strict=True):
                self.results[position] = encoded
            self._respond()
        except Exception as error:
            self.fail(error)

    def _respond(self) -> None:
        if self._claim():
            outcomes.respond(self._call, self._options.writer.response(self.results), self.endpoint)

    def _claim(self) -> bool:
        """Returns True to the first that asks: it may answer the call."""
        with self._lock:
            done, self.done = self.done, True
        return not done
