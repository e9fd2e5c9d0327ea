"""The models that are compared: their files, test images, and what is right for them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import workload
from benchmarks.errors import BenchmarkError
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


def fp16(model: Model) -> Path:
    """The float16 file of a model, as it was exported; raises BenchmarkError."""
    path = model.path.parents[2] / f"{model.name}-fp16" / "1" / "model.onnx"
    if not path.exists():
        made = f"`python -m training.export {model.name} --precision fp16` makes it"
        raise BenchmarkError(f"there is no {path}: {made}")
    return path
