"""What a model file says about itself: labels, origin, measured accuracy, and the probe that proves it.

Knows the metadata of the file and nothing of sessions or gRPC. Files without any of it are served
all the same, as plain tensors.
"""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.errors import ModelRejected
from service.tensors import Array

PREFIX = "convserve."
FORMAT = "1"
PREPROCESSING = {"digits": "mnist"}
"""All that is known: digits are brought into MNIST's form, in models of 28 x 28 grey images."""


@dataclass(frozen=True)
class Probe:
    """Real images with the logits that PyTorch computed for them in float32."""

    images: Array
    """uint8 [n, height, width, channels]."""
    logits: Array
    """float32 [n, classes]."""
    tolerance: float
    """The largest absolute deviation of a logit that is still the same function."""

    def check(self, logits: Array) -> float:
        """The largest deviation of these logits; raises ModelRejected where it exceeds the tolerance."""
        if logits.shape != self.logits.shape:
            raise ModelRejected(
                f"the probe expects logits of shape {self.logits.shape}, the model gives {logits.shape}"
            )
        deviation = float(np.abs(logits.astype(np.float64) - self.logits).max())
        if not deviation <= self.tolerance:  # NaN must fail too
            raise ModelRejected(
                f"the file's own probe fails here: the logits are off by {deviation:.3g}, "
                f"{self.tolerance:.3g} is allowed. The weights are not those that were exported, "
                "or this hardware and provider compute another function"
            )
        return deviation


@dataclass(frozen=True)
class ModelMetadata:
    """The facts in a file's metadata; empty or None where the file does not tell."""

    labels: tuple[str, ...] = ()
    dataset: str = ""
    network: str = ""
    precision: str = ""
    parameters: int = 0
    test_accuracy: float | None = None
    probe: Probe | None = None
    preprocessing: Mapping[str, str] = field(default_factory=dict)
    """What is to be done to images before they are scaled to the model's size, one of PREPROCESSING by its key."""
    properties: Mapping[str, str] | None = None
    """All metadata of the file but the probe, as it stands there."""


def read_metadata(metadata: Mapping[str, str]) -> ModelMetadata:
    """The metadata in an ONNX file's metadata; raises ModelRejected where an entry does not parse."""
    properties = {key: value for key, value in metadata.items() if key != PREFIX + "probe"}
    entries = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    if not entries.keys() - {"batching"}:
        return ModelMetadata(properties=properties)
    if entries.get("format") != FORMAT:
        raise ModelRejected(
            f"its metadata is of format {entries.get('format', 'unknown')!r}; this version reads format {FORMAT!r}"
        )
    key = ""
    try:
        key = "labels"
        labels = tuple(str(label) for label in json.loads(entries.get("labels", "[]")))
        key = "parameters"
        parameters = int(entries.get("parameters", "0"))
        key = "test_accuracy"
        accuracy = float(entries["test_accuracy"]) if "test_accuracy" in entries else None
        key = "probe"
        probe = _read_probe(json.loads(entries["probe"])) if "probe" in entries else None
        key = "preprocessing"
        preprocessing = _read_preprocessing(json.loads(entries.get("preprocessing", "{}")))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelRejected(f"its metadata entry {PREFIX + key!r} cannot be read: {error!r}") from error
    return ModelMetadata(
        labels=labels,
        dataset=entries.get("dataset", ""),
        network=entries.get("network", ""),
        precision=entries.get("precision", ""),
        parameters=parameters,
        test_accuracy=accuracy,
        probe=probe,
        preprocessing=preprocessing,
        properties=properties,
    )


def _read_preprocessing(facts: Mapping[str, str]) -> Mapping[str, str]:
    """Refuses what is not known: left out, the model would see other images than it was trained with."""
    unknown = {key: value for key, value in dict(facts).items() if PREPROCESSING.get(key) != value}
    if unknown:
        raise ValueError(f"{unknown} is not known; {PREPROCESSING} is")
    return facts


def _read_probe(probe: Mapping[str, Any]) -> Probe:
    images = _read_array(probe["images"], "uint8")
    logits = _read_array(probe["logits"], "float32")
    tolerance = float(probe["tolerance"])
    if images.ndim != 4 or logits.ndim != 2 or len(images) != len(logits) or not len(images):
        raise ValueError(f"images {images.shape} and logits {logits.shape} do not belong together")
    if not (math.isfinite(tolerance) and tolerance >= 0 and np.isfinite(logits).all()):
        raise ValueError("the tolerance or the logits are not finite")
    return Probe(images, logits, tolerance)


def _read_array(entry: Mapping[str, Any], datatype: str) -> Array:
    if entry["datatype"] != datatype:
        raise ValueError(f"datatype {entry['datatype']!r} where {datatype!r} is expected")
    data = base64.b64decode(entry["data"], validate=True)
    return np.frombuffer(data, np.dtype(datatype).newbyteorder("<")).reshape(entry["shape"])
