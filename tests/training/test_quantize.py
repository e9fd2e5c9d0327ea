"""A file of another precision keeps the contract, and stays within the limits that it states."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import nn

from service.errors import ModelRejected
from service.runtime.providers import choose
from service.runtime.session import Session
from training import onnx_file
from training.data import Dataset
from training.evaluate import OnnxFile, Outputs, outputs_of_onnx
from training.export import parity
from training.export.publish import publish_variant
from training.networks import Classifier, Preprocess
from training.quantize import halve, quantize

from .samples import part, shipped
from .trained import TEST, TRAIN, Trained

Precision = Literal["int8", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("int8", "fp16")
# One is trained here for a few seconds, and two are shipped.
NAMES = ("mnist-tiny", "mnist-deep", "cifar10-cnn")


@dataclasses.dataclass(frozen=True)
class Pair:
    """A float32 file, the variant made from it, and what both give for the test images."""

    fp32: Path
    path: Path
    metadata: dict[str, str]
    data: Dataset
    expected: Outputs
    found: Outputs

    @property
    def tolerance(self) -> float:
        return float(json.loads(self.metadata["probe"])["tolerance"])


@pytest.fixture(scope="module", params=[(name, precision) for name in NAMES for precision in PRECISIONS], ids="-".join)
def pair(
    request: pytest.FixtureRequest,
    trained: Trained,
    cifar10: Dataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> Pair:
    """Every network with every precision."""
    name, precision = request.param
    fp32 = trained.path if name == "mnist-tiny" else shipped(name)
    data = trained.data if name.startswith("mnist") else part(cifar10, TRAIN, TEST)
    path = tmp_path_factory.mktemp("variants") / f"{name}-{precision}" / "1" / "model.onnx"
    metadata = publish_variant(precision, data, fp32, path)
    return Pair(fp32, path, metadata, data, outputs(fp32, data.test_images), outputs(path, data.test_images))


def signature(path: Path) -> list[tuple[str, int, list[str | int]]]:
    """Name, type and shape of a file's input and outputs."""
    graph = onnx.load(path).graph
    return [
        (v.name, v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in (*graph.input, *graph.output)
    ]


def outputs(path: Path, images: torch.Tensor) -> Outputs:
    return outputs_of_onnx(OnnxFile(path), images)


def test_signature_equals_the_float32_files(pair: Pair) -> None:
    """What goes in and comes out is that of the float32 file."""
    onnx.checker.check_model(onnx.load(pair.path), full_check=True)
    assert signature(pair.path) == signature(pair.fp32)
    assert [name for name, *_ in signature(pair.path)] == ["images", "logits", "probabilities"]
    assert [kind for _, kind, _ in signature(pair.path)] == [TensorProto.UINT8, TensorProto.FLOAT, TensorProto.FLOAT]


def test_metadata_extends_the_float32_files(pair: Pair) -> None:
    """Its metadata are those of the float32 file, and its own."""
    metadata, fp32 = onnx_file.read_metadata(pair.path), onnx_file.read_metadata(pair.fp32)
    assert metadata == pair.metadata
    precision = metadata["precision"]
    assert precision in PRECISIONS
    assert (metadata["name"], metadata["variant_of"]) == (f"{fp32['name']}-{precision}", fp32["name"])
    same = ("format", "labels", "dataset", "network", "architecture", "parameters", "recipe", "seed", "history")
    assert {key: metadata[key] for key in (*same, "temperature")} == {key: fp32[key] for key in (*same, "temperature")}
    assert metadata["versions"] == onnx_file.versions()
    assert metadata.keys() - fp32.keys() == {"variant_of", "fp32_test_correct", "agreement"}
    probe, reference = json.loads(metadata["probe"]), json.loads(fp32["probe"])
    assert (probe["images"], probe["logits"]) == (reference["images"], reference["logits"])
    assert probe["tolerance"] > reference["tolerance"] == onnx_file.TOLERANCE
    assert ("onnxruntime" in probe) == (precision == "int8")


def test_logits_stay_within_limits(pair: Pair) -> None:
    """It stays within its limits on 2000 test images."""
    differences = np.abs(pair.found.logits - pair.expected.logits).max(1)[:2_000]
    assert differences.max() > onnx_file.TOLERANCE  # it is another precision indeed
    assert (differences > pair.tolerance).sum() <= 2_000 * parity.OUTLIERS
    scaled = pair.found.logits.astype(np.float64) / float(pair.metadata["temperature"])
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    np.testing.assert_allclose(pair.found.probabilities, powers / powers.sum(1, keepdims=True), rtol=0, atol=1e-6)


def test_accuracy_is_counted_and_kept(pair: Pair) -> None:
    """Its accuracy is counted on the file, and it loses a fifth of a point at most."""
    labels, images = pair.data.test_labels, len(pair.data.test_labels)
    correct, fp32_correct = (
        pair.found.count_correct(labels),
        pair.expected.count_correct(labels),
    )
    assert (pair.metadata["test_correct"], pair.metadata["test_images"]) == (str(correct), str(images))
    assert pair.metadata["fp32_test_correct"] == str(fp32_correct)
    assert pair.metadata["test_accuracy"] == f"{correct / images:.4f}"
    assert pair.metadata["agreement"] == f"{(pair.found.predictions == pair.expected.predictions).mean():.4f}"
    assert fp32_correct - correct <= 0.002 * images


def test_rows_do_not_depend_on_batch(pair: Pair) -> None:
    """Rows do not depend on their batch."""
    images = pair.data.test_images[:64].numpy()
    file = OnnxFile(pair.path)
    together, _ = file.run(images)
    limit = onnx_file.TOLERANCE if pair.metadata["precision"] == "int8" else pair.tolerance  # integers know no rounding
    for rows in (1, 2, 7, 33):
        np.testing.assert_allclose(file.run(images[:rows])[0], together[:rows], rtol=0, atol=limit)


def test_service_opens_it(pair: Pair) -> None:
    """The service opens it and its probe passes."""
    session = Session(pair.path, choose(["cpu"]), threads=2, max_batch_rows=64)
    assert session.spec.is_image_classifier
    assert session.metadata.precision == pair.metadata["precision"]
    assert session.probe_deviation is not None
    assert session.probe_tolerance is not None
    assert session.probe_deviation <= session.probe_tolerance <= pair.tolerance
    assert session.metadata.unproved == ""


def upside_down(weights: NDArray[np.generic]) -> NDArray[np.generic]:
    """Filters whose rows are in reverse order."""
    return np.flip(weights, 2).copy()


def without_largest(weights: NDArray[np.generic]) -> NDArray[np.generic]:
    """Filters of which the largest is zero."""
    changed = weights.copy()
    changed[np.abs(weights.astype(np.float64)).sum((1, 2, 3)).argmax()] = 0
    return changed


def doubled(scales: NDArray[np.generic]) -> NDArray[np.generic]:
    """Scales twice as large."""
    return (scales * 2).astype(scales.dtype)


def damaged(path: Path, change: Callable[[NDArray[np.generic]], NDArray[np.generic]], folder: Path) -> Path:
    """Write the file with its first filters, or their scales, changed, and the hashes of the changed file."""
    model = onnx.load(path)
    name, axes = ("weight_scale", 1) if change is doubled else ("weight", 4)
    weights = next(t for t in model.graph.initializer if "conv" in t.name and name in t.name and len(t.dims) == axes)
    weights.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weights)), weights.name))
    onnx_file.write(model, onnx_file.read_metadata(path), folder / "model.onnx")
    return folder / "model.onnx"


