"""Images with the logits that a model must give for them: the proof that a file, here, is the function it claims to be.

docs/file-format.md has its form in a file's metadata.
"""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import ModelRejected
from ..tensors import Array


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


def read_probe(text: str) -> Probe:
    """The probe of a metadata entry; raises ValueError, KeyError or TypeError where it is none."""
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
