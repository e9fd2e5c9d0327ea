"""Answers to a whole set of images, by PyTorch in process and by ONNX Runtime from an exported file."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from training.networks import Classifier

# Rows in one call: enough to keep two cores busy, small enough for the widest feature maps to stay near the caches.
BATCH = 250


class OnnxFile:
    """An exported file, opened with ONNX Runtime's CPU provider."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # follows OMP_NUM_THREADS and containers' limits
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # nobody waits for microseconds here
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """uint8 images [N, H, W, C] → logits and probabilities, both float32 [N, 10]."""
        logits, probabilities = self._session.run(["logits", "probabilities"], {"images": images})
        return logits, probabilities


def answers_of_torch(classifier: Classifier, images: torch.Tensor) -> NDArray[np.int64]:
    """Classes [N] that PyTorch answers for uint8 images [N, H, W, C], in evaluation mode and float32."""
    classifier.eval()
    with torch.inference_mode():
        return torch.cat([classifier(part)[0].argmax(1) for part in _batches(images)]).cpu().numpy()


def answers_of_onnx(file: OnnxFile, images: torch.Tensor) -> NDArray[np.int64]:
    """Classes [N] that ONNX Runtime answers for the same images."""
    return np.concatenate([file.run(part.numpy())[0].argmax(1) for part in _batches(images)])


def count_correct(answers: NDArray[np.int64], labels: torch.Tensor) -> int:
    """How many of the answers [N] are the labels [N]."""
    return int((answers == labels.cpu().numpy()).sum())


def _batches(images: torch.Tensor) -> list[torch.Tensor]:
    return [images[first : first + BATCH] for first in range(0, len(images), BATCH)]
