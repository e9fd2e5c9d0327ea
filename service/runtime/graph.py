"""What an ONNX file says of its graph: nodes, shapes and sizes of weights, read without the onnx package.

A reader of as much of the format as rules need; the weights themselves are skipped, not read. Field numbers:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .protobuf_reader import fields

INT8_TYPES = {2, 3}
"""TensorProto.UINT8 and INT8."""
INT64 = 7
MOST_AXES = 8
"""Of a shape whose values are read."""
INT8_SPEED = 4
"""A product in int8 takes a quarter of the time of one in float32 (benchmarks: 3.6 to 4.6 times the rate)."""
RANDOM_OPS = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
CONTROL_FLOW = {"Loop", "Scan", "If"}
WINDOWED = {"Conv", "ConvTranspose", "QLinearConv", "ConvInteger", "FusedConv"}
RECURRENT = {"LSTM", "GRU", "RNN"}
PRODUCTS = {"Gemm", "MatMul", "QLinearMatMul", "MatMulInteger", "FusedMatMul", "Einsum"}
WEIGHT_STEPS = {"DequantizeLinear", "Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze"}
"""Operators through which a weight, or an index, is still the same values."""


@dataclass(frozen=True)
class Node:
    """One operator of the graph."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axis: int = 0
    """Its attribute ``axis``; 0 where it has none."""


@dataclass(frozen=True)
class Weight:
    """The form of an initializer."""

    shape: tuple[int, ...]
    element: int
    """TensorProto.DataType."""
    values: tuple[int, ...] = ()
    """Of a few whole numbers, as shapes are; else empty."""


@dataclass
class Graph:
    """Nodes, those of bodies included, weights, and the shapes that are declared; -1 for a free axis."""

    nodes: list[Node] = field(default_factory=list)
    weights: dict[str, Weight] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)

    @property
    def random_ops(self) -> Sequence[str]:
        """Those of its operators that draw random numbers."""
        return sorted({node.op for node in self.nodes} & RANDOM_OPS)

    @property
    def has_control_flow(self) -> bool:
        """True where values decide which operators run, and how often."""
        return any(node.op in CONTROL_FLOW for node in self.nodes)

    @property
    def quantized(self) -> bool:
        """True where values are rounded to eight bits between operators."""
        return any("Quantize" in node.op or node.op.startswith("QLinear") for node in self.nodes)

    def row_cost(self) -> float:
        """Multiply-accumulates of one row, in float32's; infinite where there are no nodes, or loops.

        A window slides over as many places as its output is declared to have, or else as its largest tensor has.
        """
        if not self.nodes or any(node.op in ("Loop", "Scan") for node in self.nodes):
            return math.inf
        area = max((_area(shape) for shape in self.shapes.values()), default=1)
        weights = self._derived_weights()
        return sum(self._node_cost(node, weights, area) for node in self.nodes)

    def vocabulary(self) -> Mapping[str, int]:
        """For each input that a Gather takes rows of a weight by: how many rows there are."""
        weights = self._derived_weights()
        maker = {output: node for node in self.nodes for output in node.outputs}
        found: dict[str, int] = {}
        for node in self.nodes:
            if node.op == "Gather" and node.inputs[0] in weights:
                name = node.inputs[1]
                while name in maker and maker[name].op in WEIGHT_STEPS:
                    name = maker[name].inputs[0]
                if name in self.inputs:
                    rows = weights[node.inputs[0]].shape[node.axis]
                    found[name] = min(rows, found.get(name, rows))
        return found

    def _derived_weights(self) -> dict[str, Weight]:
        """The weights, and what is made of them alone without another number of elements."""
        weights = dict(self.weights)
        for node in self.nodes:
            if node.op in WEIGHT_STEPS and node.inputs and node.inputs[0] in weights:
                weights.update(dict.fromkeys(node.outputs, weights[node.inputs[0]]))
        return weights

    def _node_cost(self, node: Node, weights: Mapping[str, Weight], area: int) -> float:
        if node.op not in WINDOWED | RECURRENT | PRODUCTS:
            return 0
        used = [weights[name] for name in node.inputs if name in weights and len(weights[name].shape) > 1]
        places = 1
        shape = self.shapes.get(node.outputs[0])
        if node.op in WINDOWED:
            places = _area(shape) if shape else area
        elif shape and len(shape) > 2:
            places = max(1, math.prod(max(1, axis) for axis in shape[1:-1]))
        return sum(
            places * math.prod(weight.shape) / (INT8_SPEED if weight.element in INT8_TYPES else 1) for weight in used
        )


