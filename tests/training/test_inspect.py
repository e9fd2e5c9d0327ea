"""`python -m training.inspect` shows a file, and names each thing in it that is not true."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from tests import onnx_models
from training.inspect import main

from .samples import SHIPPED, shipped


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_true(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every bundled file has no problems, and its entries are shown as JSON."""
    assert main([str(shipped(name)), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert found["metadata"]["name"] == name
    assert len(found["metadata"]["labels"]) == 10
    assert found["probe"]["deviation"] <= found["probe"]["tolerance"]


def test_table_shows_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Without an option, a table for people."""
    assert main([str(shipped("mnist-tiny"))]) == 0
    text = capsys.readouterr().out
    for part in ("images uint8 [batch, 28, 28, 1]", "8 images 28x28x1", "none: hashes, figures and probe are true"):
        assert part in text


def rewritten(key: str, value: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for entry in model.metadata_props:
            if entry.key == key:
                entry.value = value

    return change


def with_larger_weights(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.5, tensor.name))


def without(key: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        kept = {entry.key: entry.value for entry in model.metadata_props if entry.key != key}
        onnx.helper.set_model_props(model, kept)

    return change


PROBLEMS: dict[str, tuple[Callable[[onnx.ModelProto], None], bool, str]] = {
    "weights": (with_larger_weights, False, "its graph or weights changed since it was written"),
    "weights, hashed anew": (with_larger_weights, True, "its logits are off by"),
    "metadata": (rewritten("convserve.dataset", "emnist"), False, "its metadata changed since it was written"),
    "labels": (rewritten("convserve.labels", '["a", "b"]'), True, "it has 2 labels for 10 classes"),
    "temperature": (rewritten("convserve.temperature", "3"), True, "are not softmax(logits / temperature)"),
    "no temperature": (rewritten("convserve.temperature", "-3"), True, "-3 is no number above 0"),
    "accuracy": (rewritten("convserve.test_accuracy", "0.5"), True, "is not test_correct over test_images"),
    "share": (rewritten("convserve.test_accuracy", "5"), True, "5 does not lie in 0 to 1"),
    "count": (rewritten("convserve.test_correct", "20000"), True, "test_correct is 20000 of 10000"),
    "less": (rewritten("convserve.parameters", "-1"), True, "-1 is less than 0"),
    "format": (rewritten("convserve.format", "3"), False, "convserve.format is '3', and '2' is expected"),
    "probe": (rewritten("convserve.probe", "{}"), True, "its probe cannot be run"),
    "no probe": (without("convserve.probe"), True, "it has no probe"),
    "no hashes": (without("convserve.sha256"), False, "it has no convserve.sha256"),
    "hashes": (rewritten("convserve.sha256", "[]"), False, "convserve.sha256 cannot be read"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_untrue_file_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each thing that is not true is named, on the table and in the error, with status 1."""
    change, hashed_anew, sentence = PROBLEMS[name]
    model = onnx.load(shipped("mnist-tiny"))
    change(model)
    path = tmp_path / "model.onnx"
    if hashed_anew:
        onnx_models.write(model, {entry.key: entry.value for entry in model.metadata_props}, path)
    else:
        path.write_bytes(model.SerializeToString(deterministic=True))
    assert main([str(path)]) == 1
    assert sentence in capsys.readouterr().err


def test_other_files_are_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no ONNX file, or not there, is a sentence."""
    (tmp_path / "text.onnx").write_text("no model at all")
    for name in ("text.onnx", "none.onnx"):
        assert main([str(tmp_path / name)]) == 1
        assert f"{name} cannot be read as an ONNX file" in capsys.readouterr().err
