"""The float64 reference: the documents' worked examples, then agreement with PyTorch on anything."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional

from training import reference
from training.recipes import RECIPES
from training.reference import Array

from .samples import ROOT


def cross_entropy(logits: Array, labels: NDArray[np.int64]) -> float:
    """Mean over the rows of −log(probability of the label)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    logarithms = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-logarithms[np.arange(len(labels)), labels].mean())


def cross_entropy_gradient(logits: Array, labels: NDArray[np.int64]) -> Array:
    """Gradient of `cross_entropy` at the logits: (probabilities − one-hot) / N (document 003)."""
    one_hot = np.eye(logits.shape[1])[labels]
    return (reference.softmax(logits) - one_hot) / len(labels)


def as_maps(rows: list[list[int]]) -> Array:
    return np.array(rows, dtype=np.float64)[None, None]


def test_document_000_cross_correlation_and_pool() -> None:
    """Document 000: its cross-correlation and pool."""
    image = as_maps([[1, 2, 0, 1], [0, 1, 3, 1], [2, 2, 1, 0], [1, 0, 1, 3]])
    maps = reference.conv2d(image, as_maps([[1, 0], [0, 1]]))
    np.testing.assert_array_equal(maps, as_maps([[2, 5, 1], [2, 2, 3], [2, 3, 4]]))
    np.testing.assert_array_equal(reference.max_pool(maps, 2), as_maps([[5]]))


