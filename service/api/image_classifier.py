"""convserve.v1.ImageClassifier: pictures in, labels with probabilities out.

Each picture succeeds or fails alone. What takes long to decode is spread over a pool of threads.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import lru_cache

from ..batching.batch import TensorMap
from ..batching.request import Request
from ..errors import InvalidRequest
from ..images.decode import ImageShape, decode, from_pixels
from ..images.decode_pool import DecodePool
from ..images.digits import DIMENSIONS
from ..images.sniff import ImageHeader, sniff
from ..pb import image_classifier_pb2 as pb
from ..rpc import Call, ImmediateMethod, Methods
from ..runtime.endpoint import Endpoint
from ..runtime.repository import Repository
from ..tensors import Array
from . import outcomes
from .classify_job import ClassifyJob, ClassifyOptions
from .classify_response import ClassificationWriter, error_result
from .known_requests import KnownRequests
from .model_errors import ModelErrors

SERVICE = "convserve.v1.ImageClassifier"
IN_PLACE_PIXELS = 64 * 64
"""Of all pictures of a call together: what is decoded in less time than it takes to wake another thread, 90 µs."""
IN_PLACE_BYTES = 8 * IN_PLACE_PIXELS
"""Of an encoded picture. A longer one is not plain, and costs to be copied out of its message."""
MAX_OPTIONS = 256
"""Remembered at once; each is a model and what is wanted of it."""


class ImageClassifier:
    """Answers the RPCs of ``convserve.v1.ImageClassifier`` from the models of a repository."""

    def __init__(
        self,
        repository: Repository,
        decoders: Executor,
        *,
        max_image_pixels: int,
        max_decoding: int,
        digit_normalization: bool,
        model_errors: ModelErrors | None = None,
    ) -> None:
        """``decoders`` run what may take long, for at most ``max_decoding`` images: decoding and scaling."""
        self._repository = repository
        self._decoders = DecodePool(decoders, max_decoding)
        self._max_image_pixels = max_image_pixels
        self._digit_normalization = digit_normalization
        self._model_errors = model_errors or ModelErrors()
        self._known: KnownRequests[ClassifyOptions] = KnownRequests()
        self._writers: dict[tuple[str, str], ClassificationWriter] = {}
        self._options = lru_cache(MAX_OPTIONS)(self._find_out)
        self._epoch = repository.epoch
        repository.on_change(self._forget)

    @property
    def methods(self) -> Methods:
        """The RPCs by full name."""
        return Methods(
            deferred={f"/{SERVICE}/Classify": self.classify},
            immediate={f"/{SERVICE}/ListModels": ImmediateMethod(pb.ListModelsRequest, self._list_models)},
        )

    def classify(self, call: Call) -> None:
        """Reads and checks; pictures that the model takes as they are, or nearly, go straight to the batcher."""
        if self._epoch != self._repository.epoch:
            self._epoch = self._repository.epoch
            self._forget()
        known = self._known.find(call.payload)
        if known is not None:
            self._ask(call, known.plan, known.read(call.payload))
            return
        message = _parse(call.payload)
        options = self._options(
            message.model_name,
            message.model_version,
            message.top_k,
            logits=message.include_logits,
            pixels=message.include_input,
        )
        with outcomes.naming(options.endpoint):
            self._classify(call, options, message)

    def _classify(self, call: Call, options: ClassifyOptions, message: pb.ClassifyRequest) -> None:
        """Has the images of a call decoded, here or by the pool, and queues them."""
        if not message.images:
            raise InvalidRequest("the call has no images")
        shape = options.shape
        plains = _glance(message.images, shape)
        if plains is not None and len(plains) == 1:
            self._ask_of_one(call, options, message, plains[0])
            return
        job = ClassifyJob(call, options, message)
        if plains is not None:
            for position, plain in enumerate(plains):
                self._prepare(job, position, shape, plain)
            job.queue()
            return

        def queue() -> None:
            job.queue()
            job.batcher.dispatch()  # what is submitted here is part of no burst of the transport's

        self._decoders.for_each(
            len(message.images),
            lambda position: self._prepare(job, position, shape),
            queue,
            is_wanted=lambda: not job.done,
        )

    def _ask_of_one(
        self, call: Call, options: ClassifyOptions, message: pb.ClassifyRequest, plain: ImageHeader | None
    ) -> None:
        """Decodes the one picture of a call here, and queues it."""
        image = message.images[0]
        try:
            pixels = self._pixels(image, options.shape, plain)[None]
        except InvalidRequest as error:
            outcomes.name_model(error, options.endpoint)
            outcomes.respond(call, options.writer.response([error_result(error)]), options.endpoint)
            return
        if _is_ready_made(image, options.shape):
            self._remember(call.payload, message, pixels, options)
        self._ask(call, options, pixels)

    def _ask(self, call: Call, options: ClassifyOptions, pixels: Array) -> None:
        """Queues one picture; the endpoint's batcher answers."""
        batcher = options.endpoint.batcher

        def complete(result: TensorMap | Exception) -> None:
            if isinstance(result, Exception):
                outcomes.fail(call, options.explain(result, call), options.endpoint)
                return
            try:
                response = options.response_of_one(result, pixels)
            except Exception as error:
                outcomes.fail(call, error, options.endpoint)
            else:
                outcomes.respond(call, response, options.endpoint)

        call.model = options.endpoint
        request = call.request = Request(
            {"images": pixels},
            1,
            complete,
            signature=(pixels.shape[1:],),
            deadline=call.deadline,
            source=call.source,
        )
        try:
            batcher.submit(request)
        except Exception as error:
            outcomes.name_model(error, options.endpoint)
            raise
        call.on_cancel(lambda: batcher.cancel(request))

    def _remember(self, payload: bytes, message: pb.ClassifyRequest, pixels: Array, options: ClassifyOptions) -> None:
        """Remembers what a call for one picture said."""
        after = pb.ClassifyRequest(
            top_k=message.top_k, include_logits=message.include_logits, include_input=message.include_input
        ).SerializeToString()
        self._known.remember(payload, message, message.images[0].pixels.data, after, pixels, options)

    def _prepare(self, job: ClassifyJob, position: int, shape: ImageShape, plain: ImageHeader | None = None) -> None:
        """Turns one picture of a call into its row, or its error."""
        try:
            job.rows[position] = self._pixels(job.message.images[position], shape, plain)
        except InvalidRequest as error:
            outcomes.name_model(error, job.endpoint)
            job.results[position] = error_result(error)
        except Exception as error:
            job.fail(error)

    def _forget(self) -> None:
        """Forgets all that was known of models that may be served no longer."""
        self._known.clear()
        self._writers.clear()
        self._options.cache_clear()

    def _writer(self, endpoint: Endpoint) -> ClassificationWriter:
        key = endpoint.name, endpoint.version
        if key not in self._writers:
            self._writers[key] = ClassificationWriter(*key, endpoint.session.metadata.labels)
        return self._writers[key]

    def _pixels(self, image: pb.Image, shape: ImageShape, plain: ImageHeader | None) -> Array:
        if plain is None and image.WhichOneof("content") == "pixels":
            pixels = image.pixels
            return from_pixels(pixels.data, pixels.height, pixels.width, pixels.channels, shape, self._max_image_pixels)
        return decode(image.encoded, shape, self._max_image_pixels, plain)

    def _find_out(self, name: str, version: str, top_k: int, *, logits: bool, pixels: bool) -> ClassifyOptions:
        """What a call with these fields asks; raises ServiceError."""
        endpoint = self._repository.find(name, version)
        if not is_classifier(endpoint):
            raise InvalidRequest(
                f"the model '{name}' does not classify images: it takes tensors, through "
                "inference.GRPCInferenceService. `convserve export --onnx` makes an image classifier of it"
            )
        shape = image_shape(endpoint, normalize_digits=self._digit_normalization)
        return ClassifyOptions(
            endpoint, shape, self._writer(endpoint), max(1, top_k), logits, pixels, self._model_errors
        )

    def _list_models(self, _message: pb.ListModelsRequest) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(
            models=[_summary(endpoint) for endpoint in self._repository if is_classifier(endpoint)]
        )


