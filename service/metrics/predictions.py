"""What a classifier predicts, for noticing drift: how often each class, and how sure it was."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
"""Upper bounds of the buckets of the highest probability."""
GATHERED_ROWS = 256
"""Rows are counted so many at a time: NumPy takes 10 µs for a row, and 15 for 256."""


class Predictions:
    """Predicted classes and their probabilities of one model. Any thread may add."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        self._classes = np.zeros(len(labels), np.int64)
        self._confidences = np.zeros(len(CONFIDENCES) + 1, np.int64)
        self._confidence_sum = 0.0
        self._gathered = np.empty((GATHERED_ROWS, len(labels)), np.float32)
        self._rows = 0
        self._lock = threading.Lock()

    def add(self, probabilities: NDArray[Any]) -> None:
        """Counts the rows of a run, [rows, classes]."""
        with self._lock:
            begin, end = self._rows, self._rows + len(probabilities)
            if end <= GATHERED_ROWS:
                self._gathered[begin:end] = probabilities
                self._rows = end
            else:
                self._count(self._gathered[:begin])
                self._count(probabilities)
                self._rows = 0

    def read(self) -> tuple[dict[str, int], list[float]]:
        """Returns rows by predicted label, and those of each bucket of confidence followed by the sum."""
        with self._lock:
            self._count(self._gathered[: self._rows])
            self._rows = 0
            # Classes may have the same label: they are counted as one.
            classes: dict[str, int] = {}
            for label, count in zip(self.labels, self._classes.tolist(), strict=True):
                if count:
                    classes[label] = classes.get(label, 0) + count
            return classes, [*self._confidences.tolist(), self._confidence_sum]

    def _count(self, rows: NDArray[Any]) -> None:
        best = rows.argmax(axis=1)
        top = rows[np.arange(len(rows)), best]
        known = ~np.isnan(top)
        best, top = best[known], top[known]
        self._classes += np.bincount(best, minlength=len(self._classes))
        self._confidences += np.bincount(np.searchsorted(CONFIDENCES, top), minlength=len(self._confidences))
        self._confidence_sum += float(top.sum(dtype=np.float64))
