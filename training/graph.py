"""The graph of an exported file in three parts, and how one is put together from changed parts."""

from dataclasses import dataclass

import onnx

from .errors import ModelFileError

# What `networks.Preprocess` becomes when it is exported.
PREPROCESSING = ["Transpose", "Cast", "Mul", "Sub"]


@dataclass(frozen=True)
class Parts:
    """The nodes of a graph, in the order in which they run."""

    preprocessing: list[onnx.NodeProto]
    """From `images` to normalised pixels."""
    hidden: list[onnx.NodeProto]
    last: list[onnx.NodeProto]
    """The layer that gives `logits`, and what follows it."""


def split(model: onnx.ModelProto) -> Parts:
    """Find the three parts; raises ModelFileError for a graph that `onnx_file.build` did not make."""
    nodes = list(model.graph.node)
    preprocessing: list[onnx.NodeProto] = []
    for kind in PREPROCESSING:
        source = preprocessing[-1].output[0] if preprocessing else "images"
        preprocessing += [node for node in nodes if node.op_type == kind and node.input[0] == source][:1]
    last = next((place for place, node in enumerate(nodes) if "logits" in node.output), len(nodes))
    if [node.op_type for node in preprocessing] != PREPROCESSING or last == len(nodes):
        raise ModelFileError(
            f"the graph of {model.graph.name or 'this file'} is not one that this program exported, so it can be given "
            f"no other precision; export it again"
        )
    return Parts(preprocessing, [node for node in nodes[:last] if node not in preprocessing], nodes[last:])


def join(model: onnx.ModelProto, nodes: list[onnx.NodeProto], added: list[onnx.TensorProto]) -> onnx.ModelProto:
    """Give a model with these nodes, in this order, and the same inputs and outputs.

    Its constants are those that a node takes: the added ones, and the old ones of other names.
    """
    taken = {name for node in nodes for name in node.input}
    new = {tensor.name for tensor in added}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for field in ("node", "initializer", "value_info"):  # the last would tell old types
        result.graph.ClearField(field)
    result.graph.node.extend(nodes)
    kept = (tensor for tensor in model.graph.initializer if tensor.name not in new)
    result.graph.initializer.extend(tensor for tensor in (*kept, *added) if tensor.name in taken)
    return result
