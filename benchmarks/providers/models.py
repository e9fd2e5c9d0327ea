"""The models that are compared: their files, test images, and what is right for them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.errors import BenchmarkError
from service.client.dataset import READERS
from service.client.errors import UnusableDataset
from service.errors import ModelRejected
from service.runtime.providers import choose
from service.runtime.session import Session
from service.tensors import Array

DATASETS: dict[tuple[int, ...], str] = {(28, 28, 1): "mnist", (32, 32, 3): "cifar10"}
PARITY_ROWS = 64
"""Images in one run of a comparison."""


@dataclass(frozen=True)
class Model:
    """A float32 file, its test images, and its logits for the first of them."""

    name: str
    path: Path
    pictures: Array
    """uint8 [10000, height, width, channels]."""
    logits: Array
    """float32 [images, classes], by the CPU's provider."""

    def batch(self, rows: int) -> Array:
        """So many test images, from the first again where they end."""
        return np.ascontiguousarray(self.pictures[np.arange(rows) % len(self.pictures)])


def open_model(models_dir: Path, name: str, data_dir: Path, *, images: int, threads: int) -> Model:
    """Opens version 1 and computes the logits of so many test images; raises BenchmarkError."""
    path = models_dir / name / "1" / "model.onnx"
    try:
        session = Session(path, choose(["cpu"]), threads=threads, max_batch_rows=PARITY_ROWS)
        pictures = READERS[DATASETS[session.spec.inputs[0].shape[1:]]](data_dir).pictures
    except ModelRejected as error:
        raise BenchmarkError(f"the model {path} cannot be opened: {error}; name others with --models") from error
    except KeyError as error:
        raise BenchmarkError(f"there are no test images of the shape that {name} takes, {error}") from error
    except UnusableDataset as error:
        raise BenchmarkError(f"{error}. The folder is --data-dir, or CONVSERVE_DATA_DIR") from error
    return Model(name, path, pictures, logits_of(session, pictures[:images]))


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

    from training.precision import halve

    variant = halve(onnx.load(model.path))
    made.parent.mkdir(parents=True)
    session = ort.InferenceSession(variant.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": model.pictures[: len(model.logits)]})
    tolerance = max(1e-4, 2 * float(np.abs(logits - model.logits).max()))
    for fact in variant.metadata_props:
        if fact.key == "convserve.probe":
            fact.value = json.dumps(json.loads(fact.value) | {"tolerance": tolerance})
    onnx.save(variant, made)
    return made
