"""A network and a data set come from one file each, outside of the package."""

import json
import re
from pathlib import Path

import pytest

from tests import pages
from training.export import main
from training.inspect import inspect
from training.onnx_file import read_metadata

from .samples import ROOT, run


def test_files_add_network_and_data_set(tmp_path: Path) -> None:
    """The files of own-network.md are fetched, trained, proved against PyTorch in float64, and reported."""
    _, *programs = pages.blocks(ROOT / "docs" / "own-network.md", "py")
    use: list[str | Path] = []
    for program in programs:
        named = re.search(r": (\w+\.py)", program)
        assert named is not None
        (tmp_path / named[1]).write_text(program, encoding="utf-8")
        use += ["--use", tmp_path / named[1]]
    places = ("--data-dir", tmp_path)
    fetched = run("convserve.training.data", "stripes", *use, *places)
    assert fetched.stdout.startswith("stripes: 600 + 200 images, verified"), fetched.stderr
    folders = (*places, "--models-dir", tmp_path / "models", "--checkpoints-dir", tmp_path / "checkpoints")
    exported = run("convserve", "export", "stripes-net", *use, *folders)
    assert exported.returncode == 0, exported.stderr
    path = tmp_path / "models" / "stripes-net" / "1" / "model.onnx"
    assert inspect(path)["problems"] == []
    metadata = read_metadata(path)
    assert (metadata["reference"], metadata["dataset"]) == ("float64", "stripes")
    assert json.loads(metadata["labels"]) == ["lying", "standing"]
    assert metadata["architecture"] == "Conv 1→4 3x3, ReLU, Linear 144→2"
    assert float(metadata["test_accuracy"]) > 0.9
    assert "for stripes" in path.with_name("README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        (None, "there is no such file"),
        ("import nothing_of_this_name", "cannot be run (ModuleNotFoundError: No module named 'nothing_of_this_name')"),
        (
            """
from training.additions import network
from training.recipes import RECIPES
network(RECIPES["mnist"], "the same", (28, 28, 1))(print)
""",
            "there is a network 'mnist' already; give this one another name",
        ),
        (
            """
from training.additions import data_set
from training.data import SOURCES
data_set(type(SOURCES["mnist"]))
""",
            "there is a data set 'mnist' already; give this one another name",
        ),
        ("import convserve.training.additions", "import training.additions there"),
    ],
    ids=["absent", "broken", "network", "data set", "other name"],
)
def test_unusable_file_is_a_sentence(
    program: str | None, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is absent or broken, or adds to a taken name or to the package by its other name, is status 2."""
    path = tmp_path / "mine.py"
    if program is not None:
        path.write_text(program, encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["--list", "--use", str(path)])
    assert ended.value.code == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
