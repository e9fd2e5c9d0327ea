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
from torch import nn

from tests.servers import ServerProcess
from tests.wire import infer, infer_request
from training.errors import ParityError
from training.evaluate import OnnxFile, outputs_of_onnx
from training.export.publish import publish, publish_variant
from training.networks import NETWORKS, Preprocess
from training.train import Training

from .samples import part
from .trained import RECIPE, Trained

Precision = Literal["int8", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("int8", "fp16")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_same_file_gives_same_bytes(
    precision: Precision,
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The same file gives the same bytes in silence and leaves nothing else."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.chdir(scratch)
    handlers = list(logging.getLogger().handlers)
    for attempt in ("one", "two"):
        publish_variant(precision, trained.data, trained.path, tmp_path / attempt)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["one", "scratch", "two"]
    assert list(scratch.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert logging.getLogger().handlers == handlers


def test_test_images_do_not_shape_variants(trained: Trained, tmp_path: Path) -> None:
    """Test images have no part in the file. Other test images, other figures, the same weights."""
    for name, half in (("one", slice(0, 1_000)), ("two", slice(1_000, 2_000))):
        data = dataclasses.replace(
            trained.data, test_images=trained.data.test_images[half], test_labels=trained.data.test_labels[half]
        )
        publish_variant("int8", data, trained.path, tmp_path / name)
    one, two = (onnx.load(tmp_path / name) for name in ("one", "two"))
    assert one.graph == two.graph
    assert one != two


def test_a_small_data_set_will_do(trained: Trained, tmp_path: Path) -> None:
    """Of 400 training images, half tell the tolerance; batches are filled up from 100 test images."""
    data = part(trained.data, 400, 100)
    data = dataclasses.replace(data, validation_images=data.train_images[:40], validation_labels=data.train_labels[:40])
    metadata = publish_variant("int8", data, trained.path, tmp_path / "model.onnx")
    assert metadata["test_images"] == "100"


def test_precisions_are_served_side_by_side(trained: Trained, tmp_path: Path) -> None:
    """All precisions are served side by side. By the real server, bit for bit as the files compute."""
    (tmp_path / "mnist-tiny").symlink_to(trained.path.parents[1])
    for precision in PRECISIONS:
        path = tmp_path / f"mnist-tiny-{precision}" / "1" / "model.onnx"
        publish_variant(precision, trained.data, trained.path, path)
    images = trained.data.test_images[:8]
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
        active = conv(Preprocess(RECIPE.mean, RECIPE.std)(images)).relu().mean((0, 2, 3)).argmax()
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
def test_unsuited_network_is_refused(
    precision: Precision, factor: float, sentence: str, trained: Trained, tmp_path: Path
) -> None:
    """A network that a precision cannot hold is refused.

    One channel thousands of times as large as the others leaves them no int8 steps, and float16 no number.
    """
    fp32 = tmp_path / "mnist-tiny" / "1" / "model.onnx"
    publish(RECIPE, stretched(trained.training, trained.data.train_images[:100], factor), trained.data, fp32)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ParityError, match=sentence):
        publish_variant(precision, trained.data, fp32, tmp_path / f"mnist-tiny-{precision}" / "1" / "model.onnx")
    assert sorted(tmp_path.rglob("*")) == before


def test_useless_ranges_keep_the_old_file(trained: Trained, tmp_path: Path) -> None:
    """Ranges from images that are all alike are refused and the file before is kept."""
    path = tmp_path / "model.onnx"
    publish_variant("int8", trained.data, trained.path, path)
    content = path.read_bytes()
    black = dataclasses.replace(trained.data, train_images=torch.zeros_like(trained.data.train_images))
    with pytest.raises(ParityError, match="mnist-tiny-int8: the logits of 2,000 of 2,000 test images differ"):
        publish_variant("int8", black, trained.path, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == content
