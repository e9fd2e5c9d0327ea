"""An ONNX file of others becomes a model file: preprocessing before its graph, softmax behind, the graph untouched.

It is proved against the file itself, run by ONNX Runtime without optimisations on pixels that NumPy prepared.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from ..errors import ModuleError, ParityError
from ..export.module import (
    Reference,
    Request,
    describe,
    find_temperature,
    finish,
    first_line,
    measure_request,
    probe_of,
    proof_images,
)
from ..export.module_proof import FAR, LEAST_SPREAD, PROBABILITY_SUM, RELATIVE_TOLERANCE, SIGMOID
from ..preprocessing import Preprocessing

# Mul and Sub of one shape with another came with 7. Batch norm and dropout of older files do what they do in training.
LEAST_OPSET = 7
# Names of ours in the graph; a file whose own begin so is renamed.
PREFIX = "convserve."
PASSING = ("Identity", "Reshape", "Squeeze", "Flatten")


@dataclass(frozen=True)
class Ends:
    """Where a file's pixels go in, and where its classes come out."""

    input: str
    layout: str
    """NCHW, NHWC or flat: rows of pixels, channels innermost."""
    output: str
    logits: str
    """The tensor that goes into the file's own softmax, where it ends in one; else the output."""


def export_onnx(path: Path, request: Request, console: Console, *, output: str = "") -> Path:
    """Write a model file from an ONNX file; `output` names the one with the classes where there are several.

    Raises TrainingError, with everything as it was.
    """
    model = read(path)
    ends = _ends(model, path, request, output)
    measured = measure_request(request, console)
    images = proof_images(request.preprocessing.shape, measured.tested).numpy()
    if measured.tested is not None:
        images = np.concatenate([images, measured.tested.images[len(images) : 64].numpy()])
    theirs = Theirs(model, path, ends, request.preprocessing)
    logits = theirs.logits(images)
    theirs.check(images, logits, len(request.labels))
    takes_log = theirs.gives_probabilities(images, logits)
    exact = _log(logits) if takes_log else logits
    tolerance = RELATIVE_TOLERANCE * float(np.abs(exact).max())

    def logits_of(held: Any) -> NDArray[np.float32]:
        found = theirs.logits(held.numpy())
        return (_log(found) if takes_log else found).astype(np.float32)

    temperature = find_temperature(request, measured, logits_of, console)
    composed = compose(model, ends, request, temperature, takes_log=takes_log)
    metadata = describe(request, temperature) | {
        "parameters": str(sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)),
        "network": str(request.facts.get("network", model.graph.name or path.stem)),
        "architecture": str(request.facts.get("architecture", f"ONNX file of {model.producer_name or 'others'}")),
        "reference": "ONNX Runtime's of the file itself",
        "probe": probe_of(torch.from_numpy(images), exact.astype(np.float32), tolerance),
    }
    return finish(request, composed, metadata, Reference(images, exact, tolerance), measured, console)


def read(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file with its external data; raises ModuleError."""
    if not path.is_file():
        raise ModuleError(f"there is no file {path.absolute()}; name an ONNX file")
    try:
        model = onnx.load(path)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModuleError(f"{path} cannot be read as an ONNX file: {first_line(error)}") from error
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset and not LEAST_OPSET <= opset <= onnx.defs.onnx_opset_version():
        raise ModuleError(
            f"{path} is of opset {opset}, and {LEAST_OPSET} to {onnx.defs.onnx_opset_version()} are supported; convert "
            f"it with onnx.version_converter, or export it anew"
        )
    if model.ir_version > onnx.IR_VERSION:
        raise ModuleError(f"{path} is of IR version {model.ir_version}, and up to {onnx.IR_VERSION} is supported")
    try:
        onnx.checker.check_model(path)  # by its path, as it may be larger than a message can be
    except (ValueError, onnx.checker.ValidationError) as error:
        raise ModuleError(f"{path} is no valid ONNX file: {first_line(error)}") from error
    if not opset:  # a file of ai.onnx.ml alone: ours needs plain operators too
        model.opset_import.add(domain="", version=min(15, onnx.defs.onnx_opset_version()))
    return model


def compose(
    model: onnx.ModelProto, ends: Ends, request: Request, temperature: float, *, takes_log: bool
) -> onnx.ModelProto:
    """Give the graph with `images` as its input, `logits` and `probabilities` as its outputs."""
    graph = onnx.compose.add_prefix_graph(model.graph, "theirs.")
    pixels, raw = f"theirs.{ends.input}", f"theirs.{ends.logits}"
    first, constants = _preprocessing(ends.layout, request.preprocessing, pixels)
    last: list[onnx.NodeProto] = []
    if takes_log:
        constants.append(_constant("least", np.array(np.finfo(np.float32).tiny, np.float32)))
        last.append(helper.make_node("Max", [raw, PREFIX + "least"], [PREFIX + "positive"], PREFIX + "positive"))
        last.append(helper.make_node("Log", [PREFIX + "positive"], ["logits"], PREFIX + "logits"))
    else:
        last.append(helper.make_node("Identity", [raw], ["logits"], PREFIX + "logits"))
    scaled = "logits"
    if temperature != 1:
        constants.append(_constant("temperature", np.array(temperature, np.float32)))
        scaled = PREFIX + "scaled"
        last.append(helper.make_node("Div", ["logits", PREFIX + "temperature"], [scaled], scaled))
    last.append(helper.make_node("Softmax", [scaled], ["probabilities"], PREFIX + "softmax", axis=1))
    nodes = _needed([*first, *graph.node, *last])
    inputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *request.preprocessing.shape])]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", len(request.labels)])
        for name in ("logits", "probabilities")
    ]
    taken = {name for node in nodes for name in node.input} | _taken_inside(nodes)
    weights = [tensor for tensor in (*graph.initializer, *constants) if tensor.name in taken]
    composed = helper.make_graph(nodes, request.name, inputs, outputs, weights)
    result = helper.make_model(composed, opset_imports=model.opset_import, ir_version=max(model.ir_version, 4))
    result.functions.extend(model.functions)
    return result


def _needed(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Leave out what leads to neither output, such as the file's own softmax, or the labels that it gives."""
    wanted, kept = {"logits", "probabilities"}, []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input) | _taken_inside([node])
    return kept[::-1]


