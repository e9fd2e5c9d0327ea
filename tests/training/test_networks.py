"""The networks are those of the documents."""

import itertools

import pytest
import torch
from torch import nn

from training.networks import NETWORKS, Classifier, Preprocess, Residual, count_parameters, pool_last
from training.recipes import RECIPES

# mnist-deep's document gives no number; by hand it is 200 + 2 x 3,620 for the first three convolutions, 7,240 +
# 2 x 14,440 for the next, 21,660 + 2,440 + 820 for the last, 600 for batch norm, and 210.
PARAMETERS = {
    "mnist-tiny": 13_610,
    "mnist-deep": 69_290,
    "cifar10-tiny": 41_418,
    "cifar10-lenet": 62_006,
    "cifar10-cnn": 1_147_466,
    "cifar10-vgg": 35_339_082,
    # By hand: cifar10-vgg's, and two numbers for each of 1,152 channels and 8,192 columns that are normalised.
    "cifar10-vgg-bn": 35_339_082 + 2 * (1_152 + 8_192),
    # By hand, the convolutions: 864 + 23,040 + 126,720 + 506,880 between the blocks, 2 x 57,600 + 4 x 278,784 +
    # 4 x 921,600 in them; batch norm 2 x 2,752; the last layer 3,210.
    "cifar10": 5_582_954,
    # By hand, as above: 1,728 + 92,160 + 506,880 + 2,027,520; 2 x 230,400 + 4 x 1,115,136 + 4 x 3,686,400; 2 x 5,504;
    # and 6,410.
    "cifar10-wide": 22_312_650,
    # By hand: 144 + 4,608 + 9,216 + 18,432 + 36,864 + 73,728 + 147,456 in the convolutions; batch norm 2 x 464;
    # the last layer 11,530.
    "mnist": 188_626,
    # By hand: 400 + 4,608 + 13,824 + 31,104 in the convolutions; batch norm 2 x 168; the last layer 730.
    "mnist-small": 51_002,
    # By hand: 432 + 4,608 + 27,648 + 110,592 between the blocks, 2 x 9,216 + 2 x 82,944 + 2 x 147,456 in them; batch
    # norm 2 x 784; the last layer 1,290.
    "cifar10-small": 625_370,
    # By hand: 864 + 18,432 + 55,296; 2 x 36,864 + 2 x 82,944; batch norm 2 x 512; and 970.
    "cifar10-nano": 316_202,
}
SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


@pytest.mark.parametrize("name", NETWORKS)
def test_parameter_counts_are_the_documents(name: str) -> None:
    """Parameter counts are those of the documents."""
    assert count_parameters(NETWORKS[name].build()) == PARAMETERS[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gives_ten_logits(name: str) -> None:
    """A network gives ten logits for each image."""
    height, width, channels = SHAPES[RECIPES[name].dataset]
    assert NETWORKS[name].build()(torch.zeros(2, channels, height, width)).shape == (2, 10)


def test_networks_and_recipes_match() -> None:
    """Every network has a recipe and nothing else has."""
    assert list(RECIPES) == list(NETWORKS)
    assert all(recipe.network == name for name, recipe in RECIPES.items())


def test_fresh_residual_block_is_identity() -> None:
    """A fresh residual block only passes on what comes in.

    What ReLU gave: nothing below zero. Its second norm learns from there.
    """
    maps = torch.rand(3, 4, 5, 6)
    block = Residual(4)
    torch.testing.assert_close(block(maps), maps)
    block(maps).square().sum().backward()
    assert block.norm2.weight.grad is not None
    assert bool((block.norm2.weight.grad != 0).all())


def test_mnist_deep_shrinks_as_documented() -> None:
    """Mnist deep shrinks as its document says. 28x28 → 14x14 → 7x7 → 5x5 → 1x1."""
    values = torch.zeros(1, 1, 28, 28)
    sizes = []
    for layer in list(NETWORKS["mnist-deep"].build().children())[:-2]:
        values = layer(values)
        if values.shape[2] not in sizes:
            sizes.append(values.shape[2])
    assert sizes == [28, 14, 7, 5, 1]


def test_document_002_counts_weights() -> None:
    """A Linear layer from 3x32x32 to 100 has 307,200 weights; sixteen 3x3x3 filters have 432."""
    assert nn.Linear(3 * 32 * 32, 100).weight.numel() == 307_200
    assert nn.Conv2d(3, 16, 3).weight.numel() == 432


def test_preprocessing_normalises_channels_first() -> None:
    """Preprocessing scales normalises and moves channels first."""
    preprocess = Preprocess((0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    images = torch.tensor([[[[0, 0, 0], [255, 255, 255], [51, 102, 204]]]], dtype=torch.uint8)
    expected = torch.tensor([[[[-1.0, 1.0, -0.6]], [[-1.0, 3.0, 0.6]], [[0.0, 1.0, 0.8]]]])
    torch.testing.assert_close(preprocess(images), expected)


def test_classifier_gives_logits_and_softmax() -> None:
    """A classifier gives logits and their softmax."""
    torch.manual_seed(0)
    classifier = Classifier(Preprocess((0.0,), (1.0,)), NETWORKS["mnist-tiny"].build())
    logits, probabilities = classifier(torch.randint(0, 256, (3, 28, 28, 1), dtype=torch.uint8))
    torch.testing.assert_close(probabilities, logits.exp() / logits.exp().sum(1, keepdim=True))


def trained(name: str) -> nn.Module:
    """A network whose batch norm has weights and statistics of its own, all weights above zero."""
    network = NETWORKS[name].build().eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            held = layer.state_dict()
            for kind in ("weight", "running_var"):
                nn.init.uniform_(held[kind], 0.5, 2)
            for kind in ("bias", "running_mean"):
                nn.init.normal_(held[kind])
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_pooling_last_changes_no_logit(name: str) -> None:
    """Pooling last changes no logit."""
    torch.manual_seed(0)
    network = trained(name)
    height, width, channels = SHAPES[RECIPES[name].dataset]
    images = torch.randn(3, channels, height, width)
    moved = pool_last(network)
    assert moved.state_dict().keys() == network.state_dict().keys()
    torch.testing.assert_close(moved(images), network(images))
    kinds = [type(layer) for layer in moved.children()]
    assert (nn.MaxPool2d, nn.BatchNorm2d) not in itertools.pairwise(kinds)
    assert (nn.MaxPool2d, nn.ReLU) not in itertools.pairwise(kinds)


def test_pool_stays_before_negative_norm() -> None:
    """A pool stays before a norm that turns its order around.

    With one negative weight the largest value is no longer the largest afterwards.
    """
    torch.manual_seed(0)
    network = trained("cifar10")
    with torch.no_grad():
        network.get_submodule("norm2").get_parameter("weight")[5] = -1
    names = [name for name, _ in pool_last(network).named_children()]
    assert names.index("pool2") < names.index("norm2")
    assert names.index("norm3") < names.index("relu3") < names.index("pool3")
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(pool_last(network)(images), network(images))
