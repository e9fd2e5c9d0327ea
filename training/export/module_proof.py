"""What a module of others must be before it is exported: a classifier in evaluation mode whose rows are independent.

Its reference is PyTorch itself in float64; each refusal says what was found, and what to do.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import ModuleError, ParityError
from ..networks import Preprocess

# Largest difference of logits, as a share of the largest logit. Float32 leaves 1e-6 to 1e-5 in networks of 10 to 300
# layers; another padding, order of channels or epsilon leaves 1e-2 and more.
RELATIVE_TOLERANCE = 1e-4
# The same for rows alone and together, in float64, where only the order of sums differs; in float32, where a module
# computes in nothing else.
ROW_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
# Logits of different images must differ by this share of the largest: a proof over equal ones shows nothing.
LEAST_SPREAD = 10 * RELATIVE_TOLERANCE
# Inputs this many times as large take logits out of [0, 1], and leave the values of a sigmoid there.
FAR = 50.0
PROBABILITY_SUM = 1e-4


class LogProbabilities(nn.Module):
    """Gives logits for a network that ends in a softmax: the logarithm, of which the softmax is the same again."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:  # noqa: D102 -- the class docstring says it
        probabilities: torch.Tensor = self.network(images)
        return probabilities.clamp_min(torch.finfo(torch.float32).tiny).log()


@dataclass(frozen=True)
class Proved:
    """A network that gives logits, and what it gives for some images."""

    network: nn.Module
    """A copy, on the CPU, in float32."""
    logits: NDArray[np.float64]
    """Of the images, [N, classes], by PyTorch in float64; in float32 where the network computes in nothing else."""
    float32_logits: NDArray[np.float32]
    tolerance: float
    """The largest difference of a logit that is still the same function."""
    reference: str
    """float64 or float32."""
    had_softmax: bool


def prove(module: nn.Module, preprocess: Preprocess, images: torch.Tensor, classes: int) -> Proved:
    """Check a module on uint8 images [N, H, W, C]; raises ModuleError or ParityError with a sentence."""
    check_mode(module)
    network = copy.deepcopy(module).cpu().requires_grad_(requires_grad=False)
    with torch.no_grad():
        pixels = preprocess(images)
        in_float32 = _outputs(network, pixels, classes)
        reference = _in_float64(network, pixels, classes)
        kind = torch.float32 if reference is None else torch.float64
        _check_rows(network, pixels.to(kind), in_float32 if reference is None else reference)
        _check_spread(in_float32, len(images))
        had_softmax = _check_head(network, pixels, in_float32)
        if had_softmax:
            network = LogProbabilities(network).eval()
            in_float32 = _outputs(network, pixels, classes)
            reference = None if reference is None else _in_float64(network, pixels, classes)
    exact = (in_float32 if reference is None else reference).double().numpy()
    tolerance = RELATIVE_TOLERANCE * float(np.abs(exact).max())
    difference = float(np.abs(in_float32.numpy() - exact).max())
    if not difference <= tolerance:
        raise ParityError(
            f"the module's logits differ by {difference:.3g} between float32 and float64, {tolerance:.3g} is allowed: "
            f"it loses its digits in float32, and would do so in the file; nothing was written"
        )
    return Proved(network, exact, in_float32.numpy(), tolerance, str(kind).removeprefix("torch."), had_softmax)


def check_mode(module: Any) -> None:
    """Raise ModuleError for what is no module, is in training mode, or holds other numbers than float32."""
    if not isinstance(module, nn.Module):
        raise ModuleError(f"a {type(module).__name__} is no torch.nn.Module; give the network itself")
    in_training = next((name for name, part in module.named_modules() if part.training), None)
    if in_training is not None:
        part = f"its part {in_training!r}" if in_training else "the module"
        raise ModuleError(
            f"{part} is in training mode, in which batch norm mixes the images of a batch and dropout draws by chance; "
            f"call eval() on the module first"
        )
    tensors = (*module.named_parameters(), *module.named_buffers())
    other = next(((name, t.dtype) for name, t in tensors if t.is_floating_point() and t.dtype != torch.float32), None)
    if other is not None:
        raise ModuleError(f"its tensor {other[0]!r} is {other[1]}; call float() on the module first")


