"""convserve.v1.ImageClassifier: pictures in, labels with probabilities out.

Each picture succeeds or fails alone; a call of many pictures is spread over as many requests to the
batcher as its limit asks for.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from service import images
from service.batcher import Request, Rows
from service.classification import ClassificationWriter
from service.errors import InvalidRequest, Overloaded, ServiceError, Stopping
from service.heads import Heads
from service.images import ImageShape
from service.pb import image_classifier_pb2 as pb
from service.repository import Endpoint, Repository
from service.status import status_of
from service.tensors import Array
from service.transport import Call, ColdMethod, Methods

SERVICE = "convserve.v1.ImageClassifier"


class ImageClassifier:
    """Answers the RPCs of ``convserve.v1.ImageClassifier`` from the models of a repository."""

    def __init__(self, repository: Repository, decoders: Executor, *, max_image_pixels: int, max_decoding: int) -> None:
        """``decoders`` run what may take long, for at most ``max_decoding`` images: decoding and scaling."""
        self._repository = repository
        self._decoders = decoders
        self._max_image_pixels = max_image_pixels
        self._max_decoding = max_decoding
        self._decoding = 0
        self._lock = threading.Lock()
        self._heads: Heads[_Question] = Heads()
        self._writers: dict[tuple[str, str], ClassificationWriter] = {}

    @property
    def methods(self) -> Methods:
        """The RPCs by full name."""
        return Methods(
            hot={f"/{SERVICE}/Classify": self.classify},
            cold={f"/{SERVICE}/ListModels": ColdMethod(pb.ListModelsRequest, self._list_models)},
        )

    def classify(self, call: Call) -> None:
        """Reads and checks; pictures that the model takes as they are go straight to the batcher."""
        head = self._heads.find(call.payload)
        if head is not None:
            self._ask(call, head.meaning, head.read(call.payload))
            return
        message = _parse(call.payload)
        endpoint = self._find(message.model_name, message.model_version)
        if not message.images:
            raise InvalidRequest("the call has no images")
        shape = image_shape(endpoint)
        question = _Question(endpoint, self._writer(endpoint), max(1, message.top_k), message.include_logits)
        ready_made = all(_is_ready_made(image, shape) for image in message.images)
        if ready_made and len(message.images) == 1:
            pixels = self._pixels(message.images[0], shape)[None]
            self._learn(call.payload, message, pixels, question)
            self._ask(call, question, pixels)
            return
        answer = _Answer(call, question, message)
        if ready_made:
            self._submit(answer, shape)
            return
        self._enter(len(message.images))
        try:
            self._decoders.submit(self._decode, answer, shape).add_done_callback(
                lambda _: self._leave(len(message.images))
            )
        except RuntimeError:  # the pool has been shut down
            self._leave(len(message.images))
            raise Stopping("The server is stopping.") from None

    def _ask(self, call: Call, question: "_Question", pixels: Array) -> None:
        """Queues one picture; the endpoint's batcher answers."""
        batcher = question.endpoint.batcher

        def answer(outcome: Rows | Exception) -> None:
            try:
                if isinstance(outcome, Exception):
                    raise outcome
                call.respond(question.writer.response(question.results(outcome)))
            except Exception as error:
                call.fail(error)

        request = Request({"images": pixels}, 1, answer, signature=(pixels.shape[1:],), deadline=call.deadline)
        batcher.submit(request)
        call.on_cancel(lambda: batcher.cancel(request))

    def _learn(self, payload: bytes, message: pb.ClassifyRequest, pixels: Array, question: "_Question") -> None:
        """Remembers what a call for one picture said."""
        after = pb.ClassifyRequest(top_k=message.top_k, include_logits=message.include_logits).SerializeToString()
        spec = question.endpoint.session.spec.inputs[0]
        self._heads.learn(payload, message, message.images[0].pixels.data, after, spec, pixels, question)

    def _decode(self, answer: "_Answer", shape: ImageShape) -> None:
        self._submit(answer, shape)
        answer.batcher.settle()  # what is submitted here is part of no burst of the transport's

    def _submit(self, answer: "_Answer", shape: ImageShape) -> None:
        """Turns the images into rows and queues them in parts of the batcher's size."""
        try:
            rows: list[Array] = []
            positions: list[int] = []
            for position, image in enumerate(answer.message.images):
                if answer.given:
                    return  # the caller has gone away: decode no more
                try:
                    rows.append(self._pixels(image, shape))
                    positions.append(position)
                except InvalidRequest as error:
                    answer.results[position] = _error(error)
            size = answer.batcher.join_rows
            parts = range(0, len(rows), size)
            answer.queue([(positions[at : at + size], np.stack(rows[at : at + size])) for at in parts])
        except Exception as error:
            answer.fail(error)

    def _writer(self, endpoint: Endpoint) -> ClassificationWriter:
        key = endpoint.name, endpoint.version
        if key not in self._writers:
            self._writers[key] = ClassificationWriter(*key, endpoint.session.card.labels)
        return self._writers[key]

    def _enter(self, count: int) -> None:
        """Counts images that wait to be decoded; raises Overloaded where they are too many."""
        with self._lock:
            if self._decoding + count > self._max_decoding and self._decoding:
                raise Overloaded(
                    f"{self._decoding} images wait to be decoded and {self._max_decoding} may. Try again later."
                )
            self._decoding += count

    def _leave(self, count: int) -> None:
        with self._lock:
            self._decoding -= count

    def _pixels(self, image: pb.Image, shape: ImageShape) -> Array:
        content = image.WhichOneof("content")
        if content == "pixels":
            pixels = image.pixels
            return images.from_pixels(
                pixels.data, pixels.height, pixels.width, pixels.channels, shape, self._max_image_pixels
            )
        return images.decode(image.encoded, shape, self._max_image_pixels)

    def _find(self, name: str, version: str) -> Endpoint:
        endpoint = self._repository.find(name, version)
        if not is_classifier(endpoint):
            raise InvalidRequest(
                f"the model '{name}' does not classify images: it takes tensors, through inference.GRPCInferenceService"
            )
        return endpoint

    def _list_models(self, _message: pb.ListModelsRequest) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(
            models=[_summary(endpoint) for endpoint in self._repository if is_classifier(endpoint)]
        )


