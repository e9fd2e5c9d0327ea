"""The exported file: its graph as PyTorch's exporter gives it, and its metadata as metadata, one key each.

The same weights and metadata give the same bytes: no timestamps, and none of the exporter's notes, which name source
files of the machine that exported.
"""

import base64
import hashlib
import json
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from torch import nn

from .errors import ModelFileError

PREFIX = "convserve."
# "1" had no hashes; `training.renew` writes such files anew. docs/file-format.md is the contract.
FORMAT, OLD_FORMAT = "2", "1"
# Largest difference of logits allowed for fp32, everywhere: NumPy, PyTorch, ONNX Runtime, and the probe at load time.
# Measured differences are 1e-5 and less, wrong graphs differ by 0.1 and more.
TOLERANCE = 1e-4
# Weights of less stay inside of a file whose others lie beside it; those begin at pages, which can be mapped.
LEAST_EXTERNAL, ALIGNMENT = 1024, 4096


def build(classifier: nn.Module, shape: tuple[int, int, int]) -> onnx.ModelProto:
    """Export a classifier for evaluation: `images` uint8 [batch, *shape] → both outputs [batch, classes]."""
    program = torch.onnx.export(
        classifier.eval(),
        # Two images: the exporter would take a batch of one for a constant.
        (torch.zeros((2, *shape), dtype=torch.uint8),),
        input_names=["images"],
        output_names=["logits", "probabilities"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        opset_version=20,  # the exporter's own default, named so that another version of it gives the same
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    if program is None:  # its type says so, for other settings than these
        raise ModelFileError("PyTorch's exporter gave no program")
    model: onnx.ModelProto = program.model_proto
    model.graph.ClearField("metadata_props")
    for part in (
        *model.graph.input,
        *model.graph.output,
        *model.graph.node,
        *model.graph.initializer,
        *model.graph.value_info,
    ):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model


def weight_bytes(model: onnx.ModelProto) -> int:
    """Count the bytes of a graph's weights that lie inside of the file."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def move_weights(model: onnx.ModelProto, folder: Path) -> Path:
    """Move a graph's weights to a file beside the model, named by its content, so that it never replaces another."""
    folder.mkdir(parents=True, exist_ok=True)
    hashed, offset = hashlib.sha256(), 0
    moved = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) >= LEAST_EXTERNAL]
    for tensor in moved:
        hashed.update(tensor.raw_data)
    path = folder / f"weights-{hashed.hexdigest()[:16]}.bin"
    with path.open("wb") as file:
        for tensor in moved:
            offset += file.write(b"\0" * (-offset % ALIGNMENT))
            length = file.write(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", path.name), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
            offset += length
    return path


def external_files(model: onnx.ModelProto) -> set[str]:
    """Name the files beside a model in which weights of its graph lie."""
    entries = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    return {entry.value for entry in entries if entry.key == "location"}


def write(model: onnx.ModelProto, metadata: Mapping[str, str], path: Path) -> None:
    """Write the graph with these metadata, their format and hashes, and no others, to `path`."""
    model.ClearField("metadata_props")
    model.graph.name = metadata["name"]
    files = sorted(external_files(model))
    entries = {f"{PREFIX}{key}": value for key, value in metadata.items() if key != "sha256"}
    entries[f"{PREFIX}format"] = FORMAT
    hashes = {
        "model": sha256(model.SerializeToString(deterministic=True)),
        "files": {name: file_sha256(path.parent / name) for name in files},
        "entries": {key: sha256(value.encode()) for key, value in entries.items()},
    }
    entries[f"{PREFIX}sha256"] = to_json(hashes)
    for key in sorted(entries):
        model.metadata_props.add(key=key, value=entries[key])
    path.write_bytes(model.SerializeToString(deterministic=True))


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a file but its hashes, without their prefix.

    Raises ModelFileError when `write` did not make it.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise ModelFileError(f"{path} cannot be read as an ONNX file ({error}); remove it and export again") from error
    metadata = {p.key.removeprefix(PREFIX): p.value for p in model.metadata_props if p.key.startswith(PREFIX)}
    if metadata.get("format") not in (FORMAT, OLD_FORMAT):
        raise ModelFileError(f"{path} was not written by this program; move it away, or name another --models-dir")
    metadata.pop("sha256", None)
    return metadata


def probe(images: NDArray[np.uint8], logits: NDArray[np.float32], tolerance: float = TOLERANCE) -> str:
    """Describe a few images [N, H, W, C] and the logits [N, classes] that PyTorch gives for them, as JSON."""
    return to_json({"images": _tensor("uint8", images), **_logits(logits, tolerance)})


def add_own_logits(probe: str, logits: NDArray[np.float32], tolerance: float) -> str:
    """Give a probe that also has the logits [N, classes] that ONNX Runtime gives for the file itself."""
    return to_json(json.loads(probe) | {"onnxruntime": _logits(logits, tolerance)})


def read_tensor(tensor: Mapping[str, Any]) -> NDArray[Any]:
    """Give an array of a probe."""
    datatype = np.dtype(tensor["datatype"]).newbyteorder("<")
    return np.frombuffer(base64.b64decode(tensor["data"]), datatype).reshape(tensor["shape"])


def versions() -> str:
    """Name the libraries that made the file, as JSON."""
    return to_json(
        {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        }
    )


def commit() -> str:
    """Name the commit of the code that exports, "+changes" added when training/ differs from it; else "unknown"."""
    here = Path(__file__)
    git = shutil.which("git")
    # A copy installed inside some other repository must not take that one's commit: this very file has to be tracked.
    if git is None or _run(git, here.parent, ("ls-files", "--error-unmatch", here.name)) is None:
        return "unknown"
    head = _run(git, here.parent, ("rev-parse", "HEAD"))
    if head is None:
        return "unknown"
    return head + ("+changes" if _run(git, here.parent, ("status", "--porcelain", "--", ".")) else "")


def to_json(value: object) -> str:
    """Write JSON in one fixed form."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _logits(logits: NDArray[np.float32], tolerance: float) -> dict[str, object]:
    return {"logits": _tensor("float32", logits.astype("<f4")), "tolerance": tolerance}


def file_sha256(path: Path) -> str:
    """Give the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256(content: bytes) -> str:
    """Give the SHA-256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def _tensor(datatype: str, array: NDArray[Any]) -> dict[str, object]:
    return {"datatype": datatype, "shape": list(array.shape), "data": base64.b64encode(array.tobytes()).decode()}


def _run(git: str, folder: Path, arguments: Iterable[str]) -> str | None:
    """Give what a git command prints, or None when it fails."""
    # S603: the program is git as found on PATH, and the arguments are those written above.
    finished = subprocess.run([git, *arguments], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    return finished.stdout.strip() if finished.returncode == 0 else None
