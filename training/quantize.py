"""Other precisions of a proved float32 graph: int8 for CPUs, float16 for GPUs. How exact they are is not known here.

Both keep what goes in and comes out, and, in float32, the last layer with all that follows: the logits, and the softmax
that the temperature scales. That layer has the least work and the most to lose. In float16 it doubles the largest error
of the logits (mnist-deep: 0.0096 for 0.0055); in int8 no logit can be larger than those that calibration saw, which put
cifar10-cnn off by 5.2 on a test image (0.8 with this layer in float32).

Figures here and below were measured on cifar10-cnn, mnist-deep and cifar10-lenet, on test images.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from . import fold_preprocessing, graph
from .evaluate import rows_at_once
from .rounding import round_weights

# Images in one run of calibration.
BATCH = 250


def quantize(model: onnx.ModelProto, images: torch.Tensor, *, smooth: bool = False) -> onnx.ModelProto:
    """Give the int8 form of an exported float32 graph, fitted to what these uint8 images [N, H, W, C] cause in it.

    `smooth`: activations range over a moving average of each batch's least and greatest, not over all images'.

    Static quantisation of all before the last layer, as pairs of QuantizeLinear and DequantizeLinear. Raises
    ModelFileError for a graph of others.
    """
    ours = graph.split(model)
    model = fold_preprocessing.fold(model)
    # Says that the graph is prepared, which the exporter does: batch norm is folded, shapes are known. ONNX Runtime's
    # own preparation changed nothing in the result, and without this mark its quantiser logs a warning.
    add_pre_process_metadata(model)
    # Batch norm that could not be folded has no int8 kernel: its few numbers would lose digits for nothing.
    norms = [node for node in ours.hidden if node.op_type == "BatchNormalization"]
    with TemporaryDirectory(prefix="convserve-") as folder:
        before, after = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, before)
        quantize_static(
            before,
            after,
            _Batches(images),
            quant_format=QuantFormat.QDQ,
            # Least to greatest. Percentiles cut off the rare values that decide an image (99.99 %: the largest error of
            # cifar10-cnn becomes 9.6 for 0.8), and so may too few images (200: 2.6, others 0.8). Entropy came out the
            # same to a digit.
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"CalibMovingAverage": smooth},
            # Every activation follows a ReLU, so symmetric ones would waste half of the values: the root mean square
            # of all errors becomes 1.2 to 1.7 times as large. With one weight scale for all channels: 1.3 to 1.4
            # times, and no faster.
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            # Weights in 7 bits. x86 processors without VNNI (AMD's before Zen 4, Intel's before Cascade Lake) add two
            # products in 16 bits, where 8-bit weights overflow: on an emulated Haswell the logits of cifar10-cnn were
            # off by 17, and 46 of 200 predictions changed. With 7 bits they are the same there to the last bit. The
            # price, 1.3 to 1.6 times the error, is more than made up for by rounding them together.
            reduce_range=True,
            nodes_to_exclude=[node.name for node in (*norms, *ours.last)],
        )
        quantized = onnx.load(after)
    round_weights(quantized, model, images)
    return quantized


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give the float16 form of an exported float32 graph: weights and arithmetic of all layers before the last.

    Preprocessing stays in float32. `onnxruntime.transformers.float16` is not used, because it takes the probabilities
    of a float32 softmax through float16 on their way out: 2.4e-4 from the softmax of the logits. Raises ModelFileError
    for a graph of others.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    parts = graph.split(copy)
    floats = {tensor.name: tensor for tensor in copy.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    halves = {}
    for node in parts.hidden:
        for place, name in enumerate(node.input):
            if name in floats:
                node.input[place] = f"{name}.half"
                with np.errstate(over="ignore"):  # what is too large becomes infinite, which parity does not let pass
                    halved = numpy_helper.to_array(floats[name]).astype(np.float16)
                halves[name] = numpy_helper.from_array(halved, node.input[place])
    into = _cast(parts.preprocessing, parts.hidden, TensorProto.FLOAT16)
    out_of = _cast(parts.hidden, parts.last, TensorProto.FLOAT)
    nodes = [*parts.preprocessing, *into, *parts.hidden, *out_of, *parts.last]
    return graph.join(copy, nodes, list(halves.values()))


def _cast(givers: list[onnx.NodeProto], takers: list[onnx.NodeProto], to: int) -> list[onnx.NodeProto]:
    """Make each tensor that goes from givers to takers another type; gives the nodes that do it."""
    given = {name for node in givers for name in node.output}
    casts = {}
    for node in takers:
        for place, name in enumerate(node.input):
            if name in given:
                node.input[place] = f"{name}.cast"
                casts[name] = helper.make_node("Cast", [name], [node.input[place]], node.input[place], to=to)
    return list(casts.values())


class _Batches:
    """Gives images to ONNX Runtime's calibration, in the form of its CalibrationDataReader."""

    def __init__(self, images: torch.Tensor) -> None:
        self._parts = iter(torch.split(images, rows_at_once(images, BATCH)))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Give the inputs of the next run, or None after the last."""
        part = next(self._parts, None)
        return None if part is None else {"images": part.numpy()}
