"""NumPy float64, PyTorch and ONNX Runtime agree about every network, and a disagreement is never let through."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from training import onnx_file
from training.data import Dataset
from training.errors import ParityError
from training.evaluate import OnnxFile, Outputs
from training.export import parity
from training.export.publish import publish
from training.networks import Classifier, Preprocess
from training.recipes import FORMER_NAMES, RECIPES, Recipe
from training.report.page import summarise
from training.train import Training, train

from .samples import CPU, ROOT, SHIPPED, classifier_of, part, shipped
from .trained import Trained


def images_for(name: str, mnist: Dataset, cifar10: Dataset) -> NDArray[np.uint8]:
    return (mnist if RECIPES[name].dataset == "mnist" else cifar10).test_images[:128].numpy()


@pytest.mark.parametrize("name", SHIPPED)
def test_all_three_agree_about_shipped_files(name: str, mnist: Dataset, cifar10: Dataset) -> None:
    """All three agree about a shipped file."""
    differences = parity.compare(name, classifier_of(name), OnnxFile(shipped(name)), images_for(name, mnist, cifar10))
    assert 0 < differences.largest <= onnx_file.TOLERANCE


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_probes_pass(name: str) -> None:
    """The probe of a shipped file passes."""
    parity.check_probe(name, onnx_file.read_metadata(shipped(name))["probe"], OnnxFile(shipped(name)))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_follow_their_recipes(name: str) -> None:
    """A shipped file was made by its recipe."""
    metadata = onnx_file.read_metadata(shipped(name))
    # A number that recipes did not have yet when the file was made has its default, which changes nothing.
    assert RECIPES[name].differences(json.loads(metadata["recipe"])) == {}
    assert len(json.loads(metadata["history"])) == RECIPES[name].epochs


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*/1/model.onnx")), ids=lambda path: path.parts[-3])
def test_former_names_of_numbers_are_read(path: Path) -> None:
    """Each number of a shipped file's recipe is known by today's or its former name, with its value, or is nothing."""
    metadata = onnx_file.read_metadata(path)
    numbers = json.loads(metadata["recipe"])
    known = {field.name for field in dataclasses.fields(Recipe)} | FORMER_NAMES.keys()
    assert not any(value for key, value in numbers.items() if key not in known)
    recipe = RECIPES[metadata.get("variant_of", metadata["name"])].to_dict()
    renamed = {FORMER_NAMES.get(key, key): value for key, value in numbers.items() if key in known}
    assert renamed.items() <= recipe.items()
    assert summarise(numbers) == summarise(recipe)


def altered(training: Training, name: str, layer: nn.Module) -> Training:
    """Give the same training with one layer put in another's place."""
    network = nn.Sequential()
    for key, module in training.network.named_children():
        network.add_module(key, layer if key == name else module)
    return Training(network.eval(), training.history)


def test_cifar10_vgg_agrees_too(cifar10: Dataset, tmp_path: Path, console: Console) -> None:
    """Its file is not kept in the repository, so it is trained for one step, exported and compared here."""
    few = part(cifar10, 64, 64)
    recipe = RECIPES["cifar10-vgg"]
    training = train(dataclasses.replace(recipe, epochs=1), few, CPU, tmp_path / "one.pt", console)
    path = tmp_path / "model.onnx"
    metadata, differences = publish(recipe, training, few, path)
    assert 0 < differences.largest <= onnx_file.TOLERANCE
    assert metadata["test_images"] == "64"
    assert path.stat().st_size > 141_000_000


@pytest.mark.parametrize(("name", "layer"), [("relu", nn.LeakyReLU(0.1)), ("pool", nn.AvgPool2d(2))])
def test_contradicted_network_is_not_published(
    trained: Trained, mnist: Dataset, tmp_path: Path, name: str, layer: nn.Module
) -> None:
    """A network that the reference contradicts is not put in place."""
    with pytest.raises(
        ParityError, match=r"PyTorch and NumPy differ by .*, allowed is 0.0001; the file was not put in"
    ):
        publish(
            RECIPES["mnist-tiny"],
            altered(trained.training, name, layer),
            part(mnist, 1, 200),
            tmp_path / "mnist-tiny" / "1" / "model.onnx",
        )
    assert list(tmp_path.iterdir()) == []


class Sigmoids(Classifier):
    """Gives the right logits, but no softmax of them."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the network."""
        logits, _ = super().forward(images)
        return logits, logits.sigmoid()


