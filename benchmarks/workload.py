"""A workload is real test images in one request, and the response that a direct run of the model gives."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.errors import BenchmarkError
from service.client.dataset import TEST_SETS
from service.client.errors import UnusableDataset
from service.errors import StartError
from service.pb import open_inference_pb2 as pb
from service.runtime.providers import choose, open_session
from service.tensors import BY_ONNX, Array

DATASETS = {(28, 28, 1): "mnist", (32, 32, 3): "cifar10"}
"""Which test images a model takes, by height, width and channels."""
TOLERANCE = 1e-5
"""Largest deviation of a served output from a direct run, as a share of its largest value: the same
numbers, with room for an execution provider that sums in another order."""


@dataclass(frozen=True)
class Model:
    """A model file, opened just as the server opens it."""

    name: str
    version: str
    path: Path
    session: Any
    images: Array
    """uint8 [10000, height, width, channels], the test set that it takes."""

    @property
    def input_name(self) -> str:
        """The name of its one input."""
        return str(self.session.get_inputs()[0].name)


@dataclass(frozen=True)
class Workload:
    """One kind of request: a model, and how many images are in it."""

    model: Model
    rows: int

    @cached_property
    def images(self) -> Array:
        """uint8 [rows, height, width, channels]: the first of the test set."""
        return self.model.images[: self.rows]

    @cached_property
    def request(self) -> bytes:
        """The serialised ModelInferRequest."""
        message = pb.ModelInferRequest(model_name=self.model.name)
        message.inputs.add(name=self.model.input_name, datatype="UINT8", shape=self.images.shape)
        message.raw_input_contents.append(self.images.tobytes())
        return message.SerializeToString()

    @cached_property
    def outputs(self) -> dict[str, Array]:
        """What a direct run of the session gives for the images."""
        names = [output.name for output in self.model.session.get_outputs()]
        arrays = self.model.session.run(names, {self.model.input_name: self.images})
        return dict(zip(names, arrays, strict=True))

    @cached_property
    def response(self) -> bytes:
        """The serialised ModelInferResponse that the server must give, floats within ``TOLERANCE``."""
        message = pb.ModelInferResponse(model_name=self.model.name, model_version=self.model.version)
        for output in self.model.session.get_outputs():
            array = self.outputs[output.name]
            message.outputs.add(name=output.name, datatype=BY_ONNX[output.type].name, shape=array.shape)
            message.raw_output_contents.append(array.tobytes())
        return message.SerializeToString()

    def check(self, served: bytes) -> None:
        """Raises BenchmarkError unless this ModelInferResponse holds the outputs of the direct run."""
        message = pb.ModelInferResponse.FromString(served)
        tensors = dict(zip((output.name for output in message.outputs), message.raw_output_contents, strict=True))
        if set(tensors) != set(self.outputs):
            raise BenchmarkError(
                f"the server's response for '{self.model.name}' has the outputs {', '.join(tensors) or 'none'}; "
                f"expected were {', '.join(self.outputs)}"
            )
        for name, expected in self.outputs.items():
            self.check_output(name, np.frombuffer(tensors[name], expected.dtype))

    def check_output(self, name: str, served: Array) -> None:
        """Raises BenchmarkError unless this output is that of the direct run."""
        expected = self.outputs[name].reshape(-1)
        if served.size != expected.size:
            raise BenchmarkError(f"'{name}' of '{self.model.name}' has {served.size} elements, not {expected.size}")
        allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
        deviation = float(np.abs(served.reshape(-1) - expected).max())
        if not deviation <= allowed:  # NaN must fail too
            raise BenchmarkError(
                f"'{name}' of '{self.model.name}' as served is off by {deviation:.3g} from a direct run of "
                f"the same file ({allowed:.3g} is allowed): there is nothing to measure while responses are wrong"
            )


def open_model(models_dir: Path, name: str, data_dir: Path, *, providers: str, threads: int) -> Model:
    """Opens the highest version and reads its test images; raises BenchmarkError."""
    versions = [int(path.parent.name) for path in models_dir.glob(f"{name}/*/model.onnx") if path.parent.name.isdigit()]
    if not versions:
        found = sorted({path.parent.parent.name for path in models_dir.glob("*/*/model.onnx")})
        raise BenchmarkError(
            f"there is no model '{name}' in {models_dir}, which has {', '.join(found) or 'none'}: build it with "
            f"`python -m training.export`, or name others with --models and --models-dir"
        )
    version = str(max(versions))
    path = models_dir / name / version / "model.onnx"
    try:
        session = open_session(path, choose(providers.split(",")), threads)
    except StartError as error:
        raise BenchmarkError(f"the model '{name}' cannot be opened: {error}") from error
    inputs = session.get_inputs()
    shape = tuple(inputs[0].shape[1:])
    if len(inputs) != 1 or inputs[0].type != "tensor(uint8)" or shape not in DATASETS:
        raise BenchmarkError(
            f"'{name}' takes {inputs[0].type} of shape {inputs[0].shape}; there are images for one uint8 input "
            "of 28 x 28 x 1 (MNIST) or 32 x 32 x 3 (CIFAR-10), behind a batch axis"
        )
    try:
        images = TEST_SETS[DATASETS[shape]].read(data_dir).pictures
    except UnusableDataset as error:
        raise BenchmarkError(f"{error}. The folder is --data-dir, or CONVSERVE_DATA_DIR") from error
    return Model(name, version, path, session, images)
