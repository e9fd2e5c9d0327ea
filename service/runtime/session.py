"""One ONNX file, opened: what it takes and gives, proof that it computes what it should, and runs.

Knows ONNX Runtime, and nothing of queues or gRPC.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from ..batching.policy import BATCHING, Batching
from ..batching.run import Run
from ..errors import ModelFailed, ModelRejected
from ..tensors import BY_ONNX, Array, TensorSpec
from . import row_independence, tuning
from .execution_provider import Cpu, Provider
from .file_check import check_graph
from .graph import Graph, read_graph
from .hashes import verify_hashes
from .model_file import ModelFile
from .model_metadata import ModelMetadata, read_metadata
from .model_report import read_rates
from .providers import open_session
from .runner import (
    DirectRunner,
    InstancePool,
    ModelInstance,
    Runner,
    ScalarRunner,
    ShapeBucket,
    ThreadedRunner,
)
from .tuning import Tuning

UNBUCKETED = {"BF16", "BYTES"}
"""Datatypes that no buffer of fixed size holds, or that NumPy has not."""


@dataclass(frozen=True)
class ModelSpec:
    """The inputs and outputs of a model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    unbatched_reason: str = ""
    """Why requests must not share a run; empty where axis 0 counts rows that do not depend on each other."""

    @property
    def batches(self) -> bool:
        """True where axis 0 of every input and output counts rows that do not depend on each other."""
        return not self.unbatched_reason

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
        """True if it takes ``images`` as uint8 [batch, height, width, channels] and gives ``probabilities``."""
        return (
            all(tensor.shape[:1] == (-1,) for tensor in self.inputs + self.outputs)
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

    def __init__(
        self,
        path: Path,
        providers: Sequence[Provider],
        *,
        threads: int,
        max_batch_rows: int,
        batching: Batching = "auto",
    ) -> None:
        """Opens the file; raises ProviderUnavailable or ModelRejected.

        ``batching``: as the setting says; ``auto`` leaves it to the file's metadata, and then to the model's rows.
        """
        first = providers[0]
        file = ModelFile.read(path)
        self.metadata: ModelMetadata = read_metadata(file.metadata)
        self.measured = read_rates(path)
        verify_hashes(file)
        graph = read_graph(memoryview(file.model))
        check_graph(graph)
        self.has_control_flow = graph.has_control_flow
        """True where the time of a run depends on the values of its inputs."""
        session = open_session(file, providers, threads)
        self.provider = first.name
        self.arithmetic = first.arithmetic
        self.spec = _read_spec(session)
        self._runner: Runner = DirectRunner(session, self.spec.inputs, self.spec.outputs)
        scalars = [spec.name for spec in self.spec.inputs if graph.shapes.get(spec.name) == ()]
        if scalars:
            self._runner = ScalarRunner(self._runner, scalars)
        self._decide_batching(batching, session, graph, max_batch_rows)
        self.buckets = _bucket_rows(first.buckets, max_batch_rows) if _has_fixed_rows(self.spec) else ()
        """The numbers of rows that it runs, others being padded; empty: any number."""
        self.one_thread_rows = 0
        """Up to so many, rows are run by one thread although there are more."""
        self.preferred_batch_size = first.preferred_batch_size
        """How many rows of several requests had better share a run; None: as many as there are."""
        self.instance_count = first.instance_count if self.buckets else 1
        """How many runs it does at a time. More threads than that may call ``run``; they wait for each other."""
        if "probabilities" in self.spec.output_by_name:
            self.metadata.check_labels(*self.spec.output_by_name["probabilities"].shape[-1:])
        if self.spec.is_image_classifier:
            self.metadata.check_preprocessing(self.spec.inputs[0].shape[1:])
        self.probe_tolerance = self._probe_tolerance()
        """The largest deviation of a logit that is accepted here; None without a probe."""
        self.probe_deviation: float | None = None
        """The largest deviation of a logit from the probe's, in all buckets; None without a probe."""
        if self.buckets:
            free = {argument.shape[0] for argument in session.get_inputs() if argument.shape[0]}
            sizes = {rows: dict.fromkeys(free, rows) for rows in self.buckets}
            self._runner = InstancePool(
                [self._open_instance(file, providers, threads, sizes) for _ in range(self.instance_count)]
            )
            return
        if not self.spec.batches:
            if self.metadata.probe is not None:
                self._verify_probe(self._runner, 1)
            return
        self._verify_probe(self._runner, None)
        if isinstance(first, Cpu):
            self._apply(_tuning(path, first, graph, threads, max_batch_rows), file, providers)
        else:
            # Compiles, tunes and takes its memory before the first caller waits.
            self._run_zeros(self._runner, max_batch_rows)

    def _decide_batching(
        self, batching: Batching, session: ort.InferenceSession, graph: Graph, max_batch_rows: int
    ) -> None:
        """Finds whether requests may share a run; raises ModelRejected where they must and may not."""
        source = "the setting --batching"
        wanted = (self.metadata.properties or {}).get("convserve.batching", "auto")
        if batching != "auto":
            wanted = batching
        else:
            source = "its metadata entry 'convserve.batching'"
            if wanted not in BATCHING:
                raise ModelRejected(f"{source} is {wanted!r}; it may be {', '.join(BATCHING)}")
        if wanted == "off":
            self.spec = replace(self.spec, unbatched_reason=f"{source} is off")
        elif self.spec.batches:
            model = row_independence.Model(
                DirectRunner(session, self.spec.inputs, self.spec.outputs, _quiet()).run,
                self.spec.inputs,
                graph,
                exact=self.provider == "cpu",
                share=self.arithmetic.tolerance,
            )
            reason = row_independence.find_dependence(model, max_batch_rows) or _fixed_outputs(self.spec)
            self.spec = replace(self.spec, unbatched_reason=reason)
        if wanted == "on" and not self.spec.batches:
            raise ModelRejected(
                f"{source} is on, but requests must not share a run: {self.spec.unbatched_reason}. "
                "With auto, it is served one request at a time"
            )

    def _apply(self, chosen: Tuning, file: ModelFile, providers: Sequence[Provider]) -> None:
        """Runs as was chosen; a second session is opened only where runs of one thread are wanted."""
        self.preferred_batch_size = chosen.preferred_batch_size
        if not chosen.one_thread_rows and chosen.instance_count == 1:
            return
        one = DirectRunner(open_session(file, providers, 1), self.spec.inputs, self.spec.outputs)
        self._verify_probe(one, 1 if self.metadata.probe is None else None)
        self.one_thread_rows = chosen.one_thread_rows
        self.instance_count = chosen.instance_count
        self._runner = ThreadedRunner(one, chosen.one_thread_rows, self._runner)

    def run(self, inputs: Mapping[str, Array], run: Run | None = None) -> dict[str, Array]:
        """One run of the model; releases the interpreter lock. Raises ModelFailed.

        ``run`` is given the means to end it, unless it is inline: the thread that would end it is the one that runs.
        """
        options = None
        if run is not None and not run.inline:
            options = ort.RunOptions()
            run.terminate = partial(setattr, options, "terminate", True)  # noqa: FBT003 - setattr's signature
            if not run.is_wanted:  # the last caller went away before there was anything to end
                options.terminate = True
        try:
            return self._runner.run(inputs, options)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModelFailed(str(error)) from error

    def _open_instance(
        self, file: ModelFile, providers: Sequence[Provider], threads: int, sizes: Mapping[int, Mapping[str, int]]
    ) -> ModelInstance:
        """A session for each number of rows, with the free axes that it fixes; all of them proved, and so warm."""
        placement = providers[0].placement
        buckets = []
        for rows, axes in sizes.items():
            session = open_session(file, providers, threads, axes)
            buckets.append(ShapeBucket(session, self.spec.inputs, self.spec.outputs, rows, placement))
        instance = ModelInstance(buckets, one_thread=providers[0].captures)
        for rows in sizes:
            self._verify_probe(instance, rows)
        return instance

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
        self.metadata.check_labels(probe.logits.shape[1])
        return probe.allow(self.arithmetic.tolerance).closest[1]

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
                outputs = runner.run({"images": probe.images[chosen]})
            except Exception as error:  # ONNX Runtime's exceptions share no base class
                raise ModelRejected(f"it cannot run its own probe: {error}") from error
            deviation = probe.allow(self.arithmetic.tolerance).take(chosen).check(outputs["logits"])
            self.probe_deviation = max(self.probe_deviation or 0.0, deviation)
            self.metadata.check_probabilities(outputs["logits"], outputs["probabilities"], self.arithmetic.tolerance)

    def _run_zeros(self, runner: Runner, rows: int) -> None:
        """Runs so many rows of zeros; raises ModelRejected where it fails."""
        try:
            runner.run(self.zeros(rows))
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModelRejected(f"it cannot run {rows} rows: {error}") from error

    def zeros(self, rows: int) -> dict[str, Array]:
        """Inputs of that many rows; axes of any other free length are 1 long."""
        return {spec.name: _zeros((rows, *(max(1, n) for n in spec.shape[1:])), spec) for spec in self.spec.inputs}


def _zeros(shape: tuple[int, ...], spec: TensorSpec) -> Array:
    return np.full(shape, "", dtype=object) if spec.datatype.name == "BYTES" else np.zeros(shape, spec.datatype.numpy)


def _tuning(path: Path, provider: Cpu, graph: Graph, threads: int, max_batch_rows: int) -> Tuning:
    """As was set, else as was measured, else by rule."""
    chosen = tuning.measured(path, provider.name, threads) or tuning.by_rule(
        graph.row_cost(), threads, max_batch_rows, provider.preferred_batch_size or max_batch_rows
    )
    if provider.instances:
        chosen = replace(chosen, instance_count=provider.instances)
    if provider.one_thread_rows >= 0:
        chosen = replace(chosen, one_thread_rows=provider.one_thread_rows)
    return chosen


def _read_spec(session: ort.InferenceSession) -> ModelSpec:
    given, made = session.get_inputs(), session.get_outputs()
    inputs = tuple(_tensor(argument) for argument in given)
    outputs = tuple(_tensor(argument) for argument in made)
    return ModelSpec(inputs, outputs, _no_batch_axis([tuple(argument.shape) for argument in given], made))


def _no_batch_axis(shapes: Sequence[tuple[Any, ...]], outputs: Sequence[Any]) -> str:
    """Why axis 0 of the inputs is no batch axis by what is declared; empty where it may be one.

    It may where it is free, has one name where it is named, and no other axis has that name.
    """
    if not shapes:
        return "it has no inputs"
    if any(not shape or isinstance(shape[0], int) for shape in shapes):
        return "its inputs do not all have a first axis of any length"
    names = {shape[0] for shape in shapes if shape[0]}
    if len(names) > 1:
        return f"the first axes of its inputs have different names: {', '.join(sorted(names))}"
    if any(axis in names for shape in (*shapes, *(tuple(output.shape) for output in outputs)) for axis in shape[1:]):
        return f"its axis '{names.pop()}' is not only the first"
    return ""


def _fixed_outputs(spec: ModelSpec) -> str:
    """Names an output whose first axis is declared to be of one length; empty where none is."""
    fixed = [tensor for tensor in spec.outputs if tensor.shape[:1] != (-1,)]
    return f"output '{fixed[0].name}' has shape {list(fixed[0].shape)} for any number of rows" if fixed else ""


def _quiet() -> ort.RunOptions:
    """For runs that may fail without anything being wrong: ONNX Runtime writes no line for each."""
    options = ort.RunOptions()
    options.log_severity_level = 4
    return options


def _tensor(argument: Any) -> TensorSpec:
    if argument.type not in BY_ONNX:
        raise ModelRejected(
            f"'{argument.name}' is a {argument.type}, which the protocol has no datatype for{_remedy(argument.type)}"
        )
    shape = tuple(axis if isinstance(axis, int) else -1 for axis in argument.shape)
    names = tuple(axis if isinstance(axis, str) else "" for axis in argument.shape)
    return TensorSpec(argument.name, BY_ONNX[argument.type], shape, names)


def _remedy(kind: str) -> str:
    """What to do about an input or output that is no tensor."""
    if kind.startswith("seq(map("):
        return (
            ". It comes of a ZipMap behind a classifier: export without it (skl2onnx: options={'zipmap': False}), "
            "and the probabilities are a tensor"
        )
    if kind.startswith(("seq(", "map(", "optional(", "sparse_tensor(")):
        return ". Export the model with tensors in its place"
    return ""


def _has_fixed_rows(spec: ModelSpec) -> bool:
    """Whether buffers of fixed size can hold its rows: only the batch axis is free, and all elements are numbers."""
    return spec.batches and all(
        min(tensor.shape[1:], default=1) > 0 and tensor.datatype.name not in UNBUCKETED
        for tensor in spec.inputs + spec.outputs
    )


def _bucket_rows(buckets: Sequence[int], max_batch_rows: int) -> tuple[int, ...]:
    """The buckets up to the largest batch, which is one itself; none where the provider has none."""
    return (*(rows for rows in buckets if rows < max_batch_rows), max_batch_rows) if buckets else ()