def read_graph(model: memoryview) -> Graph:
    """The graph of a ModelProto; an empty one where it cannot be read as that."""
    graph = Graph()
    try:
        for part in fields(model):
            if part.number == 7:
                _read_body(part.message, graph, top=True)
    except ValueError:
        return Graph()
    return graph


def _read_body(body: memoryview, graph: Graph, *, top: bool) -> None:
    for part in fields(body):
        if part.number == 1:
            graph.nodes.append(_read_node(part.message, graph))
        elif part.number == 5:
            _read_weight(part.message, graph)
        elif part.number in (11, 12, 13):
            name, shape = _read_value(part.message)
            if shape is not None:
                graph.shapes[name] = shape
            if part.number == 11 and top:
                graph.inputs.append(name)


def _read_node(data: memoryview, graph: Graph) -> Node:
    inputs: list[str] = []
    outputs: list[str] = []
    op, axis = "", 0
    for part in fields(data):
        if part.number in (1, 2):
            (inputs if part.number == 1 else outputs).append(part.text)
        elif part.number == 4:
            op = part.text
        elif part.number == 5:
            axis = _read_attribute(part.message, graph, axis)
    return Node(op, tuple(inputs), tuple(outputs), axis)


def _read_attribute(data: memoryview, graph: Graph, axis: int) -> int:
    """The axis if this attribute tells it; nodes of a body are added to the graph."""
    name, number = "", axis
    for part in fields(data):
        if part.number == 1:
            name = part.text
        elif part.number == 3:
            (number,) = part.numbers
        elif part.number in (6, 11):
            _read_body(part.message, graph, top=False)
    return number if name == "axis" else axis


def _read_weight(data: memoryview, graph: Graph) -> None:
    dims: list[int] = []
    name, element = "", 0
    values: list[int] = []
    for part in fields(data):
        if part.number == 1:
            dims += part.numbers
        elif part.number == 2:
            (element,) = part.numbers
        elif part.number == 7:
            values += part.numbers
        elif part.number == 8:
            name = part.text
        elif part.number == 9 and len(part.message) <= MOST_AXES * 8 and not len(part.message) % 8:
            values += struct.unpack(f"<{len(part.message) // 8}q", part.message)
    is_shape = element == INT64 and len(values) <= MOST_AXES
    graph.weights[name] = Weight(tuple(dims), element, tuple(values) if is_shape else ())


def _read_value(data: memoryview) -> tuple[str, tuple[int, ...] | None]:
    """The name and the shape of a ValueInfoProto; None where it does not even tell the rank."""
    name = ""
    shape: tuple[int, ...] | None = None
    for part in fields(data):
        if part.number == 1:
            name = part.text
        elif part.number == 2:
            for tensor in _parts(part.message, 1):
                for dims in _parts(tensor, 2):
                    shape = tuple(_length(dim) for dim in _parts(dims, 1))
    return name, shape


def _length(dim: memoryview) -> int:
    return next((part.numbers[0] for part in fields(dim) if part.number == 1), -1)


def _parts(message: memoryview, wanted: int) -> Iterator[memoryview]:
    for part in fields(message):
        if part.number == wanted:
            yield part.message


def _area(shape: Sequence[int]) -> int:
    """The places of a window in [batch, channels, …]."""
    return math.prod(max(1, axis) for axis in shape[2:])