def test_tolerance_tells_damaged_file(pair: Pair, tmp_path: Path) -> None:
    """Its tolerance still tells a damaged file, even one whose hashes are right."""
    with pytest.raises(ModelRejected, match="probe fails here"):
        Session(damaged(pair.path, upside_down, tmp_path), choose(["cpu"]), threads=2, max_batch_rows=64)


@pytest.mark.parametrize("change", [without_largest, doubled])
@pytest.mark.parametrize("name", ["mnist", "mnist-deep", "cifar10-cnn"])
def test_own_logits_tell_small_damage(
    name: str, change: Callable[[NDArray[np.generic]], NDArray[np.generic]], tmp_path: Path
) -> None:
    """A filter that is zero, and scales that are doubled, are found in the shipped int8 files by running them."""
    with pytest.raises(ModelRejected, match=r"probe fails here: the logits are off by"):
        Session(damaged(shipped(f"{name}-int8"), change, tmp_path), choose(["cpu"]), threads=2, max_batch_rows=64)


@pytest.mark.parametrize("name", ["mnist", "mnist-deep", "cifar10-cnn", "cifar10"])
def test_own_tolerance_is_what_hardware_explains(name: str) -> None:
    """The shipped int8 files hold their own logits to a small part of what quantisation itself costs."""
    probe = json.loads(onnx_file.read_metadata(shipped(f"{name}-int8"))["probe"])
    own = probe["onnxruntime"]
    assert parity.OWN_LEAST <= own["tolerance"] <= 0.4
    assert own["tolerance"] < probe["tolerance"] / 2
    found = [
        OnnxFile(shipped(f"{name}-int8"), optimized=optimized).run(onnx_file.read_tensor(probe["images"]))[0]
        for optimized in (False, True)
    ]
    deviations = [float(np.abs(logits - onnx_file.read_tensor(own["logits"])).max()) for logits in found]
    assert deviations[0] <= onnx_file.TOLERANCE
    assert deviations[1] <= own["tolerance"] / 2


