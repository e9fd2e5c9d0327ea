"""A report lies beside its file, in words, images and numbers that agree; what cannot be reported is a sentence."""

import dataclasses
import io
import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from rich.console import Console

from training import onnx_file
from training.data import Dataset
from training.data.folder import load_folder
from training.errors import DataError, ModelFileError
from training.evaluate import OnnxFile, outputs_of_onnx
from training.export.publish import publish
from training.recipes import RECIPES, Recipe
from training.report import charts
from training.report.__main__ import main
from training.report.page import accuracy, render, summarise
from training.report.write import write, write_all
from training.train import train

from .samples import CPU, ROOT, run
from .trained import Trained, read

FILES = ["README.md", "calibration.png", "confusion.png", "curves.png", "mistakes.png", "model.onnx", "report.json"]


@pytest.fixture
def data(trained: Trained) -> Dataset:
    """What the shared model was trained and tested on."""
    return trained.data


@pytest.fixture
def path(trained: Trained, tmp_path: Path) -> Iterator[Path]:
    """A models folder of the test's own with that model and its report; no report changes the model."""
    path = tmp_path / "models" / "mnist-tiny" / "1" / "model.onnx"
    shutil.copytree(trained.path.parent, path.parent)
    yield path
    assert path.read_bytes() == trained.path.read_bytes()


def test_same_file_gives_same_report(path: Path, data: Dataset, trained: Trained) -> None:
    """The same file gives the same report but for its speed."""

    def content(path: Path, report: dict[str, Any]) -> dict[str, bytes]:
        assert list(report["cost"]["images_per_s"]) == ["1", "64"]
        report = report | {"cost": report["cost"] | {"images_per_s": {}}}
        names = [name for name in FILES if name not in ("README.md", "report.json")]
        return {name: path.with_name(name).read_bytes() for name in names} | {"report": json.dumps(report).encode()}

    for name in FILES:
        if name != "model.onnx":
            path.with_name(name).unlink()
    assert content(path, write(path, data)) == content(trained.path, trained.report)


def test_page_shows_figures_and_numbers(trained: Trained, tmp_path: Path) -> None:
    """The page shows its figures and its numbers."""
    path, report = trained.path, trained.report
    assert sorted(file.name for file in path.parent.iterdir()) == FILES
    page = path.with_name("README.md").read_text(encoding="utf-8")
    assert page.startswith("# mnist-tiny\n\n")
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", page)
    assert sorted(shown) == [name for name in FILES if name.endswith(".png")]
    assert all(path.with_name(name).exists() for name in re.findall(r"\]\(([^)]+)\)", page))
    for file, size in {"curves": (960, 384), "confusion": (840, 744), "calibration": (840, 744)}.items():
        with Image.open(path.with_name(f"{file}.png")) as image:
            assert (image.format, image.size) == ("PNG", size)
    with Image.open(path.with_name("mistakes.png")) as image:
        assert image.size == (960, 192 * min(4, math.ceil((2_000 - report["test"]["correct"]) / 6)))
    for number in (
        f"**{report['test']['accuracy'] * 100:.2f} %** of 2,000 test images",
        f"{accuracy(report['test'])}: {report['test']['correct']:,} of 2,000 images",
        f"{accuracy(report['validation'])} of 2,000 images",
        f"{accuracy(report['train'])} of 10,000 images",
        f"{report['calibration']['before']['error'] * 100:.2f} % for the softmax of the logits",
        "13,610",
        "62,192 an image",
        "    python -m training.export mnist-tiny --epochs 2\n",
        "Adam 0.001, batch 64, 2 epochs, 2,000 images held out, seed 0, fp32",
        report["facts"]["commit"],
    ):
        assert number in page
    assert not any(str(folder) in page for folder in (ROOT, tmp_path, Path.home()))


