"""The networks, as plain sequences of named layers; the names are the keys of the saved weights.

A network takes normalised float32 images [batch, channels, height, width] and gives logits float32 [batch, classes].
How images are normalised, and how a network is trained, is not known here (see `recipes`).
"""

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


def mnist_tiny(classes: int = 10) -> nn.Sequential:
    """Document 000: one convolution and one linear layer; 13,610 parameters."""
    network = nn.Sequential()
    network.add_module("conv", nn.Conv2d(1, 8, 3))
    network.add_module("relu", nn.ReLU())
    network.add_module("pool", nn.MaxPool2d(2))
    network.add_module("flatten", nn.Flatten())
    network.add_module("linear", nn.Linear(8 * 13 * 13, classes))
    return network


def cifar10_cnn(classes: int = 10) -> nn.Sequential:
    """Document 001: three convolutions and two linear layers; 1,147,466 parameters.

    The document prints 1,081,930, which its own layers do not give.
    """
    network = nn.Sequential()
    channels = 3
    for stage, width in enumerate((32, 64, 128), start=1):
        network.add_module(f"conv{stage}", nn.Conv2d(channels, width, 3, padding=1))
        network.add_module(f"relu{stage}", nn.ReLU())
        network.add_module(f"pool{stage}", nn.MaxPool2d(2))
        channels = width
    network.add_module("flatten", nn.Flatten())
    network.add_module("linear1", nn.Linear(128 * 4 * 4, 512))
    network.add_module("relu4", nn.ReLU())
    network.add_module("dropout", nn.Dropout(0.5))
    network.add_module("linear2", nn.Linear(512, classes))
    return network


def mnist_deep(classes: int = 10) -> nn.Sequential:
    """Document 002: nine convolutions with batch norm, then one linear layer; 28x28 → 14x14 → 7x7 → 5x5 → 1x1.

    The convolutions keep their biases, as in the document, though the batch norm after each makes them redundant.
    """
    network = nn.Sequential()
    shapes = [(1, 20, 3, 1), (20, 20, 3, 1), (20, 20, 3, 1), (20, 40, 3, 1), (40, 40, 3, 1), (40, 40, 3, 1)]
    shapes += [(40, 60, 3, 0), (60, 40, 1, 0), (40, 20, 1, 0)]
    for layer, (channels, width, kernel, padding) in enumerate(shapes, start=1):
        network.add_module(f"conv{layer}", nn.Conv2d(channels, width, kernel, padding=padding))
        network.add_module(f"norm{layer}", nn.BatchNorm2d(width))
        network.add_module(f"relu{layer}", nn.ReLU())
        if layer in (3, 6):
            network.add_module(f"pool{layer // 3}", nn.MaxPool2d(2))
    network.add_module("average", nn.AvgPool2d(5))
    network.add_module("flatten", nn.Flatten())
    network.add_module("linear", nn.Linear(20, classes))
    return network


def cifar10_tiny(classes: int = 10) -> nn.Sequential:
    """Document 003: one convolution and one linear layer; 41,418 parameters."""
    network = nn.Sequential()
    network.add_module("conv", nn.Conv2d(3, 16, 3, padding=1))
    network.add_module("relu", nn.ReLU())
    network.add_module("pool", nn.MaxPool2d(2))
    network.add_module("flatten", nn.Flatten())
    network.add_module("linear", nn.Linear(16 * 16 * 16, classes))
    return network


def cifar10_lenet(classes: int = 10) -> nn.Sequential:
    """Document 004, first network: LeNet's shape on colour images; 62,006 parameters."""
    network = nn.Sequential()
    network.add_module("conv1", nn.Conv2d(3, 6, 5))
    network.add_module("relu1", nn.ReLU())
    network.add_module("pool1", nn.MaxPool2d(2))
    network.add_module("conv2", nn.Conv2d(6, 16, 5))
    network.add_module("relu2", nn.ReLU())
    network.add_module("pool2", nn.MaxPool2d(2))
    network.add_module("flatten", nn.Flatten())
    network.add_module("linear1", nn.Linear(16 * 5 * 5, 120))
    network.add_module("relu3", nn.ReLU())
    network.add_module("linear2", nn.Linear(120, 84))
    network.add_module("relu4", nn.ReLU())
    network.add_module("linear3", nn.Linear(84, classes))
    return network