def test_document_001_sobel_gives_plus_eight() -> None:
    """Document 001: Sobel gives plus eight where the document prints minus eight.

    Cross-correlation, which the document's code computes, gives +8; the printed −8 is true convolution's.
    """
    image = np.arange(1, 26, dtype=np.float64).reshape(1, 1, 5, 5)
    sobel = as_maps([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    np.testing.assert_array_equal(reference.conv2d(image, sobel), np.full((1, 1, 3, 3), 8.0))
    flipped = sobel[:, :, ::-1, ::-1]
    np.testing.assert_array_equal(reference.conv2d(image, flipped), np.full((1, 1, 3, 3), -8.0))


def test_document_002_max_pool() -> None:
    """Document 002: its max pool."""
    maps = as_maps([[3, 0, 5, 2], [1, 2, 7, 5], [4, 3, 2, 1], [3, 1, 0, 4]])
    np.testing.assert_array_equal(reference.max_pool(maps, 2), as_maps([[3, 7], [4, 4]]))


def test_document_003_gradient_of_cross_entropy() -> None:
    """Document 003: the gradient of the mean cross-entropy.

    (softmax − one-hot) / N: here with equal logits, where every probability is a quarter.
    """
    gradient = cross_entropy_gradient(np.zeros((2, 4)), np.array([1, 3]))
    np.testing.assert_allclose(gradient * 2, [[0.25, -0.75, 0.25, 0.25], [0.25, 0.25, 0.25, -0.75]])


def test_needs_neither_pytorch_nor_onnxruntime() -> None:
    """It needs neither PyTorch nor ONNX Runtime. A whole forward pass runs in a process that has imported neither."""
    program = (
        "import sys, numpy as np\n"
        "from training import reference\n"
        "w = {'conv.weight': np.ones((8, 1, 3, 3)), 'conv.bias': np.ones(8),\n"
        "     'linear.weight': np.ones((10, 1352)), 'linear.bias': np.arange(10.0)}\n"
        "logits = reference.forward('mnist-tiny', w, np.zeros((1, 28, 28, 1), np.uint8))\n"
        "assert logits.tolist() == [[1352.0 + i for i in range(10)]], logits\n"
        "assert not {'torch', 'torchvision', 'onnx', 'onnxruntime'} & set(sys.modules)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_it_normalises_as_the_recipes_do() -> None:
    """Its own description of the preprocessing has the numbers with which the networks are trained."""
    for name, recipe in RECIPES.items():
        description = reference.DESCRIPTIONS[name]
        assert (description.mean, description.std) == (recipe.mean, recipe.std)


def test_an_unknown_layer_is_refused() -> None:
    """An unknown layer is refused."""
    description = reference.Description((0.0,), (1.0,), (("dropin",),))
    with pytest.raises(ValueError, match="no layer of kind 'dropin'"):
        reference.forward(description, {}, np.zeros((1, 2, 2, 1), np.uint8))


def test_residual_block_adds_its_layers() -> None:
    """A residual block adds what its layers give.

    A convolution that doubles, and ReLU: 3 x what is above zero; behind the sum, what is below zero stays.
    """
    layers = (("residual", (("conv", "double", 0), ("relu",))),)
    weights = {"double.weight": np.full((1, 1, 1, 1), 2.0)}
    images = np.array([[[[0], [255]]]], np.uint8)
    found = reference.forward(reference.Description((0.5,), (0.5,), layers), weights, images)
    np.testing.assert_allclose(found, [[[[-1.0, 3.0]]]])


numbers = st.integers(0, 2**32 - 1).map(np.random.default_rng)
small = st.integers(1, 4)


@given(rng=numbers, sizes=st.tuples(small, small, small, small), padding=st.integers(0, 3), stride=small)
@settings(max_examples=60, deadline=None)
def test_conv2d_is_pytorchs(
    rng: np.random.Generator, sizes: tuple[int, int, int, int], padding: int, stride: int
) -> None:
    """conv2d gives what PyTorch gives."""
    batch, inputs, outputs, kernel = sizes
    height, width = rng.integers(kernel, 9, 2)
    images = rng.standard_normal((batch, inputs, height, width))
    kernels = rng.standard_normal((outputs, inputs, kernel, kernel))
    bias = rng.standard_normal(outputs)
    found = reference.conv2d(images, kernels, bias, padding=padding, stride=stride)
    expected = functional.conv2d(
        torch.from_numpy(images), torch.from_numpy(kernels), torch.from_numpy(bias), stride, padding
    )
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-12)


@given(rng=numbers, batch=small, channels=small, size=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_norm_relu_and_pools_are_pytorchs(rng: np.random.Generator, batch: int, channels: int, size: int) -> None:
    """Norm, ReLU and pools give what PyTorch gives."""
    height, width = rng.integers(size, 9, 2)
    images = rng.standard_normal((batch, channels, height, width))
    mean, weight, bias = rng.standard_normal((3, channels))
    variance = rng.uniform(0.1, 3, channels)
    found = reference.batch_norm(images, mean, variance, weight, bias)
    tensor, means, variances, weights, biases = map(torch.from_numpy, (images, mean, variance, weight, bias))
    expected = functional.batch_norm(tensor, means, variances, weights, biases)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-12)
    np.testing.assert_array_equal(reference.relu(images), functional.relu(tensor).numpy())
    np.testing.assert_array_equal(reference.max_pool(images, size), functional.max_pool2d(tensor, size).numpy())
    np.testing.assert_allclose(
        reference.average_pool(images, size), functional.avg_pool2d(tensor, size).numpy(), atol=1e-12
    )


@given(rng=numbers, rows=st.integers(1, 6), classes=st.integers(2, 8), scale=st.sampled_from([0.1, 1.0, 1000.0]))
@settings(max_examples=40, deadline=None)
def test_linear_softmax_cross_entropy_are_pytorchs(
    rng: np.random.Generator, rows: int, classes: int, scale: float
) -> None:
    """Linear, softmax and cross-entropy give what PyTorch gives, also where a naive exponential overflows."""
    vectors, weight, bias = (
        rng.standard_normal((rows, 5)),
        rng.standard_normal((classes, 5)),
        rng.standard_normal(classes),
    )
    logits = reference.linear(vectors, weight, bias) * scale
    labels = rng.integers(0, classes, rows)
    tensor = (functional.linear(*map(torch.from_numpy, (vectors, weight, bias))) * scale).requires_grad_()
    np.testing.assert_allclose(logits, tensor.detach().numpy(), atol=1e-12 * scale)
    np.testing.assert_allclose(reference.softmax(logits), tensor.softmax(1).detach().numpy(), atol=1e-12)
    loss = functional.cross_entropy(tensor, torch.from_numpy(labels))
    np.testing.assert_allclose(cross_entropy(logits, labels), loss.item(), atol=1e-9)
    (gradient,) = torch.autograd.grad(loss, tensor)
    np.testing.assert_allclose(cross_entropy_gradient(logits, labels), gradient.numpy(), atol=1e-12)
