"""`convserve inspect FILE`: show what a model file says of itself, and prove it; docs/file-format.md."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

from . import onnx_file
from .command import RUN, exit_status, make_console
from .errors import ModelFileError
from .onnx_file import PREFIX

METADATA_PROPS = 14
"""Their field in ModelProto."""
WIDEST_TEXT = 100


def inspect(path: Path) -> dict[str, Any]:
    """Give what a file says, and a list of `problems` for what is not true."""
    model = _load(path)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    problems = [*_check_hashes(path, model, entries)]
    facts, more = _read_entries(entries)
    problems += more
    found: dict[str, Any] = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "inputs": [_tensor(value) for value in model.graph.input],
        "outputs": [_tensor(value) for value in model.graph.output],
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "metadata": {key: value for key, value in facts.items() if key not in ("probe", "sha256")},
    }
    if "probe" in facts:
        found["probe"], more = _check_probe(path, facts)
        problems += more
    else:
        problems.append("it has no probe, so nothing proves what it computes")
    return found | {"problems": problems}


def _load(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's and the system's
        raise ModelFileError(f"{path} cannot be read as an ONNX file: {error}") from error


def _check_hashes(path: Path, model: onnx.ModelProto, entries: dict[str, str]) -> Iterator[str]:
    """Name what differs from the file's hashes."""
    if PREFIX + "sha256" not in entries:
        yield f"it has no {PREFIX}sha256, so changes of it go unseen"
        return
    try:
        told = json.loads(entries[PREFIX + "sha256"])
        there = {key: value for key, value in entries.items() if key.startswith(PREFIX) and key != PREFIX + "sha256"}
        files = {name: onnx_file.file_sha256(path.parent / name) for name in onnx_file.external_files(model)}
        found = {
            "model": onnx_file.sha256(_without_metadata(path.read_bytes())),
            "files": files,
            "entries": {key: onnx_file.sha256(value.encode()) for key, value in there.items()},
        }
        for part in ("model", "files", "entries"):
            if told[part] != found[part]:
                which = {"model": "its graph or weights", "files": "its external data", "entries": "its metadata"}[part]
                yield f"{which} changed since it was written: the hash of {part!r} is another"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"{PREFIX}sha256 cannot be read: {error!r}"
    except OSError as error:
        yield f"its external data cannot be read: {error}"


def _without_metadata(data: bytes) -> bytes:
    """Give a ModelProto's bytes without its metadata, wherever that stands."""
    kept, at = bytearray(), 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 2:
            length, at = _varint(data, at)
            at += length
        elif kind == 0:
            _, at = _varint(data, at)
        else:
            at += {1: 8, 5: 4}[kind]
        if tag >> 3 != METADATA_PROPS:
            kept += data[start:at]
    return bytes(kept)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


JSON_ENTRIES = {"labels", "probe", "preprocessing", "sha256", "recipe", "history", "versions", "normalization"}
SHARES = {"test_accuracy", "agreement", "calibration_error"}
COUNTS = {"parameters", "test_images", "test_correct", "fp32_test_correct"}


