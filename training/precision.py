"""Other precisions of a proved float32 graph: int8 for CPUs, float16 for GPUs. How exact they are is not known here.

Both keep what goes in and comes out, and, in float32, the last layer with all that follows: the logits, and the softmax
that the temperature scales. That layer has the least work and the most to lose. In float16 it doubles the largest error
of the logits (mnist-deep: 0.0096 for 0.0055); as int8 its logits stop at the largest one that calibration saw
(cifar10-cnn: off by 2.6 on a test image, and by 0.5 on any with this layer in float32).
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

from training import graph, pixels

# Images in one run of calibration.
BATCH = 250


def quantize(model: onnx.ModelProto, images: torch.Tensor) -> onnx.ModelProto:
    """Give the int8 form of an exported float32 graph, fitted to what these uint8 images [N, H, W, C] cause in it.

    Static quantisation of all before the last layer, as pairs of QuantizeLinear and DequantizeLinear. Raises
    ModelFileError for a graph of others.
    """
    ours = graph.split(model)
    model = pixels.fold(model)
    # Says that the graph is prepared, which the exporter does: batch norm is folded, shapes are known. ONNX Runtime's
    # own preparation changed nothing in the result, and without this mark its quantiser logs a warning.
    add_pre_process_metadata(model)
    with TemporaryDirectory(prefix="convserve-") as folder:
        before, after = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, before)
        quantize_static(
            before,
            after,
            _Batches(images),
            quant_format=QuantFormat.QDQ,
            # Least to greatest. Percentiles cut off the rare values that decide an image (99.99 %: largest error of
            # cifar10-cnn 9.4 for 0.6), and so do too few images (200: 2.6; 1,000: 0.7). Entropy is no better.
            calibrate_method=CalibrationMethod.MinMax,
            # Every activation follows a ReLU, so symmetric ones would waste half of the values: errors 1.3 to 1.7
            # times as large.
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,  # one scale for all channels: errors 1.1 to 1.3 times as large, and no time saved
            # Weights in 7 bits. x86 processors without VNNI (AMD before Zen 4, Intel's before Cascade Lake) add two
            # products in 16 bits, where 8-bit weights overflow: on an emulated Haswell the logits of cifar10-cnn were
            # off by 17, and 46 of 200 answers changed. With 7 bits the logits there and on an emulated Westmere are
            # the same to the last bit. The price: errors 1.3 to 1.6 times as large.
            reduce_range=True,
            nodes_to_exclude=[node.name for node in ours.last],
        )
        return onnx.load(after)


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
        self._parts = iter(torch.split(images, BATCH))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Give the inputs of the next run, or None after the last."""
        part = next(self._parts, None)
        return None if part is None else {"images": part.numpy()}
