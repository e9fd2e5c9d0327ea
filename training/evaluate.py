"""Outputs for a whole set of images, by PyTorch in process and by ONNX Runtime from an exported file."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from .networks import Classifier

# Rows in one call: enough to keep two cores busy, small enough for the widest feature maps to stay near the caches.
BATCH = 250
# And fewer where their pixels are more bytes than this: a network for larger images has larger maps too.
BATCH_BYTES = 2**21


@dataclass(frozen=True)
class Outputs:
    """What a classifier gives for N images."""

    logits: NDArray[np.float32]
    """[N, classes]."""
    probabilities: NDArray[np.float32]
    """[N, classes]."""

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The class of the largest logit, for each image: [N]."""
        predictions: NDArray[np.int64] = self.logits.argmax(1)
        return predictions

    def count_correct(self, labels: torch.Tensor) -> int:
        """Count the images whose prediction is their label; labels are [N]."""
        return int((self.predictions == labels.cpu().numpy()).sum())


class OnnxFile:
    """An exported file, opened with ONNX Runtime's CPU provider; unless optimized, each operator runs as it stands."""

    def __init__(self, path: Path, *, optimized: bool = True, threads: int | None = None) -> None:
        options = onnxruntime.SessionOptions()
        if not optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # PyTorch's number follows OMP_NUM_THREADS and containers' limits.
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # microseconds do not matter here
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """uint8 images [N, H, W, C] → logits and probabilities, both float32 [N, classes]."""
        logits, probabilities = self._session.run(["logits", "probabilities"], {"images": images})
        return logits, probabilities


def rows_at_once(images: torch.Tensor, most: int) -> int:
    """Give how many of some images [N, H, W, C] are run at once, of so many at most."""
    return max(1, min(most, BATCH_BYTES // math.prod(images.shape[1:])))


def outputs_of_torch(classifier: Classifier, images: torch.Tensor) -> Outputs:
    """Run uint8 images [N, H, W, C] through PyTorch, in evaluation mode and float32."""
    classifier.eval()
    with torch.inference_mode():
        parts = [classifier(part) for part in torch.split(images, rows_at_once(images, BATCH))]
    logits, probabilities = (torch.cat(outputs).cpu().numpy() for outputs in zip(*parts, strict=True))
    return Outputs(logits, probabilities)


def outputs_of_onnx(file: OnnxFile, images: torch.Tensor) -> Outputs:
    """Run the same images through ONNX Runtime."""
    parts = [file.run(part.numpy()) for part in torch.split(images, rows_at_once(images, BATCH))]
    logits, probabilities = (np.concatenate(outputs) for outputs in zip(*parts, strict=True))
    return Outputs(logits, probabilities)
