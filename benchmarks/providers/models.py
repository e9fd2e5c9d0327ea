"""The models that are compared: their files, test images, and what is right for them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks import workload
from service.runtime.session import Session
from service.tensors import Array

PARITY_ROWS = 64
"""Images in one run of a comparison."""


@dataclass(frozen=True)
class Model:
    """A float32 file, its test images, and its logits for the first of them."""

    name: str
    path: Path
    images: Array
    """uint8 [10000, height, width, channels]."""
    logits: Array
    """float32 [images, classes], by the CPU's provider."""

    def batch(self, rows: int) -> Array:
        """So many test images, from the first again where they end."""
        return np.ascontiguousarray(self.images[np.arange(rows) % len(self.images)])


def open_model(models_dir: Path, name: str, data_dir: Path, *, images: int, threads: int) -> Model:
    """Opens the highest version and computes the logits of so many test images; raises BenchmarkError."""
    model = workload.open_model(models_dir, name, data_dir, providers="cpu", threads=threads)
    parts = np.array_split(model.images[:images], -(-images // PARITY_ROWS))
    logits = np.concatenate([model.session.run(["logits"], {"images": part})[0] for part in parts])
    return Model(name, model.path, model.images, logits)


def logits_of(session: Session, images: Array) -> Array:
    """float32 [images, classes]."""
    parts = np.array_split(images, -(-len(images) // PARITY_ROWS))
    return np.concatenate([session.run({"images": part})["logits"] for part in parts])


def fp16(model: Model, folder: Path) -> Path:
    """The float16 file of a model: as it was exported, or else made in the folder, with the tolerance of its CPU run.

    Raises ImportError where that needs PyTorch and onnx, and they are not installed.
    """
    name = f"{model.name}-fp16"
    exported = model.path.parents[2] / name / "1" / "model.onnx"
    made = folder / name / "1" / "model.onnx"
    if exported.exists() or made.exists():
        return exported if exported.exists() else made
    import onnx

    from training import onnx_file
    from training.quantize import halve

    variant = halve(onnx.load(model.path))
    session = ort.InferenceSession(variant.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": model.images[: len(model.logits)]})
    tolerance = max(1e-4, 2 * float(np.abs(logits - model.logits).max()))
    metadata = onnx_file.read_metadata(model.path)
    metadata["probe"] = json.dumps(json.loads(metadata["probe"]) | {"tolerance": tolerance})
    made.parent.mkdir(parents=True)
    onnx_file.write(variant, metadata, made)
    return made
