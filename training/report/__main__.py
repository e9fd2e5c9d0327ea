"""`python -m training.report`: measure what models can do, and say it: report.json, README.md and its pictures.

Everything comes from the file and the data set alone; nothing is trained. The files of a report lie beside model.onnx.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from training import charts, page
from training.data import Dataset, default_data_dir, load
from training.errors import TrainingError
from training.evaluate import Outputs
from training.files import replacing
from training.folder import load_folder
from training.measurement import image_shape, measure, read_facts


def write(path: Path, data: Dataset, advance: Callable[[int], object] = lambda _: None) -> dict[str, Any]:
    """Measure the model file at `path` on its whole data set, and write its report beside it; gives its content.

    `advance` is told of images as they are answered. Until everything is measured and drawn, no file is touched; then
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
    """Draw every picture of the page, by file name; the curves of a variant are those of the file it was made from."""
    labels, calibration = data.test_labels.numpy(), report["calibration"]
    named = {"softmax of the logits": calibration["before"]}
    if calibration["temperature"] != 1:
        named[f"with temperature {calibration['temperature']:g}"] = calibration["after"]
    wrong = np.flatnonzero(test.answers != labels)
    worst = wrong[np.argsort(-test.probabilities[wrong].max(1), kind="stable")][: charts.MOST_MISTAKES]
    pictures = {
        "confusion.png": charts.confusion(np.array(report["test"]["confusion"]), data.labels),
        "calibration.png": charts.calibration(named),
        "mistakes.png": charts.mistakes(
            data.test_images.numpy()[worst], labels[worst], test.probabilities[worst], data.labels
        ),
    }
    if report["variant"] is None:
        pictures["curves.png"] = charts.curves(report["facts"]["history"])
    return pictures


def main(arguments: list[str] | None = None) -> int:
    """Run ``python -m training.report``; gives the exit status: 0, 1 (a sentence says why), or 130 (interrupted)."""
    parser = argparse.ArgumentParser(
        prog="python -m training.report",
        description="Measure exported models anew on their whole data sets, and write report.json, README.md and its "
        "pictures beside each.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to measure (default: all that are there)")
    parser.add_argument("--models-dir", type=Path, default=Path("models"), metavar="DIR", help="default: models")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=default_data_dir(),
        metavar="DIR",
        help="the folder for data sets (default: $CONVSERVE_DATA_DIR, else data); for a model of a folder of pictures, "
        "that folder",
    )
    chosen = parser.parse_args(arguments)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        write_all(chosen.names, chosen.models_dir, chosen.data_dir, console)
    except TrainingError as error:
        errors.print(f"error: {error}")
        return 1
    except OSError as error:
        errors.print(f"error: {error.filename or 'a file'}: {error.strerror or error}; mend that and run it again")
        return 1
    except KeyboardInterrupt:
        errors.print("error: interrupted; reports that were finished are kept")
        return 130
    return 0


def write_all(names: list[str], models_dir: Path, data_dir: Path, console: Console) -> None:
    """Write the reports of the named models, or of all, and a line about each; on a terminal a bar shows how far it is.

    Raises TrainingError for a model that is not there.
    """
    paths = sorted(models_dir.glob("*/*/model.onnx"))
    there = list(dict.fromkeys(path.parent.parent.name for path in paths))
    for name in names:
        if name not in there:
            raise TrainingError(
                f"there is no model {name!r} in {models_dir.absolute()}; it has {', '.join(there) or 'none'}"
            )
    if not paths:
        raise TrainingError(f"there is no model in {models_dir.absolute()}; name another with --models-dir")
    loaded: dict[tuple[str, tuple[int, ...]], Dataset] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        for path in paths:
            name = path.parent.parent.name
            if names and name not in names:
                continue
            dataset = read_facts(path)["dataset"]
            if dataset == "folder" and not names:
                console.print(f"{name}: left out; name it, and the folder that it was trained on with --data-dir")
                continue
            height, width, channels = image_shape(path)
            key = (dataset, (height, width, channels))  # pictures of a folder are scaled to what the model takes
            if key not in loaded:
                folder = dataset == "folder"
                loaded[key] = load_folder(data_dir, (height, width, channels)) if folder else load(dataset, data_dir)
            data = loaded[key]
            images = len(data.test_images) + len(data.train_images) + len(data.validation_images)
            task = progress.add_task(name, total=images)
            report = write(path, data, partial(progress.advance, task))
            progress.remove_task(task)
            console.print(
                f"{name}: {page.percent(report['test']['accuracy'])} of {report['test']['images']:,} test images, "
                f"calibration error {page.percent(report['calibration']['after']['error'])}; "
                f"see {path.with_name('README.md')}"
            )


if __name__ == "__main__":
    sys.exit(main())
