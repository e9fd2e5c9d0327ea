"""Any PyTorch classifier becomes a proved file, or a sentence says why not; nothing is left behind then."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from service.client import Classification, Client
from tests import pages
from tests.servers import ROOT, ServerProcess
from training import onnx_file
from training.data import Dataset
from training.errors import TrainingError
from training.evaluate import OnnxFile
from training.export import export_module
from training.inspect import inspect
from training.recipes import RECIPES

from .samples import classifier_of, part

LABELS = ["ant", "bee", "cat"]
SIZE = (16, 16)


def convolutions(*more: nn.Module) -> nn.Sequential:
    """A small network whose outputs differ by several units between images."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 3)]
    network = nn.Sequential(*layers, *more).eval()
    for layer in (layers[0], layers[4]):
        layer.get_parameter("weight").data.mul_(5)
    return network


class Hand(nn.Module):
    """A network that ends in something written by hand."""

    def __init__(self, end: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.body = convolutions()
        self.end = end
        self.eval()

    def forward(self, images: torch.Tensor) -> Any:
        return self.end(self.body(images))


def untracked() -> nn.Module:
    network = convolutions()
    network[1] = nn.BatchNorm2d(16, track_running_stats=False)
    return network.eval()


def partly_training() -> nn.Module:
    network = convolutions()
    network.insert(1, nn.BatchNorm2d(16))
    network.eval()[1].train()
    return network


class OwnSize(nn.Module):
    """A network whose own code holds the number of images."""

    def __init__(self) -> None:
        super().__init__()
        self.body = convolutions()
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 1:
            return self.body(images)  # type: ignore[no-any-return]
        return self.body(images).view(1, 3)  # type: ignore[no-any-return]


REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "training": (lambda: convolutions().train(), "the module is in training mode"),
    "batch norm in training": (partly_training, "its part '1' is in training mode"),
    "batch norm untracked": (untracked, "the logits of an image depend on the others in its batch"),
    "softmax over the batch": (lambda: Hand(lambda x: x.softmax(0)), "depend on the others in its batch"),
    "centred over the batch": (lambda: Hand(lambda x: x - x.mean(0)), "batch norm without running statistics"),
    "sigmoid": (lambda: Hand(torch.sigmoid), "gives a probability of its own for each class"),
    "sigmoid by hand": (lambda: Hand(lambda x: 1 / (1 + torch.exp(-x))), "images with several labels"),
    "half": (lambda: convolutions().half(), "its tensor '0.weight' is torch.float16; call float"),
    "two outputs": (lambda: Hand(lambda x: (x, x)), "gives a tuple, and one tensor"),
    "other classes": (lambda: Hand(lambda x: x[:, :2]), "gives a tensor of shape [8, 2], and with 3 labels"),
    "not finite": (lambda: Hand(lambda x: x / 0), "logits that are not finite"),
    "constant": (lambda: Hand(lambda x: x * 0 + 1), "gives nearly the same logits for 8 different images"),
    "other size": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).eval(), "cannot run images of shape"),
    "loses digits": (lambda: Hand(lambda x: (x + 1e7) - 1e7), "loses its digits in float32"),
    "number of images": (OwnSize, "has the number of images fixed inside"),
    "no module": (lambda: len, "is no torch.nn.Module"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_unsuitable_module_is_refused(name: str, tmp_path: Path) -> None:
    """The sentence names the fault, and nothing is written."""
    make, sentence = REFUSALS[name]
    with pytest.raises(TrainingError) as refused:
        export_module(make(), tmp_path / "birds", labels=LABELS, size=SIZE)
    assert sentence in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"labels": ["one"]}, "a list of at least two texts"),
        ({"mean": (0.5,), "std": (1, 1, 1)}, "mean has 1 numbers and std 3"),
        ({"std": (1, 0, 1)}, "std above 0, are expected"),
        ({"interpolation": "area"}, "interpolation is 'area'; it may be nearest"),
        ({"crop": 1.5}, "a share above 0, and 1 at most"),
        ({"crop": 0.5, "size": (16, 20)}, "is no square; give resize"),
        ({"resize": 8}, "cannot be cropped"),
        ({"temperature": 0}, "'fit' or a number above 0"),
        ({"precision": ["int4"]}, "precision 'int4' is none of fp32, int8, fp16"),
        ({"precision": ["int8"]}, "int8 is fitted to real images"),
        ({"facts": {"probe": "mine"}}, "the fact 'probe' is written by the export itself"),
        ({"test": [(torch.zeros(3, 16, 16), 0)]}, "decoded images are expected"),
        ({"test": [(Image.new("RGB", (9, 9)), 7)]}, "is of class 7, and there are 3 labels"),
        ({"test": []}, "holds no images to test on"),
        ({"test": 5}, "a folder, a data set or pairs"),
        ({"test": "nowhere"}, "has no class folders"),
    ],
    ids=lambda value: value if isinstance(value, str) else "options",
)
def test_impossible_request_is_refused(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    """What cannot be is a sentence before anything is exported."""
    with pytest.raises(TrainingError) as refused:
        export_module(convolutions(), tmp_path / "birds", **({"labels": LABELS, "size": SIZE} | options))
    assert sentence in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_softmax_inside_is_undone(tmp_path: Path) -> None:
    """A module that ends in a softmax gives its own probabilities, and their logarithms as logits."""
    path = export_module(convolutions(nn.Softmax(1)), tmp_path / "birds", labels=LABELS, size=SIZE)
    images = np.random.default_rng(3).integers(0, 256, (5, *SIZE, 3), dtype=np.uint8)
    logits, probabilities = OnnxFile(path).run(images)
    with torch.no_grad():
        expected = convolutions(nn.Softmax(1))(torch.from_numpy(images / 255).permute(0, 3, 1, 2).float()).numpy()
    assert probabilities == pytest.approx(expected, abs=1e-5)
    assert np.exp(logits) == pytest.approx(expected, abs=1e-5)


def test_module_stays_as_it_was(tmp_path: Path) -> None:
    """Float64 and the export work on a copy: weights, and what needs gradients, are the same afterwards."""
    network = convolutions()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    export_module(network, tmp_path / "birds", labels=LABELS, size=SIZE)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(value.requires_grad and value.dtype == torch.float32 for value in network.parameters())


def test_external_weights_are_proved(tmp_path: Path) -> None:
    """Weights beside the file are hashed and served; an export anew replaces them, and a changed byte is refused."""
    models = tmp_path / "models"
    for factor in (1, 2):
        network = convolutions()
        network[0].get_parameter("weight").data.mul_(factor)
        path = export_module(network, models / "birds", labels=LABELS, size=SIZE, external_data=True)
    (weights,) = path.parent.glob("weights-*.bin")
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.onnx", weights.name]
    assert inspect(path)["problems"] == []
    with ServerProcess(models, "--require-probe") as server, Client(server.address) as client:
        (shown,) = client.list_models()
        assert (shown.name, shown.labels) == ("birds", tuple(LABELS))
    content = bytearray(weights.read_bytes())
    content[0] ^= 1
    weights.write_bytes(content)
    assert any("external data changed" in problem for problem in inspect(path)["problems"])


def test_failed_export_keeps_the_old(tmp_path: Path) -> None:
    """What was in place stays, weights included, where a later export fails."""
    path = export_module(convolutions(), tmp_path / "birds", labels=LABELS, size=SIZE, external_data=True)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(TrainingError):
        export_module(untracked(), tmp_path / "birds", labels=LABELS, size=SIZE, external_data=True)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
    assert inspect(path)["problems"] == []


@pytest.fixture(scope="module")
def real(cifar10: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network of ours, exported as a module of others, with 240 test images and int8."""
    classifier, recipe = classifier_of("cifar10-cnn"), RECIPES["cifar10-cnn"]
    few = part(cifar10, 0, 240)
    test = [
        (Image.fromarray(image.numpy()), int(label))
        for image, label in zip(few.test_images, few.test_labels, strict=True)
    ]
    folder = tmp_path_factory.mktemp("real")
    export_module(
        classifier.network,
        folder / "own",
        labels=cifar10.labels,
        size=32,
        mean=recipe.mean,
        std=recipe.std,
        test=test,
        precision=("fp32", "int8", "fp16"),
        facts={"dataset": "CIFAR-10", "licence": "none"},
    )
    return folder


def test_figures_are_counted(real: Path) -> None:
    """Accuracy is of the half that is not held out; the other half fits the temperature; a page tells both."""
    path = real / "own" / "1" / "model.onnx"
    metadata = onnx_file.read_metadata(path)
    assert (metadata["test_images"], metadata["dataset"], metadata["licence"]) == ("120", "CIFAR-10", "none")
    assert 0.7 < float(metadata["test_accuracy"]) < 0.95
    assert float(metadata["temperature"]) != 1
    assert metadata["reference"] == "float64"
    report = json.loads(path.with_name("report.json").read_text())
    assert report["test"]["correct"] == int(metadata["test_correct"])
    assert (report["validation"]["images"], report["train"]) == (120, None)
    page = path.with_name("README.md").read_text()
    assert "A network of type Sequential for CIFAR-10 that" in page
    assert "It was trained elsewhere." in page
    assert "curves.png" not in page


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_variants_are_proved(real: Path, precision: str) -> None:
    """Other precisions come from the float32 file, with tolerance, figures and report of their own."""
    path = real / f"own-{precision}" / "1" / "model.onnx"
    metadata = onnx_file.read_metadata(path)
    assert (metadata["precision"], metadata["variant_of"], metadata["test_images"]) == (precision, "own", "120")
    assert inspect(path)["problems"] == []
    assert json.loads(path.with_name("report.json").read_text())["variant"]["of"] == "own"


def test_folder_gives_test_and_held(cifar10: Dataset, image_folder: Path, tmp_path: Path) -> None:
    """`test` is counted and `val` is held out; class folders are found by their labels, whatever their order."""
    for name in ("test", "val"):
        shutil.copytree(image_folder, tmp_path / "pictures" / name)
    classifier, recipe = classifier_of("cifar10-cnn"), RECIPES["cifar10-cnn"]
    path = export_module(
        classifier.network,
        tmp_path / "models" / "own",
        labels=cifar10.labels,
        size=32,
        mean=recipe.mean,
        std=recipe.std,
        test=tmp_path / "pictures",
    )
    metadata = onnx_file.read_metadata(path)
    assert metadata["test_images"] == "60"
    assert float(metadata["test_accuracy"]) > 0.7
    assert float(metadata["temperature"]) != 1
    picture = image_folder / "ship" / "001.jpg"
    with ServerProcess(tmp_path / "models") as server, Client(server.address) as client:
        (result,) = client.classify([picture], model="own", top_k=1)
    assert isinstance(result, Classification)
    assert result.classes[0].label == "ship"


def test_page_exports_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of own-network.md writes a file that passes every proof."""
    program, *_ = pages.blocks(ROOT / "docs" / "own-network.md", "py")
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "own-network.md", "exec"), {})  # noqa: S102 - our own page
    assert inspect(tmp_path / "models" / "birds" / "1" / "model.onnx")["problems"] == []