def image_shape(endpoint: Endpoint, *, normalize_digits: bool = False) -> ImageShape:
    """Height, width and channels of the images that the endpoint's model takes."""
    height, width, channels = endpoint.session.spec.inputs[0].shape[1:]
    preprocessing = endpoint.session.metadata.preprocessing
    digits = normalize_digits and preprocessing.digits and (height, width, channels) == DIMENSIONS
    return ImageShape(height, width, channels, replace(preprocessing, digits=digits))


def is_classifier(endpoint: Endpoint) -> bool:
    """Whether the model takes images, and has a label for each class."""
    spec, labels = endpoint.session.spec, endpoint.session.metadata.labels
    if not spec.is_image_classifier or not labels:
        return False
    return spec.output_by_name["probabilities"].shape[1] == len(labels)


def _glance(pictures: Sequence[pb.Image], shape: ImageShape) -> list[ImageHeader | None] | None:
    """What the headers of encoded pictures say; None where there is more to decode and to scale than is done here."""
    room, least = IN_PLACE_PIXELS, shape.height * shape.width
    plains: list[ImageHeader | None] = []
    for image in pictures:
        plain = None
        if image.WhichOneof("content") == "encoded":
            plain = sniff(image.encoded) if image.ByteSize() <= IN_PLACE_BYTES else None
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
    return shape.takes((pixels.height, pixels.width, pixels.channels))


def _summary(endpoint: Endpoint) -> pb.ModelSummary:
    metadata, shape = endpoint.session.metadata, image_shape(endpoint)
    return pb.ModelSummary(
        name=endpoint.name,
        version=endpoint.version,
        labels=metadata.labels,
        dataset=metadata.dataset,
        test_accuracy=metadata.test_accuracy,
        precision=metadata.precision,
        provider=endpoint.session.provider,
        image_height=shape.height,
        image_width=shape.width,
        image_channels=shape.channels,
        parameters=metadata.parameters,
        images_per_s_alone=endpoint.session.measured.alone,
        images_per_s=endpoint.session.measured.batched,
    )


def _parse(payload: bytes) -> pb.ClassifyRequest:
    try:
        return pb.ClassifyRequest.FromString(payload)
    except Exception as error:  # protobuf's DecodeError, whose module depends on the implementation
        raise InvalidRequest("the message is not a ClassifyRequest") from error
