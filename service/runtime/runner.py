"""How an opened model is run: whole, in arrays as they come, or in buckets, a session for each number of rows.

Knows ONNX Runtime, and nothing of files, probes, queues or gRPC.
"""

import ctypes
import queue
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import onnxruntime as ort

from ..tensors import Array, TensorSpec
from .pinned_memory import zeros

ONNX_BFLOAT16 = 16
"""TensorProto.BFLOAT16 (https://onnx.ai/onnx/repo-docs/IR.html)."""


class Runner(Protocol):
    """Runs a model: inputs by name to outputs by name."""

    def run(self, inputs: Mapping[str, Array], options: ort.RunOptions | None = None) -> dict[str, Array]:
        """One run; may be called by several threads at once, and raises whatever ONNX Runtime raises.

        Setting ``options.terminate`` ends it between two operators.
        """


class DirectRunner:
    """Any number of rows, in arrays that ONNX Runtime allocates and reads where the caller has them."""

    def __init__(
        self,
        session: ort.InferenceSession,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        options: ort.RunOptions | None = None,
    ) -> None:
        self._session = session
        self._options = options
        self._outputs = [output.name for output in outputs]
        self._bfloat16 = {spec.name for spec in (*inputs, *outputs) if spec.datatype.name == "BF16"}

    def run(self, inputs: Mapping[str, Array], options: ort.RunOptions | None = None) -> dict[str, Array]:
        """One run."""
        options = options or self._options
        if self._bfloat16:
            return self._run_bfloat16(inputs, options)
        # I/O binding and preallocated outputs were measured: on a CPU neither saves what it costs, but for one row of
        # the smallest model, where it is 2 µs.
        return dict(zip(self._outputs, self._session.run(self._outputs, inputs, options), strict=True))

    def _run_bfloat16(self, inputs: Mapping[str, Array], options: ort.RunOptions | None) -> dict[str, Array]:
        """As ``run``, for models with BF16 tensors: NumPy has no such type, so their bits travel as uint16."""
        feeds = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), ONNX_BFLOAT16)
            if name in self._bfloat16
            else ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in inputs.items()
        }
        values = self._session.run_with_ort_values(self._outputs, feeds, options)
        return {
            name: _bfloat16_bits(value) if name in self._bfloat16 else value.numpy()
            for name, value in zip(self._outputs, values, strict=True)
        }


class ScalarRunner:
    """Takes a scalar as [1] too, because clients know none."""

    def __init__(self, runner: Runner, scalars: Sequence[str]) -> None:
        self._runner = runner
        self._scalars = scalars

    def run(self, inputs: Mapping[str, Array], options: ort.RunOptions | None = None) -> dict[str, Array]:
        """One run."""
        scalars = {name: inputs[name].reshape(()) for name in self._scalars if inputs[name].shape == (1,)}
        return self._runner.run({**inputs, **scalars}, options)


class ThreadedRunner:
    """Two runners of one function: ``one`` computes in one thread, ``all`` in all there are.

    Few rows are done sooner by one. When there are runs enough for all cores, each run by one thread costs less than
    by all in turn, because no thread waits for another at the end of each layer (cores of 2; 64 rows a run: mnist-tiny
    1.7 times as many images/s, cifar10-tiny 1.45, cifar10-lenet 1.23, cifar10-cnn 1.02).
    """

    def __init__(self, one: Runner, most: int, all_: Runner) -> None:
        """``one`` runs up to ``most`` rows, and any number beside another run."""
        self._one = one
        self._most = most
        self._all = all_
        self._under_way: list[None] = []  # its length counts them: append and pop are atomic, += is not

    def run(self, inputs: Mapping[str, Array], options: ort.RunOptions | None = None) -> dict[str, Array]:
        """One run."""
        self._under_way.append(None)
        try:
            rows = len(next(iter(inputs.values())))
            runner = self._one if rows <= self._most or len(self._under_way) > 1 else self._all
            return runner.run(inputs, options)
        finally:
            self._under_way.pop()


class ShapeBucket:
    """A session that sees one number of rows, in buffers whose addresses never change."""

    def __init__(
        self,
        session: ort.InferenceSession,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        rows: int,
        placement: tuple[str, int],
    ) -> None:
        """``placement``: the device of the buffers, as ONNX Runtime names and numbers it."""
        self.rows = rows
        self._session = session
        self._filled = 0
        self._binding = session.io_binding()
        self._host = {spec.name: zeros((rows, *spec.shape[1:]), spec.datatype.numpy, placement) for spec in inputs}
        self._inputs = {spec.name: _buffer(spec, rows, placement) for spec in inputs}
        self._outputs = {spec.name: _buffer(spec, rows, placement) for spec in outputs}
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def run(self, inputs: Mapping[str, Array], rows: int, options: ort.RunOptions | None = None) -> dict[str, Array]:
        """One run of so many rows, at most its own; the rows that are missing are zeros, and are cut off again."""
        for name, array in inputs.items():
            host = self._host[name]
            host[:rows] = array
            host[rows : self._filled] = 0  # rows of an earlier run are not computed again
            self._inputs[name].update_inplace(host)
        self._filled = rows
        self._session.run_with_iobinding(self._binding, options)
        # A copy, because on a CPU numpy() is a view of the buffer.
        return {name: value.numpy()[:rows].copy() for name, value in self._outputs.items()}


class ModelInstance:
    """The buckets of a model, for one run at a time."""

    def __init__(self, buckets: Sequence[ShapeBucket], *, one_thread: bool) -> None:
        """``one_thread``: all runs happen in a thread of its own.

        ONNX Runtime records CUDA graphs for each thread that runs. It also forbids all other allocation meanwhile, so
        that recording must be over before the first request.
        """
        self._buckets = sorted(buckets, key=lambda bucket: bucket.rows)
        self._thread = ThreadPoolExecutor(1, "bucket") if one_thread else None

    def run(self, inputs: Mapping[str, Array], options: ort.RunOptions | None = None) -> dict[str, Array]:
        """One run, in the smallest bucket that holds it; raises ValueError where none does."""
        rows = len(next(iter(inputs.values())))
        for bucket in self._buckets:
            if rows <= bucket.rows:
                break
        else:
            raise ValueError(f"{rows} rows are more than the {self._buckets[-1].rows} that were prepared for")
        if self._thread is None:
            return bucket.run(inputs, rows, options)
        return self._thread.submit(bucket.run, inputs, rows, options).result()


class InstancePool:
    """Several instances of one model; each run takes one that is idle, and waits where none is."""

    def __init__(self, instances: Sequence[ModelInstance]) -> None:
        self._idle: queue.SimpleQueue[ModelInstance] = queue.SimpleQueue()
        for instance in instances:
            self._idle.put(instance)

    def run(self, inputs: Mapping[str, Array], options: ort.RunOptions | None = None) -> dict[str, Array]:
        """One run."""
        instance = self._idle.get()
        try:
            return instance.run(inputs, options)
        finally:
            self._idle.put(instance)


def _buffer(spec: TensorSpec, rows: int, placement: tuple[str, int]) -> ort.OrtValue:
    shape = (rows, *spec.shape[1:])
    return ort.OrtValue.ortvalue_from_shape_and_type(shape, spec.datatype.numpy.type, *placement)


def _bfloat16_bits(value: ort.OrtValue) -> Array:
    """The tensor's 16-bit patterns as uint16, copied out of ONNX Runtime's memory."""
    shape = tuple(value.shape())
    size = int(np.prod(shape)) * 2
    return np.frombuffer(ctypes.string_at(value.data_ptr(), size), np.uint16).reshape(shape)
