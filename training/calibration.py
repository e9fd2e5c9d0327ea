"""Making a probability mean something: the temperature that divides the logits before softmax, and how far it helps.

Temperature scaling and the expected calibration error are those of Guo, Pleiss, Sun and Weinberger, "On Calibration of
Modern Neural Networks" (2017). One number changes no answer, because it keeps the order of the logits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# As in the paper: fifteen bins of equal width over the confidence.
BINS = 15
# Temperatures that are tried lie between one over this and this. A fit that ends there has found nothing: where every
# answer is right, for one, no temperature is low enough.
WIDEST = 20.0


@dataclass(frozen=True)
class Bin:
    """The images whose largest probability lies in one interval."""

    images: int
    confidence: float
    """Mean of their largest probability."""
    accuracy: float
    """Share of them that is answered rightly."""


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Find the temperature at which the cross-entropy of logits [N, classes] with labels [N] is least, to 4 digits.

    The cross-entropy is convex in 1/temperature, so golden-section search finds its minimum. Gives 1 where there is
    none between the widest temperatures.
    """
    exact = logits.astype(np.float64)
    ratio = (np.sqrt(5) - 1) / 2
    low, high = -np.log(WIDEST), np.log(WIDEST)
    while high - low > 1e-6:
        first, second = high - ratio * (high - low), low + ratio * (high - low)
        # Both are 0 where every answer is right and the temperature low enough: lower, then, to the bound.
        if _cross_entropy(exact * np.exp(-first), labels) <= _cross_entropy(exact * np.exp(-second), labels):
            high = second
        else:
            low = first
    found = (low + high) / 2
    if abs(found) > np.log(WIDEST) - 1e-3:
        return 1.0
    return round(float(np.exp(found)), 4)


def bins(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> list[Bin]:
    """Sort images into `BINS` intervals of their largest probability; an empty one has zeros."""
    confidence = probabilities.max(1).astype(np.float64)
    right = probabilities.argmax(1) == labels
    places = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    result = []
    for place in range(BINS):
        inside = places == place
        count = int(inside.sum())
        result.append(
            Bin(count, float(confidence[inside].mean()), float(right[inside].mean())) if count else Bin(0, 0.0, 0.0)
        )
    return result


def expected_calibration_error(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Mean distance of confidence and accuracy over the bins, weighted by their images: 0 is perfect, 1 the worst."""
    distances = (part.images * abs(part.confidence - part.accuracy) for part in bins(probabilities, labels))
    return sum(distances) / len(labels)


def _cross_entropy(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]).mean())
