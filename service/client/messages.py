"""Requests from images, results from responses: the fields of ``convserve.v1``, and what a listing needs of others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from ..pb import image_classifier_pb2 as pb
from .errors import ServerFailure
from .pictures import Source
from .results import (
    Classification,
    ImageError,
    ModelSummary,
    Prediction,
    Result,
    TensorInfo,
    TensorModel,
)

_FIELDS_BYTES = 32  # at most, beside the bytes of an image: tags, lengths, height, width and channels
_ALL_CLASSES = 2**32 - 1  # the field holds no more, and more than there are means all
_CODE_NAMES: dict[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}


@dataclass(frozen=True)
class Question:
    """What is asked about every image of a list."""

    model: str
    version: str
    top_k: int
    logits: bool

    def request(self, pictures: Sequence[Source]) -> pb.ClassifyRequest:
        """One call's message; the images are read now."""
        return pb.ClassifyRequest(
            model_name=self.model,
            model_version=self.version,
            images=[picture.read() for picture in pictures],
            top_k=min(self.top_k, _ALL_CLASSES),
            include_logits=self.logits,
        )


def requests(
    question: Question, pictures: Sequence[Source], *, max_images: int, max_bytes: int
) -> Iterator[pb.ClassifyRequest]:
    """As few calls as the two limits allow, in order; an image above ``max_bytes`` gets a call of its own."""
    together: list[Source] = []
    size = 0
    for picture in pictures:
        if together and (len(together) == max_images or size + picture.size + _FIELDS_BYTES > max_bytes):
            yield question.request(together)
            together, size = [], 0
        together.append(picture)
        size += picture.size + _FIELDS_BYTES
    if together:
        yield question.request(together)


def results(response: pb.ClassifyResponse, *, asked: int) -> list[Result]:
    """Take the results of one call, in order. Raises ServerFailure unless there are ``asked`` of them."""
    if len(response.results) != asked:
        raise ServerFailure(f"the server answered {len(response.results)} results for {asked} images")
    return [_result(result, response.model_version) for result in response.results]


def _result(result: pb.ImageResult, version: str) -> Result:
    if result.HasField("error"):
        # An unknown number counts as UNKNOWN, as gRPC itself has it.
        return ImageError(_CODE_NAMES.get(result.error.code, "UNKNOWN"), result.error.message)
    return Classification(
        tuple(Prediction(each.label, each.index, each.probability) for each in result.classification.classes),
        tuple(result.classification.logits),
        version,
    )


def summaries(response: pb.ListModelsResponse) -> list[ModelSummary]:
    """Take the models, in the server's order."""
    return [
        ModelSummary(
            name=model.name,
            version=model.version,
            labels=tuple(model.labels),
            dataset=model.dataset,
            test_accuracy=model.test_accuracy if model.HasField("test_accuracy") else None,
            precision=model.precision,
            provider=model.provider,
            image_height=model.image_height,
            image_width=model.image_width,
            image_channels=model.image_channels,
            parameters=model.parameters,
            images_per_s_alone=model.images_per_s_alone if model.HasField("images_per_s_alone") else None,
            images_per_s=model.images_per_s if model.HasField("images_per_s") else None,
        )
        for model in response.models
    ]


def tensor_model(response: Any, version: str) -> TensorModel:
    """Take a model's inputs and outputs from a ModelMetadataResponse."""
    return TensorModel(
        response.name, version, tuple(map(_tensor_info, response.inputs)), tuple(map(_tensor_info, response.outputs))
    )


def _tensor_info(tensor: Any) -> TensorInfo:
    return TensorInfo(tensor.name, tensor.datatype, tuple(tensor.shape))
