"""Every figure of a report is counted again here, from ONNX Runtime's outputs with NumPy."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from training import onnx_file
from training.recipes import RECIPES
from training.report.measure import command, measure, parse_metadata

from .report_check import check
from .trained import RECIPE, Trained


def outputs(path: Path, images: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logits and probabilities of a file."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    parts = [session.run(["logits", "probabilities"], {"images": p.numpy()}) for p in torch.split(images, 250)]
    logits, probabilities = (np.concatenate(found).astype(np.float64) for found in zip(*parts, strict=True))
    return logits, probabilities


def test_every_number_is_the_files(trained: Trained) -> None:
    """Every number is that of the file."""
    path, data = trained.path, trained.data
    report, _ = measure(path, data)
    check(report, path, *outputs(path, data.test_images), data.test_labels.numpy())
    assert report["image_shape"] == list(data.test_images.shape[1:])
    assert report["facts"]["labels"] == list(data.labels)

    order = torch.randperm(12_000, generator=torch.Generator().manual_seed(0))
    for name, rows in (("train", order[2_000:]), ("validation", order[:2_000])):
        _, probabilities = outputs(path, data.train_images[rows])
        labels = data.train_labels[rows].numpy()
        assert report[name]["images"] == len(rows)
        assert report[name]["accuracy"] == pytest.approx((probabilities.argmax(1) == labels).mean())
        loss = -np.log(probabilities[np.arange(len(rows)), labels]).mean()
        assert report[name]["loss"] == pytest.approx(loss, abs=1e-4)

    assert report["cost"]["multiply_accumulates"] == 26 * 26 * 8 * 9 + 1352 * 10
    history = report["facts"]["history"]
    assert report["training"] == {
        "seconds": pytest.approx(sum(epoch["seconds"] for epoch in history), abs=0.06),
        "epochs": 2,
        "command": "python -m training.export mnist-tiny --epochs 2",
    }
    assert report["variant"] is None


def with_options(**changes: Any) -> dict[str, Any]:
    """The metadata of a file whose recipe differs from cifar10-cnn's."""
    changed = dataclasses.replace(RECIPES["cifar10-cnn"], **changes)
    return {
        "name": changed.name,
        "network": changed.network,
        "dataset": changed.dataset,
        "precision": "fp32",
        "recipe": changed.to_dict(),
    }


def test_command_has_options_for_changes() -> None:
    """The command has an option for each number that is not the recipes own."""
    begin = "python -m training.export"
    assert command(with_options()) == f"{begin} cifar10-cnn"
    changed = with_options(epochs=3, seed=7, learning_rate=0.5, flip=False)
    assert command(changed) == f"{begin} cifar10-cnn --epochs 3 --seed 7 --learning-rate 0.5 --no-flip"
    variant = with_options(seed=1) | {"name": "cifar10-cnn-fp16", "variant_of": "cifar10-cnn", "precision": "fp16"}
    assert command(variant) == f"{begin} cifar10-cnn --seed 1 --precision fp16"
    own = with_options(name="pets", dataset="folder", ema_decay=0.5) | {
        "variant_of": "pets",
        "name": "pets-int8",
        "precision": "int8",
    }
    assert (
        command(own) == f"{begin} --dataset folder --data-dir FOLDER --network cifar10-cnn --name pets --precision int8"
    )


def test_metadata_is_read_with_types(trained: Trained) -> None:
    """Metadata are read with their types."""
    metadata = parse_metadata(trained.path)
    assert "probe" not in metadata
    assert (metadata["seed"], metadata["parameters"], metadata["commit"]) == (
        0,
        13_610,
        onnx_file.read_metadata(trained.path)["commit"],
    )
    assert metadata["recipe"] == RECIPE.to_dict()
    assert [type(epoch["loss"]) for epoch in metadata["history"]] == [float, float]