def _taken_inside(nodes: list[onnx.NodeProto]) -> set[str]:
    """Name what branches and loops take from outside."""
    found: set[str] = set()
    for node in nodes:
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                found |= {name for inner in graph.node for name in inner.input} | _taken_inside(list(graph.node))
    return found


def _preprocessing(
    layout: str, rule: Preprocessing, pixels: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Give the nodes from `images` to the file's own input, and their constants, as `networks.Preprocess` has them."""
    scale = np.array([1 / (255 * std) for std in rule.std], np.float32)
    shift = np.array([mean / std for mean, std in zip(rule.mean, rule.std, strict=True)], np.float32)
    nodes, source = [], "images"
    if layout == "NCHW":
        scale, shift = scale.reshape(1, -1, 1, 1), shift.reshape(1, -1, 1, 1)
        nodes.append(helper.make_node("Transpose", [source], [PREFIX + "planes"], PREFIX + "planes", perm=[0, 3, 1, 2]))
        source = PREFIX + "planes"
    constants = [_constant("scale", scale), _constant("shift", shift)]
    last = PREFIX + "normalized" if layout == "flat" else pixels
    nodes += [
        helper.make_node("Cast", [source], [PREFIX + "floats"], PREFIX + "floats", to=TensorProto.FLOAT),
        helper.make_node("Mul", [PREFIX + "floats", PREFIX + "scale"], [PREFIX + "scaled_pixels"], PREFIX + "mul"),
        helper.make_node("Sub", [PREFIX + "scaled_pixels", PREFIX + "shift"], [last], PREFIX + "sub"),
    ]
    if layout == "flat":
        nodes.append(helper.make_node("Flatten", [last], [pixels], PREFIX + "flat", axis=1))
    return nodes, constants


def _constant(name: str, value: NDArray[Any]) -> onnx.TensorProto:
    return numpy_helper.from_array(value, PREFIX + name)


class Theirs:
    """The file itself, with a free batch axis, run on pixels that NumPy prepares."""

    def __init__(self, model: onnx.ModelProto, path: Path, ends: Ends, rule: Preprocessing) -> None:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        free_batch(copy)
        if ends.logits != ends.output:
            copy.graph.output.extend([helper.make_tensor_value_info(ends.logits, TensorProto.FLOAT, None)])
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModuleError(
                f"ONNX Runtime {onnxruntime.__version__} cannot open {path}: {first_line(error)}"
            ) from error
        self._path, self._ends, self._rule = path, ends, rule

    def logits(self, images: NDArray[np.uint8], factor: float = 1.0) -> NDArray[np.float64]:
        """Run uint8 images [N, H, W, C], all at once, their normalised pixels times a factor."""
        mean, std = np.array(self._rule.mean), np.array(self._rule.std)
        pixels = ((images / 255 - mean) / std * factor).astype(np.float32)
        if self._ends.layout == "NCHW":
            pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        elif self._ends.layout == "flat":
            pixels = pixels.reshape(len(pixels), -1)
        try:
            (found,) = self._session.run([self._ends.logits], {self._ends.input: pixels})
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModuleError(
                f"{self._path} cannot run {len(images)} images ({first_line(error)}); if its batch axis is fixed "
                f"inside, export it with a free one"
            ) from error
        result: NDArray[np.float64] = np.asarray(found, np.float64)
        return result

    def check(self, images: NDArray[np.uint8], together: NDArray[np.float64], classes: int) -> None:
        """Raise ModuleError where the output has another shape, or rows depend on each other."""
        if together.shape != (len(images), classes):
            raise ModuleError(
                f"for {len(images)} images {self._path} gives {list(together.shape)}, and with {classes} labels "
                f"{[len(images), classes]} is expected"
            )
        if not float(np.ptp(together, axis=0).max()) > LEAST_SPREAD * float(np.abs(together).max()):
            raise ParityError(
                f"{self._path} gives nearly the same for {len(images)} different images, so nothing can be proved by "
                f"them: give real images by --test, and the mean and deviation that it was trained with"
            )
        alone = np.concatenate([self.logits(image[None]) for image in images])
        difference, allowed = float(np.abs(alone - together).max()), RELATIVE_TOLERANCE * float(np.abs(together).max())
        if not difference <= allowed:
            raise ModuleError(
                f"what {self._path} gives for an image depends on the others in its batch (by {difference:.3g}), and a "
                f"server joins images of different callers; export it with independent rows"
            )

    def gives_probabilities(self, images: NDArray[np.uint8], found: NDArray[np.float64]) -> bool:
        """Tell whether it gives a softmax; raises ModuleError where it gives a sigmoid for each class."""
        if (found >= 0).all() and (np.abs(found.sum(1) - 1) < PROBABILITY_SUM).all():
            return True
        far = [self.logits(images, factor) for factor in (FAR, -FAR)]
        if all(((part >= 0) & (part <= 1)).all() for part in (found, *far)):
            raise ModuleError(SIGMOID.replace("the module", str(self._path)))
        return False


def free_batch(model: onnx.ModelProto) -> None:
    """Free the first axis of what goes in and comes out; shapes noted in between are left out."""
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    model.graph.ClearField("value_info")


def _ends(model: onnx.ModelProto, path: Path, request: Request, output: str) -> Ends:
    """Find input and output; raises ModuleError for what is no classifier of such images."""
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in held]
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        what = ", ".join(f"{value.name} ({_type(value)})" for value in inputs) or "none"
        raise ModuleError(f"{path} has the inputs {what}; one float32 tensor of images is expected")
    layout = _layout([dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim], path, request)
    name = _output(model, path, len(request.labels), output)
    return Ends(inputs[0].name, layout, name, _before_softmax(model, name))


