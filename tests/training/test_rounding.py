"""int8 weights that are rounded together give more nearly what float32 weights give."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from training import quantize as quantize_module
from training.data import Dataset
from training.evaluate import OnnxFile, outputs_of_onnx
from training.quantize import quantize
from training.rounding import round_weights

from .samples import part, shipped

MOST = 64
"""The largest weight in 7 bits."""
LAYERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"group": 3},
    "depthwise": {"group": 6},
    "strided": {"strides": [2, 1], "pads": [1, 0, 0, 2]},
    "dilated": {"dilations": [2, 1]},
}


def graph(weights: NDArray[np.float32], **options: Any) -> onnx.ModelProto:
    """A convolution of images [N, 9, 8, 6]."""
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["maps"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["maps", "w"], ["result"], **options),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 9, 8, 6])
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, None)
    made = helper.make_graph(nodes, "layer", [images], [result], [numpy_helper.from_array(weights, "w")])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def quantised(weights: NDArray[np.float32]) -> onnx.ModelProto:
    """What of a quantised graph is looked at: whole numbers, each rounded by itself, and a scale for each filter."""
    scales = np.abs(weights).max((1, 2, 3)) / MOST
    whole = np.rint(weights / scales[:, None, None, None]).astype(np.int8)
    constants = [numpy_helper.from_array(whole, "w_quantized"), numpy_helper.from_array(scales, "w_scale")]
    return helper.make_model(helper.make_graph([], "layer", [], [], constants))


def constants(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def weights_of(model: onnx.ModelProto) -> NDArray[np.float32]:
    found = constants(model)
    return found["w_quantized"].astype(np.float32) * found["w_scale"].reshape(-1, 1, 1, 1).astype(np.float32)


def run(weights: NDArray[np.float32], images: torch.Tensor, **options: Any) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(
        graph(weights, **options).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    result: NDArray[np.float32] = session.run(None, {"images": images.numpy()})[0]
    return result


def smooth_images(count: int) -> torch.Tensor:
    """Images [N, 9, 8, 6] whose neighbours are alike, as those of photographs are."""
    noise = torch.rand((count, 6, 3, 3), generator=torch.Generator().manual_seed(1))
    large = torch.nn.functional.interpolate(noise, (9, 8), mode="bilinear")
    return (large * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_gives_more_nearly_the_same(kind: str) -> None:
    """For images that were not looked at, its error is smaller; scales and bits stay."""
    options = LAYERS[kind]
    groups = options.get("group", 1)
    random = np.random.default_rng(0)
    weights = random.normal(size=(12, 6 // groups, 3, 3)).astype(np.float32)
    model, images = quantised(weights), smooth_images(300)
    before = constants(model)
    expected = run(weights, images[200:], **options)
    nearest = np.square(run(weights_of(model), images[200:], **options) - expected).mean()

    round_weights(model, graph(weights, **options), images[:200])

    together = np.square(run(weights_of(model), images[200:], **options) - expected).mean()
    assert together < 0.5 * nearest
    after = constants(model)
    np.testing.assert_array_equal(after["w_scale"], before["w_scale"])
    assert after["w_quantized"].dtype == np.int8
    assert np.abs(after["w_quantized"].astype(int)).max() <= MOST


def test_other_layers_stay_as_they_are() -> None:
    """A convolution that is padded by a rule of the standard keeps its weights."""
    weights = np.random.default_rng(0).normal(size=(4, 6, 3, 3)).astype(np.float32)
    model = quantised(weights)
    before = model.SerializeToString()
    round_weights(model, graph(weights, auto_pad="SAME_UPPER"), smooth_images(20))
    assert model.SerializeToString() == before


def test_inputs_that_are_always_zero() -> None:
    """Black images say nothing about any weight: each is rounded by itself."""
    weights = np.random.default_rng(0).normal(size=(4, 6, 3, 3)).astype(np.float32)
    model = quantised(weights)
    before = constants(model)["w_quantized"]
    round_weights(model, graph(weights), torch.zeros((4, 9, 8, 6), dtype=torch.uint8))
    np.testing.assert_array_equal(constants(model)["w_quantized"], before)


def test_a_whole_network_loses_less(cifar10: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cifar10-cnn's logits for test images are nearer to float32's than with each weight rounded by itself."""
    path = shipped("cifar10-cnn")
    data = part(cifar10, 500, 500)
    expected = outputs_of_onnx(OnnxFile(path), data.test_images).logits

    def error(name: str) -> float:
        file = tmp_path / name
        onnx.save(quantize(onnx.load(path), data.train_images), file)
        return float(np.square(outputs_of_onnx(OnnxFile(file), data.test_images).logits - expected).mean())

    together = error("together.onnx")
    monkeypatch.setattr(quantize_module, "round_weights", lambda *_: None)
    assert together < 0.8 * error("nearest.onnx")
