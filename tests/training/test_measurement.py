"""Every figure of a report is counted again here, from ONNX Runtime's outputs with NumPy."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from training import onnx_file
from training.data import Dataset
from training.measurement import command, measure, read_facts
from training.recipes import RECIPES

from .brief import RECIPE, few, make, read
from .samples import ROOT

SHIPPED_FILES = sorted(ROOT.glob("models/*/1/model.onnx"))


@pytest.fixture(scope="module")
def data(mnist: Dataset) -> Dataset:
    """A part of MNIST."""
    return few(mnist)


@pytest.fixture(scope="module")
def path(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as it is after a brief training on that part."""
    return make(data, tmp_path_factory.mktemp("brief"))


def outputs(path: Path, images: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logits and probabilities of a file."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    parts = [session.run(["logits", "probabilities"], {"images": p.numpy()}) for p in torch.split(images, 250)]
    logits, probabilities = (np.concatenate(found).astype(np.float64) for found in zip(*parts, strict=True))
    return logits, probabilities


def calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The definition, image by image: fifteen bins, each open below and closed above."""
    members: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(probabilities, labels, strict=True):
        place = next(k for k in range(1, 16) if row.max() <= k / 15 or k == 15)
        members.setdefault(place, []).append((row.max(), row.argmax() == label))
    gaps = [
        len(found) * abs(sum(c for c, _ in found) / len(found) - sum(right for _, right in found) / len(found))
        for found in members.values()
    ]
    return sum(gaps) / len(labels)


def check_against_file(told: dict[str, Any], path: Path, data: Dataset) -> None:
    """Compare a report with its file: metadata, size, and all that the test images give."""
    facts = onnx_file.read_metadata(path)
    del facts["probe"]
    assert {key: json.loads(onnx_file.to_json(value)) for key, value in told["facts"].items()} == {
        key: text if isinstance(told["facts"][key], str) else json.loads(text) for key, text in facts.items()
    }
    assert told["image_shape"] == list(data.test_images.shape[1:])
    assert told["cost"]["bytes"] == path.stat().st_size
    assert told["cost"]["parameters"] == int(facts["parameters"])

    logits, probabilities = outputs(path, data.test_images)
    labels = data.test_labels.numpy()
    count, answers = len(labels), logits.argmax(1)
    test = told["test"]
    assert (test["images"], test["correct"]) == (count, (answers == labels).sum())
    assert (facts["test_images"], facts["test_correct"]) == (str(count), str(test["correct"]))
    assert facts["test_accuracy"] == f"{test['correct'] / count:.4f}"
    assert test["accuracy"] == pytest.approx(test["correct"] / count)
    confusion = [
        [int(((labels == true) & (answers == a)).sum()) for a in range(len(data.labels))]
        for true in range(len(data.labels))
    ]
    assert test["confusion"] == confusion
    for number, (label, entry) in enumerate(zip(data.labels, test["classes"], strict=True)):
        assert (entry["label"], entry["images"]) == (label, (labels == number).sum())
        assert entry["correct"] == confusion[number][number]
        assert entry["accuracy"] == pytest.approx((answers == labels)[labels == number].mean())
    right = np.maximum(probabilities[np.arange(count), labels], 1e-37)
    assert test["loss"] == pytest.approx(-np.log(right).mean(), abs=1e-4)

    calibration = told["calibration"]
    assert calibration["temperature"] == float(facts["temperature"])
    powers = np.exp(logits - logits.max(1, keepdims=True))
    softmax = powers / powers.sum(1, keepdims=True)
    assert calibration["before"]["error"] == pytest.approx(calibration_error(softmax, labels), abs=1e-4)
    assert calibration["after"]["error"] == pytest.approx(calibration_error(probabilities, labels), abs=1e-4)
    assert calibration["after"]["error"] == pytest.approx(float(facts["calibration_error"]), abs=1e-4)
    for found in (calibration["before"], calibration["after"]):
        assert sum(part["images"] for part in found["bins"]) == count
        weighted = sum(part["images"] * abs(part["confidence"] - part["accuracy"]) for part in found["bins"])
        assert found["error"] == pytest.approx(weighted / count, abs=1e-5)


@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda path: path.parts[-3])
def test_the_report_of_a_shipped_file_is_true(path: Path, request: pytest.FixtureRequest) -> None:
    """Measured again on the whole test set; made by `python -m training.report` where it is missing."""
    told = read(path)
    assert told["facts"]["name"] == path.parts[-3]
    assert told["test"]["images"] == 10_000
    check_against_file(told, path, request.getfixturevalue(told["facts"]["dataset"]))
    page = path.with_name("README.md").read_text(encoding="utf-8")
    assert f"**{told['test']['accuracy'] * 100:.2f} %**" in page


def test_shipped_files_were_found() -> None:
    assert len(SHIPPED_FILES) >= 5


def test_every_figure_is_that_of_the_file(path: Path, data: Dataset) -> None:
    told, _ = measure(path, data)
    check_against_file(told, path, data)

    order = torch.randperm(12_000, generator=torch.Generator().manual_seed(0))
    for name, rows in (("train", order[2_000:]), ("validation", order[:2_000])):
        _, probabilities = outputs(path, data.train_images[rows])
        labels = data.train_labels[rows].numpy()
        assert told[name]["images"] == len(rows)
        assert told[name]["accuracy"] == pytest.approx((probabilities.argmax(1) == labels).mean())
        loss = -np.log(probabilities[np.arange(len(rows)), labels]).mean()
        assert told[name]["loss"] == pytest.approx(loss, abs=1e-4)

    assert told["cost"]["multiply_accumulates"] == 26 * 26 * 8 * 9 + 1352 * 10
    history = told["facts"]["history"]
    assert told["training"] == {
        "seconds": pytest.approx(sum(epoch["seconds"] for epoch in history), abs=0.06),
        "epochs": 2,
        "command": "python -m training.export mnist-tiny --epochs 2",
    }
    assert told["variant"] is None


def with_options(**changes: Any) -> dict[str, Any]:
    """The facts of a file whose recipe differs from cifar10-cnn's."""
    changed = dataclasses.replace(RECIPES["cifar10-cnn"], **changes)
    return {
        "name": changed.name,
        "network": changed.network,
        "dataset": changed.dataset,
        "precision": "fp32",
        "recipe": changed.numbers(),
    }


def test_the_command_has_an_option_for_each_number_that_is_not_the_recipes_own() -> None:
    begin = "python -m training.export"
    assert command(with_options()) == f"{begin} cifar10-cnn"
    changed = with_options(epochs=3, seed=7, learning_rate=0.5, flip=False)
    assert command(changed) == f"{begin} cifar10-cnn --epochs 3 --seed 7 --learning-rate 0.5 --no-flip"
    variant = with_options(seed=1) | {"name": "cifar10-cnn-fp16", "variant_of": "cifar10-cnn", "precision": "fp16"}
    assert command(variant) == f"{begin} cifar10-cnn --seed 1 --precision fp16"
    own = with_options(name="pets", dataset="folder", average=0.5) | {
        "variant_of": "pets",
        "name": "pets-int8",
        "precision": "int8",
    }
    assert (
        command(own) == f"{begin} --dataset folder --data-dir FOLDER --network cifar10-cnn --name pets --precision int8"
    )


def test_facts_are_read_with_their_types(path: Path) -> None:
    facts = read_facts(path)
    assert "probe" not in facts
    assert (facts["seed"], facts["parameters"], facts["commit"]) == (0, 13_610, onnx_file.read_metadata(path)["commit"])
    assert facts["recipe"] == RECIPE.numbers()
    assert [type(epoch["loss"]) for epoch in facts["history"]] == [float, float]
