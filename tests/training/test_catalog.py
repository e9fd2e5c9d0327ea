"""The page about all models says what their reports say, and how those are made that are not kept."""

import copy
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from training.data import Dataset
from training.errors import ModelFileError
from training.recipes import RECIPES
from training.report.catalog import NOT_KEPT, SOURCES, main, render
from training.report.write import write

from .samples import ROOT, SHIPPED
from .trained import few, make


@pytest.fixture(scope="module")
def told(mnist: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A real report, of a brief training."""
    data = few(mnist)
    return write(make(data, tmp_path_factory.mktemp("brief")), data)


def place(told: dict[str, Any], folder: Path, name: str, version: str = "1", **metadata: str) -> None:
    """Lay the report into a models folder under another name, with other metadata, as if it were another model's."""
    told = copy.deepcopy(told)
    told["facts"] |= {"name": name} | metadata
    path = folder / name / version / "report.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(told), encoding="utf-8")


def rows(page: str) -> dict[str, list[str]]:
    """The cells of each line of the table, by the model's name as it is shown."""
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith(("| `", "| [`"))]
    return {cells[0]: cells[1:] for cells in lines}


def test_the_committed_page_is_current() -> None:
    assert (ROOT / "models" / "README.md").read_text(encoding="utf-8") == render(ROOT / "models")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_has_a_row_with_the_figures_of_its_report(name: str) -> None:
    told = json.loads((ROOT / "models" / name / "1" / "report.json").read_text(encoding="utf-8"))
    cells = rows(render(ROOT / "models"))[f"[`{name}`]({name}/1/README.md)"]
    assert cells[3] == f"{told['metadata']['parameters']:,}"
    assert cells[6] == f"{told['test']['correct'] / told['test']['images'] * 100:.2f} %"


def test_every_link_of_the_page_leads_to_a_file() -> None:
    for title in rows(render(ROOT / "models")):
        if title.startswith("["):
            assert (ROOT / "models" / title.partition("(")[2].rstrip(")")).is_file()


def test_a_row_gives_what_the_report_gives(told: dict[str, Any], tmp_path: Path) -> None:
    place(told, tmp_path, "mnist-tiny")
    assert rows(render(tmp_path))["[`mnist-tiny`](mnist-tiny/1/README.md)"] == [
        "000",
        "MNIST",
        "fp32",
        "13,610",
        "62,192",
        f"{told['cost']['bytes'] / 1000:.1f} kB",
        f"{told['test']['accuracy'] * 100:.2f} %",
        f"{told['calibration']['after']['error'] * 100:.2f} %",
        f"{told['cost']['images_per_s']['64']:,.0f}",
        "-",
        "`python -m training.export mnist-tiny --epochs 2`",
    ]


def test_every_recipe_has_a_row_with_the_command_that_makes_it(tmp_path: Path) -> None:
    found = rows(render(tmp_path))
    assert list(found) == [f"`{name}`" for name in RECIPES]
    for name in RECIPES:
        assert found[f"`{name}`"][-1] == f"`python -m training.export {name}` (not kept here)"
    assert found["`cifar10-vgg`"][:-1] == [
        "004", "CIFAR-10", "fp32", "35,339,082", "-", "141.36 MB", "-", "-", "-", "74.71 %, loss 0.5668 in epoch 10",
    ]  # fmt: skip
    assert SOURCES.keys() <= {recipe.network for recipe in RECIPES.values()}
    assert found["`mnist`"][0] == "ours"


def test_variants_follow_their_model_and_models_of_others_come_last(told: dict[str, Any], tmp_path: Path) -> None:
    place(told, tmp_path, "pets", dataset="folder", network="cifar10-lenet")
    place(told, tmp_path, "mnist-tiny")
    place(told, tmp_path, "mnist-tiny", "2")
    place(told, tmp_path, "mnist-tiny-int8", variant_of="mnist-tiny", precision="int8")
    place(told, tmp_path, "cifar10-lenet-fp16", variant_of="cifar10-lenet", precision="fp16", network="cifar10-lenet")
    found = rows(render(tmp_path))
    lenet = list(found).index("`cifar10-lenet`")
    assert list(found)[:3] == [
        "[`mnist-tiny`](mnist-tiny/1/README.md)",
        "[`mnist-tiny` version 2](mnist-tiny/2/README.md)",
        "[`mnist-tiny-int8`](mnist-tiny-int8/1/README.md)",
    ]
    assert list(found)[lenet + 1] == "[`cifar10-lenet-fp16`](cifar10-lenet-fp16/1/README.md)"
    assert list(found)[-1] == "[`pets`](pets/1/README.md)"
    assert found["[`pets`](pets/1/README.md)"][:3] == ["004", "a folder of pictures", "fp32"]
    # What the document published is of its own data and precision.
    assert found["`cifar10-lenet`"][9] == "63.35 %, loss 0.8776 in epoch 10"
    assert found["[`cifar10-lenet-fp16`](cifar10-lenet-fp16/1/README.md)"][9] == "-"
    assert found["[`pets`](pets/1/README.md)"][9] == "-"


def test_a_file_that_is_not_kept_is_listed_with_what_was_measured_on_it(told: dict[str, Any], tmp_path: Path) -> None:
    for name in NOT_KEPT:
        place(told, tmp_path, name, network=name)
        place(told, tmp_path, f"{name}-int8", variant_of=name, network=name, precision="int8")
    found = rows(render(tmp_path))
    for name in (*NOT_KEPT, *(f"{name}-int8" for name in NOT_KEPT)):
        cells = found[f"[`{name}`]({name}/1/README.md)"]
        assert cells[6] == f"{told['test']['accuracy'] * 100:.2f} %"
        assert cells[-1].endswith(" (not kept here)")


def test_git_keeps_reports_and_ignores_the_files_that_are_not_kept(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / ".gitignore", tmp_path / ".gitignore")
    git = shutil.which("git")
    assert git is not None
    subprocess.run([git, "init", "--quiet"], cwd=tmp_path, check=True)

    def ignored(file: str) -> bool:
        return subprocess.run([git, "check-ignore", "--quiet", file], cwd=tmp_path, check=False).returncode == 0

    for name in (*NOT_KEPT, *(f"{name}-{precision}" for name in NOT_KEPT for precision in ("int8", "fp16"))):
        assert ignored(f"models/{name}/1/model.onnx")
        assert not any(ignored(f"models/{name}/1/{file}") for file in ("report.json", "README.md", "curves.png"))
    assert not any(ignored(f"models/{name}/1/model.onnx") for name in SHIPPED)


def test_the_command_writes_the_page(told: dict[str, Any], tmp_path: Path) -> None:
    place(told, tmp_path, "mnist-tiny")
    assert main(["--models-dir", str(tmp_path)]) == 0
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == render(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["README.md", "mnist-tiny"]


@pytest.mark.parametrize("content", ["{", "[]", '{"facts": {}}', ""])
def test_a_missing_folder_or_a_report_of_others_is_a_sentence(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--models-dir", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err == f"error: there is no folder {tmp_path}/nowhere; name another with --models-dir\n"
    path = tmp_path / "mnist-tiny" / "1" / "report.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(ModelFileError, match="is no report of ours"):
        render(tmp_path)
    assert main(["--models-dir", str(tmp_path)]) == 1
    captured = capsys.readouterr().err
    assert captured.endswith("run: python -m training.report mnist-tiny\n")
    assert captured.count("\n") == 1
    assert not (tmp_path / "README.md").exists()
