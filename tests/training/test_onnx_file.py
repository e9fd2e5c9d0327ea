"""The exported file keeps its contract, and the same weights give the same bytes."""

import base64
import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from training import onnx_file
from training.checkpoint import Epoch
from training.data import SOURCES
from training.errors import ModelFileError
from training.networks import NETWORKS, Classifier, Preprocess, count_parameters, pool_last
from training.recipes import RECIPES

from .samples import ROOT, SHIPPED

UINT8, FLOAT = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT


def shape_of(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("name", SHIPPED)
def test_inputs_and_outputs_keep_the_contract(name: str) -> None:
    """Inputs and outputs are those of the contract."""
    model = onnx.load(ROOT / "models" / name / "1" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    (images,) = model.graph.input
    logits, probabilities = model.graph.output
    side, channels = (28, 1) if RECIPES[name].dataset == "mnist" else (32, 3)
    assert (images.name, images.type.tensor_type.elem_type) == ("images", UINT8)
    assert shape_of(images) == ["batch", side, side, channels]
    assert [logits.name, probabilities.name] == ["logits", "probabilities"]
    for output in (logits, probabilities):
        assert output.type.tensor_type.elem_type == FLOAT
        assert shape_of(output) == ["batch", 10]
    assert all(initializer.data_location == onnx.TensorProto.DEFAULT for initializer in model.graph.initializer)
    assert next(entry.version for entry in model.opset_import if entry.domain == "") >= 18


@pytest.mark.parametrize("name", SHIPPED)
def test_metadata_keeps_the_contract(name: str) -> None:
    """Every entry of the contract is there."""
    metadata = onnx_file.read_metadata(ROOT / "models" / name / "1" / "model.onnx")
    recipe = RECIPES[name]
    assert metadata["format"] == "2"
    assert json.loads(metadata["labels"]) == list(SOURCES[recipe.dataset].labels)
    assert (metadata["dataset"], metadata["network"], metadata["name"]) == (recipe.dataset, recipe.network, name)
    assert [epoch.keys() for epoch in json.loads(metadata["history"])] == [Epoch.__annotations__.keys()] * recipe.epochs
    assert (float(metadata["temperature"]) != 1) == bool(recipe.validation)
    assert 0 < float(metadata["calibration_error"]) < 0.1
    assert metadata["architecture"] == NETWORKS[name].architecture
    assert int(metadata["parameters"]) == count_parameters(NETWORKS[name].build())
    assert (metadata["precision"], metadata["seed"]) == ("fp32", str(recipe.seed))
    assert json.loads(metadata["versions"]).keys() == {"python", "torch", "torchvision", "onnx", "onnxruntime"}
    assert metadata["commit"]
    probe = json.loads(metadata["probe"])
    assert probe["tolerance"] == 1e-4
    assert probe["images"]["datatype"] == "uint8"
    assert probe["images"]["shape"] == ([8, 28, 28, 1] if recipe.dataset == "mnist" else [8, 32, 32, 3])
    assert len(base64.b64decode(probe["images"]["data"])) == np.prod(probe["images"]["shape"])
    assert (probe["logits"]["datatype"], probe["logits"]["shape"]) == ("float32", [8, 10])
    assert len(base64.b64decode(probe["logits"]["data"])) == 8 * 10 * 4


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_file_names_no_source(name: str) -> None:
    """A shipped file names no source of the machine that made it."""
    assert not has_traces((ROOT / "models" / name / "1" / "model.onnx").read_bytes())


def has_traces(content: bytes) -> bool:
    """Tell whether a file says from which sources it was exported, as PyTorch's exporter does."""
    # A file's name of some length: the four bytes of a weight may well be ".py" and another.
    source = re.search(rb"[\w/-]{3,}\.py", content)
    return source is not None or b"stack_trace" in content or os.fsencode(ROOT) in content


def test_same_weights_give_same_bytes(tmp_path: Path) -> None:
    """The same weights and metadata give the same bytes."""
    contents = []
    for attempt in ("one", "two"):
        torch.manual_seed(0)
        classifier = Classifier(Preprocess((0.0,), (1.0,)), NETWORKS["mnist-deep"].build())
        path = tmp_path / attempt
        metadata = {"format": "2", "name": "deep"}
        onnx_file.write(onnx_file.build(classifier, (28, 28, 1)), metadata, path)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert not has_traces(contents[0])
    assert onnx_file.read_metadata(tmp_path / "one") == metadata


@pytest.mark.parametrize("name", ["mnist-deep", "mnist", "cifar10"])
def test_batch_norm_folds_into_convolutions(name: str) -> None:
    """Batch norm is folded into the convolutions. Also where training has a pool between the two."""
    recipe = RECIPES[name]
    network = NETWORKS[name]
    classifier = Classifier(Preprocess(recipe.mean, recipe.std), pool_last(network.build()))
    model = onnx_file.build(classifier, network.shape)
    kinds = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in kinds
    assert "MaxPool" in kinds


def test_a_file_of_others_is_refused(tmp_path: Path) -> None:
    """A file of others is refused."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not an ONNX file")
    with pytest.raises(ModelFileError, match="cannot be read as an ONNX file"):
        onnx_file.read_metadata(path)
    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph), path)
    with pytest.raises(ModelFileError, match="was not written by this program; move it away"):
        onnx_file.read_metadata(path)


def test_versions_are_those_that_run() -> None:
    """Versions are those that run."""
    versions = json.loads(onnx_file.versions())
    assert (versions["python"], versions["torch"]) == (platform.python_version(), torch.__version__)


def test_commit_tells_whether_code_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is that of the code and tells whether it was changed.

    In a real repository made for the purpose: untracked, committed, changed, and without git at all.
    """
    git = shutil.which("git")
    assert git is not None
    folder = tmp_path / "training"
    folder.mkdir()
    source = folder / "onnx_file.py"
    source.write_text("# a copy\n")
    monkeypatch.setattr(onnx_file, "__file__", str(source))
    assert onnx_file.commit() == "unknown"

    def run(*arguments: str) -> str:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
        line = [git, *identity, *arguments]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    run("init", "--quiet")
    assert onnx_file.commit() == "unknown"
    run("add", ".")
    run("commit", "--quiet", "--message", "first")
    head = run("rev-parse", "HEAD")
    assert onnx_file.commit() == head
    source.write_text("# a changed copy\n")
    assert onnx_file.commit() == f"{head}+changes"
    monkeypatch.setenv("PATH", "")
    assert onnx_file.commit() == "unknown"
