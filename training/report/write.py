"""The report of a model: report.json, README.md and its figures, beside its model.onnx.

Everything comes from the file and the data set alone; nothing is trained.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..command import RUN
from ..data import Dataset, load
from ..data.folder import load_folder
from ..errors import ModelFileError, TrainingError
from ..evaluate import Outputs
from ..files import replacing
from . import charts, page
from .measure import image_shape, measure, parse_metadata


def write(path: Path, data: Dataset, advance: Callable[[int], object] = lambda _: None) -> dict[str, Any]:
    """Measure the model file at `path` on its whole data set, and write its report beside it; gives its content.

    `advance` is told of images as they are run. Until everything is measured and drawn, no file is touched; then
    each is replaced whole. Raises what `measure` raises.
    """
    report, test = measure(path, data, advance)
    mistakes = {"mistakes.png": draw_mistakes(data, test)}
    text = json.dumps(report, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    _replace(path, mistakes | describe(report) | {"report.json": text.encode()})
    return report


def redraw(models_dir: Path) -> None:
    """Write the pages and figures of all stored reports again but the mistakes, which need the file; measures nothing.

    Raises ModelFileError for a report that cannot be read.
    """
    for path, report in read_all(models_dir):
        _replace(path, describe(report))


def read_all(models_dir: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Read all reports of a folder, by their paths; raises ModelFileError for one that cannot be read."""
    return [(path, _read(path)) for path in sorted(models_dir.glob("*/*/report.json"))]


def _read(path: Path) -> dict[str, Any]:
    """Read a report.json; raises ModelFileError for one that is none of ours."""
    why = "it lacks whole parts"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        report, why = None, str(error)
    if not isinstance(report, dict) or not {"facts", "test", "calibration", "cost", "training"} <= report.keys():
        name = path.parent.parent.name
        raise ModelFileError(f"{path} is no report of ours ({why}); run: {RUN}.report {name}")
    return report


def describe(report: dict[str, Any]) -> dict[str, bytes]:
    """Give the page and its figures, by file name; the curves of a variant are those of the file it was made from."""
    calibration = report["calibration"]
    named = {"softmax of the logits": calibration["before"]}
    if calibration["temperature"] != 1:
        named[f"with temperature {calibration['temperature']:g}"] = calibration["after"]
    contents = {
        "README.md": page.render(report).encode(),
        "confusion.png": charts.confusion(np.array(report["test"]["confusion"]), report["facts"]["labels"]),
        "calibration.png": charts.calibration(named),
    }
    if report["variant"] is None and report["facts"]["history"]:
        contents["curves.png"] = charts.curves(report["facts"]["history"])
    return contents


def draw_mistakes(data: Dataset, test: Outputs) -> bytes:
    """Draw the wrong predictions of the highest probability."""
    labels = data.test_labels.numpy()
    wrong = np.flatnonzero(test.predictions != labels)
    worst = wrong[np.argsort(-test.probabilities[wrong].max(1), kind="stable")][: charts.MOST_MISTAKES]
    return charts.mistakes(data.test_images.numpy()[worst], labels[worst], test.probabilities[worst], data.labels)


def _replace(path: Path, contents: dict[str, bytes]) -> None:
    """Write files beside one, each whole."""
    for name, content in contents.items():
        with replacing(path.with_name(name)) as temporary:
            temporary.write_bytes(content)


def write_all(names: list[str], models_dir: Path, data_dir: Path, console: Console) -> None:
    """Write the reports of the named models, or of all, and a line about each; on a terminal a bar shows how far it is.

    Raises TrainingError for a model that is not there.
    """
    loaded: dict[tuple[str, tuple[int, int, int]], Dataset] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        for path in _find(names, models_dir):
            name = path.parent.parent.name
            dataset = parse_metadata(path)["dataset"]
            if dataset == "folder" and not names:
                console.print(f"{name}: left out; name it, and the folder that it was trained on with --data-dir")
                continue
            shape = image_shape(path)
            if (dataset, shape) not in loaded:  # images of a folder are scaled to what the model takes
                data = load_folder(data_dir, shape) if dataset == "folder" else load(dataset, data_dir)
                loaded[dataset, shape] = data
            data = loaded[dataset, shape]
            images = len(data.test_images) + len(data.train_images) + len(data.validation_images)
            task = progress.add_task(name, total=images)
            report = write(path, data, partial(progress.advance, task))
            progress.remove_task(task)
            console.print(
                f"{name}: {page.percent(report['test']['accuracy'])} of {report['test']['images']:,} test images, "
                f"calibration error {page.percent(report['calibration']['after']['error'])}; "
                f"see {path.with_name('README.md')}"
            )


def _find(names: list[str], models_dir: Path) -> list[Path]:
    """Give the files of the named models, or of all."""
    paths = sorted(models_dir.glob("*/*/model.onnx"))
    there = list(dict.fromkeys(path.parent.parent.name for path in paths))
    for name in names:
        if name not in there:
            raise TrainingError(
                f"there is no model {name!r} in {models_dir.absolute()}; it has {', '.join(there) or 'none'}"
            )
    if not paths:
        raise TrainingError(f"there is no model in {models_dir.absolute()}; name another with --models-dir")
    return [path for path in paths if not names or path.parent.parent.name in names]
