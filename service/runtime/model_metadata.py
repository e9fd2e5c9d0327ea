"""What a model file says about itself: labels, origin, measured accuracy, and the probe that proves it.

Knows the metadata of the file and nothing of sessions or gRPC. Files without any of it are served
all the same, as plain tensors. docs/file-format.md is the contract.
"""

import base64
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from service.errors import ModelRejected
from service.images.preprocessing import Preprocessing, read_preprocessing
from service.tensors import Array

PREFIX = "convserve."
FORMAT, OLD_FORMAT = "2", "1"
HASHES = PREFIX + "sha256"
PROBE = PREFIX + "probe"

PROBABILITY_TOLERANCE = 1e-4
"""Largest deviation of a probability from softmax(logits / temperature) where products are float32. 3e-7 is measured on
CPUs; what others' exponential functions leave is far below this, and a changed end of the graph far above."""

_SHARES = ("test_accuracy", "agreement", "calibration_error")
_COUNTS = ("parameters", "test_correct", "test_images", "fp32_test_correct")


@dataclass(frozen=True)
class Probe:
    """Real images with the logits that PyTorch computed for them in float32."""

    images: Array
    """uint8 [n, height, width, channels]."""
    logits: Array
    """float32 [n, classes]."""
    tolerance: float
    """The largest absolute deviation of a logit that is still the same function."""
    own_logits: Array | None = None
    """float32 [n, classes]: what ONNX Runtime computed from this very file, unoptimised; None in float32 files.

    Rounding takes int8 away from PyTorch's logits by more than a damaged filter does, and hardly away from its own.
    """
    own_tolerance: float = 0.0
    """As ``tolerance``, for ``own_logits``: what only hardware explains."""

    @property
    def closest(self) -> tuple[Array, float]:
        """The logits that it is held to most closely, and their tolerance."""
        return (self.logits, self.tolerance) if self.own_logits is None else (self.own_logits, self.own_tolerance)

    def take(self, rows: Array) -> "Probe":
        """Those of its images; the tolerances stay."""
        own = None if self.own_logits is None else self.own_logits[rows]
        return replace(self, images=self.images[rows], logits=self.logits[rows], own_logits=own)

    def allow(self, share: float) -> "Probe":
        """The same, where an arithmetic may move logits by this share of the largest."""
        least = share * float(np.abs(self.logits).max())
        return replace(self, tolerance=max(self.tolerance, least), own_tolerance=max(self.own_tolerance, least))

    def check(self, logits: Array) -> float:
        """The largest deviation of these logits from the closest; raises ModelRejected beyond a tolerance."""
        deviation = _check_logits(logits, self.logits, self.tolerance, "the file's own probe")
        if self.own_logits is None:
            return deviation
        return _check_logits(
            logits, self.own_logits, self.own_tolerance, "ONNX Runtime's own logits in the file's probe"
        )


