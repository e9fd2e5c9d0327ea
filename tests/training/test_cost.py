"""What a file costs: counted by hand here, and measured on this machine."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from training import onnx_file
from training.errors import ModelFileError
from training.evaluate import OnnxFile
from training.networks import NETWORKS, Classifier, Preprocess
from training.report import cost

# Output height x width x channels x the products in each sum.
BY_HAND = {
    "mnist-tiny": 26 * 26 * 8 * 9 + 1352 * 10,
    "cifar10-tiny": 32 * 32 * 16 * 27 + 4096 * 10,
    "cifar10-lenet": 28 * 28 * 6 * 75 + 10 * 10 * 16 * 150 + 400 * 120 + 120 * 84 + 84 * 10,
    "cifar10-cnn": 32 * 32 * 32 * 27 + 16 * 16 * 64 * 288 + 8 * 8 * 128 * 576 + 2048 * 512 + 512 * 10,
    # By the size of the maps: 32, 16, 8 and 4 pixels.
    "cifar10": 1024 * 9 * (3 * 32 + 32 * 80)
    + 256 * 9 * (2 * 80 * 80 + 80 * 176)
    + 64 * 9 * (4 * 176 * 176 + 176 * 320)
    + 16 * 9 * 4 * 320 * 320
    + 320 * 10,
}


def exported(network: nn.Module, shape: tuple[int, int, int], folder: Path) -> Path:
    """Write an untrained network as a file."""
    path = folder / "model.onnx"
    channels = shape[2]
    classifier = Classifier(Preprocess((0.0,) * channels, (1.0,) * channels), network)
    onnx_file.write(onnx_file.build(classifier, shape), {"name": "untrained"}, path)
    return path


@pytest.mark.parametrize("name", BY_HAND)
def test_multiply_accumulates_equal_hand_count(name: str, tmp_path: Path) -> None:
    """Multiply accumulates are those counted by hand."""
    path = exported(NETWORKS[name].build(), NETWORKS[name].shape, tmp_path)
    assert cost.multiply_accumulates(path) == BY_HAND[name]


def test_grouped_and_strided_convolutions_count(tmp_path: Path) -> None:
    """Grouped and strided convolutions are counted as they are.

    Each of 8 outputs of the grouped one sums 2 channels of 3x3; a stride of 2 halves height and width.
    """
    network = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=2, stride=2), nn.Flatten(), nn.Linear(8 * 36, 5))
    path = exported(network, (12, 12, 4), tmp_path)
    assert cost.multiply_accumulates(path) == 6 * 6 * 8 * (2 * 9) + 8 * 36 * 5


def test_quantised_convolution_counts_like_plain(tmp_path: Path) -> None:
    """A quantised convolution counts as much as a plain one.

    A graph of the operators with which ONNX Runtime's quantisation writes int8, in both of its formats.
    """
    weights = numpy_helper.from_array(np.ones((3, 2, 3, 3), np.int8), "weights")
    dense = numpy_helper.from_array(np.ones((3 * 16, 5), np.int8), "dense")
    constants = [
        numpy_helper.from_array(np.array(0.5, np.float32), "scale"),
        numpy_helper.from_array(np.array(0, np.uint8), "zero"),
        numpy_helper.from_array(np.array(0, np.int8), "signed_zero"),
        numpy_helper.from_array(np.array([-1, 3 * 16]), "flat"),
    ]
    images = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["batch", 2, 6, 6])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.UINT8, ["batch", 5])
    quantised = ("scale", "zero", "weights", "scale", "signed_zero", "scale", "zero")
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "scale", "zero"], ["input"]),
        helper.make_node("QLinearConv", ["input", *quantised], ["map"]),
        helper.make_node("DequantizeLinear", ["map", "scale", "zero"], ["plain map"]),
        helper.make_node("DequantizeLinear", ["small weights", "scale", "signed_zero"], ["plain weights"]),
        helper.make_node("Conv", ["plain map", "plain weights"], ["second map"], pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["second map", "flat"], ["row"]),
        helper.make_node("QuantizeLinear", ["row", "scale", "zero"], ["small row"]),
        helper.make_node(
            "QLinearMatMul",
            ["small row", "scale", "zero", "dense", "scale", "signed_zero", "scale", "zero"],
            ["logits"],
        ),
    ]
    small = numpy_helper.from_array(np.ones((3, 3, 3, 3), np.int8), "small weights")
    graph = helper.make_graph(nodes, "quantised", [images], [logits], [weights, small, dense, *constants])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    assert cost.multiply_accumulates(path) == 4 * 4 * 3 * 18 + 4 * 4 * 3 * 27 + 48 * 5


def test_uncountable_graph_is_refused(tmp_path: Path) -> None:
    """A graph that cannot be counted is refused."""
    path = tmp_path / "model.onnx"
    images = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["batch", 4])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)
    node = helper.make_node("Relu", ["images"], ["logits"])
    onnx.save(helper.make_model(helper.make_graph([node], "none", [images], [logits])), path)
    with pytest.raises(ModelFileError, match="it has none of Conv, Gemm"):
        cost.multiply_accumulates(path)
    unknown = helper.make_tensor_value_info("weights", onnx.TensorProto.FLOAT, ["rows", "columns"])
    node = helper.make_node("MatMul", ["images", "weights"], ["logits"])
    onnx.save(helper.make_model(helper.make_graph([node], "none", [images, unknown], [logits])), path)
    with pytest.raises(ModelFileError, match="the shapes at its operator MatMul are not known"):
        cost.multiply_accumulates(path)


def test_file_is_weighed_and_timed(tmp_path: Path) -> None:
    """A file is weighed and timed on this machine."""
    path = exported(NETWORKS["mnist-tiny"].build(), NETWORKS["mnist-tiny"].shape, tmp_path)
    found = cost.measure(path, OnnxFile(path), np.zeros((3, 28, 28, 1), np.uint8))  # fewer images than a batch has
    assert found.bytes == len(path.read_bytes())
    assert found.images_per_s.keys() == {"1", "64"}
    assert all(rate > 0 for rate in found.images_per_s.values())
    assert found.threads == torch.get_num_threads()
    assert found.processor.strip()