def _read_entries(entries: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Give the entries without their prefix, JSON and numbers as such, and what is wrong with them."""
    facts: dict[str, Any] = {}
    problems = []
    for key, text in entries.items():
        name = key.removeprefix(PREFIX)
        if name == key:
            continue
        try:
            facts[name] = _value(name, text)
        except (ValueError, TypeError) as error:
            problems.append(f"{key} cannot be read: {error}")
    if facts.get("format") not in (onnx_file.FORMAT, onnx_file.OLD_FORMAT):
        problems.append(f"{PREFIX}format is {facts.get('format')!r}, and {onnx_file.FORMAT!r} is expected")
    images = facts.get("test_images", 0)
    problems += [
        f"{name} is {facts[name]} of {images} test images"
        for name in ("test_correct", "fp32_test_correct")
        if facts.get(name, 0) > images
    ]
    if images and abs(facts.get("test_correct", 0) / images - facts.get("test_accuracy", 0)) > 1e-3:
        problems.append("test_accuracy is not test_correct over test_images")
    return facts, problems


def _value(name: str, text: str) -> Any:
    if name in JSON_ENTRIES:
        return json.loads(text)
    if name in COUNTS:
        if int(text) < 0:
            raise ValueError(f"{text} is less than 0")
        return int(text)
    if name in SHARES:
        if not 0 <= float(text) <= 1:
            raise ValueError(f"{text} does not lie in 0 to 1")
        return float(text)
    if name == "temperature":
        if not 0 < float(text) < np.inf:
            raise ValueError(f"{text} is no number above 0")
        return float(text)
    return text


def _check_probe(path: Path, facts: dict[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
    """Run the probe as a server does; gives its size and the largest deviation, and what is wrong."""
    from .evaluate import OnnxFile  # here, with PyTorch and ONNX Runtime, which take seconds

    probe = facts["probe"]
    try:
        images, expected = (onnx_file.read_tensor(probe[part]) for part in ("images", "logits"))
        logits, probabilities = OnnxFile(path).run(images)
    except Exception as error:  # of ONNX Runtime, whose exceptions share no base class, or of a broken entry
        return None, [f"its probe cannot be run: {error}"]
    problems = []
    if len(facts.get("labels", ())) != logits.shape[1]:
        problems.append(f"it has {len(facts.get('labels', ()))} labels for {logits.shape[1]} classes")
    if logits.shape != expected.shape:
        return None, [*problems, f"its probe has logits {expected.shape}, and the model gives {logits.shape}"]
    deviation = float(np.abs(logits - expected).max())
    if not deviation <= probe["tolerance"]:
        problems.append(f"its logits are off by {deviation:.3g}, and its probe allows {probe['tolerance']:.3g}")
    scaled = logits.astype(np.float64) / facts.get("temperature", 1.0)
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    if not np.abs(powers / powers.sum(1, keepdims=True) - probabilities).max() <= 1e-4:
        problems.append("its probabilities are not softmax(logits / temperature)")
    return {"images": list(images.shape), "tolerance": probe["tolerance"], "deviation": deviation}, problems


def _tensor(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    axes = ", ".join(str(dim.dim_param or dim.dim_value or "any") for dim in tensor.shape.dim)
    return f"{value.name} {onnx.TensorProto.DataType.Name(tensor.elem_type).lower()} [{axes}]"


def table(found: dict[str, Any]) -> Table:
    """Draw what was found."""
    drawn = Table("entry", "value", show_header=False)
    drawn.add_row("file", f"{found['file']} ({found['bytes']:,} bytes)")
    for part in ("inputs", "outputs"):
        drawn.add_row(part, "\n".join(found[part]))
    drawn.add_row("opset", ", ".join(f"{domain} {version}" for domain, version in found["opset"].items()))
    for key, value in sorted(found["metadata"].items()):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        drawn.add_row(key, text if len(text) <= WIDEST_TEXT else text[: WIDEST_TEXT - 1] + "…")
    if found.get("probe"):
        count, *shape = found["probe"]["images"]
        tolerance = f"{found['probe']['tolerance']:.2g}"
        drawn.add_row("probe", f"{count} images {'x'.join(map(str, shape))}, logits to be met within {tolerance}")
    drawn.add_row("problems", "\n".join(found["problems"]) or "none: hashes, figures and probe are true")
    return drawn


def main(line: Sequence[str] | None = None, prog: str = f"{RUN}.inspect") -> int:
    """Run the command; gives the exit status: 0, or 1 where a file has problems."""
    args = make_parser(prog).parse_args(line)
    return exit_status(lambda: show(args.file, make_console(), as_json=args.json), "nothing was changed")


def make_parser(prog: str) -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Show what a model file says of itself, and prove it: hashes, figures, labels and probe.",
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="such as models/mnist-tiny/1/model.onnx")
    parser.add_argument("--json", action="store_true", help="write JSON instead of a table")
    return parser


def show(path: Path, console: Console, *, as_json: bool) -> None:
    """Print what was found; raises ModelFileError where it is not all true."""
    found = inspect(path)
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=1))  # noqa: T201 -- JSON is what this option writes
    else:
        console.print(table(found))
    if found["problems"]:
        raise ModelFileError(f"{path} has problems: {'; '.join(found['problems'])}")


if __name__ == "__main__":
    sys.exit(main())
