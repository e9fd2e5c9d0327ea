"""What the client returns: plain values that know neither gRPC nor protobuf."""

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt


@dataclass(frozen=True)
class Prediction:
    """One class that an image may belong to."""

    label: str
    index: int
    """Position in the model's list of labels."""
    probability: float
    """Between 0 and 1."""


@dataclass(frozen=True)
class Classification:
    """The answer for one image."""

    classes: tuple[Prediction, ...]
    """The ``top_k`` best, highest probability first."""
    logits: tuple[float, ...] = ()
    """Of all classes, in the order of the labels; empty unless asked for."""
    model_version: str = ""
    """The version that answered; a long list may meet two where a model is replaced meanwhile."""


@dataclass(frozen=True)
class ImageError:
    """Stands in the place of an image that the server could not use."""

    code: str
    """A gRPC status code by name, "INVALID_ARGUMENT" say."""
    message: str
    """What was wrong, and what is accepted."""


Result = Classification | ImageError


@dataclass(frozen=True)
class ModelSummary:
    """One model that the server can be asked to use."""

    name: str
    version: str
    labels: tuple[str, ...]
    dataset: str
    """What it was trained on, "mnist" say; empty where the file does not tell."""
    test_accuracy: float | None
    """Share of the test set answered right, 0 to 1; None where the file does not tell."""
    precision: str
    provider: str
    image_height: int
    image_width: int
    image_channels: int
    parameters: int
    images_per_s_alone: float | None = None
    """Images a second of the bare file in runs of one, where its report was made; None without a report."""
    images_per_s: float | None = None
    """The same in runs of 64."""


class TensorOutputs(dict[str, npt.NDArray[Any]]):
    """The outputs of one inference by name, and which version of the model computed them."""

    def __init__(self, *, model_version: str = "") -> None:
        super().__init__()
        self.model_version = model_version

    def __reduce__(self) -> tuple[Any, ...]:  # a dict's own would call the constructor without its keyword
        return type(self), (), {"model_version": self.model_version}, None, iter(self.items())


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a model."""

    name: str
    datatype: str
    """The protocol's name, "FP32" say."""
    shape: tuple[int, ...]
    """-1 for an axis of any length."""


@dataclass(frozen=True)
class TensorModel:
    """A model that takes and returns tensors, and does not classify images."""

    name: str
    version: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


@dataclass(frozen=True)
class UnservedModel:
    """A model that the server knows and does not serve now."""

    name: str
    version: str
    state: str
    """"UNAVAILABLE", or "LOADING"."""
    reason: str
    """Why; may be empty while it loads."""


@dataclass(frozen=True)
class ModelList:
    """Every model that a server knows."""

    classifiers: tuple[ModelSummary, ...] = ()
    tensor_models: tuple[TensorModel, ...] = ()
    unserved: tuple[UnservedModel, ...] = ()
