"""Arrays by name: of several requests one below the other, and apart again."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import ModelFailed
from ..tensors import Array

TensorMap = Mapping[str, Array]
"""Arrays by name; axis 0 counts the rows."""


def concatenate(parts: Sequence[TensorMap]) -> TensorMap:
    """All rows, one part's below another's; a lone part is not copied."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def split(rows: TensorMap, counts: Sequence[int]) -> Sequence[TensorMap]:
    """Views of so many rows each; raises ModelFailed where the rows are more or fewer in all."""
    if len(counts) == 1:
        return [rows]
    ends = list(itertools.accumulate(counts))
    for name, array in rows.items():
        if array.shape[:1] != (ends[-1],):
            raise ModelFailed(f"output '{name}' has shape {array.shape} for {ends[-1]} rows")
    return [
        {name: array[end - count : end] for name, array in rows.items()}
        for count, end in zip(counts, ends, strict=True)
    ]
