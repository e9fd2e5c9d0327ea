"""The proof before a file is put in place: NumPy float64, PyTorch and ONNX Runtime compute the same function."""

import base64
import json
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training import reference
from training.errors import ParityError
from training.evaluate import OnnxFile
from training.networks import Classifier
from training.onnx_file import TOLERANCE

# Both sides of powers of two, and one: what a batcher gives to a model.
BATCHES = (1, 2, 7, 64)


@dataclass(frozen=True)
class Differences:
    """Largest absolute differences of logits between each two of the three."""

    torch_numpy: float
    onnx_numpy: float
    onnx_torch: float

    @property
    def largest(self) -> float:
        """The largest of the three."""
        return max(self.torch_numpy, self.onnx_numpy, self.onnx_torch)


def compare(network: str, classifier: Classifier, file: OnnxFile, images: NDArray[np.uint8]) -> Differences:
    """Run the same uint8 images [N, H, W, C], at least 64, through all three.

    Raises ParityError when logits differ by more than the tolerance or are not finite, when the answer for an image
    depends on the size of its batch, or when `probabilities` is not the softmax of `logits`.
    """
    weights = {name: value.numpy() for name, value in classifier.network.state_dict().items()}
    by_numpy = reference.forward(network, weights, images)
    with torch.inference_mode():
        by_torch = classifier.eval()(torch.from_numpy(images))[0].numpy()
    by_onnx, probabilities = file.run(images)
    differences = Differences(
        _close(f"{network}: PyTorch and NumPy", by_torch, by_numpy),
        _close(f"{network}: ONNX Runtime and NumPy", by_onnx, by_numpy),
        _close(f"{network}: ONNX Runtime and PyTorch", by_onnx, by_torch),
    )
    # Probabilities lie in [0, 1], where float32 is exact to 6e-8; this bound is far above that and far below a bug.
    expected = reference.softmax(by_onnx.astype(np.float64))
    _close(f"{network}: probabilities and the softmax of logits", probabilities, expected, tolerance=1e-6)
    for batch in BATCHES:
        alone, _ = file.run(images[:batch])
        _close(f"{network}: batches of {batch} and of {len(images)}", alone, by_onnx[:batch])
    return differences


def check_probe(network: str, probe: str, file: OnnxFile) -> None:
    """Do what a loader does: run the images of a probe, and compare with its logits; raises ParityError."""
    facts = json.loads(probe)
    images, logits = facts["images"], facts["logits"]
    given = np.frombuffer(base64.b64decode(images["data"]), np.uint8).reshape(images["shape"])
    expected = np.frombuffer(base64.b64decode(logits["data"]), "<f4").reshape(logits["shape"])
    _close(
        f"{network}: the probe's logits and ONNX Runtime", file.run(given)[0], expected, tolerance=facts["tolerance"]
    )


def check_answers(
    network: str,
    classifier: Classifier,
    images: NDArray[np.uint8],
    by_torch: NDArray[np.int64],
    by_onnx: NDArray[np.int64],
) -> None:
    """Allow answers [N] to differ only where they may: where the reference's two best logits are a tie.

    Rounding can turn an answer round only when its two best logits lie closer together than two differences that the
    tolerance allows. Such an image is counted as the exported file answers it. Any other one raises ParityError.
    """
    differing = np.flatnonzero(by_torch != by_onnx)
    if len(differing) == 0:
        return
    weights = {name: value.numpy() for name, value in classifier.network.state_dict().items()}
    best = np.sort(reference.forward(network, weights, images[differing]), axis=1)
    margins = best[:, -1] - best[:, -2]
    if (margins > 2 * TOLERANCE).any():
        raise ParityError(
            f"{network}: PyTorch and ONNX Runtime answer {len(differing)} of {len(images)} images differently, "
            f"by margins up to {margins.max():.2g} where rounding allows {2 * TOLERANCE:.2g}; the file was not put in "
            f"place"
        )


def _close(
    what: str,
    found: NDArray[np.float32],
    expected: NDArray[np.float32] | NDArray[np.float64],
    tolerance: float = TOLERANCE,
) -> float:
    """Give the largest absolute difference; raises ParityError when it is above the tolerance or not a number."""
    difference = float(np.abs(found - expected).max())
    if not difference <= tolerance:  # so that a NaN fails too
        raise ParityError(f"{what} differ by {difference:.3g}, allowed is {tolerance:g}; the file was not put in place")
    return difference
