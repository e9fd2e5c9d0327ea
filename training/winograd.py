"""Faster convolutions for training in float32 on CPUs: Winograd's algorithm, compiled at the start (winograd.cpp).

PyTorch's library computes them directly. Winograd's F(4x4, 3x3) multiplies a quarter as often; its error is about ten
times as large, 1e-5 of the largest result, and far below bfloat16's 4e-3, so it serves recipes that allow bfloat16
where a CPU has none. Rates: benchmarks/README.md.
"""

import ctypes
import functools
import logging
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from training.device import arithmetic_for

LOGGER = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("winograd.cpp")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-fopenmp", "-std=c++17")
# Channels come in panels of so many, and at most so many.
PANEL, MOST = 16, 4096
# A kernel's 3 numbers of one direction → 6, the matrix that Lavin and Gray (2016) call G, in 24ths; and 9 → 36.
ONE = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
BOTH = torch.kron(ONE, ONE)


@functools.cache
def library() -> ctypes.CDLL | None:
    """Compile and load winograd.cpp for this very CPU; None where that cannot be, or would not pay.

    Measured, and so used, on x86 with AVX2 and without AVX-512.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        return None
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        LOGGER.warning("no g++ or clang++ is here to compile %s: training takes about twice as long", SOURCE.name)
        return None
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "winograd.so"
        done = subprocess.run(  # noqa: S603 -- the compiler found above, on a file of ours
            [compiler, *FLAGS, "-o", built, SOURCE], capture_output=True, text=True, check=False
        )
        if done.returncode:
            LOGGER.warning("%s does not compile here, so training takes about twice as long: %s", SOURCE, done.stderr)
            return None
        try:
            loaded = ctypes.CDLL(str(built))
        except OSError as error:  # the folder may forbid it
            LOGGER.warning("what was compiled cannot be used, so training takes about twice as long: %s", error)
            return None
    loaded.winograd_scratch.restype = ctypes.c_long
    return loaded


def speed_up(network: nn.Module, precision: Literal["fp32", "bf16"], device: torch.device) -> bool:
    """Have a network's convolutions computed by Winograd's algorithm while it trains, and tell whether any will be.

    Only where a recipe of this precision allows bfloat16, and the device is a CPU that would only emulate it. The
    network's weights, and what it computes in evaluation mode, are as before.
    """
    allowed = device.type == "cpu" and precision == "bf16" and arithmetic_for(precision, device) == "fp32"
    chosen = [
        (module, name, child)
        for module in network.modules()
        for name, child in module.named_children()
        if type(child) is nn.Conv2d and fits(child)
    ]
    if not allowed or not chosen or library() is None:
        return False
    for module, name, child in chosen:
        setattr(module, name, Convolution(child))
    return True


def fits(layer: nn.Conv2d) -> bool:
    """Tell whether a convolution is one of those that winograd.cpp computes."""
    shape = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode)
    channels = (layer.in_channels, layer.out_channels)
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros") and all(
        count % PANEL == 0 and count <= MOST for count in channels
    )


class Convolution(nn.Conv2d):
    """A convolution that shares its weights with the one it was made from."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer.in_channels, layer.out_channels, 3, padding=1, bias=False, device="meta")
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002, D102 -- the name in PyTorch
        if not self.training or input.device.type != "cpu" or input.dtype != torch.float32:
            return super().forward(input)
        result: torch.Tensor = Function.apply(input, self.weight)
        return result if self.bias is None else result + self.bias.view(-1, 1, 1)


class Function(torch.autograd.Function):
    """maps [batch, in, height, width], weight [out, in, 3, 3] → maps [batch, out, height, width], all float32."""

    @staticmethod
    def forward(ctx: Any, maps: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:  # noqa: D102 -- as above
        inputs = maps.permute(0, 2, 3, 1).contiguous()
        ctx.save_for_backward(inputs, weight)
        outputs = inputs.new_empty(*inputs.shape[:3], len(weight))
        kernels = _transform(weight.transpose(0, 1))
        _call("winograd_forward", inputs, kernels, outputs, sizes=(*inputs.shape, len(weight)))
        return outputs.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:  # noqa: D102
        inputs, weight = ctx.saved_tensors
        out, channels = weight.shape[:2]
        of_outputs = gradients[0].permute(0, 2, 3, 1).contiguous()
        of_inputs = torch.empty_like(inputs) if ctx.needs_input_grad[0] else None
        of_kernels = inputs.new_empty(torch.get_num_threads(), 36, channels * out)
        arrays = (inputs, of_outputs, _transform(weight), of_inputs, of_kernels)
        _call("winograd_backward", *arrays, sizes=(*inputs.shape, out))
        of_weight = (BOTH.T @ of_kernels).sum(0).view(3, 3, channels, out).permute(3, 2, 0, 1)
        return None if of_inputs is None else of_inputs.permute(0, 3, 1, 2), of_weight


def _transform(weight: torch.Tensor) -> torch.Tensor:
    """[rows, columns, 3, 3] → [36, columns / 16, rows, 16]: what is multiplied together lies together."""
    rows, columns = weight.shape[:2]
    panels = weight.view(rows, columns // PANEL, PANEL, 9).permute(3, 1, 0, 2)
    return BOTH @ panels.reshape(9, -1)


def _call(function: str, *arrays: torch.Tensor | None, sizes: tuple[int, ...]) -> None:
    """Call a function of winograd.cpp: float32 arrays, scratch, sizes (images, height, width, in, out), threads."""
    loaded = library()
    assert loaded is not None, "only a layer made by speed_up comes here"  # noqa: S101
    numbers = [ctypes.c_long(size) for size in (*sizes, torch.get_num_threads())]
    scratch = torch.empty(loaded.winograd_scratch(*numbers))
    pointers = [ctypes.c_void_p(None if array is None else array.data_ptr()) for array in (*arrays, scratch)]
    getattr(loaded, function)(*pointers, *numbers)