def cifar10_vgg(classes: int = 10) -> nn.Sequential:
    """Document 004, second network: seven convolutions and three wide linear layers; 35,339,082 parameters."""
    network = nn.Sequential()
    channels = 3
    for layer, width in enumerate((64, 64, 128, 128, 256, 256, 256), start=1):
        network.add_module(f"conv{layer}", nn.Conv2d(channels, width, 3, padding=1))
        network.add_module(f"relu{layer}", nn.ReLU())
        if layer in (2, 4, 7):
            network.add_module(f"pool{layer}", nn.MaxPool2d(2))
        channels = width
    network.add_module("flatten", nn.Flatten())
    network.add_module("linear1", nn.Linear(256 * 4 * 4, 4096))
    network.add_module("relu8", nn.ReLU())
    network.add_module("dropout1", nn.Dropout(0.5))
    network.add_module("linear2", nn.Linear(4096, 4096))
    network.add_module("relu9", nn.ReLU())
    network.add_module("dropout2", nn.Dropout(0.5))
    network.add_module("linear3", nn.Linear(4096, classes))
    return network


def cifar10_vgg_bn(classes: int = 10) -> nn.Sequential:
    """cifar10-vgg with the batch norm that document 004 proposes after every hidden layer; 35,357,770 parameters."""
    network = nn.Sequential()
    for name, layer in cifar10_vgg(classes).named_children():
        network.add_module(name, layer)
        if isinstance(layer, nn.Conv2d):
            network.add_module(name.replace("conv", "norm"), nn.BatchNorm2d(layer.out_channels))
        elif isinstance(layer, nn.Linear) and name != "linear3":
            network.add_module(name.replace("linear", "norm_linear"), nn.BatchNorm1d(layer.out_features))
    return network


class GlobalMaxPool(nn.Module):
    """Keep the largest value of each map, whatever its size: [batch, channels, height, width] → [batch, channels]."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:  # noqa: D102 -- the class docstring says it
        return maps.amax((2, 3))


def mnist(classes: int = 10) -> nn.Sequential:
    """Ours, to be deployed: as deep as mnist-deep and wider, eight convolutions with batch norm; 188,626 parameters."""
    network = nn.Sequential()
    channels = 1
    for layer, width in enumerate((24, 24, 24, 48, 48, 48, 96, 96), start=1):
        padding = 1 if layer < 8 else 0
        network.add_module(f"conv{layer}", nn.Conv2d(channels, width, 3, padding=padding, bias=False))
        network.add_module(f"norm{layer}", nn.BatchNorm2d(width))
        network.add_module(f"relu{layer}", nn.ReLU())
        if layer in (3, 6):
            network.add_module(f"pool{layer // 3}", nn.MaxPool2d(2))
        channels = width
    network.add_module("average", nn.AvgPool2d(5))
    network.add_module("flatten", nn.Flatten())
    network.add_module("linear", nn.Linear(96, classes))
    return network


def mnist_small(classes: int = 10) -> nn.Sequential:
    """Ours, for a twelfth of mnist's work: four convolutions with batch norm, two strided; 51,002 parameters."""
    network = nn.Sequential()
    channels = 1
    shapes = ((16, 5, 2, 2), (32, 3, 2, 1), (48, 3, 1, 1), (72, 3, 1, 0))
    for layer, (width, kernel, stride, padding) in enumerate(shapes, start=1):
        convolution = nn.Conv2d(channels, width, kernel, stride=stride, padding=padding, bias=False)
        network.add_module(f"conv{layer}", convolution)
        network.add_module(f"norm{layer}", nn.BatchNorm2d(width))
        network.add_module(f"relu{layer}", nn.ReLU())
        channels = width
    network.add_module("average", nn.AvgPool2d(5))
    network.add_module("flatten", nn.Flatten())
    network.add_module("linear", nn.Linear(channels, classes))
    return network


class Residual(nn.Module):
    """Two convolutions with batch norm whose result is added to what came in, and ReLU: maps of the same shape.

    The second norm begins at zero, so that a fresh block only passes on what an earlier ReLU gave.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        nn.init.zeros_(self.norm2.weight)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:  # noqa: D102 -- the class docstring says it
        inner = self.relu1(self.norm1(self.conv1(maps)))
        result: torch.Tensor = self.relu2(maps + self.norm2(self.conv2(inner)))
        return result


def cifar10(classes: int = 10) -> nn.Sequential:
    """Ours, to be deployed: four convolutions, and five residual blocks of two between them; 5,582,954 parameters.

    What widens the maps is pooled before its norm, so that norm and ReLU see a quarter of the pixels.
    """
    return residual("32 80p+1 176p+2 320p+2", classes)


def cifar10_wide(classes: int = 10) -> nn.Sequential:
    """Ours, to teach cifar10: the same with twice its maps; 22,312,650 parameters."""
    return residual("64 160p+1 352p+2 640p+2", classes)


def cifar10_small(classes: int = 10) -> nn.Sequential:
    """Ours, for a tenth of cifar10's work: four convolutions, three strided, and three residual blocks of two."""
    return residual("16 32/2+1 96/2+1 128/2+1", classes)


