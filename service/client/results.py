"""What the client returns: plain values that know neither gRPC nor protobuf."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prediction:
    """One class that a picture may belong to."""

    label: str
    index: int
    """Position in the model's list of labels."""
    probability: float
    """Between 0 and 1."""


@dataclass(frozen=True)
class Classification:
    """The answer for one picture."""

    classes: tuple[Prediction, ...]
    """The ``top_k`` best, highest probability first."""
    logits: tuple[float, ...] = ()
    """Of all classes, in the order of the labels; empty unless asked for."""
    model_version: str = ""
    """The version that answered; a long list may meet two where a model is replaced meanwhile."""


@dataclass(frozen=True)
class ImageError:
    """Stands in the place of a picture that the server could not use."""

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