def test_probabilities_must_be_softmax(trained: Trained, mnist: Dataset, tmp_path: Path) -> None:
    """Probabilities that are no softmax are refused."""
    classifier = Sigmoids(Preprocess((0.0,), (1.0,)), trained.training.network)
    path = tmp_path / "model.onnx"
    onnx_file.write(onnx_file.build(classifier, (28, 28, 1)), {"name": "mnist-tiny"}, path)
    with pytest.raises(ParityError, match="probabilities and the softmax of logits differ by"):
        parity.compare("mnist-tiny", classifier, OnnxFile(path), mnist.test_images[:64].numpy())


def test_failed_export_keeps_older_file(trained: Trained, mnist: Dataset, tmp_path: Path) -> None:
    """A failed export leaves the file before it alone."""
    path = tmp_path / "model.onnx"
    publish(RECIPES["mnist-tiny"], trained.training, part(mnist, 1, 200), path)
    content = path.read_bytes()
    with pytest.raises(ParityError):
        publish(RECIPES["mnist-tiny"], altered(trained.training, "relu", nn.Tanh()), part(mnist, 1, 200), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == content


def test_nan_weights_are_refused(trained: Trained, mnist: Dataset, tmp_path: Path) -> None:
    """Weights that are no numbers are refused."""
    spoiled = nn.Linear(1352, 10)
    nn.init.constant_(spoiled.weight, float("nan"))
    with pytest.raises(ParityError, match="differ by nan"):
        publish(
            RECIPES["mnist-tiny"],
            altered(trained.training, "linear", spoiled),
            part(mnist, 1, 200),
            tmp_path / "model.onnx",
        )
    assert list(tmp_path.iterdir()) == []


def test_wrong_probe_is_refused(trained: Trained, mnist: Dataset, tmp_path: Path) -> None:
    """A probe that does not fit is refused. Logits one thousandth off, ten times the tolerance."""
    path = tmp_path / "model.onnx"
    publish(RECIPES["mnist-tiny"], trained.training, part(mnist, 1, 200), path)
    file, images = OnnxFile(path), mnist.test_images[:8].numpy()
    logits, _ = file.run(images)
    parity.check_probe("mnist-tiny", onnx_file.probe(images, logits), file)
    with pytest.raises(ParityError, match=r"the probe's logits and ONNX Runtime differ by 0\.001"):
        parity.check_probe("mnist-tiny", onnx_file.probe(images, logits + np.float32(0.001)), file)


def test_predictions_differ_only_at_ties(trained: Trained, mnist: Dataset) -> None:
    """Predictions may differ only where two logits tie."""
    images = mnist.test_images[:20].numpy()
    predictions = np.zeros(20, np.int64)
    others = predictions.copy()
    others[3] = 1
    preprocess = Preprocess((0.0,), (1.0,))
    classifier = Classifier(preprocess, trained.training.network)
    with pytest.raises(ParityError, match="predict 1 of 20 images differently"):
        parity.check_predictions("mnist-tiny", classifier, images, predictions, others)
    tied = nn.Linear(1352, 10)
    nn.init.zeros_(tied.weight)
    nn.init.zeros_(tied.bias)
    network = altered(trained.training, "linear", tied).network
    parity.check_predictions("mnist-tiny", Classifier(preprocess, network), images, predictions, others)


def limits(correct: int, of: int, fp32: int) -> None:
    parity.check_accuracy("a", correct, fp32, of)


def test_variant_may_lose_fifth_point() -> None:
    """A fifth of a point may be lost and in small sets one image."""
    limits(9_480, 10_000, 9_500)
    limits(9_900, 10_000, 9_500)
    limits(99, 100, 100)
    with pytest.raises(ParityError, match=r"a: 9,479 of 10,000 test .* fp32 9,500: 0\.21% are lost, and 0\.20% are"):
        limits(9_479, 10_000, 9_500)
    with pytest.raises(ParityError, match=r"a: 98 of 100"):
        limits(98, 100, 100)


def made(logits: NDArray[np.float32]) -> Outputs:
    return Outputs(logits, logits)


def test_few_outliers_are_allowed() -> None:
    """Logits may leave the tolerance for one image or one in a thousand."""
    fp32, variant = np.zeros((3_000, 10), np.float32), np.full((3_000, 10), 0.5, np.float32)
    variant[:3, 7] = 9
    parity.check_variant("a", made(variant), made(fp32), 0.5)
    parity.check_variant("a", made(variant[2:100]), made(fp32[2:100]), 0.5)
    with pytest.raises(ParityError, match=r"the logits of 2 of 99 test images differ from fp32's by more than 0\.5"):
        parity.check_variant("a", made(variant[1:100]), made(fp32[1:100]), 0.5)
    variant[3, 0] = np.nan
    with pytest.raises(ParityError, match="the logits of 4 of 3,000 test images"):
        parity.check_variant("a", made(variant), made(fp32), 0.5)
