"""Pixels that a first convolution takes as they are leave the function as it was; other graphs are refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from training import fold_preprocessing, graph, onnx_file
from training.data import Dataset
from training.errors import ModelFileError
from training.evaluate import OnnxFile, outputs_of_onnx
from training.networks import Classifier, Preprocess


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.0,), (1.0,)),
        ((0.1307,), (0.3081,)),
        ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ((0.1, 1.0, 0.5), (0.2, 0.5, 1.0)),
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    ],
)
def test_folding_leaves_the_function_unchanged(
    mean: tuple[float, ...], std: tuple[float, ...], padding: int, mnist: Dataset, cifar10: Dataset, tmp_path: Path
) -> None:
    """Pixels folded into the first convolution leave the function as it was.

    At the edges too, where padding is no channel's mean.
    """
    torch.manual_seed(0)
    images = (mnist if len(mean) == 1 else cifar10).test_images[:20].clone()
    images[0], images[1] = 0, 255
    height, width, channels = images.shape[1:]
    side = (height + 2 * padding - 5) // 2 + 1
    network = nn.Sequential(
        nn.Conv2d(channels, 6, 5, stride=2, padding=padding), nn.ReLU(), nn.Flatten(), nn.Linear(6 * side * side, 10)
    )
    model = onnx_file.build(Classifier(Preprocess(mean, std), network, 1.5), (height, width, channels))
    folded = fold_preprocessing.fold(model)
    onnx.checker.check_model(folded, full_check=True)
    onnx.save(model, tmp_path / "fp32.onnx")
    onnx.save(folded, tmp_path / "folded.onnx")
    files = (OnnxFile(tmp_path / name) for name in ("folded.onnx", "fp32.onnx"))
    found, expected = (outputs_of_onnx(file, images).logits for file in files)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.ptp(expected, axis=0).min() > 0.01  # every logit depends on the image


def other_model(*first: onnx.NodeProto) -> onnx.ModelProto:
    """Give a file that no convolution begins, with these nodes for preprocessing."""
    nodes = [
        helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["float"], to=TensorProto.FLOAT),
        *first,
        helper.make_node("Reshape", [first[-1].output[0] if first else "float", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    image = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 28, 28, 1])
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 10]) for n in ("logits", "probabilities")]
    constants = [
        numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "one"),
        numpy_helper.from_array(np.array([0, 784], np.int64), "flat"),
        numpy_helper.from_array(np.ones((784, 10), np.float32), "weights"),
    ]
    content = helper.make_graph(nodes, "other", [image], outputs, constants)
    model = helper.make_model(content, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def test_other_preprocessing_is_refused() -> None:
    """A graph with other preprocessing is refused."""
    with pytest.raises(ModelFileError, match="the graph of other is not one that this program exported, so it can be"):
        graph.split(other_model())


def test_graph_without_convolution_is_refused() -> None:
    """A graph that does not begin with a convolution is refused."""
    scale = helper.make_node("Mul", ["float", "one"], ["scaled"])
    shift = helper.make_node("Sub", ["scaled", "one"], ["shifted"])
    with pytest.raises(ModelFileError, match="other does not begin with one convolution, so there is no int8 form"):
        fold_preprocessing.fold(other_model(scale, shift))