def _check_logits(found: Array, expected: Array, tolerance: float, what: str) -> float:
    if found.shape != expected.shape:
        raise ModelRejected(f"the probe expects logits of shape {expected.shape}, the model gives {found.shape}")
    deviation = float(np.abs(found.astype(np.float64) - expected).max())
    if not deviation <= tolerance:  # NaN must fail too
        raise ModelRejected(
            f"{what} fails here: the logits are off by {deviation:.3g}, {tolerance:.3g} is allowed. "
            "The weights are not those that were exported, or this hardware and provider compute another function"
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
    temperature: float = 1.0
    """What logits are divided by before the softmax that gives the probabilities."""
    probe: Probe | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """What is to be done to images before the model takes them."""
    unproved: str = ""
    """What it lacks of the proof, as a sentence about the file; empty where it has both hashes and a probe."""
    outdated: bool = False
    """True for the format before hashes."""
    properties: Mapping[str, str] | None = None
    """All metadata of the file but the probe, as it stands there."""

    def require_proof(self) -> None:
        """Raises ModelRejected unless the file has hashes and a probe."""
        if self.unproved:
            raise ModelRejected(f"{self.unproved}, which --require-probe demands (docs/file-format.md)")

    def check_labels(self, classes: int = -1) -> None:
        """Raises ModelRejected unless there are as many labels as classes; no labels, or -1 classes, are any number."""
        if self.labels and classes >= 0 and len(self.labels) != classes:
            raise ModelRejected(f"it has {len(self.labels)} labels for {classes} classes: one label a class is needed")

    def check_preprocessing(self, shape: tuple[int, ...]) -> None:
        """Raises ModelRejected where it does not go with images of this height, width and number of channels."""
        mismatch = self.preprocessing.find_mismatch(*shape)
        if mismatch:
            raise ModelRejected(f"its metadata entry {PREFIX + 'preprocessing'!r} cannot be true: {mismatch}")

    def check_probabilities(self, logits: Array, probabilities: Array, tolerance: float) -> None:
        """Raises ModelRejected where they are not softmax(logits / temperature)."""
        scaled = logits.astype(np.float64) / self.temperature
        powers = np.exp(scaled - scaled.max(1, keepdims=True))
        deviation = float(np.abs(powers / powers.sum(1, keepdims=True) - probabilities).max())
        allowed = max(PROBABILITY_TOLERANCE, tolerance)
        if not deviation <= allowed:
            raise ModelRejected(
                f"its probabilities are not softmax(logits / {self.temperature:g}): they are off by {deviation:.3g}, "
                f"{allowed:.3g} is allowed. The end of its graph, or its temperature, is not what was exported"
            )


def read_metadata(metadata: Mapping[str, str]) -> ModelMetadata:
    """The metadata in an ONNX file's metadata; raises ModelRejected where an entry cannot be read, or be true."""
    properties = {key: value for key, value in metadata.items() if key != PROBE}
    entries = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    if not entries.keys() - {"batching"}:
        return ModelMetadata(properties=properties, unproved="it has neither hashes nor a probe")
    file_format = entries.get("format")
    if file_format not in (FORMAT, OLD_FORMAT):
        raise ModelRejected(
            f"its metadata is of format {file_format or 'unknown'!r}; this version reads formats "
            f"{FORMAT!r} and {OLD_FORMAT!r}"
        )
    if file_format == FORMAT and HASHES not in metadata:
        raise ModelRejected(f"its metadata entry {HASHES!r} is missing: files of format {FORMAT!r} have it")
    labels = _parse(entries, "labels", _read_labels, ())
    shares = {key: _parse(entries, key, _read_share, None) for key in _SHARES}
    counts = {key: _parse(entries, key, _read_count, None) for key in _COUNTS}
    _check_counts(counts, shares["test_accuracy"])
    probe = _parse(entries, "probe", _read_probe, None)
    lacks = [what for what, there in (("hashes", HASHES in metadata), ("probe", probe is not None)) if not there]
    return ModelMetadata(
        labels=labels,
        dataset=entries.get("dataset", ""),
        network=entries.get("network", ""),
        precision=entries.get("precision", ""),
        parameters=counts["parameters"] or 0,
        test_accuracy=shares["test_accuracy"],
        temperature=_parse(entries, "temperature", _read_temperature, 1.0),
        probe=probe,
        preprocessing=_parse(entries, "preprocessing", _read_preprocessing, Preprocessing()),
        unproved=f"it has no {' and no '.join(lacks)}" if lacks else "",
        outdated=file_format == OLD_FORMAT,
        properties=properties,
    )


def _parse(entries: Mapping[str, str], key: str, read: Callable[[str], Any], missing: Any) -> Any:
    """What ``read`` makes of an entry, ``missing`` where there is none; raises ModelRejected with the entry's name."""
    if key not in entries:
        return missing
    try:
        return read(entries[key])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelRejected(f"its metadata entry {PREFIX + key!r} cannot be read: {error!r}") from error


def _read_labels(text: str) -> tuple[str, ...]:
    labels = json.loads(text)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError("it is no list of strings")
    return tuple(labels)


def _read_share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:  # NaN must fail too
        raise ValueError(f"{text} does not lie in 0 to 1")
    return share


def _read_count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise ValueError(f"{text} is less than 0")
    return count


def _read_temperature(text: str) -> float:
    temperature = float(text)
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"{text} is no finite number above 0")
    return temperature


def _check_counts(counts: Mapping[str, int | None], accuracy: float | None) -> None:
    images = counts["test_images"]
    if images is None:
        return
    for key in ("test_correct", "fp32_test_correct"):
        if (counts[key] or 0) > images:
            raise ModelRejected(f"its metadata says that {counts[key]} of {images} test images are right ({key})")
    correct = counts["test_correct"]
    if correct is not None and accuracy is not None and images and abs(correct / images - accuracy) > 1e-3:
        raise ModelRejected(
            f"its metadata says that {correct} of {images} test images are right, and that its accuracy is {accuracy}"
        )


def _read_preprocessing(text: str) -> Preprocessing:
    return read_preprocessing(dict(json.loads(text)))


def _read_probe(text: str) -> Probe:
    entry = json.loads(text)
    images = _read_array(entry["images"], "uint8")
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images of shape {images.shape}")
    logits, tolerance = _read_logits(entry, len(images))
    if "onnxruntime" not in entry:
        return Probe(images, logits, tolerance)
    own_logits, own_tolerance = _read_logits(entry["onnxruntime"], len(images))
    if own_logits.shape != logits.shape:
        raise ValueError(f"logits {logits.shape} and ONNX Runtime's {own_logits.shape} do not belong together")
    return Probe(images, logits, tolerance, own_logits, own_tolerance)


def _read_logits(entry: Mapping[str, Any], images: int) -> tuple[Array, float]:
    logits, tolerance = _read_array(entry["logits"], "float32"), float(entry["tolerance"])
    if logits.ndim != 2 or len(logits) != images:
        raise ValueError(f"{images} images and logits {logits.shape} do not belong together")
    if not (math.isfinite(tolerance) and tolerance >= 0 and np.isfinite(logits).all()):
        raise ValueError("the tolerance or the logits are not finite")
    if tolerance >= np.abs(logits).max(initial=0):
        raise ValueError(f"with a tolerance of {tolerance:g} a model that gives zeros would pass")
    return logits, tolerance


def _read_array(entry: Mapping[str, Any], datatype: str) -> Array:
    if entry["datatype"] != datatype:
        raise ValueError(f"datatype {entry['datatype']!r} where {datatype!r} is expected")
    data = base64.b64decode(entry["data"], validate=True)
    return np.frombuffer(data, np.dtype(datatype).newbyteorder("<")).reshape(entry["shape"])
