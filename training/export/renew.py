"""Files of the format before hashes, written anew: the same graph, weights and figures, and all that is proved today.

Nothing is trained or measured again; what is new in int8 files, ONNX Runtime's own logits, comes from the file itself.
"""

import functools
import json
from pathlib import Path

import onnx
from rich.console import Console

from .. import onnx_file
from ..data import load
from ..errors import ModelFileError
from ..evaluate import OnnxFile
from ..files import replacing
from ..report import page
from ..report.measure import parse_metadata
from . import parity
from .publish import draw_images, preprocessing, with_own_logits


def renew_all(models_dir: Path, data_dir: Path, console: Console) -> None:
    """Renew every file of a models folder, and its report; a line says what became of each."""
    read_data = functools.cache(lambda dataset: load(dataset, data_dir))
    for path in sorted(models_dir.glob("*/*/model.onnx")):
        name = path.parent.parent.name
        try:
            metadata = onnx_file.read_metadata(path)
        except ModelFileError:
            console.print(f"{name}: left as it is, because it is not a file of ours")
            continue
        if metadata["format"] == onnx_file.FORMAT:
            console.print(f"{name}: up to date")
        elif metadata["precision"] == "int8" and metadata["dataset"] == "folder":
            console.print(f"{name}: left as it is, because it needs its images; --precision int8 --force makes it anew")
        else:
            before = parse_metadata(path)
            if metadata["precision"] == "int8":
                data = read_data(metadata["dataset"]).hold_out(json.loads(metadata["recipe"])["validation"])
                measured = draw_images(data.train_images)[1]
                metadata["probe"] = with_own_logits(metadata["probe"], path, measured)
            renew(path, metadata | preprocessing(metadata["dataset"]))
            _renew_report(path, before)
            console.print(f"{name}: renewed")


def renew(path: Path, metadata: dict[str, str]) -> None:
    """Write the file at `path` anew with these metadata; raises ParityError where its probe fails, before or after."""
    parity.check_probe(metadata["name"], onnx_file.read_metadata(path)["probe"], OnnxFile(path))
    model = onnx.load(path)
    with replacing(path) as temporary:
        onnx_file.write(model, metadata, temporary)
        parity.check_probe(metadata["name"], metadata["probe"], OnnxFile(temporary))


def _renew_report(path: Path, before: dict[str, object]) -> None:
    """Bring a report up to date with its file, where it is the report of the file before."""
    try:
        report = json.loads(path.with_name("report.json").read_text(encoding="utf-8"))
        if report["facts"] != before:
            return
        report["cost"]["bytes"] = path.stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return  # none, or not one of ours
    report["facts"] = parse_metadata(path)
    text = json.dumps(report, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    for name, content in (("README.md", page.render(report)), ("report.json", text)):
        with replacing(path.with_name(name)) as temporary:
            temporary.write_text(content, encoding="utf-8")
