"""One ONNX file, opened: what it takes and gives, proof that it computes what it should, and runs.

Knows ONNX Runtime, and nothing of queues or gRPC.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from service.card import Card, read_card
from service.errors import ModelFailed, ModelRejected
from service.providers import Provider, open_session
from service.tensors import BY_ONNX, Array, TensorSpec

ONNX_BFLOAT16 = 16
"""TensorProto.BFLOAT16 (https://onnx.ai/onnx/repo-docs/IR.html)."""


@dataclass(frozen=True)
class ModelSpec:
    """The inputs and outputs of a model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batches: bool
    """Whether axis 0 of every input and output counts rows that do not depend on each other."""

    @cached_property
    def input_by_name(self) -> Mapping[str, TensorSpec]:
        """The inputs by name."""
        return {tensor.name: tensor for tensor in self.inputs}

    @cached_property
    def output_by_name(self) -> Mapping[str, TensorSpec]:
        """The outputs by name."""
        return {tensor.name: tensor for tensor in self.outputs}

    @cached_property
    def is_image_classifier(self) -> bool:
        """Whether it takes ``images`` as uint8 [batch, height, width, channels] and gives ``probabilities``."""
        return (
            self.batches
            and [(image.name, image.datatype.name, len(image.shape)) for image in self.inputs]
            == [("images", "UINT8", 4)]
            and min(self.inputs[0].shape[1:]) > 0
            and self.inputs[0].shape[3] in (1, 3)
            and "probabilities" in self.output_by_name
            and self.output_by_name["probabilities"].datatype.name == "FP32"
            and len(self.output_by_name["probabilities"].shape) == 2
        )


class Session:
    """A model that can be run: checked against its own probe, and warm."""

    def __init__(self, path: Path, providers: Sequence[Provider], *, threads: int, max_batch_rows: int) -> None:
        """Opens the file; raises ProviderUnavailable or ModelRejected."""
        self._session = open_session(path, providers, threads)
        self.provider = providers[0].name
        self.card: Card = read_card(self._session.get_modelmeta().custom_metadata_map)
        self.spec = _read_spec(self._session)
        self._outputs = [output.name for output in self.spec.outputs]
        self._bfloat16 = {spec.name for spec in self.spec.inputs + self.spec.outputs if spec.datatype.name == "BF16"}
        if self.spec.batches and not self._rows_hold():
            self.spec = replace(self.spec, batches=False)
        self.probe_deviation = self._check_probe()
        if self.spec.batches and self.provider != "cpu":
            self.run(self._zeros(max_batch_rows))  # compiles, tunes and takes its memory before the first caller waits

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One run of the model; releases the interpreter lock. Raises ModelFailed."""
        try:
            if self._bfloat16:
                return self._run_bfloat16(inputs)
            return dict(zip(self._outputs, self._session.run(self._outputs, inputs), strict=True))
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModelFailed(str(error)) from error

    def _run_bfloat16(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As ``run``, for models with BF16 tensors: NumPy has no such type, so their bits travel as uint16."""
        feeds = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), ONNX_BFLOAT16)
            if name in self._bfloat16
            else ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in inputs.items()
        }
        values = self._session.run_with_ort_values(self._outputs, feeds)
        return {
            name: _bfloat16_bits(value) if name in self._bfloat16 else value.numpy()
            for name, value in zip(self._outputs, values, strict=True)
        }

    def _rows_hold(self) -> bool:
        """Whether axis 0 of every output really follows axis 0 of the inputs: what is declared may be wrong."""
        for rows in (1, 2):
            try:
                outputs = self.run(self._zeros(rows))
            except ModelFailed:
                return False  # it may want other values than zeros: served one request at a time
            if any(output.shape[:1] != (rows,) for output in outputs.values()):
                return False
        return True

    def _check_probe(self) -> float | None:
        probe = self.card.probe
        if probe is None:
            return None
        if not self.spec.is_image_classifier or "logits" not in self._outputs:
            raise ModelRejected("it carries a probe, but not the input 'images' and the output 'logits' to try it on")
        if not self.spec.inputs[0].accepts(probe.images.shape):
            raise ModelRejected(
                f"its probe has images of shape {probe.images.shape}, which its own input does not take"
            )
        try:
            return probe.check(self.run({"images": probe.images})["logits"])
        except ModelFailed as error:
            raise ModelRejected(f"it cannot run its own probe: {error}") from error

    def _zeros(self, rows: int) -> dict[str, Array]:
        """Inputs of that many rows; axes of any other free length are 1 long."""
        return {spec.name: _zeros((rows, *(max(1, n) for n in spec.shape[1:])), spec) for spec in self.spec.inputs}


def _zeros(shape: tuple[int, ...], spec: TensorSpec) -> Array:
    return np.full(shape, "", dtype=object) if spec.datatype.name == "BYTES" else np.zeros(shape, spec.datatype.numpy)


def _read_spec(session: ort.InferenceSession) -> ModelSpec:
    inputs = tuple(_tensor(argument) for argument in session.get_inputs())
    outputs = tuple(_tensor(argument) for argument in session.get_outputs())
    first_axes = [spec.shape[:1] for spec in inputs + outputs]
    # A free first axis everywhere, and under one name where the inputs name it, is a batch axis.
    names = {argument.shape[0] for argument in session.get_inputs() if argument.shape and argument.shape[0]}
    return ModelSpec(inputs, outputs, batches=bool(inputs) and set(first_axes) == {(-1,)} and len(names) <= 1)


def _tensor(argument: Any) -> TensorSpec:
    if argument.type not in BY_ONNX:
        raise ModelRejected(f"'{argument.name}' is a {argument.type}, which the protocol has no datatype for")
    shape = tuple(axis if isinstance(axis, int) else -1 for axis in argument.shape)
    return TensorSpec(argument.name, BY_ONNX[argument.type], shape)


def _bfloat16_bits(value: ort.OrtValue) -> Array:
    """The tensor's 16-bit patterns as uint16, copied out of ONNX Runtime's memory."""
    shape = tuple(value.shape())
    size = int(np.prod(shape)) * 2
    return np.frombuffer(ctypes.string_at(value.data_ptr(), size), np.uint16).reshape(shape)
