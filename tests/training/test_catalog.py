"""The page about the models says what the files say."""

from pathlib import Path

import pytest

from training import catalog, onnx_file
from training.catalog import SOURCES, main, render, summarise
from training.errors import ModelFileError
from training.networks import NETWORKS
from training.recipes import RECIPES

from .samples import ROOT, SHIPPED


def test_the_committed_page_is_current() -> None:
    assert (ROOT / "models" / "README.md").read_text(encoding="utf-8") == render(ROOT / "models")


def test_a_row_gives_what_the_file_gives() -> None:
    page = render(ROOT / "models")
    for name in SHIPPED:
        facts = onnx_file.read_metadata(ROOT / "models" / name / "1" / "model.onnx")
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` ")]
        assert f"{int(facts['test_correct']) / 100:.2f} %" in row
        assert f"{int(facts['parameters']):,}" in row


def test_every_network_has_a_source_and_a_row() -> None:
    assert list(SOURCES) == list(NETWORKS)
    assert all(f"| `{name}` |" in render(ROOT / "models") for name in NETWORKS)


def test_a_network_without_a_file_is_listed_with_the_command_that_makes_it(tmp_path: Path) -> None:
    (row,) = [line for line in render(tmp_path).splitlines() if line.startswith("| `cifar10-vgg`")]
    assert "`python -m training.export cifar10-vgg` (not kept here)" in row
    assert "| 141 MB | - |" in row


def test_a_recipe_is_one_line() -> None:
    assert summarise(RECIPES["cifar10-tiny"].numbers()) == "SGD 0.001, momentum 0.9, batch 4, 5 epochs, seed 0, fp32"
    assert summarise(RECIPES["cifar10-cnn"].numbers()) == (
        "AdamW 0.002, weight decay 0.05, cosine with warm-up, batch 128, 24 epochs, shifts of 4 pixels, flips, "
        "seed 0, bf16"
    )


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    assert main(["--models-dir", str(tmp_path)]) == 0
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == render(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["README.md"]


def test_a_missing_folder_or_a_file_of_others_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--models-dir", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err == f"error: there is no folder {tmp_path}/nowhere; name another with --models-dir\n"
    path = tmp_path / "mnist-tiny" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not an ONNX file")
    with pytest.raises(ModelFileError):
        catalog.render(tmp_path)
    assert main(["--models-dir", str(tmp_path)]) == 1
    assert "cannot be read as an ONNX file" in capsys.readouterr().err
