"""convserve.v1.ImageClassifier: pictures in, labels with probabilities out.

Each picture succeeds or fails alone. What takes long to decode is spread over a pool of threads.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import lru_cache

from service.images.decode import decode as images
from service.api.classify_job import Answer, Question
from service.api.classify_response import ClassificationWriter
from service.images.decode_pool import Decoders
from service.errors import InvalidRequest, ServiceError
from service.api.request_scanner import Heads
from service.images.decode import ImageShape
from service.pb import image_classifier_pb2 as pb
from service.images.sniff import Plain, look_at
from service.runtime.repository import Endpoint, Repository
from service.batching.request import Request
from service.batching.batch import Rows
from service.rpc.status import status_of
from service.tensors import Array
from service.rpc import Call, ColdMethod, Methods

SERVICE = "convserve.v1.ImageClassifier"
IN_PLACE_PIXELS = 64 * 64
"""Of all pictures of a call together: what is decoded in less time than it takes to wake another thread, 90 µs."""
IN_PLACE_BYTES = 8 * IN_PLACE_PIXELS
"""Of an encoded picture. A longer one is not plain, and costs to be copied out of its message."""
MOST_QUESTIONS = 256
"""Remembered at once; each is a model and what is wanted of it."""


class ImageClassifier:
    """Answers the RPCs of ``convserve.v1.ImageClassifier`` from the models of a repository."""

    def __init__(self, repository: Repository, decoders: Executor, *, max_image_pixels: int, max_decoding: int) -> None:
        """``decoders`` run what may take long, for at most ``max_decoding`` images: decoding and scaling."""
        self._repository = repository
        self._decoders = Decoders(decoders, max_decoding)
        self._max_image_pixels = max_image_pixels
        self._heads: Heads[Question] = Heads()
        self._writers: dict[tuple[str, str], ClassificationWriter] = {}
        self._question = lru_cache(MOST_QUESTIONS)(self._find_out)

    @property
    def methods(self) -> Methods:
        """The RPCs by full name."""
        return Methods(
            hot={f"/{SERVICE}/Classify": self.classify},
            cold={f"/{SERVICE}/ListModels": ColdMethod(pb.ListModelsRequest, self._list_models)},
        )

    def classify(self, call: Call) -> None:
        """Reads and checks; pictures that the model takes as they are, or nearly, go straight to the batcher."""
        head = self._heads.find(call.payload)
        if head is not None:
            self._ask(call, head.meaning, head.read(call.payload))
            return
        message = _parse(call.payload)
        question = self._question(message.model_name, message.model_version, message.top_k, message.include_logits)
        if not message.images:
            raise InvalidRequest("the call has no images")
        shape = question.shape
        plains = _glance(message.images, shape)
        if plains is not None and len(plains) == 1:
            self._ask_of_one(call, question, message, plains[0])
            return
        answer = Answer(call, question, message)
        if plains is not None:
            for position, plain in enumerate(plains):
                self._prepare(answer, position, shape, plain)
            answer.queue()
            return

        def queue() -> None:
            answer.queue()
            answer.batcher.settle()  # what is submitted here is part of no burst of the transport's

        self._decoders.spread(
            len(message.images),
            lambda position: self._prepare(answer, position, shape),
            queue,
            is_wanted=lambda: not answer.given,
        )

    def _ask_of_one(self, call: Call, question: Question, message: pb.ClassifyRequest, plain: Plain | None) -> None:
        """Decodes the one picture of a call here, and queues it."""
        image = message.images[0]
        try:
            pixels = self._pixels(image, question.shape, plain)[None]
        except InvalidRequest as error:
            call.respond(question.writer.response([_error(error)]))
            return
        if _is_ready_made(image, question.shape):
            self._learn(call.payload, message, pixels, question)
        self._ask(call, question, pixels)

    def _ask(self, call: Call, question: Question, pixels: Array) -> None:
        """Queues one picture; the endpoint's batcher answers."""
        batcher = question.endpoint.batcher

        def answer(outcome: Rows | Exception) -> None:
            try:
                if isinstance(outcome, Exception):
                    raise outcome
                call.respond(question.response_of_one(outcome))
            except Exception as error:
                call.fail(error)

        request = Request({"images": pixels}, 1, answer, signature=(pixels.shape[1:],), deadline=call.deadline)
        batcher.submit(request)
        call.on_cancel(lambda: batcher.cancel(request))

    def _learn(self, payload: bytes, message: pb.ClassifyRequest, pixels: Array, question: Question) -> None:
        """Remembers what a call for one picture said."""
        after = pb.ClassifyRequest(top_k=message.top_k, include_logits=message.include_logits).SerializeToString()
        spec = question.endpoint.session.spec.inputs[0]
        self._heads.learn(payload, message, message.images[0].pixels.data, after, spec, pixels, question)

    def _prepare(self, answer: Answer, position: int, shape: ImageShape, plain: Plain | None = None) -> None:
        """Turns one picture of a call into its row, or its error."""
        try:
            answer.rows[position] = self._pixels(answer.message.images[position], shape, plain)
        except InvalidRequest as error:
            answer.results[position] = _error(error)
        except Exception as error:
            answer.fail(error)

    def _writer(self, endpoint: Endpoint) -> ClassificationWriter:
        key = endpoint.name, endpoint.version
        if key not in self._writers:
            self._writers[key] = ClassificationWriter(*key, endpoint.session.card.labels)
        return self._writers[key]

    def _pixels(self, image: pb.Image, shape: ImageShape, plain: Plain | None) -> Array:
        if plain is None and image.WhichOneof("content") == "pixels":
            pixels = image.pixels
            return images.from_pixels(
                pixels.data, pixels.height, pixels.width, pixels.channels, shape, self._max_image_pixels
            )
        return images.decode(image.encoded, shape, self._max_image_pixels, plain)

    def _find_out(self, name: str, version: str, top_k: int, logits: bool) -> Question:
        """What a call with these fields asks; raises ServiceError."""
        endpoint = self._repository.find(name, version)
        if not is_classifier(endpoint):
            raise InvalidRequest(
                f"the model '{name}' does not classify images: it takes tensors, through inference.GRPCInferenceService"
            )
        return Question(endpoint, image_shape(endpoint), self._writer(endpoint), max(1, top_k), logits)

    def _list_models(self, _message: pb.ListModelsRequest) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(
            models=[_summary(endpoint) for endpoint in self._repository if is_classifier(endpoint)]
        )


