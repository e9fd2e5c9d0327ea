"""The proof before a file is put in place: NumPy float64, PyTorch and ONNX Runtime compute the same function.

Networks that the NumPy reference does not know have PyTorch in float64 in its place.

A file of another precision is compared with the float32 file that it was made from, within limits of its own.
"""

import copy
import json
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .. import reference
from ..errors import ParityError
from ..evaluate import OnnxFile, Outputs, outputs_of_torch, rows_at_once
from ..networks import Classifier
from ..onnx_file import TOLERANCE, read_tensor
from .module_proof import RELATIVE_TOLERANCE

# Both sides of powers of two, and one: what a batcher gives to a model.
BATCHES = (1, 2, 7, 64)
# Tolerance of a variant, over the largest difference from fp32 in some 2,000 training images. It leaves room for other
# images (of 500 pairs of 2,000 test and 2,000 training images, the largest difference was more than twice as large in
# the first in 5) and for other hardware. ONNX Runtime's CPU provider computes float16 in float32: in PyTorch's true
# float16 the largest differences were 1.0 to 1.4 times as large. Int8 computed in float32 between the roundings, as by
# providers without integer kernels, went up to 0.08 elsewhere, where this leaves 0.29 and more.
MARGIN = 2
# Fewer images than these may meet none of the activations that are cut off, and get twice the room: fitted to 60 images
# and measured on 60, int8 cifar10-cnn went beyond twice the largest difference in 2 of 120 others.
FEW_IMAGES = 500
# Tolerance of an int8 file's own logits. Integer sums are exact everywhere; hardware and providers may differ in how a
# sum is rounded to 8 bits: by integer kernels or, as in the unoptimised graph, in float32. So the difference between
# these two stands for all of them. In the shipped files it is 0.04 to 0.27 over 2,000 training images (0 to 0.09 in the
# eight of a probe), and half of it is added. Doubled scales of weights move a probe's logits by 1.6 and more. The
# largest filter of a layer set to zero moves them by 0.27 and more, except filters that these images do not use and,
# in cifar10-int8, layers where it is one of 320: the hashes find those. By PyTorch's logits, whose tolerance is 0.35 to
# 3.6, 21 of 35 such filters would pass.
OWN_MARGIN = 1.5
OWN_LEAST = 0.05
# It bounds all images but the rarest: in int8, one in 10,000 or so causes an activation far beyond those of
# calibration, which is cut off, so that its logits go several times as far as those of any other.
OUTLIERS = 1 / 1000
# What a variant may cost, as a share of the images: a fifth of a point. Two seeds of one recipe differ by more
# (cifar10-lenet: by three points), and so far int8 has lost 0.03 at most.
ACCURACY_LOSS = 0.002


@dataclass(frozen=True)
class Differences:
    """Largest absolute differences of logits between each two of the three."""

    torch_reference: float
    onnx_reference: float
    onnx_torch: float

    @property
    def largest(self) -> float:
        """The largest of the three."""
        return max(self.torch_reference, self.onnx_reference, self.onnx_torch)


def compare(network: str, classifier: Classifier, file: OnnxFile, images: NDArray[np.uint8]) -> Differences:
    """Run the same uint8 images [N, H, W, C], at least 64, through all three.

    Raises ParityError when logits differ by more than the tolerance or are not finite, when the logits of an image
    depend on the size of its batch, or when `probabilities` is not the softmax of the scaled logits.
    """
    exact, tolerance = reference_logits(network, classifier, images)
    by_torch = outputs_of_torch(classifier, torch.from_numpy(images)).logits
    by_onnx, probabilities = file.run(images)
    name = name_reference(network)
    differences = Differences(
        _close(f"{network}: PyTorch and {name}", by_torch, exact, tolerance),
        _close(f"{network}: ONNX Runtime and {name}", by_onnx, exact, tolerance),
        _close(f"{network}: ONNX Runtime and PyTorch", by_onnx, by_torch, tolerance),
    )
    check_probabilities(network, Outputs(by_onnx, probabilities), classifier.temperature)
    check_batches(network, file, images, tolerance)
    return differences


def name_reference(network: str) -> str:
    """Name what a network is proved against."""
    return "NumPy" if network in reference.DESCRIPTIONS else "PyTorch in float64"


def reference_logits(
    network: str, classifier: Classifier, images: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], float]:
    """Give the logits [N, classes] of a network's reference, and how far others may be from them."""
    if network in reference.DESCRIPTIONS:
        weights = {name: value.numpy() for name, value in classifier.network.state_dict().items()}
        return reference.forward(network, weights, images), TOLERANCE
    exact = copy.deepcopy(classifier).eval().double()
    rows = torch.split(torch.from_numpy(images), rows_at_once(torch.from_numpy(images), BATCHES[-1]))
    with torch.inference_mode():
        try:
            logits = torch.cat([exact(part)[0] for part in rows]).numpy()
        except Exception as error:  # a module may raise anything
            raise ParityError(
                f"{network}: PyTorch cannot compute it in float64, its reference ({type(error).__name__}: {error}), as "
                f"where it makes float32 tensors of its own; the file was not put in place"
            ) from error
    return logits, RELATIVE_TOLERANCE * float(np.abs(logits).max())


