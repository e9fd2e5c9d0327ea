"""What a file costs: multiply-accumulates, bytes, and the time that ONNX Runtime takes for it on this processor."""

import math
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ..errors import ModelFileError
from ..evaluate import OnnxFile

# Where the weights are among the inputs of the operators that multiply and accumulate.
WEIGHT_INPUT = {
    "Conv": 1,
    "Gemm": 1,
    "MatMul": 1,
    "ConvInteger": 1,
    "MatMulInteger": 1,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
}
# One image of a lone request, and a large batch.
BATCHES = (1, 64)
# A median bears other work for up to three of the repeats; all of them, for both batches, take under two seconds.
REPEATS, REPEAT_S = 7, 0.1


@dataclass(frozen=True)
class Cost:
    """What one file costs."""

    multiply_accumulates: int | None
    """For one image; None where they cannot be counted."""
    bytes: int
    """The size of the file, and of its external data."""
    images_per_s: dict[str, float]
    """By number of images in a run, for each of `BATCHES`."""
    threads: int
    """How many threads computed one run."""
    processor: str


def measure(path: Path, file: OnnxFile, images: NDArray[np.uint8]) -> Cost:
    """Count, weigh and time a file on real images [N, H, W, C], repeated where N is small; takes two seconds."""
    try:
        products = multiply_accumulates(path)
    except ModelFileError:
        products = None
    return Cost(
        multiply_accumulates=products,
        bytes=path.stat().st_size + sum(other.stat().st_size for other in path.parent.glob("weights-*.bin")),
        images_per_s={str(batch): images_per_s(file, images[np.arange(batch) % len(images)]) for batch in BATCHES},
        threads=torch.get_num_threads(),  # as many as OnnxFile takes
        processor=processor(),
    )


def multiply_accumulates(path: Path) -> int:
    """Count the products that the convolutions and matrix products of a graph sum up, for one image.

    Each number that such an operator gives is the sum of as many products as the weights have numbers for each of its
    output channels. Preprocessing, biases, pooling and softmax are not counted, as is usual. Raises ModelFileError
    where there is no such operator, or the shapes of one are not known.
    """
    graph = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False)).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }
    shapes |= {weights.name: list(weights.dims) for weights in graph.initializer}
    counts = []
    for node in graph.node:
        if node.op_type not in WEIGHT_INPUT:
            continue
        given = shapes.get(node.output[0], [])[1:]  # without the batch: channels first, then height and width if any
        weights = math.prod(shapes.get(node.input[WEIGHT_INPUT[node.op_type]], [0]))
        if not given or not math.prod(given) or not weights:
            raise ModelFileError(
                f"the cost of {path} cannot be counted: the shapes at its operator {node.name or node.op_type} are not "
                f"known; export it again"
            )
        counts.append(math.prod(given) * weights // given[0])
    if not counts:
        raise ModelFileError(f"the cost of {path} cannot be counted: it has none of {', '.join(WEIGHT_INPUT)}")
    return sum(counts)


def images_per_s(file: OnnxFile, images: NDArray[np.uint8]) -> float:
    """Time runs of these images [batch, H, W, C]: the median of `REPEATS`, to 3 digits; the first run is not timed."""
    file.run(images)
    rates = []
    for _ in range(REPEATS):
        runs, seconds, started = 0, 0.0, time.perf_counter()
        while seconds < REPEAT_S:
            file.run(images)
            runs += 1
            seconds = time.perf_counter() - started
        rates.append(runs * len(images) / seconds)
    return float(f"{statistics.median(rates):.3g}")


def processor() -> str:
    """Name the processor's model as Linux does, elsewhere its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
