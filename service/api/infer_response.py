"""ModelInfer's response: which outputs, in which form, and its bytes.

A response ends with its tensors' bytes, each copied into it once. All that comes before them depends
on the model and the shapes alone, so it is serialised once for each shape: 8 µs become 1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from service.api.protobuf_wire import bytes_field
from service.batching.batch import BatchSlice, TensorMap
from service.pb import open_inference_pb2 as pb
from service.tensors import DATATYPES, Array, TensorSpec, encode

Shapes = tuple[tuple[int, ...], ...]
MAX_LAYOUTS = 1024
"""Shapes remembered for one reply."""
RAW = pb.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER


class InferResponseEncoder:
    """How a request wants to be answered; requests that want the same may share one."""

    __slots__ = (
        "_batches",
        "_classes",
        "_head",
        "_known",
        "_labels",
        "_layouts_of_slices",
        "_names",
        "_plain",
        "_specs",
    )

    def __init__(
        self,
        model: str,
        version: str,
        request_id: str,
        wanted: Sequence[tuple[TensorSpec, int]],
        *,
        labels: Sequence[str] = (),
        batches: bool = True,
    ) -> None:
        """``wanted``: each output with its k of the classification extension, or 0.

        ``labels`` and ``batches`` (whether the first axis counts rows) are the model's, for that extension.
        """
        self._head = pb.ModelInferResponse(model_name=model, model_version=version, id=request_id)
        self._labels = labels
        self._batches = batches
        self._specs = [spec for spec, _ in wanted]
        self._classes = [classes for _, classes in wanted]
        self._plain = not any(self._classes) and not any(spec.datatype.numpy.hasobject for spec in self._specs)
        self._names = [spec.name for spec in self._specs]
        self._known: dict[Shapes, list[bytes]] = {}
        self._layouts_of_slices: dict[tuple[int, Shapes], list[bytes]] = {}

    def encode(self, outputs: TensorMap) -> bytes:
        """The serialised response with these outputs of the model."""
        if not self._plain:
            return self._encode_any(outputs)
        if type(outputs) is BatchSlice:
            return self._encode_slice(outputs)
        arrays = [outputs[spec.name] for spec in self._specs]
        shapes = tuple([array.shape for array in arrays])  # a list: 0.1 µs less than from a generator
        parts = self._known.get(shapes)
        if parts is None:
            parts = self._layout(arrays)
            if len(self._known) < MAX_LAYOUTS:
                self._known[shapes] = parts
        response: list[Any] = parts.copy()
        response[1::2] = arrays  # buffers, as they are: joining copies each once
        return b"".join(response)

    def _encode_slice(self, part: BatchSlice) -> bytes:
        """As ``encode``, without an array for each request: 64 of them share the bytes of their run."""
        start, stop, shared = part.start, part.stop, part.shared
        key = stop - start, shared.shapes
        parts = self._layouts_of_slices.get(key)
        if parts is None:
            parts = self._layout([part[name] for name in self._names])
            if len(self._layouts_of_slices) < MAX_LAYOUTS:
                self._layouts_of_slices[key] = parts
        response = parts.copy()
        place = 1
        for name in self._names:
            raw, size = shared.bytes_of(name)
            response[place] = raw[start * size : stop * size]
            place += 2
        return b"".join(response)

    def _layout(self, arrays: Sequence[Array]) -> list[bytes]:
        """What comes before the first array's bytes, a place for them, what comes before the second's, and so on."""
        message = pb.ModelInferResponse()
        message.CopyFrom(self._head)
        for spec, array in zip(self._specs, arrays, strict=True):
            message.outputs.add(name=spec.name, datatype=spec.datatype.name, shape=array.shape)
        parts = [message.SerializeToString()]
        for array in arrays:
            parts[-1] += bytes_field(RAW, array.nbytes)
            parts += [b"", b""]
        return parts

    def _encode_any(self, outputs: TensorMap) -> bytes:
        message = pb.ModelInferResponse()
        message.CopyFrom(self._head)
        for spec, classes in zip(self._specs, self._classes, strict=True):
            array, datatype = outputs[spec.name], spec.datatype
            if classes:
                array, datatype = (
                    _classification(array, classes, self._labels, batches=self._batches),
                    DATATYPES["BYTES"],
                )
            message.outputs.add(name=spec.name, datatype=datatype.name, shape=array.shape)
            message.raw_output_contents.append(encode(array, datatype))
        return message.SerializeToString()


def _classification(array: Array, count: int, labels: Sequence[str], *, batches: bool) -> Array:
    """The classification extension: ``"<value>:<index>:<label>"``, highest first, along the last axis."""
    flat = array.reshape(len(array), -1) if batches else array.reshape(1, -1)
    order = np.argsort(-flat.astype(np.float64), axis=1, kind="stable")[:, :count]
    named = len(labels) == flat.shape[1]
    texts = np.empty(order.shape, dtype=object)
    for row, column in np.ndindex(order.shape):
        index = order[row, column]
        label = f":{labels[int(index)]}" if named else ""
        texts[row, column] = f"{flat[row, index]:.6f}:{index}{label}"
    return texts if batches else texts[0]
