"""A report lies beside its file, in words, pictures and numbers that agree; what cannot be reported is a sentence."""

import dataclasses
import io
import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

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
from training.publish import publish
from training.recipes import RECIPES, Recipe
from training.report import charts
from training.report.__main__ import main
from training.report.page import summarise
from training.report.write import write, write_all
from training.train import train

from .samples import CPU, ROOT, run
from .trained import few, make, read

FILES = ["README.md", "calibration.png", "confusion.png", "curves.png", "mistakes.png", "model.onnx", "report.json"]


@pytest.fixture(scope="module")
def data(mnist: Dataset) -> Dataset:
    """A part of MNIST."""
    return few(mnist)


@pytest.fixture(scope="module")
def made(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as it is after a brief training on that part."""
    return make(data, tmp_path_factory.mktemp("brief"))


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A models folder of the test's own with that file, which no report changes."""
    path = tmp_path / "models" / "mnist-tiny" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    shutil.copyfile(made, path)
    yield path
    assert path.read_bytes() == made.read_bytes()


def test_the_same_file_gives_the_same_report_but_for_its_speed(path: Path, data: Dataset) -> None:
    def written() -> dict[str, bytes]:
        told = write(path, data)
        assert list(told["cost"].pop("images_per_s")) == ["1", "64"]
        names = [name for name in FILES if name not in ("README.md", "report.json")]
        files = {name: path.with_name(name).read_bytes() for name in names}
        return files | {"report": json.dumps(told).encode()}

    assert written() == written()


def test_the_page_shows_its_pictures_and_its_figures(path: Path, data: Dataset, tmp_path: Path) -> None:
    told = write(path, data)
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
        assert image.size == (960, 192 * min(4, math.ceil((2_000 - told["test"]["correct"]) / 6)))
    for figure in (
        f"**{told['test']['accuracy'] * 100:.2f} %** of 2,000 test images",
        f"{told['validation']['accuracy'] * 100:.2f} % of 2,000 images",
        f"{told['train']['accuracy'] * 100:.2f} % of 10,000 images",
        f"{told['calibration']['before']['error'] * 100:.2f} % for the softmax of the logits",
        "13,610",
        "62,192 an image",
        "    python -m training.export mnist-tiny --epochs 2\n",
        "Adam 0.001, batch 64, 2 epochs, 2,000 images held out, seed 0, fp32",
        told["facts"]["commit"],
    ):
        assert figure in page
    assert not any(str(folder) in page for folder in (ROOT, tmp_path, Path.home()))


def test_the_mistakes_shown_are_those_of_the_highest_probability(path: Path, data: Dataset) -> None:
    write(path, data)
    found = outputs_of_onnx(OnnxFile(path), data.test_images)
    wrong = [row for row, label in enumerate(data.test_labels.tolist()) if found.predictions[row] != label]
    worst = sorted(wrong, key=lambda row: -float(found.probabilities[row].max()))[:24]
    images, labels = data.test_images.numpy()[worst], data.test_labels.numpy()[worst]
    drawn = charts.mistakes(images, labels, found.probabilities[worst], data.labels)
    assert path.with_name("mistakes.png").read_bytes() == drawn


@pytest.mark.parametrize("mistakes", [0, 2])
def test_few_mistakes_or_none_are_reported_too(mistakes: int, path: Path, data: Dataset) -> None:
    """On the test images that are answered rightly, and a few others, of which one class is missing."""
    right = outputs_of_onnx(OnnxFile(path), data.test_images).predictions == data.test_labels.numpy()
    kept = np.concatenate([np.flatnonzero(right & (data.test_labels.numpy() != 9)), np.flatnonzero(~right)[:mistakes]])
    few = dataclasses.replace(data, test_images=data.test_images[kept], test_labels=data.test_labels[kept])
    told = write(path, few)
    assert (told["test"]["images"], told["test"]["images"] - told["test"]["correct"]) == (len(kept), mistakes)
    with Image.open(path.with_name("mistakes.png")) as image:
        assert (image.format, image.size) == ("PNG", (960, 192))
    page = path.with_name("README.md").read_text(encoding="utf-8")
    assert ("It gets every test image right." in page, "mistakes.png" in page) == (mistakes == 0, mistakes > 0)
    nine = told["test"]["classes"][9]
    assert (nine["accuracy"] is None) == (nine["images"] == 0)


def test_the_report_of_a_variant_compares_it_with_fp32(path: Path, data: Dataset) -> None:
    """Facts as a variant has them, on the graph that is at hand."""
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
    told = write(variant, data)
    assert told["variant"] == {"of": "mnist-tiny", "accuracy_lost": 3 / 2_000, "agreement": 0.9955, "tolerance": 0.25}
    assert told["training"]["command"] == "python -m training.export mnist-tiny --epochs 2 --precision int8"
    assert sorted(file.name for file in variant.parent.iterdir()) == [name for name in FILES if name != "curves.png"]
    page = variant.with_name("README.md").read_text(encoding="utf-8")
    assert "[mnist-tiny](../../mnist-tiny/1/README.md) in int8: 0.15 points less accurate, with the same" in page
    assert "curves.png" not in page


def test_the_page_says_when_bfloat16_was_asked_for_and_not_computed_in(path: Path, data: Dataset) -> None:
    metadata = onnx_file.read_metadata(path)
    assert metadata["trained_in"] == "fp32"
    for precision, told in (("fp32", False), ("bf16", True)):
        metadata["recipe"] = onnx_file.to_json(json.loads(metadata["recipe"]) | {"precision": precision})
        changed = path.parents[2] / precision / "1" / "model.onnx"
        changed.parent.mkdir(parents=True)
        onnx_file.write(onnx.load(path), metadata, changed)
        write(changed, data)
        page = changed.with_name("README.md").read_text(encoding="utf-8")
        assert ("It was computed in float32" in page) == told


def test_a_model_of_a_folder_of_pictures_is_reported_with_its_own_classes(
    tmp_path: Path, mnist: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three classes, one with a name that Markdown and the typesetter would trip over."""
    names = ["one|two", "a_b_$c", "plain"]
    for number, name in enumerate(names):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        rows = torch.nonzero(mnist.train_labels == number).flatten()[:40]
        for row in rows.tolist():
            Image.fromarray(mnist.train_images[row, :, :, 0].numpy()).save(tmp_path / "pictures" / name / f"{row}.png")
    data = load_folder(tmp_path / "pictures", (28, 28, 1))
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
    assert main(["mine", *folders, "--data-dir", str(tmp_path / "pictures")]) == 0
    assert "mine: " in capsys.readouterr().out
    told = read(path)
    assert [entry["label"] for entry in told["test"]["classes"]] == sorted(names)
    expected = (
        "python -m training.export --dataset folder --data-dir FOLDER --network mnist-tiny --name mine --epochs 1"
    )
    assert told["training"]["command"] == expected
    assert r"3: a\_b\_\$c, one\|two, plain |" in path.with_name("README.md").read_text(encoding="utf-8")
    assert told["validation"] is None

    next((tmp_path / "pictures" / "plain").iterdir()).unlink()
    assert main(["mine", *folders, "--data-dir", str(tmp_path / "pictures")]) == 1
    assert "was made from other pictures than those that are there now" in capsys.readouterr().err


def test_other_data_and_older_files_are_refused_and_nothing_is_written(
    path: Path, data: Dataset, cifar10: Dataset
) -> None:
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
    assert [file.name for folder in path.parents[1].iterdir() for file in folder.iterdir()] == ["model.onnx"] * 2


def test_a_report_that_is_interrupted_leaves_the_old_one(path: Path, data: Dataset) -> None:
    write(path, data)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    seen = []

    def interrupt(images: int) -> None:
        seen.append(images)
        if sum(seen) > 5_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, data, interrupt)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_the_command_measures_what_is_there_on_the_whole_data_set(path: Path, data_dir: Path) -> None:
    models = path.parents[2]
    done = run("training.report", "--models-dir", models, "--data-dir", data_dir)
    assert (done.returncode, done.stderr) == (0, "")
    told = read(path)
    assert told["test"]["images"] == 10_000
    assert told["train"]["images"] + told["validation"]["images"] == 60_000
    assert done.stdout == (
        f"mnist-tiny: {told['test']['accuracy'] * 100:.2f} % of 10,000 test images, calibration error "
        f"{told['calibration']['after']['error'] * 100:.2f} %; see {path.with_name('README.md')}\n"
    )


def test_a_terminal_has_a_bar(path: Path, data_dir: Path) -> None:
    text = io.StringIO()
    write_all(
        ["mnist-tiny"], path.parents[2], data_dir, Console(file=text, force_terminal=True, width=100, highlight=False)
    )
    assert "━" in text.getvalue()
    assert "mnist-tiny: 9" in text.getvalue()


def test_mistakes_of_a_user_are_sentences(path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
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
    assert summarise(RECIPES["cifar10-tiny"].to_dict()) == "SGD 0.001, momentum 0.9, batch 4, 5 epochs, seed 0, fp32"
    assert summarise(RECIPES["cifar10-cnn"].to_dict()) == (
        "AdamW 0.002, weight decay 0.05, cosine with warm-up, batch 128, 24 epochs, shifts of up to 4 pixels, flips, "
        "2,500 images held out, seed 0, bf16"
    )


# What decides nothing about the training, or is said elsewhere on the page.
UNSAID = {"name", "network", "dataset", "mean", "std", "channels_last", "disable_malloc_trim", "digest"}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Recipe) if field.name not in UNSAID])
def test_every_number_of_a_recipe_is_in_its_line(field: str) -> None:
    recipe = dataclasses.replace(RECIPES["mnist-tiny"], cosine=True)
    other = {"optimizer": "sgd", "precision": "bf16", "cosine": False}.get(field, 0.25)
    changed = recipe.to_dict() | {field: other}
    assert summarise(changed) != summarise(recipe.to_dict())
