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

from training.data import Dataset, load
from training.data.folder import load_folder
from training.errors import TrainingError
from training.evaluate import Outputs
from training.files import replacing
from training.report import charts, page
from training.report.measure import image_shape, measure, parse_metadata


def write(path: Path, data: Dataset, advance: Callable[[int], object] = lambda _: None) -> dict[str, Any]:
    """Measure the model file at `path` on its whole data set, and write its report beside it; gives its content.

    `advance` is told of images as they are run. Until everything is measured and drawn, no file is touched; then
    each is replaced whole. Raises what `measure` raises.
    """
    report, test = measure(path, data, advance)
    contents = draw(report, data, test)
    contents["README.md"] = page.render(report).encode()
    contents["report.json"] = (json.dumps(report, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()
    for name, content in contents.items():
        with replacing(path.with_name(name)) as temporary:
            temporary.write_bytes(content)
    return report


def draw(report: dict[str, Any], data: Dataset, test: Outputs) -> dict[str, bytes]:
    """Draw every figure of the page, by file name; the curves of a variant are those of the file it was made from."""
    labels, calibration = data.test_labels.numpy(), report["calibration"]
    named = {"softmax of the logits": calibration["before"]}
    if calibration["temperature"] != 1:
        named[f"with temperature {calibration['temperature']:g}"] = calibration["after"]
    wrong = np.flatnonzero(test.predictions != labels)
    worst = wrong[np.argsort(-test.probabilities[wrong].max(1), kind="stable")][: charts.MOST_MISTAKES]
    mistaken = data.test_images.numpy()[worst]
    figures = {
        "confusion.png": charts.confusion(np.array(report["test"]["confusion"]), data.labels),
        "calibration.png": charts.calibration(named),
        "mistakes.png": charts.mistakes(mistaken, labels[worst], test.probabilities[worst], data.labels),
    }
    if report["variant"] is None and report["facts"]["history"]:
        figures["curves.png"] = charts.curves(report["facts"]["history"])
    return figures


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
