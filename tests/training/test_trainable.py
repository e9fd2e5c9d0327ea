"""A library's network is trained on a folder of images, from weights in a file: the head first, then all of it."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision import models
from torchvision.transforms._presets import ImageClassification

from service.client import Classification, Client
from tests.servers import ServerProcess
from training.data import Dataset
from training.export import main
from training.foreign.arguments import Foreign
from training.foreign.sources import network_of
from training.foreign.trainable import prepare
from training.inspect import inspect
from training.onnx_file import read_metadata

from .foreign import photos

SIZE = 32
LABELS = ("cat", "frog", "ship")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a library's network of a thousand classes has learned elsewhere."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "theirs.pt"
    torch.save(models.resnet18(weights=None).state_dict(), path)
    return path


def line(folder: Path, tmp_path: Path, *more: str | Path) -> list[str]:
    places = ("--models-dir", tmp_path / "models", "--checkpoints-dir", tmp_path / "checkpoints", "--device", "cpu")
    wanted = ("--dataset", "folder", "--data-dir", folder, "--name", "mine", *places, *more)
    return [str(part) for part in wanted]


def wanted(network: str, **told: object) -> Foreign:
    library, _, name = network.partition(":")
    nothing = dict.fromkeys(("weights", "labels", "size", "mean", "std", "crop", "resize", "interpolation", "test"))
    plain = {"pretrained": False, "output": "", "colors": "RGB", "polarity": "normal", "temperature": 1.0, "facts": ()}
    return Foreign(door=library, source=name, name="mine", **nothing | plain | told)  # type: ignore[arg-type]


def test_tuned_network_is_served(
    weights: Path, image_folder: Path, cifar10: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a library's weights a network for one's own classes is trained, proved, reported, served and right.

    Classify's probabilities are those of the trained module behind the library's own transforms.
    """
    told = ("--network", "torchvision:resnet18", "--weights", weights, "--size", str(SIZE), "--epochs", "2")
    assert main(line(image_folder, tmp_path, *told, "--mixup", "0.2")) == 0
    assert "whose validation loss is the least" in capsys.readouterr().out
    path = tmp_path / "models" / "mine" / "1" / "model.onnx"
    assert inspect(path)["problems"] == []
    metadata = read_metadata(path)
    assert json.loads(metadata["recipe"])["start"].startswith("theirs.pt ")
    assert all(epoch["test_accuracy"] is None for epoch in json.loads(metadata["history"]))
    assert (metadata["network"], metadata["reference"]) == ("torchvision:resnet18", "float64")
    assert "resnet18" in (path.with_name("README.md")).read_text(encoding="utf-8")

    best = torch.load(tmp_path / "checkpoints" / "mine-seed0.pt", weights_only=True)["best"]
    module = models.resnet18(weights=None, num_classes=len(LABELS))
    module.load_state_dict(best)
    rule = models.ResNet18_Weights.DEFAULT.transforms()
    resize = round(rule.resize_size[0] * SIZE / rule.crop_size[0])
    transform = ImageClassification(crop_size=SIZE, resize_size=resize, mean=rule.mean, std=rule.std)
    files = photos(cifar10, tmp_path / "photos")
    with torch.no_grad():
        logits = module.eval()(torch.stack([transform(Image.open(file).convert("RGB")) for file in files]))
    expected = (logits / float(metadata["temperature"])).softmax(1)
    with ServerProcess(tmp_path / "models", "--require-probe") as server, Client(server.address) as client:
        results = client.classify(files, model="mine", top_k=len(LABELS))
    for result, row in zip(results, expected, strict=True):
        assert isinstance(result, Classification)
        given = {best.label: best.probability for best in result.classes}
        assert [given[label] for label in LABELS] == pytest.approx(row.tolist(), abs=0.01)


def test_library_body_starts_from_weights(weights: Path) -> None:
    """All layers but the head are those of the file, and learn after it, at a lower rate; without a file none are."""
    recipe, start = prepare(wanted("torchvision:resnet18", weights=weights, size=(SIZE,)))
    assert start is not None
    theirs = torch.load(weights, weights_only=True)
    assert start.weights.keys() == {key for key in theirs if not key.startswith("fc.")}
    assert all(torch.equal(start.weights[key], theirs[key]) for key in start.weights)
    tuned = start.fit(recipe)
    assert (tuned.frozen_epochs, tuned.body_rate, tuned.patience, recipe.frozen_epochs) == (5, 0.1, 10, 0)
    assert network_of(tuned).shape == (SIZE, SIZE, 3)
    assert prepare(wanted("torchvision:resnet18", size=(SIZE,)))[1] is None


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_networks_of_timm_are_prepared(name: str) -> None:
    """Timm's networks come with the preprocessing that timm declares, and build for any number of classes."""
    recipe, _ = prepare(wanted(f"timm:{name}", size=(64,)))
    assert recipe.preprocessing is not None
    assert (recipe.preprocessing["size"], recipe.preprocessing["interpolation"]) == ([64, 64], "bicubic")
    network = network_of(recipe).build(3).eval()
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (
            ["--network", "keras:resnet"],
            (2, "keras:resnet is of no library that is known: timm, torchvision"),
        ),
        (
            ["--network", "timm:resnet18", "--labels", "a"],
            (2, "--labels does not go with --network timm:resnet18"),
        ),
        (["--network", "timm:resnet18", "--weights", "a", "--pretrained"], (2, "are two sets of weights: give one")),
        (["--network", "timm:resnet18", "--start-from", "cifar10"], (2, "--start-from is for networks of ours: give")),
        (["--network", "torchvision:resnet0"], (1, "torchvision has no classifier 'resnet0'")),
        (["--network", "torchvision:resnet34", "--weights", "WEIGHTS"], (1, "tensors (layer1.2.bn1.bias, ")),
        (["--network", "torchvision:googlenet"], (1, "gives more than one result for an image while it is trained")),
        (["--network", "torchvision:alexnet", "--size", "32"], (1, "cannot run images of 32 x 32 x 3 (RuntimeError")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_untrainable_network_is_refused(
    told: list[str],
    expected: tuple[int, str],
    weights: Path,
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What cannot be trained is a sentence, before images are read; nothing is written."""
    status, sentence = expected
    given = line(image_folder, tmp_path, *(weights if part == "WEIGHTS" else part for part in told))
    if status == 2:
        with pytest.raises(SystemExit) as ended:
            main(given)
        assert ended.value.code == 2
    else:
        assert main(given) == 1
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not any(tmp_path.iterdir())
