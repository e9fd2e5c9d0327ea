"""ModelInfer's request: checked, and turned into arrays.

Wording of errors follows Triton's, which clients look for.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from ..batching.batch import TensorMap
from ..batching.request import LOWEST_PRIORITY
from ..errors import InvalidRequest
from ..pb import open_inference_pb2 as pb
from ..runtime.endpoint import Endpoint
from ..runtime.session import ModelSpec
from ..tensors import Array, TensorSpec, decode


def parse(payload: bytes) -> pb.ModelInferRequest:
    """The message in these bytes; raises InvalidRequest."""
    try:
        return pb.ModelInferRequest.FromString(payload)
    except Exception as error:  # protobuf's DecodeError, whose module depends on the implementation
        raise InvalidRequest("the message is not a ModelInferRequest") from error


def read_inputs(message: pb.ModelInferRequest, endpoint: Endpoint) -> tuple[TensorMap, int]:
    """The checked inputs in the model's order, and how many rows they have; raises InvalidRequest."""
    name, spec = endpoint.name, endpoint.session.spec
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidRequest(
            f"expected one entry of raw_input_contents for each of the {len(message.inputs)} inputs "
            f"for model '{name}', got {len(raw)}"
        )
    tensors: dict[str, Array] = {}
    rows = 1
    for position, tensor in enumerate(message.inputs):
        if tensor.name in tensors:
            raise InvalidRequest(f"input '{tensor.name}' for model '{name}' is given more than once")
        wanted = _declared_input(tensor, endpoint, raw=bool(raw))
        count = _check_shape(tuple(tensor.shape), wanted, spec, endpoint)
        if tensors and count != rows:
            raise InvalidRequest(f"input '{tensor.name}' batch size does not match other inputs for '{name}'")
        rows = count
        tensors[tensor.name] = decode(tensor, raw[position] if raw else None, wanted, name)
    if len(tensors) != len(spec.inputs):
        missing = ", ".join(f"'{tensor.name}'" for tensor in spec.inputs if tensor.name not in tensors)
        raise InvalidRequest(
            f"expected {len(spec.inputs)} inputs but got {len(tensors)} inputs for model '{name}'. Missing: {missing}"
        )
    _check_named_axes(tensors, endpoint)
    if not any(array.size for array in tensors.values()) and tensors:
        empty = next(iter(tensors))
        raise InvalidRequest(
            f"input '{empty}' for model '{name}' has shape {_bracketed(tensors[empty].shape)}, and so no elements: "
            "there is nothing to compute"
        )
    return {tensor.name: tensors[tensor.name] for tensor in spec.inputs}, rows


def _declared_input(tensor: pb.ModelInferRequest.InferInputTensor, endpoint: Endpoint, *, raw: bool) -> TensorSpec:
    """What the model declares of an input of the request; raises InvalidRequest."""
    name = endpoint.name
    wanted = endpoint.session.spec.input_by_name.get(tensor.name)
    if wanted is None:
        raise InvalidRequest(f"unexpected inference input '{tensor.name}' for model '{name}'")
    if "shared_memory_region" in tensor.parameters:
        raise InvalidRequest(f"input '{tensor.name}' for model '{name}' is in shared memory, which is not supported")
    if tensor.datatype != wanted.datatype.name:
        raise InvalidRequest(
            f"inference input '{tensor.name}' data-type is '{tensor.datatype}', "
            f"but model '{name}' expects '{wanted.datatype.name}'"
        )
    if raw and tensor.HasField("contents"):
        raise InvalidRequest(
            f"contents field must not be specified when using raw_input_contents "
            f"for input '{tensor.name}' for model '{name}'"
        )
    return wanted


def _check_shape(shape: tuple[int, ...], wanted: TensorSpec, spec: ModelSpec, endpoint: Endpoint) -> int:
    """The rows of an input of this shape; raises InvalidRequest."""
    if not wanted.accepts(shape):
        raise InvalidRequest(
            f"unexpected shape for input '{wanted.name}' for model '{endpoint.name}'. "
            f"Expected {_bracketed(wanted.shape)}, got {_bracketed(shape)}"
        )
    if not spec.batches:
        return 1
    limit = endpoint.batcher.max_batch_rows
    if shape[0] > limit:
        raise InvalidRequest(f"inference request batch-size must be <= {limit} for '{endpoint.name}', got {shape[0]}")
    if shape[0] < 1:
        raise InvalidRequest(f"inference request batch-size must be >= 1 for '{endpoint.name}'")
    return int(shape[0])