def test_mistakes_shown_are_the_surest(path: Path, data: Dataset) -> None:
    """The mistakes shown are those of the highest probability."""
    found = outputs_of_onnx(OnnxFile(path), data.test_images)
    wrong = [row for row, label in enumerate(data.test_labels.tolist()) if found.predictions[row] != label]
    worst = sorted(wrong, key=lambda row: -float(found.probabilities[row].max()))[:24]
    images, labels = data.test_images.numpy()[worst], data.test_labels.numpy()[worst]
    drawn = charts.mistakes(images, labels, found.probabilities[worst], data.labels)
    assert path.with_name("mistakes.png").read_bytes() == drawn


@pytest.mark.parametrize("mistakes", [0, 2])
def test_few_mistakes_or_none(mistakes: int, path: Path, data: Dataset) -> None:
    """Few mistakes or none are reported too.

    On the test images that are answered rightly, and a few others, of which one class is missing.
    """
    right = outputs_of_onnx(OnnxFile(path), data.test_images).predictions == data.test_labels.numpy()
    kept = np.concatenate([np.flatnonzero(right & (data.test_labels.numpy() != 9)), np.flatnonzero(~right)[:mistakes]])
    few = dataclasses.replace(data, test_images=data.test_images[kept], test_labels=data.test_labels[kept])
    report = write(path, few)
    assert (report["test"]["images"], report["test"]["images"] - report["test"]["correct"]) == (len(kept), mistakes)
    with Image.open(path.with_name("mistakes.png")) as image:
        assert (image.format, image.size) == ("PNG", (960, 192))
    page = path.with_name("README.md").read_text(encoding="utf-8")
    assert ("It gets every test image right." in page, "mistakes.png" in page) == (mistakes == 0, mistakes > 0)
    nine = report["test"]["classes"][9]
    assert (nine["accuracy"] is None) == (nine["images"] == 0)


def test_variant_report_compares_with_fp32(path: Path, data: Dataset) -> None:
    """The report of a variant compares it with fp32. Facts as a variant has them, on the graph that is at hand."""
    metadata = onnx_file.read_metadata(path)
    probe = json.loads(metadata["probe"]) | {"tolerance": 0.25}
    metadata |= {
        "name": "mnist-tiny-int8",
        "variant_of": "mnist-tiny",
        "precision": "int8",
        "fp32_test_correct": str(int(metadata["test_correct"]) + 3),
        "agreement": "0.9955",
        "probe": onnx_file.to_json(probe),
    }
    variant = path.parents[2] / "mnist-tiny-int8" / "1" / "model.onnx"
    variant.parent.mkdir(parents=True)
    onnx_file.write(onnx.load(path), metadata, variant)
    report = write(variant, data)
    assert report["variant"] == {"of": "mnist-tiny", "accuracy_lost": 3 / 2_000, "agreement": 0.9955, "tolerance": 0.25}
    assert report["training"]["command"] == "python -m training.export mnist-tiny --epochs 2 --precision int8"
    assert sorted(file.name for file in variant.parent.iterdir()) == [name for name in FILES if name != "curves.png"]
    page = variant.with_name("README.md").read_text(encoding="utf-8")
    assert "[mnist-tiny](../../mnist-tiny/1/README.md) in int8: 0.15 points less accurate, with the same" in page
    assert "curves.png" not in page


@pytest.mark.parametrize("after", [0.01, 0.03], ids=["better", "worse"])
def test_page_says_temperature_hurts(after: float, trained: Trained) -> None:
    """The page says so where the temperature makes the calibration of the test images worse, and only there."""
    calibration = trained.report["calibration"]
    calibration = calibration | {
        "before": calibration["before"] | {"error": 0.02},
        "after": calibration["after"] | {"error": after},
    }
    page = render(trained.report | {"calibration": calibration})
    assert f"It is 2.00 % for the softmax of the logits, and {after * 100:.2f} %" in page
    assert ("On these test images the temperature makes it worse." in page) == (after > 0.02)


