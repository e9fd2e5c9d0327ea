"""What requests ask for that differ only in id, parameters and the elements of their tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from ..batching.batch import TensorMap
from ..pb import open_inference_pb2 as pb
from ..runtime.endpoint import Endpoint
from ..tensors import Array
from . import infer_request
from .infer_response import InferResponseEncoder

MAX_PLANS: Final = 1024
"""Remembered at once. Past that all are forgotten, and made anew."""
MAX_KEY_BYTES: Final = 1024
"""Usual are 60."""


class RawTensor(NamedTuple):
    """One input, and which entry of raw_input_contents has its elements."""

    name: str
    entry: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    itemsize: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class InferPlan:
    """A checked request, without its id, its parameters and the elements of its tensors."""

    endpoint: Endpoint
    rows: int
    signature: tuple[tuple[int, ...], ...]
    encoder: InferResponseEncoder
    tensors: tuple[RawTensor, ...]
    """In the model's order."""

    def read(self, payload: bytes, places: Sequence[int]) -> TensorMap:
        """The inputs of another request with this plan, whose raw contents begin there: views where they can be."""
        inputs: dict[str, Array] = {}
        for name, entry, shape, dtype, itemsize, nbytes in self.tensors:
            at = places[entry]
            if at % itemsize:  # elements lie across their boundaries: copied
                inputs[name] = np.frombuffer(payload[at : at + nbytes], dtype).reshape(shape)
            else:
                inputs[name] = np.ndarray(shape, dtype, payload, at)
        return inputs


class InferPlans:
    """Plans by the keys of requests. Any thread may ask."""

    def __init__(self) -> None:
        self._plans: dict[bytes, InferPlan] = {}
        self.find = self._plans.get

    def __len__(self) -> int:
        return len(self._plans)

    def clear(self) -> None:
        """Forgets all."""
        self._plans.clear()

    def remember(self, key: bytes, plan: InferPlan) -> None:
        """Remembers the plan of all requests with this key; nothing that is too long."""
        if len(key) > MAX_KEY_BYTES:
            return
        if len(self._plans) >= MAX_PLANS:
            self._plans.clear()
        self._plans[key] = plan


def make_plan(message: pb.ModelInferRequest, endpoint: Endpoint) -> tuple[InferPlan, TensorMap]:
    """Checks a request; its plan, and its inputs. Raises InvalidRequest."""
    inputs, rows = infer_request.read_inputs(message, endpoint)
    wanted = infer_request.wanted_outputs(message, endpoint)
    session = endpoint.session
    encoder = InferResponseEncoder(
        endpoint.name, endpoint.version, wanted, labels=session.metadata.labels, batches=session.spec.batches
    )
    entries = {tensor.name: entry for entry, tensor in enumerate(message.inputs)}
    tensors = tuple(
        RawTensor(name, entries[name], array.shape, array.dtype, array.itemsize, array.nbytes)
        for name, array in inputs.items()
    )
    signature = tuple(array.shape[1:] for array in inputs.values())
    return InferPlan(endpoint, rows, signature, encoder, tensors), inputs


def is_reusable(message: pb.ModelInferRequest, plan: InferPlan) -> bool:
    """True if nothing that was checked is part of the elements, as the lengths of strings are."""
    return bool(message.raw_input_contents) and not any(tensor.dtype.hasobject for tensor in plan.tensors)