def _check_named_axes(tensors: TensorMap, endpoint: Endpoint) -> None:
    """Raises InvalidRequest where axes of one name have different lengths: ONNX lets them be equal only."""
    seen: dict[str, tuple[int, str]] = {}
    for spec in endpoint.session.spec.inputs:
        for axis, length in zip(spec.axis_names, tensors[spec.name].shape, strict=False):
            if not axis:
                continue
            first, owner = seen.setdefault(axis, (length, spec.name))
            if length != first:
                raise InvalidRequest(
                    f"axis '{axis}' is {first} in input '{owner}' and {length} in input '{spec.name}' "
                    f"for model '{endpoint.name}': axes of one name need one length"
                )


def _bracketed(shape: Any) -> str:
    return f"[{','.join(str(axis) for axis in shape)}]"


def wanted_outputs(message: pb.ModelInferRequest, endpoint: Endpoint) -> list[tuple[TensorSpec, int]]:
    """The outputs to answer with, each with its k of the classification extension or 0."""
    known = endpoint.session.spec.output_by_name
    if not message.outputs:
        return [(tensor, 0) for tensor in known.values()]
    wanted: dict[str, tuple[TensorSpec, int]] = {}
    for output in message.outputs:
        if output.name not in known:
            raise InvalidRequest(f"unexpected inference output '{output.name}' for model '{endpoint.name}'")
        if output.name in wanted:
            raise InvalidRequest(f"output '{output.name}' for model '{endpoint.name}' is requested more than once")
        if "shared_memory_region" in output.parameters:
            raise InvalidRequest(
                f"output '{output.name}' for model '{endpoint.name}' should go to shared memory, which is not supported"
            )
        classes = _class_count(output, known[output.name], endpoint) if "classification" in output.parameters else 0
        wanted[output.name] = (known[output.name], classes)
    return list(wanted.values())


def _class_count(output: pb.ModelInferRequest.InferRequestedOutputTensor, spec: TensorSpec, endpoint: Endpoint) -> int:
    """The k of the classification extension; raises InvalidRequest."""
    classes = _whole_number(output.parameters, "classification")
    if classes < 1 or spec.datatype.name in ("BYTES", "BF16", "BOOL"):
        raise InvalidRequest(
            f"output '{output.name}' for model '{endpoint.name}': classification needs a number above zero "
            "and a numeric output"
        )
    return classes


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """What a request's parameters say of its place in the queue."""

    timeout_s: float | None = None
    """How long it may wait there."""
    priority: int = LOWEST_PRIORITY
    """1 is the highest."""

    def deadline(self, caller_deadline: float | None) -> float | None:
        """When the request must not run any more, on ``time.monotonic``'s clock."""
        if self.timeout_s is None:
            return caller_deadline
        ends = time.monotonic() + self.timeout_s
        return ends if caller_deadline is None else min(ends, caller_deadline)


PLAIN_QUEUE: Final = QueueOptions()
"""That of a request without parameters."""
SEQUENCE: Final = ("sequence_id", "sequence_start", "sequence_end")
MAX_PARAMETERS: Final = 256
"""Remembered at once; most clients use one."""


@lru_cache(MAX_PARAMETERS)
def read_parameters(fields: bytes) -> QueueOptions:
    """``queue_options`` of serialised fields of parameters."""
    return queue_options(parse(fields).parameters)


def queue_options(parameters: Mapping[str, pb.InferParameter]) -> QueueOptions:
    """The time limit and priority in a request's parameters; raises InvalidRequest."""
    for name in SEQUENCE:
        if name in parameters and _value(parameters[name]):
            raise InvalidRequest(
                f"parameter '{name}' is not supported: the models keep nothing from one request to the next. "
                "Send requests without sequence parameters."
            )
    timeout_s, priority = None, LOWEST_PRIORITY
    if "timeout" in parameters:
        timeout_us = _whole_number(parameters, "timeout")
        if timeout_us < 0:
            raise InvalidRequest(f"parameter 'timeout' must not be negative, got {timeout_us} microseconds")
        timeout_s = timeout_us / 1e6 or None
    if "priority" in parameters:
        priority = _whole_number(parameters, "priority") or LOWEST_PRIORITY
        if priority < 1:
            raise InvalidRequest(f"parameter 'priority' must be 1 (the highest) or more, got {priority}")
    return QueueOptions(timeout_s, priority)


def _value(parameter: pb.InferParameter) -> Any:
    choice = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, choice) if choice else None


def _whole_number(parameters: Mapping[str, pb.InferParameter], name: str) -> int:
    choice = parameters[name].WhichOneof("parameter_choice")
    if choice not in ("int64_param", "uint64_param"):
        raise InvalidRequest(f"parameter '{name}' must be a whole number (int64_param), got {choice or 'nothing'}")
    return int(getattr(parameters[name], choice))