def check_probabilities(name: str, outputs: Outputs, temperature: float) -> None:
    """Compare a file's probabilities with the softmax of its logits over the temperature; raises ParityError."""
    expected = reference.softmax(outputs.logits.astype(np.float64) / temperature)
    # Probabilities lie in [0, 1], where float32 is exact to 6e-8; this bound is far above that and far below a bug.
    _close(f"{name}: probabilities and the softmax of logits", outputs.probabilities, expected, tolerance=1e-6)


def check_batches(name: str, file: OnnxFile, images: NDArray[np.uint8], tolerance: float = TOLERANCE) -> None:
    """Run at least 64 images [N, H, W, C] at once and in smaller batches; raises ParityError where logits differ."""
    together, _ = file.run(images)
    for batch in BATCHES:
        alone, _ = file.run(images[:batch])
        _close(f"{name}: batches of {batch} and of {len(images)}", alone, together[:batch], tolerance)


def check_probe(network: str, probe: str, file: OnnxFile) -> None:
    """Do what a loader does: run the images of a probe, and compare with its logits; raises ParityError."""
    parts = json.loads(probe)
    found, _ = file.run(read_tensor(parts["images"]))
    for what, part in (("the probe's logits", parts), ("the probe's own logits", parts.get("onnxruntime"))):
        if part is not None:
            expected = read_tensor(part["logits"])
            _close(f"{network}: {what} and ONNX Runtime", found, expected, tolerance=part["tolerance"])


def check_predictions(
    network: str,
    classifier: Classifier,
    images: NDArray[np.uint8],
    by_torch: NDArray[np.int64],
    by_onnx: NDArray[np.int64],
) -> None:
    """Allow predictions [N] to differ only where they may: where the reference's two best logits are a tie.

    Rounding can change a prediction only when its two best logits lie closer together than two differences that the
    tolerance allows. Such an image is counted by the exported file's prediction. Any other one raises ParityError.
    """
    differing = np.flatnonzero(by_torch != by_onnx)
    if len(differing) == 0:
        return
    exact, tolerance = reference_logits(network, classifier, images[differing])
    best = np.sort(exact, axis=1)
    margins = best[:, -1] - best[:, -2]
    if (margins > 2 * tolerance).any():
        raise ParityError(
            f"{network}: PyTorch and ONNX Runtime predict {len(differing)} of {len(images)} images differently, "
            f"by margins up to {margins.max():.2g} where rounding allows {2 * tolerance:.2g}; the file was not put in "
            f"place"
        )


def find_tolerance(name: str, variant: Outputs, fp32: Outputs) -> float:
    """Give the tolerance of a variant, to 2 digits, by both files' logits for the same images, with `MARGIN`.

    Raises ParityError for logits that are not finite.
    """
    largest = float(np.abs(variant.logits - fp32.logits).max())
    if not np.isfinite(largest):
        raise ParityError(
            f"{name}: not all logits are finite numbers, because weights or activations are larger than this precision "
            f"holds (in fp16 up to {np.finfo(np.float16).max:,}); the file was not put in place"
        )
    room = MARGIN if len(fp32.logits) >= FEW_IMAGES else 2 * MARGIN
    return max(TOLERANCE, float(f"{room * largest:.2g}"))


def find_own_tolerance(unoptimized: Outputs, optimized: Outputs) -> float:
    """Give the tolerance of an int8 file's own logits, to 2 digits, by its logits for the same images twice.

    See `OWN_MARGIN`.
    """
    largest = float(np.abs(optimized.logits - unoptimized.logits).max())
    return max(OWN_LEAST, float(f"{OWN_MARGIN * largest:.2g}"))


def check_variant(name: str, variant: Outputs, fp32: Outputs, tolerance: float) -> None:
    """Compare both files' logits for N images: one image, or `OUTLIERS`, may leave the tolerance; else ParityError."""
    differences = np.abs(variant.logits - fp32.logits).max(1)
    beyond = int((~(differences <= tolerance)).sum())  # so that a NaN is beyond
    if beyond > max(1, int(OUTLIERS * len(differences))):
        raise ParityError(
            f"{name}: the logits of {beyond:,} of {len(differences):,} test images differ from fp32's by more than "
            f"{tolerance:g}, the tolerance that training images gave, and by up to {differences.max():.3g}; the file "
            f"was not put in place"
        )


def check_accuracy(name: str, correct: int, fp32_correct: int, images: int) -> None:
    """Let a variant answer one image less rightly than fp32, or `ACCURACY_LOSS` of them; else raise ParityError."""
    if fp32_correct - correct > max(1, int(ACCURACY_LOSS * images)):
        raise ParityError(
            f"{name}: {correct:,} of {images:,} test images are answered rightly, and by fp32 {fp32_correct:,}: "
            f"{(fp32_correct - correct) / images:.2%} are lost, and {ACCURACY_LOSS:.2%} are allowed; the file was not "
            f"put in place"
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
