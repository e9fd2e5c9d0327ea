"""How a variant is made: silently, from the float32 file and training images alone, or not at all."""

import dataclasses
import logging
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console
from torch import nn

from tests.servers import ServerProcess
from tests.wire import infer, infer_request
from training.data import Dataset
from training.errors import ParityError
from training.evaluate import OnnxFile, outputs_of_onnx
from training.networks import NETWORKS, Preprocess
from training.publish import publish, publish_variant
from training.train import Training, train

from . import trained
from .samples import CPU, part

Precision = Literal["int8", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("int8", "fp16")


@pytest.fixture(scope="module")
def few(mnist: Dataset) -> Dataset:
    """A part of MNIST."""
    return trained.few(mnist)


@pytest.fixture(scope="module")
def training(few: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A mnist-tiny, briefly trained."""
    return train(trained.RECIPE, few, CPU, tmp_path_factory.mktemp("tiny") / "tiny.pt", Console(quiet=True))


@pytest.fixture(scope="module")
def tiny(training: Training, few: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its float32 file, in a models folder."""
    path = tmp_path_factory.mktemp("models") / "mnist-tiny" / "1" / "model.onnx"
    publish(trained.RECIPE, training, few, path)
    return path


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_file_gives_the_same_bytes_in_silence_and_leaves_nothing_else(
    precision: Precision,
    tiny: Path,
    few: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.chdir(scratch)
    handlers = list(logging.getLogger().handlers)
    for attempt in ("one", "two"):
        publish_variant(precision, few, tiny, tmp_path / attempt)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["one", "scratch", "two"]
    assert list(scratch.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert logging.getLogger().handlers == handlers


def test_test_images_have_no_part_in_the_file(tiny: Path, few: Dataset, tmp_path: Path) -> None:
    """Other test images, other figures, the same weights."""
    for name, half in (("one", slice(0, 1_000)), ("two", slice(1_000, 2_000))):
        data = dataclasses.replace(few, test_images=few.test_images[half], test_labels=few.test_labels[half])
        publish_variant("int8", data, tiny, tmp_path / name)
    one, two = (onnx.load(tmp_path / name) for name in ("one", "two"))
    assert one.graph == two.graph
    assert one != two


def test_a_small_data_set_will_do(tiny: Path, few: Dataset, tmp_path: Path) -> None:
    """Of 400 training images, half tell the tolerance; batches are filled up from 100 test images."""
    data = part(few, 400, 100)
    data = dataclasses.replace(data, validation_images=data.train_images[:40], validation_labels=data.train_labels[:40])
    metadata = publish_variant("int8", data, tiny, tmp_path / "model.onnx")
    assert metadata["test_images"] == "100"


def test_all_precisions_are_served_side_by_side(tiny: Path, few: Dataset, tmp_path: Path) -> None:
    """By the real server, bit for bit as the files compute."""
    (tmp_path / "mnist-tiny").symlink_to(tiny.parents[1])
    for precision in PRECISIONS:
        path = tmp_path / f"mnist-tiny-{precision}" / "1" / "model.onnx"
        publish_variant(precision, few, tiny, path)
    images = few.test_images[:8]
    with ServerProcess(tmp_path, "--threads", "2") as server:
        for name in ("mnist-tiny", "mnist-tiny-int8", "mnist-tiny-fp16"):
            answer = infer(server, infer_request(name, images=images.numpy()))["logits"]
            file = OnnxFile(tmp_path / name / "1" / "model.onnx")
            np.testing.assert_array_equal(answer, outputs_of_onnx(file, images).logits)


def stretched(training: Training, images: torch.Tensor, factor: float) -> Training:
    """Give a network that computes the same, with its most active channel made larger, and its next weights smaller."""
    conv, linear = training.network.get_submodule("conv"), training.network.get_submodule("linear")
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(linear, nn.Linear)
    with torch.inference_mode():
        active = conv(Preprocess(trained.RECIPE.mean, trained.RECIPE.std)(images)).relu().mean((0, 2, 3)).argmax()
    network = NETWORKS["mnist-tiny"].build()
    state = {key: value.clone() for key, value in training.network.state_dict().items()}
    state["conv.weight"][active] *= factor
    state["conv.bias"][active] *= factor
    state["linear.weight"].view(10, 8, 13 * 13)[:, active] /= factor
    network.load_state_dict(state)
    return Training(network.eval(), training.history)


@pytest.mark.parametrize(
    ("precision", "factor", "sentence"),
    [
        (
            "int8",
            2.0**12,
            r"mnist-tiny-int8: [\d,]+ of 2,000 test .* by fp32 1,\d+: \d+\.\d\d% are lost, and 0\.20% are",
        ),
        ("fp16", 2.0**20, r"mnist-tiny-fp16: not all logits are finite .* holds \(in fp16 up to 65,504"),
    ],
    ids=PRECISIONS,
)
def test_a_network_that_a_precision_cannot_hold_is_refused(
    precision: Precision, factor: float, sentence: str, training: Training, few: Dataset, tmp_path: Path
) -> None:
    """One channel thousands of times as large as the others leaves them no int8 steps, and float16 no number."""
    fp32 = tmp_path / "mnist-tiny" / "1" / "model.onnx"
    publish(trained.RECIPE, stretched(training, few.train_images[:100], factor), few, fp32)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ParityError, match=sentence):
        publish_variant(precision, few, fp32, tmp_path / f"mnist-tiny-{precision}" / "1" / "model.onnx")
    assert sorted(tmp_path.rglob("*")) == before


def test_ranges_from_images_that_are_all_alike_are_refused_and_the_file_before_is_kept(
    tiny: Path, few: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    publish_variant("int8", few, tiny, path)
    content = path.read_bytes()
    black = dataclasses.replace(few, train_images=torch.zeros_like(few.train_images))
    with pytest.raises(ParityError, match="mnist-tiny-int8: the logits of 2,000 of 2,000 test images differ"):
        publish_variant("int8", black, tiny, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == content
