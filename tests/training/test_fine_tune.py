"""A training that starts from a model's weights: what it learns, what it leaves alone, and when it stops."""

import json
from pathlib import Path

import pytest
from PIL import Image

from training import fine_tune
from training.data import Dataset
from training.export import main
from training.onnx_file import read_metadata

from .samples import shipped
from .test_folder import CLASSES

EACH = 60
"""Images of each class, of which a fifth is for testing."""
TESTED = 40
"""More of each class to test with, so that the margin means something."""
MARGIN = 0.10
"""By which the start from weights must beat random ones, of 120 test images. Six such folders: 0.15 at least."""


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


def start_of(name: str) -> fine_tune.Start:
    return fine_tune.read_start(shipped(name), name, None)


def test_weights_beat_random_ones(few_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a model's weights, 60 images a class give a better network than from random ones, by a margin.

    Both stop by validation images, never see the test set, and end with an interval that says how little it tells.
    """
    models = tmp_path / "models"
    (models / "cifar10-cnn" / "1").mkdir(parents=True)
    (models / "cifar10-cnn" / "1" / "model.onnx").symlink_to(shipped("cifar10-cnn"))
    places = ("--models-dir", models, "--checkpoints-dir", tmp_path / "checkpoints", "--device", "cpu", "--no-report")
    line = ("--dataset", "folder", "--data-dir", few_images, *places)
    accuracy = {}
    for name, more in {"tuned": ("--start-from", "cifar10-cnn"), "random": ("--network", "cifar10-cnn")}.items():
        assert main([str(part) for part in (*line, "--name", name, *more)]) == 0
        text = capsys.readouterr().out
        metadata = read_metadata(models / name / "1" / "model.onnx")
        accuracy[name] = float(metadata["test_accuracy"])
        assert all(epoch["test_accuracy"] is None for epoch in json.loads(metadata["history"]))
        assert f"{name}: {metadata['test_correct']} of 120 test images are right: " in text
        assert "; that is little to go by, and more test images narrow it" in text
        if name == "tuned":
            assert json.loads(metadata["recipe"])["start"].startswith("cifar10-cnn ")
            assert "144 images to train, 36 to validate, 120 to test" in text
            assert "whose validation loss is the least" in text
    assert accuracy["tuned"] > accuracy["random"] + MARGIN