def test_stored_report_is_redrawn(path: Path) -> None:
    """Pages and figures come again from the stored report alone; what needs the file stays as it is."""
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    for name in ("README.md", "calibration.png", "confusion.png", "curves.png"):
        path.with_name(name).write_bytes(b"")
    assert main(["--redraw", "--models-dir", str(path.parents[2])]) == 0
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


@pytest.mark.parametrize(("precision", "said"), [("fp32", False), ("bf16", True)])
def test_page_says_bfloat16_was_not_used(precision: str, *, said: bool, trained: Trained) -> None:
    """The page says when bfloat16 was asked for and not computed in."""
    metadata = trained.report["facts"]
    assert metadata["trained_in"] == "fp32"
    changed = metadata | {"recipe": metadata["recipe"] | {"precision": precision}}
    assert ("It was computed in float32" in render(trained.report | {"facts": changed})) == said


def test_folder_model_reports_own_classes(tmp_path: Path, mnist: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    """A model of a folder of images is reported with its own classes.

    Three classes, one with a name that Markdown and the typesetter would trip over.
    """
    names = ["one|two", "a_b_$c", "plain"]
    for number, name in enumerate(names):
        (tmp_path / "images" / name).mkdir(parents=True)
        rows = torch.nonzero(mnist.train_labels == number).flatten()[:40]
        for row in rows.tolist():
            Image.fromarray(mnist.train_images[row, :, :, 0].numpy()).save(tmp_path / "images" / name / f"{row}.png")
    data = load_folder(tmp_path / "images", (28, 28, 1))
    recipe = dataclasses.replace(RECIPES["mnist-tiny"], name="mine", dataset="folder", epochs=1, digest=data.digest())
    path = tmp_path / "models" / "mine" / "1" / "model.onnx"
    # One's own classes are few here, and parity wants 128 images.
    plenty = dataclasses.replace(
        data, test_images=data.test_images.repeat(6, 1, 1, 1), test_labels=data.test_labels.repeat(6)
    )
    training = train(recipe, data, CPU, tmp_path / "mine.pt", Console(file=io.StringIO()))
    publish(recipe, training, plenty, path)

    folders = ["--models-dir", str(tmp_path / "models")]
    assert main([*folders, "--data-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("mine: left out; name it, and the folder that it was trained on with")
    assert main(["mine", *folders, "--data-dir", str(tmp_path / "images")]) == 0
    assert "mine: " in capsys.readouterr().out
    report = read(path)
    assert [entry["label"] for entry in report["test"]["classes"]] == sorted(names)
    expected = (
        "python -m training.export --dataset folder --data-dir FOLDER --network mnist-tiny --name mine --epochs 1"
    )
    assert report["training"]["command"] == expected
    assert r"3: a\_b\_\$c, one\|two, plain |" in path.with_name("README.md").read_text(encoding="utf-8")
    assert report["validation"] is None

    next((tmp_path / "images" / "plain").iterdir()).unlink()
    assert main(["mine", *folders, "--data-dir", str(tmp_path / "images")]) == 1
    assert "was made from other images than those that are there now" in capsys.readouterr().err


def test_other_data_and_files_are_refused(path: Path, data: Dataset, cifar10: Dataset) -> None:
    """Other data and older files are refused and nothing is written."""
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(DataError, match="was made from mnist with 10 classes and images of 28x28x1, which is not the"):
        write(path, cifar10)
    with pytest.raises(DataError, match="name the right folder with --data-dir"):
        write(path, dataclasses.replace(data, labels=tuple("abcdefghij")))
    older = onnx_file.read_metadata(path)
    del older["history"]
    earlier = path.parents[1] / "2" / "model.onnx"
    earlier.parent.mkdir()
    onnx_file.write(onnx.load(path), older, earlier)
    with pytest.raises(ModelFileError, match="does not say its history, for an older version of this program wrote it"):
        write(earlier, data)
    assert [file.name for file in earlier.parent.iterdir()] == ["model.onnx"]
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_interrupted_report_leaves_old_one(path: Path, data: Dataset) -> None:
    """A report that is interrupted leaves the old one."""
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    seen = []

    def interrupt(images: int) -> None:
        seen.append(images)
        if sum(seen) > 5_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, data, interrupt)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_all_models_are_measured_whole(path: Path, data_dir: Path) -> None:
    """What is there is measured on the whole data set, while a terminal has a bar."""
    text = io.StringIO()
    write_all([], path.parents[2], data_dir, Console(file=text, force_terminal=True, width=100, highlight=False))
    report = read(path)
    assert report["test"]["images"] == 10_000
    assert report["train"]["images"] + report["validation"]["images"] == 60_000
    assert "━" in text.getvalue()
    assert (
        f"mnist-tiny: {report['test']['accuracy'] * 100:.2f} % of 10,000 test images, calibration error "
        f"{report['calibration']['after']['error'] * 100:.2f} %; see "
    ) in text.getvalue()


def test_command_is_a_process(path: Path, data_dir: Path) -> None:
    """The command runs as a process, and leaves the report of a missing model to the user."""
    done = run("training.report", "other", "--models-dir", path.parents[2], "--data-dir", data_dir)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: there is no model 'other' in {path.parents[2]}; it has mnist-tiny\n"


def test_mistakes_of_a_user_are_sentences(path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Mistakes of a user are sentences."""
    models = ["--models-dir", str(path.parents[2])]

    def said(*line: str) -> str:
        assert main(list(line)) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        return captured.err

    assert "there is no model 'cifar10-cnn' in" in said("cifar10-cnn", *models)
    assert said("cifar10-cnn", *models).endswith("it has mnist-tiny\n")
    assert "there is no model in" in said("--models-dir", str(tmp_path / "nowhere"))
    assert "mnist was not found, or is damaged, in" in said(*models, "--data-dir", str(tmp_path))
    foreign = path.parents[2] / "foreign" / "1" / "model.onnx"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"not an ONNX file")
    assert "cannot be read as an ONNX file" in said("foreign", *models)
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "Measure exported models anew" in capsys.readouterr().out


def test_a_recipe_is_one_line() -> None:
    """A recipe is one line."""
    assert summarise(RECIPES["cifar10-tiny"].to_dict()) == "SGD 0.001, momentum 0.9, batch 4, 5 epochs, seed 0, fp32"
    assert summarise(RECIPES["cifar10-cnn"].to_dict()) == (
        "AdamW 0.002, weight decay 0.05, cosine with warm-up, batch 128, 24 epochs, translation by up to 4 pixels, "
        "horizontal flip, 2,500 images held out, seed 0, bf16"
    )


# What decides nothing about the training, or is said elsewhere on the page.
UNSAID = {
    "name",
    "network",
    "dataset",
    "mean",
    "std",
    "channels_last",
    "disable_malloc_trim",
    "digest",
    "preprocessing",
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Recipe) if field.name not in UNSAID])
def test_every_recipe_number_is_shown(field: str) -> None:
    """Every number of a recipe is in its line."""
    recipe = dataclasses.replace(RECIPES["mnist-tiny"], cosine=True)
    other = {"optimizer": "sgd", "precision": "bf16", "cosine": False}.get(field, 0.25)
    changed = recipe.to_dict() | {field: other}
    assert summarise(changed) != summarise(recipe.to_dict())


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*/*/report.json")), ids=lambda path: path.parts[-3])
def test_shipped_pages_are_current(path: Path) -> None:
    """A shipped page is that of its report, whatever names its recipe's numbers had when it was made."""
    report = json.loads(path.read_text(encoding="utf-8"))
    assert path.with_name("README.md").read_text(encoding="utf-8") == render(report)
