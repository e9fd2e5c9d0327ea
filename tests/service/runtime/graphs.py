"""Small graphs whose rows depend on each other, and graphs whose rows do not."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests import onnx_models

FLOAT, FLOAT16, INT64, UINT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.UINT8
Nodes = Sequence[onnx.NodeProto]
Arrays = dict[str, NDArray[Any]]
Build = Callable[[Path], Path]


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Random weights."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def node(kind: str, inputs: Sequence[str], output: str = "y", **attributes: Any) -> onnx.NodeProto:
    """An operator with one output."""
    return helper.make_node(kind, list(inputs), [output], **attributes)


def graph(
    *nodes: onnx.NodeProto,
    weights: Arrays | None = None,
    x: Sequence[int | str] = ("n", 4),
    y: Sequence[int | str] | None = None,
    element: int = FLOAT,
    gives: int = FLOAT,
) -> Build:
    """Writes ``x`` → nodes → ``y`` into a folder."""

    def build(folder: Path) -> Path:
        return onnx_models.save(
            folder,
            "graph",
            nodes,
            [onnx_models.value("x", element, x)],
            [onnx_models.value("y", gives, x if y is None else y)],
            [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
        )

    return build


def scalar(number: float, kind: str = "int64") -> NDArray[Any]:
    """A weight of no axes."""
    return np.array(number, kind)


def recurrent(kind: str, gates: int, *, time_first: bool) -> Build:
    """An LSTM or GRU over axis 0 or axis 1, which ONNX's own layout has first."""
    weights = {"W": normal(1, gates * 3, 4), "R": normal(1, gates * 3, 3), "one": np.array([1])}
    if time_first:
        nodes = [node(kind, ["x", "W", "R"], "h", hidden_size=3), node("Squeeze", ["h", "one"])]
        return graph(*nodes, weights=weights, x=("time", 1, 4), y=("time", 1, 3))
    nodes = [
        node("Transpose", ["x"], "t", perm=[1, 0, 2]),
        node(kind, ["t", "W", "R"], "h", hidden_size=3),
        node("Squeeze", ["h", "one"], "s"),
        node("Transpose", ["s"], perm=[1, 0, 2]),
    ]
    return graph(*nodes, weights=weights, x=("n", "time", 4), y=("n", "time", 3))


def attention(x: Sequence[int | str]) -> Build:
    """Softmax(x x') x over the last axis but one."""
    last = list(range(len(x)))
    nodes = [
        node("Transpose", ["x"], "k", perm=[*last[:-2], last[-1], last[-2]]),
        node("MatMul", ["x", "k"], "scores"),
        node("Softmax", ["scores"], "p", axis=-1),
        node("MatMul", ["p", "x"]),
    ]
    return graph(*nodes, x=x)


def training_batch_norm(folder: Path) -> Path:
    """Normalizes by the mean and variance of the rows that are there."""
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    normalize = helper.make_node(
        "BatchNormalization", ["x", "one", "zero", "zero", "one"], ["y", "mean", "variance"], training_mode=1
    )
    return graph(normalize, weights={"one": ones, "zero": zeros})(folder)


def scan(folder: Path) -> Path:
    """A running product in a Scan."""
    body = helper.make_graph(
        [node("Mul", ["state", "row"], "next"), node("Identity", ["next"], "out")],
        "body",
        [onnx_models.value("state", FLOAT, [4]), onnx_models.value("row", FLOAT, [4])],
        [onnx_models.value("next", FLOAT, [4]), onnx_models.value("out", FLOAT, [4])],
    )
    run = helper.make_node("Scan", ["start", "x"], ["last", "y"], num_scan_inputs=1, body=body)
    return graph(run, weights={"start": np.ones(4, np.float32)})(folder)


