"""The page about all models says what their reports say, and how those are made that are not kept."""

import copy
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from training.errors import ModelFileError
from training.recipes import RECIPES
from training.report.catalog import NOT_KEPT, main, render
from training.report.front import Point, dominated
from training.report.page import accuracy

from .samples import ROOT, SHIPPED
from .trained import Trained


def place(report: dict[str, Any], folder: Path, name: str, version: str = "1", **metadata: str) -> None:
    """Lay the report into a models folder under another name, with other metadata, as if it were another model's."""
    report = copy.deepcopy(report)
    report["facts"] |= {"name": name} | metadata
    path = folder / name / version / "report.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(report), encoding="utf-8")


def rows(page: str) -> dict[str, list[str]]:
    """The cells of each line of the table, by the model's name as it is shown."""
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith(("| `", "| [`"))]
    return {cells[0]: cells[1:] for cells in lines}


def test_the_committed_page_is_current() -> None:
    """The committed page is current."""
    assert (ROOT / "models" / "README.md").read_text(encoding="utf-8") == render(ROOT / "models")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_have_rows(name: str) -> None:
    """A shipped model has a row with the numbers of its report."""
    report = json.loads((ROOT / "models" / name / "1" / "report.json").read_text(encoding="utf-8"))
    cells = rows(render(ROOT / "models"))[f"[`{name}`]({name}/1/README.md)"]
    assert cells[3] == f"{report['facts']['parameters']:,}"
    assert cells[6].startswith(f"{report['test']['correct'] / report['test']['images'] * 100:.2f} % (")


def test_every_link_leads_to_file() -> None:
    """Every link of the page leads to a file."""
    for title in rows(render(ROOT / "models")):
        if title.startswith("["):
            assert (ROOT / "models" / title.partition("(")[2].rstrip(")")).is_file()


def test_row_gives_what_report_gives(trained: Trained, tmp_path: Path) -> None:
    """A row gives what the report gives."""
    place(trained.report, tmp_path, "mnist-tiny")
    assert rows(render(tmp_path))["[`mnist-tiny`](mnist-tiny/1/README.md)"] == [
        "000",
        "MNIST",
        "fp32",
        "13,610",
        "62,192",
        f"{trained.report['cost']['bytes'] / 1000:.1f} kB",
        accuracy(trained.report["test"]),
        f"{trained.report['calibration']['after']['error'] * 100:.2f} %",
        f"{trained.report['cost']['images_per_s']['64']:,.0f}",
        "-",
        "`python -m training.export mnist-tiny --epochs 2`",
    ]


def test_every_recipe_has_a_row(tmp_path: Path) -> None:
    """Every recipe has a row with the command that makes it."""
    found = rows(render(tmp_path))
    assert list(found) == [f"`{name}`" for name in RECIPES]
    for name in RECIPES:
        assert found[f"`{name}`"][-1] == f"`python -m training.export {name}` (not kept here)"
    assert found["`cifar10-vgg`"][:-1] == [
        "004", "CIFAR-10", "fp32", "35,339,082", "-", "141.36 MB", "-", "-", "-", "74.71 %, loss 0.5668 in epoch 10",
    ]  # fmt: skip
    assert found["`mnist`"][0] == "ours"


def test_variants_follow_their_model(trained: Trained, tmp_path: Path) -> None:
    """Variants follow their model and models of others come last."""
    place(trained.report, tmp_path, "pets", dataset="folder", network="cifar10-lenet")
    place(trained.report, tmp_path, "mnist-tiny")
    place(trained.report, tmp_path, "mnist-tiny", "2")
    place(trained.report, tmp_path, "mnist-tiny-int8", variant_of="mnist-tiny", precision="int8")
    lenet_fp16 = {"variant_of": "cifar10-lenet", "precision": "fp16", "network": "cifar10-lenet"}
    place(trained.report, tmp_path, "cifar10-lenet-fp16", **lenet_fp16)
    found = rows(render(tmp_path))
    lenet = list(found).index("`cifar10-lenet`")
    assert list(found)[:3] == [
        "[`mnist-tiny`](mnist-tiny/1/README.md)",
        "[`mnist-tiny` version 2](mnist-tiny/2/README.md)",
        "[`mnist-tiny-int8`](mnist-tiny-int8/1/README.md)",
    ]
    assert list(found)[lenet + 1] == "[`cifar10-lenet-fp16`](cifar10-lenet-fp16/1/README.md)"
    assert list(found)[-1] == "[`pets`](pets/1/README.md)"
    assert found["[`pets`](pets/1/README.md)"][:3] == ["004", "a folder of images", "fp32"]
    # What the document published is of its own data and precision.
    assert found["`cifar10-lenet`"][9] == "63.35 %, loss 0.8776 in epoch 10"
    assert found["[`cifar10-lenet-fp16`](cifar10-lenet-fp16/1/README.md)"][9] == "-"
    assert found["[`pets`](pets/1/README.md)"][9] == "-"


