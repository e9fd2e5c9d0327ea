"""Small ONNX files of odd forms, for what the bundled classifiers do not have."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

LABELS = [f"class {index}" for index in range(10)]


def save(  # noqa: PLR0913, PLR0917 - the parts of an ONNX file
    folder: Path,
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
    metadata: dict[str, str] | None = None,
    *,
    version: int = 1,
    check: bool = True,
) -> Path:
    """Write ``folder/name/version/model.onnx``; ``check``: it must be as the standard wants it."""
    graph = helper.make_graph(list(nodes), name, list(inputs), list(outputs), list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if check:
        onnx.checker.check_model(model, full_check=True)
    path = folder / name / str(version) / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    write(model, metadata or {}, path)
    return path


def write(model: onnx.ModelProto, metadata: Mapping[str, str], path: Path) -> None:
    """Write the model with this metadata, and with the hashes of all of it where its format has them."""
    entries = {key: value for key, value in metadata.items() if key != "convserve.sha256"}
    del model.metadata_props[:]
    if entries.get("convserve.format") == "2":
        entries["convserve.sha256"] = json.dumps(hashes(model, entries, path.parent))
    helper.set_model_props(model, entries)
    path.write_bytes(model.SerializeToString(deterministic=True))


def hashes(model: onnx.ModelProto, entries: Mapping[str, str], folder: Path) -> dict[str, object]:
    """SHA-256 of a model without metadata, of its external data in the folder, and of its entries (file-format.md)."""
    external = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    names = {entry.value for entry in external if entry.key == "location"}
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    return {
        "model": hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(),
        "files": files,
        "entries": {
            key: hashlib.sha256(value.encode()).hexdigest()
            for key, value in entries.items()
            if key.startswith("convserve.")
        },
    }


def value(name: str, element: int, shape: Sequence[str | int] | None) -> onnx.ValueInfoProto:
    """One input or output; axes that are strings are free, and without a shape any rank is."""
    return helper.make_tensor_value_info(name, element, None if shape is None else list(shape))


def identity(folder: Path, name: str, element: int, shape: Sequence[str | int] | None = ("batch", 2)) -> Path:
    """``y = x`` in any datatype."""
    return save(
        folder,
        name,
        [helper.make_node("Identity", ["x"], ["y"])],
        [value("x", element, shape)],
        [value("y", element, shape)],
        check=shape is not None,
    )


def save_identity(folder: Path, name: str, version: int, offset: float = 0.0) -> Path:
    """``y = x + offset``, FP32 [batch, 2]."""
    return save(
        folder,
        name,
        [helper.make_node("Add", ["x", "offset"], ["y"])],
        [value("x", TensorProto.FLOAT, ("batch", 2))],
        [value("y", TensorProto.FLOAT, ("batch", 2))],
        [numpy_helper.from_array(np.array(offset, np.float32), "offset")],
        version=version,
    )


def allocating(folder: Path, name: str, elements: int) -> Path:
    """``y = x + max(zeros)``, FP32 [batch, 2], of so many zeros that are made when it is opened."""
    return save(
        folder,
        name,
        [
            helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
            helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
            helper.make_node("Add", ["x", "zero"], ["y"]),
        ],
        [value("x", TensorProto.FLOAT, ("batch", 2))],
        [value("y", TensorProto.FLOAT, ("batch", 2))],
        [numpy_helper.from_array(np.array([elements]), "shape")],
    )


def two_inputs(folder: Path, name: str = "sum") -> Path:
    """``total = left + right`` and ``difference = left - right``, FP32 [batch, 16]."""
    return save(
        folder,
        name,
        [
            helper.make_node("Add", ["left", "right"], ["total"]),
            helper.make_node("Sub", ["left", "right"], ["difference"]),
        ],
        [value("left", TensorProto.FLOAT, ["batch", 16]), value("right", TensorProto.FLOAT, ["batch", 16])],
        [value("total", TensorProto.FLOAT, ["batch", 16]), value("difference", TensorProto.FLOAT, ["batch", 16])],
    )


def named_axes(folder: Path, name: str = "two-axes") -> Path:
    """``y = table[ids] * mask`` of a table of ten rows: INT64 [batch, length] both, for an index of 0…9."""
    return save(
        folder,
        name,
        [
            helper.make_node("Gather", ["table", "ids"], ["picked"]),
            helper.make_node("Cast", ["mask"], ["factor"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["picked", "factor"], ["y"]),
        ],
        [value(input_, TensorProto.INT64, ["batch", "length"]) for input_ in ("ids", "mask")],
        [value("y", TensorProto.FLOAT, ["batch", "length"])],
        [numpy_helper.from_array(np.arange(10, dtype=np.float32), "table")],
    )


def halves(folder: Path, name: str = "halves") -> Path:
    """``y`` is ``x`` [batch, width] as two rows of half its width: fails for an odd width, and for none."""
    return save(
        folder,
        name,
        [helper.make_node("Reshape", ["x", "shape"], ["y"], name="in two")],
        [value("x", TensorProto.FLOAT, ["batch", "width"])],
        [value("y", TensorProto.FLOAT, [2, "half"])],
        [numpy_helper.from_array(np.array([2, -1]), "shape")],
    )


def appended(folder: Path, name: str, *, past_needed: bool) -> Path:
    """``y = past | x``, FP32 [batch, any length]; ``past_needed``: fails where there is no past."""
    largest = [helper.make_node("TopK", ["past", "one"], ["largest", "place"])] if past_needed else []
    return save(
        folder,
        name,
        [helper.make_node("Concat", ["past", "x"], ["y"], axis=1), *largest],
        [value("past", TensorProto.FLOAT, ["batch", "before"]), value("x", TensorProto.FLOAT, ["batch", "length"])],
        [
            value("y", TensorProto.FLOAT, ["batch", "all"]),
            *([value("largest", TensorProto.FLOAT, ["batch", 1])] if past_needed else []),
        ],
        [numpy_helper.from_array(np.array([1]), "one")] if past_needed else [],
    )


def channels_first(folder: Path, name: str = "channels-first-classes") -> Path:
    """A labelled classifier as others make them: FP32 [batch, 3, 8, 8] to ten scores."""
    weights = np.random.default_rng(0).normal(size=(192, 10)).astype(np.float32)
    return save(
        folder,
        name,
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "weights"], ["y"])],
        [value("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [value("y", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(weights, "weights")],
        {"convserve.format": "1", "convserve.labels": json.dumps(LABELS)},
    )


def unbatched(folder: Path, name: str = "fixed") -> Path:
    """``y = 2 x``, FP32 [3]: no batch axis."""
    return save(
        folder,
        name,
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [value("x", TensorProto.FLOAT, [3])],
        [value("y", TensorProto.FLOAT, [3])],
    )


def reducing(folder: Path, name: str = "mean") -> Path:
    """Free axes, yet no batch axis: the output is the mean over all rows, whatever it declares."""
    return save(
        folder,
        name,
        [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1)],
        [value("x", TensorProto.FLOAT, ["batch", 2])],
        [value("y", TensorProto.FLOAT, ["rows", 2])],
        [numpy_helper.from_array(np.array([0]), "axes")],
    )


def loop_body(side: int) -> onnx.GraphProto:
    """The body of a Loop: one product of a matrix [side, side] with ``rotation`` of the graph around it."""
    return helper.make_graph(
        [
            helper.make_node("MatMul", ["matrix_in", "rotation"], ["matrix_out"]),
            helper.make_node("Identity", ["go_on_in"], ["go_on_out"]),
        ],
        "body",
        [
            value("step", TensorProto.INT64, []),
            value("go_on_in", TensorProto.BOOL, []),
            value("matrix_in", TensorProto.FLOAT, [side, side]),
        ],
        [value("go_on_out", TensorProto.BOOL, []), value("matrix_out", TensorProto.FLOAT, [side, side])],
    )


def laborious(folder: Path, name: str = "laborious") -> Path:
    """``value = table[index]``: fails for an index outside 0…9, and first does ``work`` matrix products.

    index, work: INT64 [batch]; value: FP32 [batch]. A run does the largest ``work`` of its rows.
    """
    body = loop_body(512)
    return save(
        folder,
        name,
        [
            helper.make_node("ReduceMax", ["work"], ["steps"], keepdims=0),
            helper.make_node("Loop", ["steps", "", "rotation"], ["matrix"], body=body),
            helper.make_node("ReduceMax", ["matrix"], ["largest"], keepdims=0),
            helper.make_node("Mul", ["largest", "nothing"], ["zero"]),
            helper.make_node("Gather", ["table", "index"], ["picked"]),
            helper.make_node("Add", ["picked", "zero"], ["value"]),
        ],
        [value("index", TensorProto.INT64, ["batch"]), value("work", TensorProto.INT64, ["batch"])],
        [value("value", TensorProto.FLOAT, ["batch"])],
        [
            numpy_helper.from_array(np.eye(512, dtype=np.float32), "rotation"),
            numpy_helper.from_array(np.array(0, np.float32), "nothing"),
            numpy_helper.from_array(np.arange(10, dtype=np.float32) * 10, "table"),
        ],
    )


def endless(folder: Path, name: str) -> Path:
    """Echoes ``x``, FP32 [batch, length], after 10^12 matrix products: the run at its load never ends."""
    body = loop_body(64)
    return save(
        folder,
        name,
        [
            helper.make_node("Loop", ["steps", "", "rotation"], ["matrix"], body=body),
            helper.make_node("ReduceMin", ["matrix"], ["least"], keepdims=0),
            helper.make_node("Add", ["x", "least"], ["y"]),
        ],
        [value("x", TensorProto.FLOAT, ["batch", "length"])],
        [value("y", TensorProto.FLOAT, ["batch", "length"])],
        [
            numpy_helper.from_array(np.eye(64, dtype=np.float32), "rotation"),
            numpy_helper.from_array(np.array(10**12), "steps"),
        ],
    )


def classifier(  # noqa: PLR0913 - what a classifier may state, each by name
    folder: Path,
    name: str = "linear",
    *,
    channels: int = 1,
    size: int = 8,
    version: int = 1,
    shift: float = 0.0,
    probe_tolerance: float | None = 1e-4,
    labels: Sequence[str] = LABELS,
) -> Path:
    """A linear image classifier with the whole contract; ``shift`` moves its logits away from its probe's."""
    generator = np.random.default_rng(size)
    weights = generator.normal(size=(size * size * channels, 10)).astype(np.float32) / 1000
    images = generator.integers(0, 256, (4, size, size, channels), dtype=np.uint8)
    logits = (images.reshape(4, -1).astype(np.float32) @ weights).astype(np.float32)
    metadata = {
        "convserve.format": "2",
        "convserve.labels": json.dumps(list(labels)),
        "convserve.dataset": "random",
        "convserve.test_accuracy": "0.5",
        "convserve.parameters": str(weights.size),
        "convserve.precision": "fp32",
    }
    if probe_tolerance is not None:
        metadata["convserve.probe"] = probe(images, logits, probe_tolerance)
    return save(
        folder,
        name,
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["floats"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["products"]),
            helper.make_node("Add", ["products", "shift"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"]),
        ],
        [value("images", TensorProto.UINT8, ["batch", size, size, channels])],
        [value("logits", TensorProto.FLOAT, ["batch", 10]), value("probabilities", TensorProto.FLOAT, ["batch", 10])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([shift], dtype=np.float32), "shift"),
        ],
        metadata,
        version=version,
    )


def probe(images: NDArray[np.uint8], logits: NDArray[np.float32], tolerance: float) -> str:
    """The probe entry of the metadata."""
    return json.dumps(
        {
            "images": {
                "datatype": "uint8",
                "shape": images.shape,
                "data": base64.b64encode(images.tobytes()).decode(),
            },
            "logits": {
                "datatype": "float32",
                "shape": logits.shape,
                "data": base64.b64encode(logits.astype("<f4").tobytes()).decode(),
            },
            "tolerance": tolerance,
        }
    )