def _outputs(network: nn.Module, pixels: torch.Tensor, classes: int) -> torch.Tensor:
    try:
        found = network(pixels)
    except Exception as error:  # a module may raise anything
        raise ModuleError(
            f"the module cannot run images of shape {list(pixels.shape)} ({type(error).__name__}: {error}); give the "
            f"size and number of channels that it takes"
        ) from error
    if not isinstance(found, torch.Tensor):
        raise ModuleError(
            f"the module gives a {type(found).__name__}, and one tensor [batch, classes] is expected; wrap it in a "
            f"module that gives the logits alone"
        )
    if found.shape != (len(pixels), classes):
        raise ModuleError(
            f"for {len(pixels)} images the module gives a tensor of shape {list(found.shape)}, and with {classes} "
            f"labels {[len(pixels), classes]} is expected"
        )
    if not torch.isfinite(found).all():
        raise ModuleError("the module gives logits that are not finite numbers; its weights or its input are broken")
    return found


def _in_float64(network: nn.Module, pixels: torch.Tensor, classes: int) -> torch.Tensor | None:
    """Give the outputs in float64; None where the module makes float32 tensors of its own, which do not mix."""
    try:
        return _outputs(network.double(), pixels.double(), classes)
    except ModuleError:
        return None
    finally:
        network.float()  # what was float32 comes back as it was


def _check_head(network: nn.Module, pixels: torch.Tensor, found: torch.Tensor) -> bool:
    """Tell whether a module ends in a softmax; raises ModuleError where it ends in a sigmoid for each class."""
    if (found >= 0).all() and ((found.sum(1) - 1).abs() < PROBABILITY_SUM).all():
        return True
    far = network(FAR * pixels)
    if all(bool(((part >= 0) & (part <= 1)).all()) for part in (found, far, network(-FAR * pixels))):
        raise ModuleError(SIGMOID)
    return False


SIGMOID = (
    "the module gives a probability of its own for each class (a sigmoid), as for images with several labels; a model "
    "file says which one of its classes an image is. Leave the sigmoid out if just one label is true, or serve the "
    "network as a plain ONNX file over the Open Inference Protocol"
)


def _check_rows(network: nn.Module, pixels: torch.Tensor, together: torch.Tensor) -> None:
    """Raise ModuleError where an image's logits depend on the others in its batch."""
    network = network.to(pixels.dtype)
    try:
        alone = torch.cat([network(row) for row in torch.split(pixels, 1)])
    except Exception as error:  # a module may raise anything
        raise ModuleError(
            f"the module cannot run one image alone ({type(error).__name__}: {error}), and a server runs batches of "
            f"any size"
        ) from error
    finally:
        network.float()
    allowed = ROW_TOLERANCE[pixels.dtype] * max(float(together.abs().max()), float(alone.abs().max()))
    difference = float((alone - together).abs().max())
    if not difference <= allowed:
        raise ModuleError(
            f"the logits of an image depend on the others in its batch (they differ by {difference:.3g} alone and "
            f"among {len(pixels)}), as by a softmax over the batch or batch norm without running statistics; a server "
            f"joins images of different callers, so give a module whose rows are independent"
        )


def _check_spread(logits: torch.Tensor, images: int) -> None:
    spread, largest = float((logits.amax(0) - logits.amin(0)).max()), float(logits.abs().max())
    if not spread > LEAST_SPREAD * largest:
        raise ParityError(
            f"the module gives nearly the same logits for {images} different images (they differ by {spread:.3g}, "
            f"the largest is {largest:.3g}), so nothing can be proved by them: load its weights, or give real images"
        )
