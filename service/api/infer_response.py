"""ModelInfer's response: which outputs, in which form, and its bytes.

A response ends with its tensors' bytes, each copied into it once. All that comes before them, but for the id, depends
on the model and the shapes alone, so it is serialised once for each shape: 8 µs become 1.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from ..batching.batch import TensorMap
from ..pb import open_inference_pb2 as pb
from ..tensors import DATATYPES, Array, TensorSpec, encode
from .protobuf_wire import bytes_field

Shapes = tuple[tuple[int, ...], ...]
MAX_LAYOUTS: Final = 1024
"""Shapes remembered for one reply."""
RAW: Final = pb.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER


class InferResponseEncoder:
    """Writes the responses of requests that want the same outputs of a model."""

    __slots__ = (
        "_batches",
        "_classes",
        "_head",
        "_is_raw",
        "_labels",
        "_layouts",
        "_names",
        "_specs",
    )

    def __init__(
        self,
        model: str,
        version: str,
        wanted: Sequence[tuple[TensorSpec, int]],
        *,
        labels: Sequence[str] = (),
        batches: bool = True,
    ) -> None:
        """``wanted``: each output with its k of the classification extension, or 0.

        ``labels`` and ``batches`` (whether the first axis counts rows) are the model's, for that extension.
        """
        self._head = pb.ModelInferResponse(model_name=model, model_version=version).SerializeToString()
        self._labels = labels
        self._batches = batches
        self._specs = [spec for spec, _ in wanted]
        self._classes = [classes for _, classes in wanted]
        self._is_raw = not any(self._classes) and not any(spec.datatype.numpy.hasobject for spec in self._specs)
        self._names = [spec.name for spec in self._specs]
        self._layouts: dict[Shapes, list[bytes]] = {}

    def encode(self, outputs: TensorMap, id_field: bytes = b"") -> bytes:
        """The serialised response with these outputs of the model, and the serialised field of its id."""
        if not self._is_raw:
            return self._encode_any(outputs, id_field)
        arrays = [outputs[name] for name in self._names]
        shapes = tuple([array.shape for array in arrays])  # a list: 0.1 µs less than from a generator
        layout = self._layouts.get(shapes)
        if layout is None:
            layout = self._layout(arrays)
            if len(self._layouts) < MAX_LAYOUTS:
                self._layouts[shapes] = layout
        response: list[Any] = layout.copy()
        response[1] = id_field
        response[3::2] = arrays  # buffers, as they are: joining copies each once
        return b"".join(response)

    def _layout(self, arrays: Sequence[Array]) -> list[bytes]:
        """The response in pieces: the model, a place for the id, what precedes an array, a place for it, and so on."""
        message = pb.ModelInferResponse()
        for spec, array in zip(self._specs, arrays, strict=True):
            message.outputs.add(name=spec.name, datatype=spec.datatype.name, shape=array.shape)
        parts = [self._head, b"", message.SerializeToString()]
        for array in arrays:
            parts[-1] += bytes_field(RAW, array.nbytes)
            parts += [b"", b""]
        return parts

    def _encode_any(self, outputs: TensorMap, id_field: bytes) -> bytes:
        message = pb.ModelInferResponse()
        for spec, classes in zip(self._specs, self._classes, strict=True):
            array, datatype = outputs[spec.name], spec.datatype
            if classes:
                array, datatype = (
                    _classification(array, classes, self._labels, batches=self._batches),
                    DATATYPES["BYTES"],
                )
            message.outputs.add(name=spec.name, datatype=datatype.name, shape=array.shape)
            message.raw_output_contents.append(encode(array, datatype))
        return self._head + id_field + message.SerializeToString()


def _classification(array: Array, count: int, labels: Sequence[str], *, batches: bool) -> Array:
    """The classification extension: ``"<value>:<index>:<label>"``, highest first, along the last axis.

    As Triton prints them, whole numbers have no decimal places, all others six.
    """
    flat = array.reshape(len(array), -1) if batches else array.reshape(1, -1)
    whole = flat.dtype.kind in "iu"
    order = (_descending(flat) if whole else np.argsort(-flat.astype(np.float64), axis=1, kind="stable"))[:, :count]
    named = len(labels) == flat.shape[1]
    texts = np.empty(order.shape, dtype=object)
    for row, column in np.ndindex(order.shape):
        index = order[row, column]
        label = f":{labels[int(index)]}" if named else ""
        value = f"{flat[row, index]}" if whole else f"{flat[row, index]:.6f}"
        texts[row, column] = f"{value}:{index}{label}"
    return texts if batches else texts[0]


def _descending(numbers: Array) -> Array:
    """The order of whole numbers, of equal ones the first: their negative may not exist."""
    order: Array = numbers.shape[1] - 1 - np.argsort(numbers[:, ::-1], axis=1, kind="stable")[:, ::-1]
    return order