def cifar10_nano(classes: int = 10) -> nn.Sequential:
    """Ours, for what cifar10-cnn takes: three strided convolutions and two residual blocks; 316,202 parameters."""
    return residual("32/2 64/2+1 96/2+1", classes)


STAGE = re.compile(r"(\d+)(p|/\d)?(?:\+(\d))?")


def residual(shape: str, classes: int = 10) -> nn.Sequential:
    """Build a residual network for colour images from its stages, such as "32 80p+1 176/2+2".

    Each stage is a convolution of so many maps, batch norm and ReLU; `p` pools before the norm, `/2` strides, and `+2`
    adds two residual blocks. A global max pool and a linear layer end it. Raises ValueError for another shape.
    """
    network = nn.Sequential()
    channels = 3
    for number, stage in enumerate(shape.split(), start=1):
        found = STAGE.fullmatch(stage)
        if not found:
            raise ValueError(f"a stage is a width, perhaps p or /2, and perhaps +BLOCKS, such as 80p+1; not {stage!r}")
        width, reduce = int(found[1]), found[2] or ""
        stride = int(reduce[1:]) if reduce.startswith("/") else 1
        network.add_module(f"conv{number}", nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False))
        if reduce == "p":
            network.add_module(f"pool{number}", nn.MaxPool2d(2))
        network.add_module(f"norm{number}", nn.BatchNorm2d(width))
        network.add_module(f"relu{number}", nn.ReLU())
        for block in range(1, int(found[3] or 0) + 1):
            network.add_module(f"block{number}_{block}", Residual(width))
        channels = width
    network.add_module("largest", GlobalMaxPool())
    network.add_module("linear", nn.Linear(channels, classes))
    return network


def pool_last(network: nn.Module) -> nn.Module:
    """Give the same function with every max pool behind the batch norm and the ReLU that follow it, where it may be.

    A maximum may be taken before or after anything that rises: ReLU does, and a batch norm without a negative weight.
    Right behind its convolution the norm folds into it, and int8 stores only what the ReLU lets through: on 2,000
    images the largest error of a logit of a network like cifar10 in int8 became 0.32 for 0.46, and its rate 2 % higher.
    Only a plain sequence is changed.
    """
    if not isinstance(network, nn.Sequential):
        return network
    layers = list(network.named_children())
    place = 0
    while place < len(layers) - 1:
        (_, layer), (_, following) = layers[place : place + 2]
        if isinstance(layer, nn.MaxPool2d) and _rises(following):
            layers[place : place + 2] = reversed(layers[place : place + 2])
        place += 1
    return nn.Sequential(OrderedDict(layers))


def _rises(layer: nn.Module) -> bool:
    """Whether a layer maps each number by itself, and never a larger one to a smaller."""
    if isinstance(layer, nn.BatchNorm2d):
        return bool((layer.weight >= 0).all())
    return isinstance(layer, nn.ReLU)


@dataclass(frozen=True)
class Network:
    """One network: how to build it with fresh weights for so many classes, and one line that describes it."""

    build: Callable[..., nn.Module]
    architecture: str
    """Of ten classes, whose number ends it."""
    shape: tuple[int, int, int]
    """Height, width and channels of the images it takes."""

    def describe(self, classes: int) -> str:
        """Give its architecture for another number of classes."""
        return re.sub(r"\b10$", str(classes), self.architecture)