def test_files_not_kept_are_listed(trained: Trained, tmp_path: Path) -> None:
    """A file that is not kept is listed with what was measured on it."""
    for name in NOT_KEPT:
        place(trained.report, tmp_path, name, network=name)
        place(trained.report, tmp_path, f"{name}-int8", variant_of=name, network=name, precision="int8")
    found = rows(render(tmp_path))
    for name in (*NOT_KEPT, *(f"{name}-int8" for name in NOT_KEPT)):
        cells = found[f"[`{name}`]({name}/1/README.md)"]
        assert cells[6] == accuracy(trained.report["test"])
        assert cells[-1].endswith(" (not kept here)")


def test_git_keeps_reports_ignores_large_files(tmp_path: Path) -> None:
    """Git keeps reports and ignores the files that are not kept."""
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


def test_worse_calibration_is_shown(trained: Trained, tmp_path: Path) -> None:
    """Where the temperature makes the calibration error larger, the error without it stands behind."""
    for name, before, after in (("worse", 0.01, 0.02), ("better", 0.02, 0.01)):
        calibration = trained.report["calibration"]
        errors = {"before": calibration["before"] | {"error": before}, "after": calibration["after"] | {"error": after}}
        place(trained.report | {"calibration": calibration | errors}, tmp_path, name)
    found = {name.split("`")[1]: cells[7] for name, cells in rows(render(tmp_path)).items()}
    assert (found["worse"], found["better"]) == ("2.00 % (1.00 % without)", "1.00 %")


def test_page_names_model_by_need(trained: Trained, tmp_path: Path) -> None:
    """For each need the most accurate model, or where its interval is reached the fastest; nothing that is too slow."""
    measured = {  # of 10,000 test images, alone and in runs of 64, bytes
        "best": (9_970, 900, 950, 9e6),
        "close": (9_965, 5_000, 9_000, 2e6),
        "close-but-slower": (9_968, 2_000, 6_000, 2e6),
        "small": (9_900, 8_000, 9_500, 1e5),
        "worst": (9_000, 90_000, 99_000, 1e4),
    }
    for name, (correct, alone, runs, size) in measured.items():
        test = trained.report["test"] | {"correct": correct, "images": 10_000, "accuracy": correct / 10_000}
        cost = trained.report["cost"] | {"images_per_s": {"1": alone, "64": runs}, "bytes": int(size)}
        place(trained.report | {"test": test, "cost": cost}, tmp_path, name)
    cells = [
        line.split(" | ") for line in render(tmp_path).partition("## Which one")[2].splitlines() if "README" in line
    ]
    assert {row[0].strip("| "): row[2] for row in cells} == {
        "the last tenth of a point": "[`best`](best/1/README.md)",
        "a lone request under 1 ms": "[`close`](close/1/README.md)",
        "5,000 images/s and more": "[`close`](close/1/README.md)",
        "under 1 MB, within 1 point of the best": "[`small`](small/1/README.md)",
    }
    assert all(row[1] == "MNIST" for row in cells)


@pytest.mark.parametrize(
    ("correct", "rate", "grey"),
    [(90, 90, True), (90, 100, True), (95, 90, True), (95, 100, False), (96, 90, False), (90, 101, False)],
    ids=["both-less", "less-accurate", "slower", "equal", "more-accurate", "faster"],
)
def test_dominated_models_are_grey(correct: int, rate: float, *, grey: bool) -> None:
    """A model is dominated by another that is at least as good in accuracy and rate, and better in one."""

    def point(correct: int, rate: float) -> Point:
        return Point("name", "page", "mnist", {"correct": correct, "images": 100}, {"64": rate}, 1)

    assert dominated(point(correct, rate), [point(95, 100), point(correct, rate)], "64") == grey


def test_the_command_writes_the_page(trained: Trained, tmp_path: Path) -> None:
    """The command writes the page."""
    place(trained.report, tmp_path, "mnist-tiny")
    assert main(["--models-dir", str(tmp_path)]) == 0
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == render(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["README.md", "front.png", "mnist-tiny"]


@pytest.mark.parametrize("content", ["{", "[]", '{"facts": {}}', ""])
def test_missing_folder_or_report_is_sentence(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing folder or a report of others is a sentence."""
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
