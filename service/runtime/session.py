"""One ONNX file, opened: what it takes and gives, proof that it computes what it should, and runs.

Knows ONNX Runtime, and nothing of queues or gRPC.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from service.errors import ModelFailed, ModelRejected
from service.runtime.execution_provider import Provider
from service.runtime.model_metadata import ModelMetadata, read_metadata
from service.runtime.providers import open_session
from service.runtime.runner import DirectRunner, InstancePool, ModelInstance, Runner, ShapeBucket, ThreadedRunner
from service.runtime.trials import Trials
from service.tensors import BY_ONNX, Array, TensorSpec

UNBUCKETED = {"BF16", "BYTES"}
"""Datatypes that no buffer of fixed size holds, or that NumPy has not."""


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
        first = providers[0]
        session = open_session(path, providers, threads)
        self.provider = first.name
        self.arithmetic = first.arithmetic
        self.metadata: ModelMetadata = read_metadata(session.get_modelmeta().custom_metadata_map)
        self.spec = _read_spec(session)
        self._runner: Runner = DirectRunner(session, self.spec.inputs, self.spec.outputs)
        if self.spec.batches and not self._verify_batch_axis():
            self.spec = replace(self.spec, batches=False)
        self.buckets = _bucket_rows(first.buckets, max_batch_rows) if _has_fixed_rows(self.spec) else ()
        """The numbers of rows that it runs, others being padded; empty: any number."""
        self.one_thread_rows = 0
        """Up to so many, rows are run by one thread although there are more."""
        self.preferred_batch_size = first.preferred_batch_size
        """How many rows of several requests had better share a run; None: as many as there are."""
        self.instance_count = first.instance_count if self.buckets else 1
        """How many runs it does at a time. More threads than that may call ``run``; they wait for each other."""
        self.probe_tolerance = self._probe_tolerance()
        """The largest deviation of a logit that is accepted here; None without a probe."""
        self.probe_deviation: float | None = None
        """The largest deviation of a logit from the probe's, in all buckets; None without a probe."""
        if self.buckets:
            free = {argument.shape[0] for argument in session.get_inputs() if argument.shape[0]}
            sizes = {rows: dict.fromkeys(free, rows) for rows in self.buckets}
            self._runner = InstancePool(
                [self._open_instance(path, providers, threads, sizes) for _ in range(self.instance_count)]
            )
            return
        self._verify_probe(self._runner, None)
        if self.spec.batches and self.provider != "cpu":
            # Compiles, tunes and takes its memory before the first caller waits.
            self._run_zeros(self._runner, max_batch_rows)
        trials = Trials(self._run_zeros, max_batch_rows)
        if self.spec.batches and threads > 1 and first.one_thread_us:
            one = DirectRunner(open_session(path, providers, 1), self.spec.inputs, self.spec.outputs)
            self.one_thread_rows = trials.rows_within(one, first.one_thread_us)
            rows = min(first.preferred_batch_size or max_batch_rows, max_batch_rows)
            if trials.gains(self._runner, one, threads, rows):
                self.instance_count = threads
            if self.one_thread_rows or self.instance_count > 1:
                self._verify_probe(one, None)
                self._runner = ThreadedRunner(one, self.one_thread_rows, self._runner)
            runner = one if self.instance_count > 1 else self._runner
        else:
            runner = self._runner
        if self.spec.batches and self.preferred_batch_size:
            self.preferred_batch_size = trials.rows_worth_joining(runner, self.preferred_batch_size)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One run of the model; releases the interpreter lock. Raises ModelFailed."""
        try:
            return self._runner.run(inputs)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModelFailed(str(error)) from error

    def _open_instance(
        self, path: Path, providers: Sequence[Provider], threads: int, sizes: Mapping[int, Mapping[str, int]]
    ) -> ModelInstance:
        """A session for each number of rows, with the free axes that it fixes; all of them proved, and so warm."""
        placement = providers[0].placement
        buckets = []
        for rows, axes in sizes.items():
            session = open_session(path, providers, threads, axes)
            buckets.append(ShapeBucket(session, self.spec.inputs, self.spec.outputs, rows, placement))
        instance = ModelInstance(buckets, one_thread=providers[0].captures)
        for rows in sizes:
            self._verify_probe(instance, rows)
        return instance

    def _verify_batch_axis(self) -> bool:
        """Whether axis 0 of every output really follows axis 0 of the inputs: what is declared may be wrong."""
        for rows in (1, 2):
            try:
                outputs = self.run(self._zeros(rows))
            except ModelFailed:
                return False  # it may want other values than zeros: served one request at a time
            if any(output.shape[:1] != (rows,) for output in outputs.values()):
                return False
        return True

    def _probe_tolerance(self) -> float | None:
        """The file's own tolerance, or that of the provider's arithmetic where it is larger."""
        probe = self.metadata.probe
        if probe is None:
            return None
        if not self.spec.is_image_classifier or "logits" not in self.spec.output_by_name:
            raise ModelRejected("it carries a probe, but not the input 'images' and the output 'logits' to try it on")
        if not self.spec.inputs[0].accepts(probe.images.shape):
            raise ModelRejected(
                f"its probe has images of shape {probe.images.shape}, which its own input does not take"
            )
        return max(probe.tolerance, self.arithmetic.tolerance * float(np.abs(probe.logits).max()))

    def _verify_probe(self, runner: Runner, rows: int | None) -> None:
        """Runs the images of the probe, ``rows`` at a time if given, and compares; zeros where there is no probe."""
        probe = self.metadata.probe
        if probe is None or self.probe_tolerance is None:
            if rows is not None:
                self._run_zeros(runner, rows)
            return
        count = len(probe.images)
        for start in range(0, count, rows or count):
            chosen = np.arange(start, start + (rows or count)) % count
            try:
                logits = runner.run({"images": probe.images[chosen]})["logits"]
            except Exception as error:  # ONNX Runtime's exceptions share no base class
                raise ModelRejected(f"it cannot run its own probe: {error}") from error
            part = replace(probe, logits=probe.logits[chosen], tolerance=self.probe_tolerance)
            self.probe_deviation = max(self.probe_deviation or 0.0, part.check(logits))

    def _run_zeros(self, runner: Runner, rows: int) -> float:
        """Microseconds of a run of so many rows of zeros; raises ModelRejected where it fails."""
        zeros = self._zeros(rows)
        started = time.perf_counter()
        try:
            runner.run(zeros)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModelRejected(f"it cannot run {rows} rows: {error}") from error
        return (time.perf_counter() - started) * 1e6

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
    names = tuple(axis if isinstance(axis, str) else "" for axis in argument.shape)
    return TensorSpec(argument.name, BY_ONNX[argument.type], shape, names)


def _has_fixed_rows(spec: ModelSpec) -> bool:
    """Whether buffers of fixed size can hold its rows: only the batch axis is free, and all elements are numbers."""
    return spec.batches and all(
        min(tensor.shape[1:], default=1) > 0 and tensor.datatype.name not in UNBUCKETED
        for tensor in spec.inputs + spec.outputs
    )


def _bucket_rows(buckets: Sequence[int], max_batch_rows: int) -> tuple[int, ...]:
    """The buckets up to the largest batch, which is one itself; none where the provider has none."""
    return (*(rows for rows in buckets if rows < max_batch_rows), max_batch_rows) if buckets else ()