MNIST, CIFAR10 = (28, 28, 1), (32, 32, 3)
NETWORKS = {
    "mnist-tiny": Network(mnist_tiny, "Conv 1→8 3x3, ReLU, MaxPool 2, Linear 1352→10", MNIST),
    "mnist-deep": Network(
        mnist_deep,
        "3 x (Conv 3x3 20, BatchNorm, ReLU), MaxPool 2, 3 x (Conv 3x3 40, BatchNorm, ReLU), MaxPool 2, "
        "Conv 40→60 3x3 without padding, 60→40 1x1, 40→20 1x1 (each BatchNorm, ReLU), AvgPool 5, Linear 20→10",
        MNIST,
    ),
    "mnist": Network(
        mnist,
        "3 x Conv 24, MaxPool 2, 3 x Conv 48, MaxPool 2, Conv 96 (each 3x3 pad 1, BatchNorm, ReLU), "
        "Conv 96→96 3x3 without padding, BatchNorm, ReLU, AvgPool 5, Linear 96→10",
        MNIST,
    ),
    "mnist-small": Network(
        mnist_small,
        "Conv 5x5 16 stride 2, Conv 3x3 32 stride 2, Conv 3x3 48, Conv 3x3 72 without padding "
        "(each BatchNorm, ReLU), AvgPool 5, Linear 72→10",
        MNIST,
    ),
    "cifar10": Network(
        cifar10,
        "Conv 32, Conv 80, MaxPool 2, 1 residual block, Conv 176, MaxPool 2, 2 residual blocks, Conv 320, MaxPool 2, "
        "2 residual blocks (of two Conv; each Conv 3x3 pad 1, BatchNorm, ReLU), global MaxPool, Linear 320→10",
        CIFAR10,
    ),
    "cifar10-wide": Network(
        cifar10_wide, "cifar10 with twice the maps: Conv 64, 160, 352, 640 and their blocks, Linear 640→10", CIFAR10
    ),
    "cifar10-small": Network(
        cifar10_small,
        "Conv 16, Conv 32 stride 2, 1 residual block, Conv 96 stride 2, 1 residual block, Conv 128 stride 2, "
        "1 residual block (of two Conv; each Conv 3x3 pad 1, BatchNorm, ReLU), global MaxPool, Linear 128→10",
        CIFAR10,
    ),
    "cifar10-nano": Network(
        cifar10_nano,
        "Conv 32 stride 2, Conv 64 stride 2, 1 residual block, Conv 96 stride 2, 1 residual block "
        "(of two Conv; each Conv 3x3 pad 1, BatchNorm, ReLU), global MaxPool, Linear 96→10",
        CIFAR10,
    ),
    "cifar10-tiny": Network(cifar10_tiny, "Conv 3→16 3x3 pad 1, ReLU, MaxPool 2, Linear 4096→10", CIFAR10),
    "cifar10-lenet": Network(
        cifar10_lenet,
        "Conv 3→6 5x5, ReLU, MaxPool 2, Conv 6→16 5x5, ReLU, MaxPool 2, "
        "Linear 400→120, ReLU, Linear 120→84, ReLU, Linear 84→10",
        CIFAR10,
    ),
    "cifar10-cnn": Network(
        cifar10_cnn,
        "Conv 3→32, 32→64, 64→128 (each 3x3 pad 1, ReLU, MaxPool 2), Linear 2048→512, ReLU, Dropout 0.5, Linear 512→10",
        CIFAR10,
    ),
    "cifar10-vgg": Network(
        cifar10_vgg,
        "Conv 64, 64, MaxPool 2, 128, 128, MaxPool 2, 256, 256, 256, MaxPool 2 (each 3x3 pad 1, ReLU), "
        "Linear 4096→4096, ReLU, Dropout 0.5, Linear 4096→4096, ReLU, Dropout 0.5, Linear 4096→10",
        CIFAR10,
    ),
    "cifar10-vgg-bn": Network(
        cifar10_vgg_bn,
        "Conv 64, 64, MaxPool 2, 128, 128, MaxPool 2, 256, 256, 256, MaxPool 2 (each 3x3 pad 1, BatchNorm, ReLU), "
        "Linear 4096→4096, BatchNorm, ReLU, Dropout 0.5, the same again, Linear 4096→10",
        CIFAR10,
    ),
}


class Preprocess(nn.Module):
    """Pixels as any image library decodes them → what a network takes: the only place where this is written.

    uint8 [batch, height, width, channels] → float32 [batch, channels, height, width], (pixel / 255 − mean) / std,
    computed as one multiplication and one subtraction, because the served graph repeats it for every image.
    Training runs it, and the exported graph contains it, so the two cannot disagree.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        scale = [1 / (255 * deviation) for deviation in std]
        shift = [centre / deviation for centre, deviation in zip(mean, std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(shift).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:  # noqa: D102 -- the class docstring says it
        return images.permute(0, 3, 1, 2).float() * self.scale - self.shift


class Classifier(nn.Module):
    """What is exported: preprocessing, a network, and softmax.

    uint8 [batch, height, width, channels] → logits and probabilities, both float32 [batch, classes]. The probabilities
    are the softmax of the logits divided by `temperature` (see `calibration`); the logits are the network's own.
    """

    def __init__(self, preprocess: Preprocess, network: nn.Module, temperature: float = 1.0) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.network = network
        self.temperature = temperature

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: D102 -- as above
        logits = self.network(self.preprocess(images))
        scaled = logits if self.temperature == 1 else logits / self.temperature
        return logits, scaled.softmax(1)


def count_parameters(network: nn.Module) -> int:
    """How many trained numbers a network has (batch norm's running statistics are not trained)."""
    return sum(parameter.numel() for parameter in network.parameters())