def _layout(axes: list[int], path: Path, request: Request) -> str:
    height, width, channels = request.preprocessing.shape
    shapes = {
        "NCHW": (channels, height, width),
        "NHWC": (height, width, channels),
        "flat": (height * width * channels,),
    }
    for layout, shape in shapes.items():
        # An axis of length 0 is free.
        if len(axes) == 1 + len(shape) and all(axis in (0, side) for axis, side in zip(axes[1:], shape, strict=True)):
            return layout
    shown = ["batch", *(axis or "any" for axis in axes[1:])]
    known = " or ".join(str(list(shape)) for shape in shapes.values())
    raise ModuleError(
        f"{path} takes {shown}, and images of {height} x {width} x {channels} are {known} "
        f"behind the batch; give its size, and mean and std with a number for each channel"
    )


def _output(model: onnx.ModelProto, path: Path, classes: int, wanted: str) -> str:
    outputs = {value.name: value for value in model.graph.output}
    if wanted and wanted not in outputs:
        raise ModuleError(f"{path} has no output {wanted!r}; it has {', '.join(outputs)}")
    found = [name for name, value in outputs.items() if wanted in ("", name) and _may_be_classes(value, classes)]
    if len(found) == 1:
        return found[0]
    told = ", ".join(f"{name} ({_type(value)})" for name, value in outputs.items())
    remedy = "; name one by --output" if found else ""
    if "seq" in told:
        remedy = "; export it without ZipMap (skl2onnx: options={'zipmap': False})"
    raise ModuleError(
        f"{path} has {len(found) or 'no'} outputs of float32 [batch, {classes}], for {classes} labels, among {told}, "
        f"and one is expected{remedy}"
    )


def _may_be_classes(value: onnx.ValueInfoProto, classes: int) -> bool:
    """Tell whether an output is declared as float32 [batch, classes], or leaves its shape open."""
    tensor = value.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        return False
    axes = [dim.dim_value for dim in tensor.shape.dim]
    return not tensor.HasField("shape") or (len(axes) == 2 and axes[1] in (0, classes))


def _before_softmax(model: onnx.ModelProto, name: str) -> str:
    """Give the tensor that goes into the softmax at an end of a graph; the end itself where there is none."""
    nodes = {output: node for node in model.graph.node for output in node.output}
    place = name
    while place in nodes and nodes[place].op_type in PASSING:
        place = nodes[place].input[0]
    node = nodes.get(place)
    if node is not None and node.op_type == "Sigmoid":
        raise ModuleError(SIGMOID.replace("the module", "the file"))
    if node is None or node.op_type != "Softmax" or place != name:
        return name
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
    return node.input[0] if axis in (1, -1) else name


def _type(value: onnx.ValueInfoProto) -> str:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return str(kind).removesuffix("_type").replace("sequence", "seq")
    axes = [dim.dim_param or dim.dim_value or "any" for dim in value.type.tensor_type.shape.dim]
    return f"{TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()} {axes}".replace("'", "")


def _log(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    return result
