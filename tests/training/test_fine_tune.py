"""A training that starts from a model's weights: what it learns, what it leaves alone, and when it stops."""

import dataclasses
import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from training import fine_tune
from training.checkpoint import Epoch
from training.data import Dataset
from training.data.folder import load_folder
from training.errors import ModelFileError
from training.evaluate import outputs_of_torch
from training.export import main
from training.export.pipeline import recipe_for
from training.networks import NETWORKS, Classifier, Preprocess
from training.onnx_file import read_metadata
from training.recipes import RECIPES
from training.train import begin, train

from .samples import CPU, ConsoleThatInterrupts, shipped
from .test_folder import CLASSES

EACH = 60
"""Images of each class to train with, of which a fifth validates."""
TESTED = 40
"""Others of each class to test with."""
MARGIN = 0.10
"""By which the start from weights must beat random ones, of 120 test images. Over 40 epochs: 92.5 and 67.5 %."""


@pytest.fixture(scope="module")
def few_images(cifar10: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of CIFAR-10's test set, which no network of ours was trained on."""
    folder = tmp_path_factory.mktemp("few")
    for label, number in CLASSES.items():
        rows = (cifar10.test_labels == number).nonzero()[: EACH + TESTED, 0].tolist()
        for place, row in enumerate(rows):
            file = folder / ("train" if place < EACH else "test") / label / f"{place}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(cifar10.test_images[row].numpy()).save(file)
    return folder


def test_weights_beat_random_ones(few_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a model's weights, 60 images a class give a better network than from random ones, by a margin.

    The first stops by validation images, never sees the test set, and tells how little its accuracy says.
    """
    models = tmp_path / "models"
    (models / "cifar10-cnn" / "1").mkdir(parents=True)
    (models / "cifar10-cnn" / "1" / "model.onnx").symlink_to(shipped("cifar10-cnn"))
    line = ("--dataset", "folder", "--data-dir", few_images, "--start-from", "cifar10-cnn", "--name", "tuned")
    places = ("--models-dir", models, "--checkpoints-dir", tmp_path / "checkpoints", "--device", "cpu", "--no-report")
    assert main([str(part) for part in (*line, *places, "--epochs", "12")]) == 0
    text = capsys.readouterr().out
    metadata = read_metadata(models / "tuned" / "1" / "model.onnx")
    assert all(epoch["test_accuracy"] is None for epoch in json.loads(metadata["history"]))
    assert json.loads(metadata["recipe"])["start"].startswith("cifar10-cnn ")
    assert "144 images to train, 36 to validate, 120 to test" in text
    assert "whose validation loss is the least" in text
    assert f"tuned: {metadata['test_correct']} of 120 test images are right: " in text
    assert "; that is little to go by, and more test images narrow it" in text

    data = load_folder(few_images, NETWORKS["cifar10-cnn"].shape)
    recipe = recipe_for(data, RECIPES["cifar10-cnn"], "random")
    training = train(recipe, data, CPU, tmp_path / "random.pt", Console(file=io.StringIO()))
    outputs = outputs_of_torch(Classifier(Preprocess(recipe.mean, recipe.std), training.network), data.test_images)
    assert float(metadata["test_accuracy"]) > outputs.count_correct(data.test_labels) / 120 + MARGIN


def test_head_learns_first(few_images: Path, tmp_path: Path) -> None:
    """While the other layers are frozen they stay bit for bit, batch norm included; after that all of them change."""
    start = fine_tune.read_start(shipped("mnist-deep"), "mnist-deep", None)
    data = load_folder(few_images, NETWORKS["mnist-deep"].shape, validation_from=1)
    recipe = start.fit(recipe_for(data, RECIPES["mnist-deep"], "own")).with_epochs(8)
    assert recipe.frozen_epochs == 1
    path = tmp_path / "own.pt"
    begin(recipe, data, start, path)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, CPU, path, ConsoleThatInterrupts(1))
    first = torch.load(path, weights_only=True)["network"]
    changed = {key for key, value in first.items() if not torch.equal(value, start.weights[key])}
    assert changed == {"linear.weight", "linear.bias"}
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, CPU, path, ConsoleThatInterrupts(1))
    second = torch.load(path, weights_only=True)["network"]
    kept = {key for key, value in second.items() if torch.equal(value, first[key])}
    assert kept == {key for key in first if key.endswith(("running_mean", "running_var", "num_batches_tracked"))}


def test_training_stops_after_patience() -> None:
    """A training ends a number of epochs after its least validation loss; without patience, after its last epoch."""
    losses = [0.9, 0.5, 0.6, 0.5, 0.7]
    history = [dict.fromkeys(Epoch.__annotations__, loss) for loss in losses]
    recipe = dataclasses.replace(RECIPES["cifar10-cnn"], patience=3, epochs=9)
    done = [fine_tune.is_finished(recipe, history[:count]) for count in range(6)]  # type: ignore[arg-type]
    assert done == [False] * 5 + [True]
    assert not fine_tune.is_finished(dataclasses.replace(recipe, patience=0), history)  # type: ignore[arg-type]
    assert fine_tune.is_finished(dataclasses.replace(recipe, patience=0, epochs=5), history)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "network", "sentence"),
    [
        ("nothing", None, "there is no model .* to start from; name one of the folder of --models-dir"),
        ("cifar10-cnn-int8", None, "is no float32 file of a network of ours; start from another model"),
        ("cifar10-cnn", "cifar10", "is of the network cifar10-cnn, not of cifar10; leave out --network"),
    ],
)
def test_unusable_start_is_a_sentence(name: str, network: str | None, sentence: str) -> None:
    """A model that no training can start from is a sentence."""
    with pytest.raises(ModelFileError, match=sentence):
        fine_tune.read_start(shipped(name), name, network)