def image_shape(endpoint: Endpoint) -> ImageShape:
    """Height, width and channels of the images that the endpoint's model takes."""
    return ImageShape(*endpoint.session.spec.inputs[0].shape[1:])


def is_classifier(endpoint: Endpoint) -> bool:
    """Whether the model takes images, and has a label for each class."""
    spec, labels = endpoint.session.spec, endpoint.session.card.labels
    if not spec.is_image_classifier or not labels:
        return False
    return spec.output_by_name["probabilities"].shape[1] == len(labels)


def _glance(pictures: Sequence[pb.Image], shape: ImageShape) -> list[Plain | None] | None:
    """What the headers of encoded pictures say; None where there is more to decode and to scale than is done here."""
    room, least = IN_PLACE_PIXELS, shape.height * shape.width
    plains: list[Plain | None] = []
    for image in pictures:
        plain = None
        if image.WhichOneof("content") == "encoded":
            plain = look_at(image.encoded) if image.ByteSize() <= IN_PLACE_BYTES else None
            if plain is None:
                return None
            room -= max(plain.height * plain.width, least)
        elif not _is_ready_made(image, shape):
            room -= max(image.pixels.height * image.pixels.width, least)
        if room < 0:
            return None
        plains.append(plain)
    return plains


def _is_ready_made(image: pb.Image, shape: ImageShape) -> bool:
    if image.WhichOneof("content") != "pixels":
        return False
    pixels = image.pixels
    return shape == ImageShape(pixels.height, pixels.width, pixels.channels)


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