def optimised(path: Path, folder: Path) -> list[str]:
    """The operators that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3  # it warns that such a file fits this processor alone
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]


@pytest.mark.parametrize("pair", [(name, "int8") for name in NAMES], indirect=True, ids="-".join)
def test_int8_runs_in_int8(pair: Pair, tmp_path: Path) -> None:
    """All convolutions, straight from the pixels, with weights in 7 bits; only the last layer is float32."""
    operators = optimised(pair.path, tmp_path)
    convolutions = [node.op_type for node in onnx.load(pair.fp32).graph.node].count("Conv")
    assert operators.count("QLinearConv") == convolutions
    assert not {"Conv", "Cast", "Mul", "Sub", "QuantizeLinear"} & set(operators)
    assert (operators.count("DequantizeLinear"), operators.count("Gemm")) == (1, 1)
    held = [numpy_helper.to_array(t) for t in onnx.load(pair.path).graph.initializer if t.data_type == TensorProto.INT8]
    weights = [array for array in held if array.ndim > 1]
    assert len(weights) >= convolutions
    assert all(np.abs(array.astype(int)).max() == 64 for array in weights)


@pytest.mark.parametrize("pair", [(name, "fp16") for name in NAMES], indirect=True, ids="-".join)
def test_fp16_hidden_layers_are_float16(pair: Pair) -> None:
    """A float16 file holds its hidden layers in float16."""
    model = onnx.shape_inference.infer_shapes(onnx.load(pair.path), strict_mode=True)
    nodes = list(model.graph.node)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    casts = [place for place, node in enumerate(nodes) if node.op_type == "Cast"]
    assert len(casts) == 3  # from uint8, to float16, and back
    half, whole = TensorProto.FLOAT16, TensorProto.FLOAT
    hidden = [name for node in nodes[casts[1] + 1 : casts[2]] for name in node.input]
    assert {types[name] for name in hidden} - {TensorProto.INT64} == {half}
    others = [name for node in (*nodes[casts[0] + 1 : casts[1]], *nodes[casts[2] + 1 :]) for name in node.input]
    assert {types.get(name, whole) for name in others} == {whole}
    assert [node.op_type for node in nodes[casts[2] + 1 :]][:1] == ["Gemm"]


class Branched(nn.Module):
    """A convolution whose output is added to its input, as in residual networks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Run it."""
        added: torch.Tensor = values + self.conv(values)
        return added.relu()


@pytest.mark.parametrize(("precision", "limit"), [("int8", 0.05), ("fp16", 0.001)])
def test_branched_network_can_be_converted(
    precision: Precision, limit: float, cifar10: Dataset, tmp_path: Path
) -> None:
    """A network with branches can have another precision.

    Its exported graph has other nodes too, before and between; limits are shares of the largest range of logits.
    """
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), Branched(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )
    model = onnx_file.build(Classifier(Preprocess((0.5,) * 3, (0.25,) * 3), network), (32, 32, 3))
    assert "Shape" in [node.op_type for node in model.graph.node]
    variant = quantize(model, cifar10.train_images[:500]) if precision == "int8" else halve(model)
    onnx.checker.check_model(variant, full_check=True)
    onnx.save(model, tmp_path / "fp32.onnx")
    onnx.save(variant, tmp_path / "variant.onnx")
    images = cifar10.test_images[:100]
    found, expected = (outputs(tmp_path / name, images).logits for name in ("variant.onnx", "fp32.onnx"))
    assert 0 < np.abs(found - expected).max() < limit * np.ptp(expected, axis=0).max()
