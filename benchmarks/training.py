"""`python -m benchmarks.training` measures how fast each network trains, beside the machine's best matrix product.

The ceiling is the best rate of large matrix products in the recipe's precision. A training step needs three times the
multiply-accumulates of its forward pass (forward, gradient of the maps, gradient of the weights); whatever else it does
(batch norm, pooling, augmentation, the optimizer) keeps it below. A teacher's outputs are left out. Prints a table and
a JSON line.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from training.data import Dataset, augment, default_data_dir, load
from training.device import arithmetic_for, autocast, choose_device, disable_malloc_trim, multiplies_bfloat16
from training.networks import NETWORKS, Preprocess
from training.objective import memory_format_of
from training.recipes import RECIPES, Recipe
from training.report.cost import processor
from training.train import make_optimizer, move

PRODUCT = 2048
"""Rows and columns of the matrices whose product is the ceiling: large enough to reach it, small enough to repeat."""


def rate(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """How often a second `work` runs, after two runs that do not count."""
    for _ in range(2):
        work()
    synchronise(device)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        work()
        synchronise(device)
        count += 1
    return count / (time.perf_counter() - started)


def synchronise(device: torch.device) -> None:
    """Waits until a CUDA device has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def ceiling(dtype: torch.dtype, device: torch.device, seconds: float) -> float:
    """Multiply-accumulates a second of a large matrix product."""
    one, other = (torch.randn(PRODUCT, PRODUCT, device=device).to(dtype) for _ in range(2))
    return rate(lambda: one @ other, device, seconds) * PRODUCT**3


def multiply_accumulates(network: nn.Module, images: torch.Tensor) -> int:
    """Those of convolutions and linear layers in one forward pass of these images."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    return int(counter.get_total_flops()) // 2


def training_step(recipe: Recipe, data: Dataset, device: torch.device) -> tuple[Callable[[], object], int]:
    """One step of a recipe on real images, ready to be repeated, and the multiply-accumulates of its forward pass."""
    network = NETWORKS[recipe.network].build()
    move(network, device, recipe)
    preprocess = Preprocess(recipe.mean, recipe.std).to(device)
    images, labels = data.train_images[: recipe.batch].to(device), data.train_labels[: recipe.batch].to(device)
    forward = multiply_accumulates(network, preprocess(images))
    optimizer = make_optimizer(recipe, network)
    draws = augment.draw(recipe, tuple(images.shape), 0, torch.Generator().manual_seed(0), device)
    rows = torch.arange(len(images), device=device)

    def step() -> None:
        changed = augment.apply(recipe, draws, images[rows], rows)
        inputs = preprocess(changed).contiguous(memory_format=memory_format_of(recipe))
        with autocast(recipe.precision, device):
            loss = cross_entropy(network(inputs), labels[rows], label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # so in PyTorch
        optimizer.step()

    return step, forward


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Everything, ready for JSON."""
    device = choose_device(chosen.device)
    load_average = os.getloadavg()[0]
    disable_malloc_trim()
    ceilings = {"fp32": ceiling(torch.float32, device, chosen.seconds)}
    if multiplies_bfloat16(device.type):
        ceilings["bf16"] = ceiling(torch.bfloat16, device, chosen.seconds)
    networks = {}
    for name, recipe in RECIPES.items():
        data = load(recipe.dataset, chosen.data_dir)
        step, forward = training_step(recipe, data, device)
        precision = arithmetic_for(recipe.precision, device)
        steps_per_s = rate(step, device, chosen.seconds)
        networks[name] = {
            "precision": precision,
            "batch": recipe.batch,
            "images_per_s": round(steps_per_s * recipe.batch, 1),
            "multiply_accumulates_per_image": forward // recipe.batch,
            "share_of_ceiling": round(3 * forward * steps_per_s / ceilings[precision], 4),
        }
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "load_average": round(load_average, 2),
        "torch": torch.__version__,
        "multiply_accumulates_per_s": {precision: round(value) for precision, value in ceilings.items()},
        "networks": networks,
    }


def main() -> None:
    """Run ``python -m benchmarks.training``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each figure (default: 5)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--data-dir", type=Path, default=default_data_dir(), metavar="DIR")
    found = measure(parser.parse_args())
    table = Table("network", "precision", title=f"{found['device']}, {found['threads']} threads")
    for column in ("batch", "images/s", "M multiply-accumulates an image", "of the ceiling"):
        table.add_column(column, justify="right")
    for name, figures in found["networks"].items():
        table.add_row(
            name,
            figures["precision"],
            str(figures["batch"]),
            f"{figures['images_per_s']:,.0f}",
            f"{figures['multiply_accumulates_per_image'] / 1e6:.2f}",
            f"{figures['share_of_ceiling']:.0%}",
        )
    console = Console()
    console.print(table)
    for precision, value in found["multiply_accumulates_per_s"].items():
        console.print(f"ceiling, {precision}: {value / 1e9:,.0f} G multiply-accumulates/s")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
