"""What a classifier predicts, for noticing drift: how often each class, and how sure it was."""

import threading
from collections import deque
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
        self._gathered: deque[NDArray[Any]] = deque()
        self._gathered_rows = 0
        self._lock = threading.Lock()

    def add(self, probabilities: NDArray[Any]) -> None:
        """Counts the rows of a run, [rows, classes]; it keeps the array for a while."""
        self._gathered.append(probabilities)
        self._gathered_rows += len(probabilities)
        if self._gathered_rows >= GATHERED_ROWS:
            self._count()

    def read(self) -> tuple[dict[str, int], list[float]]:
        """Returns rows by predicted label, and those of each bucket of confidence followed by the sum."""
        self._count()
        with self._lock:
            # Classes may have the same label: they are one to whoever reads it.
            classes: dict[str, int] = {}
            for label, count in zip(self.labels, self._classes.tolist(), strict=True):
                if count:
                    classes[label] = classes.get(label, 0) + count
            return classes, [*self._confidences.tolist(), self._confidence_sum]

    def _count(self) -> None:
        with self._lock:
            parts = []
            self._gathered_rows = 0
            while self._gathered:
                parts.append(self._gathered.popleft())
            if not parts:
                return
            rows = np.concatenate(parts)
            best = rows.argmax(axis=1)
            top = rows[np.arange(len(rows)), best]
            known = ~np.isnan(top)
            best, top = best[known], top[known]
            self._classes += np.bincount(best, minlength=len(self._classes))
            self._confidences += np.bincount(np.searchsorted(CONFIDENCES, top), minlength=len(self._confidences))
            self._confidence_sum += float(top.sum(dtype=np.float64))