def loop(folder: Path) -> Path:
    """Adds the mean of all rows three times, in a Loop."""
    body = helper.make_graph(
        [
            node("ReduceMean", ["value", "axis"], "mean", keepdims=1),
            node("Add", ["value", "mean"], "next"),
            node("Identity", ["go"], "on"),
        ],
        "body",
        [
            onnx_models.value("step", INT64, []),
            onnx_models.value("go", TensorProto.BOOL, []),
            onnx_models.value("value", FLOAT, ["n", 4]),
        ],
        [onnx_models.value("on", TensorProto.BOOL, []), onnx_models.value("next", FLOAT, ["n", 4])],
    )
    run = helper.make_node("Loop", ["three", "", "x"], ["y"], body=body)
    return graph(run, weights={"three": scalar(3), "axis": np.array([0])})(folder)


def sorted_rows(folder: Path) -> Path:
    """Each column's values in order: an argsort over the rows, as exporters write it."""
    nodes = [
        node("Shape", ["x"], "count", start=0, end=1),
        helper.make_node("TopK", ["x", "count"], ["y", "places"], axis=0),
    ]
    return graph(*nodes)(folder)


def dynamic_quantization(folder: Path) -> Path:
    """A product in eight bits, whose scale comes of the largest value of all rows."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        node("MatMulInteger", ["q", "W", "zero"], "i"),
        node("Cast", ["i"], "f", to=FLOAT),
        node("Mul", ["f", "scale"]),
    ]
    weights = np.random.default_rng(0).integers(-100, 100, (4, 4)).astype(np.int8)
    return graph(*nodes, weights={"W": weights})(folder)


def shifted(by: int) -> Build:
    """Each row gets the one ``by`` places before it, and the first ones zeros."""
    nodes = [
        node("Pad", ["x", "pads"], "p"),
        node("Shape", ["x"], "count", start=0, end=1),
        node("Slice", ["p", "from", "count", "axis"]),
    ]
    weights = {"pads": np.array([by, 0, 0, 0]), "from": np.array([0]), "axis": np.array([0])}
    return graph(*nodes, weights=weights)


def quantized(folder: Path) -> Path:
    """Products between QuantizeLinear and DequantizeLinear, with scales of its own."""
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], "q"),
        node("DequantizeLinear", ["q", "scale", "zero"], "d"),
        node("DequantizeLinear", ["W", "scale", "zero"], "w"),
        node("MatMul", ["d", "w"], "m"),
        node("QuantizeLinear", ["m", "scale", "zero"], "r"),
        node("DequantizeLinear", ["r", "scale", "zero"]),
    ]
    weights: Arrays = {
        "scale": np.array(0.05, np.float32),
        "zero": np.array(0, np.int8),
        "W": np.random.default_rng(0).integers(-100, 100, (4, 4)).astype(np.int8),
    }
    return graph(*nodes, weights=weights)(folder)


def deep(folder: Path) -> Path:
    """Thirty layers that make numbers large, and a sharp softmax: rounding is far from the last digits."""
    nodes, last = [], "x"
    for layer in range(30):
        nodes += [
            node("MatMul", [last, "W"], f"m{layer}"),
            node("Relu", [f"m{layer}"], f"r{layer}"),
        ]
        last = f"r{layer}"
    nodes += [node("MatMul", [last, "V"], "z"), node("Softmax", ["z"], axis=-1)]
    weights = {"W": normal(64, 64) / 5, "V": normal(64, 10, seed=1) / 3e4}
    return graph(*nodes, weights=weights, x=("n", 64), y=("n", 10))(folder)


def masked(folder: Path) -> Path:
    """Token numbers and a mask of them, as encoders of text take them."""
    nodes = [
        node("Gather", ["table", "ids"], "e"),
        node("Cast", ["mask"], "m", to=FLOAT),
        node("Unsqueeze", ["m", "last"], "u"),
        node("Mul", ["e", "u"], "p"),
        node("ReduceSum", ["p", "first"], "y", keepdims=0),
    ]
    arrays = {"table": normal(50, 8), "last": np.array([2]), "first": np.array([1])}
    return onnx_models.save(
        folder,
        "graph",
        nodes,
        [onnx_models.value("ids", INT64, ["n", "s"]), onnx_models.value("mask", INT64, ["n", "s"])],
        [onnx_models.value("y", FLOAT, ["n", 8])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )


ZERO, AXIS_0, AXIS_1 = {"zero": scalar(0)}, {"axis": np.array([0])}, {"axis": np.array([1])}

DEPENDENT: dict[str, Build] = {
    "running sum": graph(node("CumSum", ["x", "zero"]), weights=ZERO),
    "running sum backwards": graph(node("CumSum", ["x", "zero"], reverse=1), weights=ZERO),
    "softmax over rows": graph(node("Softmax", ["x"], axis=0)),
    "log softmax over rows": graph(node("LogSoftmax", ["x"], axis=0)),
    "time-first LSTM": recurrent("LSTM", 4, time_first=True),
    "time-first GRU": recurrent("GRU", 3, time_first=True),
    "maximum over points": graph(
        node("Relu", ["x"], "r"),
        node("ReduceMax", ["r", "axis"], "m", keepdims=1),
        node("Add", ["r", "m"]),
        weights=AXIS_0,
    ),
    "minus the mean row": graph(
        node("ReduceMean", ["x", "axis"], "m", keepdims=1), node("Sub", ["x", "m"]), weights=AXIS_0
    ),
    "a hundred-thousandth of the mean": graph(
        node("ReduceMean", ["x", "axis"], "m", keepdims=1),
        node("Mul", ["m", "little"], "s"),
        node("Add", ["x", "s"]),
        weights=AXIS_0 | {"little": np.array(1e-5, np.float32)},
    ),
    "roots, then a running sum": graph(node("Sqrt", ["x"], "s"), node("CumSum", ["s", "zero"]), weights=ZERO),
    "batch norm in training mode": training_batch_norm,
    "sorted rows": sorted_rows,
    "attention over rows": attention(("n", 4)),
    "random noise": graph(node("RandomNormalLike", ["x"], "r", scale=1e-6), node("Add", ["x", "r"])),
    "dropout in training mode": graph(
        helper.make_node("Dropout", ["x", "half", "yes"], ["y"]),
        weights={"half": scalar(0.5, "float32"), "yes": np.array(1, bool)},
    ),
    "Scan over rows": scan,
    "Loop with a mean": loop,
    "scale of all rows": dynamic_quantization,
    "divided by the count": graph(
        node("Shape", ["x"], "s", start=0, end=1), node("Cast", ["s"], "f", to=FLOAT), node("Div", ["x", "f"])
    ),
    "number of the row": graph(
        node("Shape", ["x"], "s", start=0, end=1),
        node("Squeeze", ["s"], "n"),
        node("Range", ["zero", "n", "one"], "r"),
        node("Unsqueeze", ["r", "axis"], "u"),
        node("Cast", ["u"], "f", to=FLOAT),
        node("Add", ["x", "f"]),
        weights=ZERO | AXIS_1 | {"one": scalar(1)},
    ),
    "the row before": shifted(1),
    "the eighth row before": shifted(8),
    "the sixteenth row before": shifted(16),
    "brightness of the brightest image": graph(
        node("Cast", ["x"], "f", to=FLOAT),
        node("ReduceMax", ["f", "all"], "m", keepdims=1),
        node("Div", ["f", "m"]),
        weights={"all": np.arange(4)},
        x=("n", 16, 16, 3),
        element=UINT8,
    ),
    "minus the darkest pixel": graph(
        node("Cast", ["x"], "f", to=FLOAT),
        node("ReduceMin", ["f", "all"], "m", keepdims=1),
        node("Sub", ["f", "m"]),
        weights={"all": np.arange(4)},
        x=("n", 16, 16, 3),
        element=UINT8,
    ),
    "nothing times the sum": graph(
        node("ReduceSum", ["x", "axis"], "s", keepdims=1),
        node("Mul", ["s", "nothing"], "z"),
        node("Add", ["x", "z"]),
        weights=AXIS_0 | {"nothing": scalar(0, "float32")},
    ),
    "rows in reverse": graph(
        node("Slice", ["x", "end", "start", "axis", "step"]),
        weights=AXIS_0 | {"end": np.array([-1]), "start": np.array([-(2**31)]), "step": np.array([-1])},
    ),
    "groups of four": graph(
        node("Reshape", ["x", "groups"], "g"),
        node("Softmax", ["g"], "s", axis=1),
        node("Reshape", ["s", "rows"]),
        weights={"groups": np.array([-1, 4, 4]), "rows": np.array([-1, 4])},
    ),
    "batch baked in": graph(
        node("Reshape", ["x", "s"], "r"),
        node("Reshape", ["r", "t"]),
        weights={"s": np.array([1, 2, 2]), "t": np.array([1, 4])},
    ),
    "places of what is not zero": graph(
        node("Relu", ["x"], "r"), node("NonZero", ["r"], "z"), node("Transpose", ["z"]), y=("found", 2), gives=INT64
    ),
    "columns in the place of rows": graph(node("Transpose", ["x"]), x=("n", "m"), y=("m", "n")),
    "similarity of rows": graph(
        node("Transpose", ["x"], "t"), node("MatMul", ["x", "t"]), x=("n", 4), y=("n", "columns")
    ),
    "which row is largest": graph(
        node("ArgMax", ["x"], "a", axis=0, keepdims=1),
        node("Shape", ["x"], "s"),
        node("Expand", ["a", "s"]),
        gives=INT64,
    ),
    "taken from other rows": graph(
        node("Relu", ["x"], "r"),
        node("ArgMax", ["r"], "a", axis=0, keepdims=0),
        node("Gather", ["x", "a"], "g", axis=0),
        node("ReduceMean", ["g", "axis"], "m", keepdims=1),
        node("Add", ["x", "m"]),
        weights=AXIS_0,
    ),
    "largest integer of all": graph(
        node("ReduceMax", ["x", "axis"], "m", keepdims=1),
        node("Add", ["x", "m"]),
        weights=AXIS_0,
        element=INT64,
        gives=INT64,
    ),
}

INDEPENDENT: dict[str, Build] = {
    "softmax of a row": graph(node("Softmax", ["x"], axis=-1)),
    "running sum in a row": graph(node("CumSum", ["x", "axis"]), weights={"axis": scalar(1)}),
    "LSTM along a row": recurrent("LSTM", 4, time_first=False),
    "GRU along a row": recurrent("GRU", 3, time_first=False),
    "attention in a row": attention(("n", "s", 8)),
    "embedding": graph(
        node("Gather", ["table", "x"]), weights={"table": normal(10, 3)}, x=("n",), y=("n", 3), element=INT64
    ),
    "embedding of small integers": graph(
        node("Cast", ["x"], "c", to=INT64),
        node("Gather", ["table", "c"]),
        weights={"table": normal(3, 2)},
        x=("n", "s"),
        y=("n", "s", 2),
        element=UINT8,
    ),
    "ids and a mask": masked,
    "convolution": graph(
        node("Conv", ["x", "W"], "c", pads=[1, 1, 1, 1]),
        node("Relu", ["c"], "r"),
        node("GlobalAveragePool", ["r"], "g"),
        node("Flatten", ["g"]),
        weights={"W": normal(16, 3, 3, 3)},
        x=("n", 3, "h", "w"),
        y=("n", 16),
    ),
    "deep and sharp": deep,
    "eight bits": quantized,
    "half precision": graph(
        node("MatMul", ["x", "W"], "m"),
        node("Softmax", ["m"], axis=-1),
        weights={"W": normal(64, 64).astype(np.float16)},
        x=("n", 64),
        element=FLOAT16,
        gives=FLOAT16,
    ),
    "largest of a row": graph(node("ArgMax", ["x"], axis=1, keepdims=0), y=("n",), gives=INT64),
    "logarithm": graph(node("Log", ["x"])),
    "always the same": graph(node("Mul", ["x", "zero"]), weights={"zero": scalar(0, "float32")}),
    "group norm": graph(
        node("InstanceNormalization", ["x", "one", "zero"]),
        weights={"one": np.ones(4, np.float32), "zero": np.zeros(4, np.float32)},
        x=("n", 4, 8),
    ),
}
