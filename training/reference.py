"""The independent reference: every network's forward pass in float64 NumPy, from its weights alone.

Documents 000 to 003 write these operations as plain NumPy loops; here they are array expressions, so that whole test
batches take seconds. The module shares no code with PyTorch or ONNX Runtime and imports neither, and it describes the
networks and their preprocessing in its own words, so that three-way agreement (see `parity`) is evidence.

Images and feature maps are [batch, channels, height, width] throughout.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float64]
Layers = tuple[tuple[Any, ...], ...]


def conv2d(images: Array, kernels: Array, bias: Array | None = None, *, padding: int = 0, stride: int = 1) -> Array:
    """Cross-correlate (the kernel is not flipped) with zero padding: what all frameworks call a convolution.

    images [N, C, H, W], kernels [K, C, h, w], bias [K] → [N, K, (H + 2 padding − h) // stride + 1, … likewise].
    """
    padded = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(padded, kernels.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    maps = np.tensordot(windows, kernels, axes=((1, 4, 5), (1, 2, 3)))  # [N, H', W', K]
    if bias is not None:
        maps = maps + bias
    return np.moveaxis(maps, 3, 1)


def batch_norm(images: Array, mean: Array, variance: Array, weight: Array, bias: Array, epsilon: float = 1e-5) -> Array:
    """Normalise by running statistics, then scale and shift: each channel of maps, or each column of vectors [N, C]."""
    scale = weight / np.sqrt(variance + epsilon)
    shape = (-1, 1, 1) if images.ndim == 4 else (-1,)
    return images * scale.reshape(shape) + (bias - mean * scale).reshape(shape)


def relu(values: Array) -> Array:
    """Replace what is negative by zero."""
    positive: Array = np.maximum(values, 0)
    return positive


def max_pool(images: Array, size: int) -> Array:
    """Keep the largest value of each size x size block; rows and columns that fill no block are left out."""
    largest: Array = _blocks(images, size).max(axis=(3, 5))
    return largest


def average_pool(images: Array, size: int) -> Array:
    """Keep the mean of each size x size block; rows and columns that fill no block are left out."""
    mean: Array = _blocks(images, size).mean(axis=(3, 5))
    return mean


def linear(vectors: Array, weight: Array, bias: Array) -> Array:
    """Multiply vectors [N, in] by weight [out, in] and add bias [out] → [N, out]."""
    return vectors @ weight.T + bias


def softmax(logits: Array) -> Array:
    """Turn logits [N, classes] into probabilities; the row's largest logit is taken off first, against overflow."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Array = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


@dataclass(frozen=True)
class Description:
    """A network in the reference's own words.

    `layers` are tuples: ("conv", name of its weights, padding, and stride if it is not 1), ("norm", name), ("relu",),
    ("max pool", size), ("average pool", size), ("global max pool",), ("flatten",), ("linear", name), ("residual",
    layers): what the layers give is added to what they are given.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    layers: Layers


RELU = ("relu",)
FLATTEN = ("flatten",)
HALVE = ("max pool", 2)
HALF = ((0.5,) * 3, (0.5,) * 3)
MNIST = ((0.1307,), (0.3081,))
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def _convs(*numbers: int, padding: int = 1) -> Layers:
    return sum(((("conv", f"conv{number}", padding), RELU) for number in numbers), ())


def _norm_convs(*numbers: int, padding: int = 1, stride: int = 1) -> Layers:
    return sum(((("conv", f"conv{n}", padding, stride), ("norm", f"norm{n}"), RELU) for n in numbers), ())


def _widening(number: int, blocks: int) -> Layers:
    """Describe a stage of cifar10: a convolution, pooled before its norm, and residual blocks."""
    return (("conv", f"conv{number}", 1), HALVE, ("norm", f"norm{number}"), RELU, *_residual_blocks(number, blocks))


def _strided(number: int) -> Layers:
    """Describe a stage of cifar10-small: a convolution with stride 2 and a residual block."""
    return (*_norm_convs(number, stride=2), *_residual_blocks(number, 1))


def _residual_blocks(stage: int, count: int) -> Layers:
    return sum((_residual_block(f"block{stage}_{block}.") for block in range(1, count + 1)), ())


def _residual_block(name: str) -> Layers:
    first = (("conv", f"{name}conv1", 1), ("norm", f"{name}norm1"), RELU)
    return (("residual", (*first, ("conv", f"{name}conv2", 1), ("norm", f"{name}norm2"))), RELU)


_LINEAR = ("linear", "linear")
_TWO_LINEAR = (FLATTEN, ("linear", "linear1"), RELU, ("linear", "linear2"))
_THREE_LINEAR = (*_TWO_LINEAR, RELU, ("linear", "linear3"))
_NORM_LINEAR = (("linear", "linear1"), ("norm", "norm_linear1"), RELU, ("linear", "linear2"), ("norm", "norm_linear2"))
# cifar10 and its teacher differ in nothing but how wide their maps are, which the weights tell.
_RESIDUAL = (*_norm_convs(1), *_widening(2, 1), *_widening(3, 2), *_widening(4, 2), ("global max pool",), _LINEAR)
# So do mnist-deep and mnist up to their sixth convolution.
_DEEP = (*_norm_convs(1, 2, 3), HALVE, *_norm_convs(4, 5, 6), HALVE)
_AVERAGE = (("average pool", 5), FLATTEN, _LINEAR)

DESCRIPTIONS = {
    "mnist-tiny": Description((0,), (1,), (("conv", "conv", 0), RELU, HALVE, FLATTEN, _LINEAR)),
    "mnist-deep": Description(*MNIST, (*_DEEP, *_norm_convs(7, 8, 9, padding=0), *_AVERAGE)),
    "mnist": Description(*MNIST, (*_DEEP, *_norm_convs(7), *_norm_convs(8, padding=0), *_AVERAGE)),
    "mnist-small": Description(
        *MNIST,
        (
            *(*_norm_convs(1, padding=2, stride=2), *_norm_convs(2, stride=2)),
            *(*_norm_convs(3), *_norm_convs(4, padding=0), *_AVERAGE),
        ),
    ),
    "cifar10": Description(*CIFAR10, _RESIDUAL),
    "cifar10-wide": Description(*CIFAR10, _RESIDUAL),
    "cifar10-small": Description(
        *CIFAR10, (*_norm_convs(1), *_strided(2), *_strided(3), *_strided(4), ("global max pool",), _LINEAR)
    ),
    "cifar10-nano": Description(
        *CIFAR10, (*_norm_convs(1, stride=2), *_strided(2), *_strided(3), ("global max pool",), _LINEAR)
    ),
    "cifar10-tiny": Description(*HALF, (("conv", "conv", 1), RELU, HALVE, FLATTEN, _LINEAR)),
    "cifar10-lenet": Description(*HALF, (*_convs(1, padding=0), HALVE, *_convs(2, padding=0), HALVE, *_THREE_LINEAR)),
    "cifar10-cnn": Description(*CIFAR10, (*_convs(1), HALVE, *_convs(2), HALVE, *_convs(3), HALVE, *_TWO_LINEAR)),
    "cifar10-vgg": Description(
        *HALF, (*_convs(1, 2), HALVE, *_convs(3, 4), HALVE, *_convs(5, 6, 7), HALVE, *_THREE_LINEAR)
    ),
    "cifar10-vgg-bn": Description(
        *CIFAR10,
        (
            *(*_norm_convs(1, 2), HALVE, *_norm_convs(3, 4), HALVE, *_norm_convs(5, 6, 7), HALVE, FLATTEN),
            *(*_NORM_LINEAR, RELU, ("linear", "linear3")),
        ),
    ),
}


def forward(network: str | Description, weights: Mapping[str, NDArray[Any]], images: NDArray[np.uint8]) -> Array:
    """Run a whole network, preprocessing included: uint8 images [N, H, W, C] → logits float64 [N, 10].

    `weights` maps "<layer>.weight" and so on to arrays, as a saved state dict does; they are computed with in float64.
    """
    description = DESCRIPTIONS[network] if isinstance(network, str) else network
    scaled = images.astype(np.float64) / 255
    values: Array = np.moveaxis((scaled - np.array(description.mean)) / np.array(description.std), 3, 1)
    return _run(description.layers, weights, values)


def _run(layers: Layers, weights: Mapping[str, NDArray[Any]], values: Array) -> Array:
    for kind, *details in layers:
        if kind == "residual":
            values = values + _run(details[0], weights, values)
        elif kind in WEIGHTED:
            values = WEIGHTED[kind](values, _Weights(weights, details[0]), *details[1:])
        elif kind in PLAIN:
            values = PLAIN[kind](values, *details)
        else:
            raise ValueError(f"the reference knows no layer of kind {kind!r}")
    return values


class _Weights:
    """The arrays of one layer, in float64."""

    def __init__(self, weights: Mapping[str, NDArray[Any]], layer: str) -> None:
        self._weights, self._layer = weights, layer
        self.weight = self["weight"]
        self.bias = self["bias"] if f"{layer}.bias" in weights else np.zeros(len(self.weight))

    def __getitem__(self, name: str) -> Array:
        return self._weights[f"{self._layer}.{name}"].astype(np.float64)


WEIGHTED: dict[str, Callable[..., Array]] = {
    "conv": lambda values, layer, padding, stride=1: conv2d(
        values, layer.weight, layer.bias, padding=padding, stride=stride
    ),
    "norm": lambda values, layer: batch_norm(
        values, layer["running_mean"], layer["running_var"], layer.weight, layer.bias
    ),
    "linear": lambda values, layer: linear(values, layer.weight, layer.bias),
}
PLAIN: dict[str, Callable[..., Array]] = {
    "relu": relu,
    "max pool": max_pool,
    "average pool": average_pool,
    "global max pool": lambda values: values.max(axis=(2, 3)),
    "flatten": lambda values: values.reshape(len(values), -1),
}


def _blocks(images: Array, size: int) -> Array:
    """View images as [N, C, rows of blocks, size, columns of blocks, size]."""
    batch, channels, height, width = images.shape
    rows, columns = height // size, width // size
    blocks: Array = images[:, :, : rows * size, : columns * size].reshape(batch, channels, rows, size, columns, size)
    return blocks
