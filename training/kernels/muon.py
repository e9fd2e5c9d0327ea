"""Muon: steps of equal length in every direction for the kernels of convolutions, plain SGD for everything else.

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), whose five Newton-Schulz
iterations are used with the coefficients published there. PyTorch's own torch.optim.Muon takes matrices only.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..device import multiplies_bfloat16

# The polynomial a·x + b·x³ + c·x⁵ of the source: five rounds bring every singular value in (0, 1] near to 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Momentum for all; what it gives for a kernel is orthogonalised before it is applied.

    Each kernel [out, in, height, width] must be followed by a batch norm: it is brought back to the Frobenius norm
    √out before each step, which the norm makes meaningless for the result, so `rate` is the relative size of a step.
    `sgd_learning_rate` and `weight_decay` are those of all other weights, by SGD; the momentum is Nesterov's for both.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        rate: float,
        sgd_learning_rate: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        weights = list(parameters)
        kernels = {"params": [weight for weight in weights if weight.ndim == 4], "lr": rate, "kernels": True}
        rest = {"params": [weight for weight in weights if weight.ndim != 4], "lr": sgd_learning_rate, "kernels": False}
        defaults = {"momentum": momentum, "weight_decay": weight_decay}
        super().__init__([group for group in (kernels, rest) if group["params"]], defaults)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override] # without a closure that computes the loss again
        """Change every weight by its gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._change(weight, weight.grad, group)

    def _change(self, weight: nn.Parameter, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        if not group["kernels"] and group["weight_decay"]:
            gradient = gradient.add(weight, alpha=group["weight_decay"])
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].mul_(group["momentum"]).add_(gradient)
        change = gradient.add(momentum, alpha=group["momentum"])
        if group["kernels"]:
            weight.mul_(len(weight) ** 0.5 / weight.norm())
            change = orthogonalise(change.flatten(1)).view_as(change)
        weight.add_(change, alpha=-group["lr"])


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """Bring all singular values of a matrix near to 1 and keep its singular vectors, in bfloat16 where that is fast.

    Near: between 0.7 and 1.2, by the source's choice of speed over exactness; a tiny one can stay below.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    values: torch.Tensor = matrix.T if tall else matrix
    values = values / (values.norm() + 1e-7)
    values = iterate(values.bfloat16()) if multiplies_bfloat16(matrix.device.type) else iterate_squares(values)
    result: torch.Tensor = values.T if tall else values
    return result.to(matrix.dtype)


def iterate(values: torch.Tensor) -> torch.Tensor:
    """Apply the source's rounds to a matrix with singular values in (0, 1]."""
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        square = values @ values.T
        values = a * values + (b * square + c * square @ square) @ values
    return values


def iterate_squares(values: torch.Tensor) -> torch.Tensor:
    """As `iterate`, with a third of the multiplications: what all rounds multiply by is found from the first square.

    It takes float32: a square's small singular values are lost to bfloat16. The results differ by some 1e-4.
    """
    a, b, c = COEFFICIENTS
    square = values @ values.T
    one = torch.eye(len(square), dtype=square.dtype, device=square.device)
    factor = one
    for _ in range(ROUNDS):
        step = a * one + b * square + c * square @ square
        factor = step @ factor
        square = step @ square @ step
    return factor @ values
