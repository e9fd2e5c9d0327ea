"""Weights are tensors and nothing else; options of networks of others are checked before anything is loaded."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from training.errors import ModuleError
from training.export import main
from training.foreign.weights import load_into
from training.lock import hold


class Runs:
    """What a pickle may hold: a call of any program."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("echo pickles may run anything",)


def saved(value: object) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        torch.save(value, folder / "weights.pt")
        return folder / "weights.pt"

    return save


def as_safetensors(folder: Path) -> Path:
    save_file(nn.Linear(4, 2).state_dict(), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def text(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text("no weights at all")
        return folder / name

    return write


@pytest.mark.parametrize(
    "make",
    [
        saved(nn.Linear(4, 2).state_dict()),
        saved({"epoch": 3, "state_dict": nn.Linear(4, 2).state_dict()}),
        saved({f"module.{name}": value for name, value in nn.Linear(4, 2).state_dict().items()}),
        as_safetensors,
    ],
    ids=["plain", "checkpoint", "parallel", "safetensors"],
)
def test_usual_weights_are_loaded(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """Plain, as part of a checkpoint, of a parallel module, and as safetensors."""
    module = nn.Linear(4, 2)
    nn.init.zeros_(module.weight)
    load_into(module, make(tmp_path))
    assert module.weight.abs().min() > 0


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (saved(nn.Linear(4, 2)), "is a pickle that wants to run torch.nn.modules.linear.Linear, and only tensors"),
        (saved({"weight": Runs()}), "is a pickle that wants to run posix.system"),
        (saved({"epoch": 3}), "holds no tensors by name"),
        (saved({"weight": torch.zeros(2, 4)}), "lacks 1 of the network's 2 tensors (bias)"),
        (saved(nn.BatchNorm1d(2).state_dict()), "has besides 3 of the network's 2 tensors"),
        (saved(nn.Linear(4, 3).state_dict()), "does not fit the network: weight is [3, 4] there and [2, 4] here"),
        (text("weights.pt"), "cannot be read as weights"),
        (text("weights.safetensors"), "cannot be read as safetensors"),
        (lambda folder: folder / "none.pt", "there is no file"),
    ],
    ids=["module", "program", "numbers", "missing", "strange", "shape", "text", "unsafe", "nowhere"],
)
def test_other_weights_are_refused(make: Callable[[Path], Path], sentence: str, tmp_path: Path) -> None:
    """A pickle that wants more than tensors, and weights of another network, are sentences."""
    with pytest.raises(ModuleError) as refused:
        load_into(nn.Linear(4, 2), make(tmp_path))
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["--labels", "names.txt"], "--labels is for a network or file of others: add one of --module, --timm"),
        (["--timm", "resnet18", "--torchvision", "resnet18"], "--timm and --torchvision are two networks"),
        (["--timm", "resnet18"], "--timm needs weights: --weights FILE, or --pretrained"),
        (["--timm", "resnet18", "--weights", "a", "--pretrained"], "are two sets of weights"),
        (["--onnx", "a.onnx", "--weights", "a"], "--weights does not go with --onnx"),
        (["--module", "a:b", "--output", "a"], "--output does not go with --module"),
        (["--onnx", "a.onnx", "--size", "9"], "--onnx needs --labels"),
        (["--module", "a:b", "--labels", "names.txt"], "--module needs --size"),
        (["mnist", "--timm", "resnet18", "--pretrained"], "--timm exports one network: give it no NAME"),
        (["--timm", "resnet18", "--pretrained", "--name", "mnist"], "is taken by a network of ours"),
        (["--timm", "resnet18", "--pretrained", "--size", "big"], "is not one or two whole numbers from 1"),
        (["--timm", "resnet18", "--pretrained", "--mean", "1,2"], "is not one or three numbers"),
        (["--timm", "resnet18", "--pretrained", "--fact", "Licence"], "is not KEY=VALUE"),
    ],
    ids=str,
)
def test_wrong_options_are_explained(line: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Options that do not go together end with status 2 and a sentence."""
    with pytest.raises(SystemExit) as ended:
        main(line)
    assert ended.value.code == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["--timm", "resnet1000", "--pretrained"], "has no network 'resnet1000'"),
        (["--torchvision", "fcn_resnet50", "--pretrained"], "torchvision has no classifier 'fcn_resnet50'"),
        (["--timm", "resnet18", "--pretrained", "--labels", "LABELS"], "--pretrained has the labels of ImageNet"),
        (["--timm", "resnet18", "--pretrained", "--size", "9,8"], "is no square"),
        (["--module", "nowhere:net", "--size", "9", "--labels", "LABELS"], "No module named 'nowhere'"),
        (["--module", "os", "--size", "9", "--labels", "LABELS"], "is not of the form package:factory"),
        (["--module", "os:sep", "--size", "9", "--labels", "LABELS"], "is a str; a function that gives a module"),
        (["--module", "os:getcwd", "--size", "9", "--labels", "LABELS"], "gives a str; a torch.nn.Module is expected"),
        (["--module", "os:listdir", "--size", "9", "--labels", "none.txt"], "none.txt cannot be read as labels"),
    ],
    ids=str,
)
def test_unknown_network_is_refused(
    line: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network that is not there, or is none, is a sentence; nothing is written."""
    (tmp_path / "labels.txt").write_text("ant\nbee\n")
    given = [str(tmp_path / "labels.txt") if part == "LABELS" else part for part in line]
    assert main([*given, "--models-dir", str(tmp_path / "models"), "--name", "theirs"]) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_file_in_place_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is in place is replaced by --force only."""
    path = tmp_path / "theirs" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"theirs")
    line = ["--timm", "resnet18", "--pretrained", "--models-dir", str(tmp_path), "--name", "theirs"]
    assert main(line) == 1
    assert "is in place; --force replaces it" in capsys.readouterr().err
    assert path.read_bytes() == b"theirs"


def test_second_export_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who exports under a name that is being made is told by which process, at once; a folder that is none, too."""
    line = ["--module", "nowhere:net", "--labels", "none.txt", "--size", "9", "--name", "theirs"]
    with hold(tmp_path / ".theirs.lock", "theirs"):
        assert main([*line, "--models-dir", str(tmp_path)]) == 1
    by = f"theirs is being made by process {os.getpid()}; wait until it has ended, or stop it"
    assert by in capsys.readouterr().err
    (tmp_path / "file").write_text("no folder")
    assert main([*line, "--models-dir", str(tmp_path / "file")]) == 1
    assert "is no folder, so nothing can be put into" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