@dataclass(frozen=True, slots=True)
class _Question:
    """What a call wants to know of its pictures."""

    endpoint: Endpoint
    writer: ClassificationWriter
    top_k: int
    logits: bool

    def results(self, outputs: Rows) -> list[bytes]:
        """The ImageResult of each row."""
        return self.writer.results(outputs, self.top_k, logits=self.logits)


class _Answer:
    """The answer to one Classify call, filled by as many requests as it takes, given once."""

    def __init__(self, call: Call, question: _Question, message: pb.ClassifyRequest) -> None:
        self.batcher = question.endpoint.batcher
        self.message = message
        self.results = [b""] * len(message.images)
        self._question = question
        self.given = False
        self._call = call
        self._lock = threading.Lock()
        self._missing = 0
        self._requests: list[Request] = []
        call.on_cancel(self.cancel)

    def queue(self, parts: Sequence[tuple[list[int], Array]]) -> None:
        """Queues each part, positions and their rows; answers at once where there is none."""
        self._missing = len(parts)
        if not parts:
            self._respond()
        for positions, rows in parts:
            request = Request(
                {"images": rows},
                len(rows),
                self._filler(positions),
                signature=(rows.shape[1:],),
                deadline=self._call.deadline,
            )
            self._requests.append(request)
            self.batcher.submit(request)
            if self.given:  # the caller went away meanwhile
                self.cancel()
                return

    def fail(self, error: Exception) -> None:
        """Answers the whole call with an error, and lets nothing of it run any more."""
        if self._claim():
            self._call.fail(error)
            self.cancel()

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        self.given = True
        for request in list(self._requests):
            self.batcher.cancel(request)

    def _filler(self, positions: list[int]) -> Callable[[Rows | Exception], None]:
        return lambda outcome: self._fill(positions, outcome)

    def _fill(self, positions: list[int], outcome: Rows | Exception) -> None:
        try:
            if isinstance(outcome, Exception):
                raise outcome
            for position, result in zip(positions, self._question.results(outcome), strict=True):
                self.results[position] = result
            with self._lock:
                self._missing -= 1
                last = not self._missing
            if last:
                self._respond()
        except Exception as error:
            self.fail(error)

    def _respond(self) -> None:
        if self._claim():
            self._call.respond(self._question.writer.response(self.results))

    def _claim(self) -> bool:
        """Whether the caller of this is the one who may answer."""
        with self._lock:
            given, self.given = self.given, True
        return not given


def image_shape(endpoint: Endpoint) -> ImageShape:
    """Height, width and channels of the images that the endpoint's model takes."""
    return ImageShape(*endpoint.session.spec.inputs[0].shape[1:])


def is_classifier(endpoint: Endpoint) -> bool:
    """Whether the model takes images, and has a label for each class."""
    spec, labels = endpoint.session.spec, endpoint.session.card.labels
    if not spec.is_image_classifier or not labels:
        return False
    return spec.output_by_name["probabilities"].shape[1] == len(labels)


def _is_ready_made(image: pb.Image, shape: ImageShape) -> bool:
    pixels = image.pixels
    return image.WhichOneof("content") == "pixels" and shape == ImageShape(pixels.height, pixels.width, pixels.channels)


def _error(error: ServiceError) -> bytes:
    """The ImageResult of a picture that was refused."""
    code, message = status_of(error)
    return pb.ImageResult(error=pb.ImageError(code=code.value[0], message=message)).SerializeToString()


def _summary(endpoint: Endpoint) -> pb.ModelSummary:
    card, shape = endpoint.session.card, image_shape(endpoint)
    return pb.ModelSummary(
        name=endpoint.name,
        version=endpoint.version,
        labels=card.labels,
        dataset=card.dataset,
        test_accuracy=card.test_accuracy,
        precision=card.precision,
        provider=endpoint.session.provider,
        image_height=shape.height,
        image_width=shape.width,
        image_channels=shape.channels,
        parameters=card.parameters,
    )


def _parse(payload: bytes) -> pb.ClassifyRequest:
    try:
        return pb.ClassifyRequest.FromString(payload)
    except Exception as error:  # protobuf's DecodeError, whose module depends on the implementation
        raise InvalidRequest("the message is not a ClassifyRequest") from error
