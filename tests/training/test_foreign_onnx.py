"""Somebody else's ONNX file becomes a proved image classifier; what cannot become one is a sentence."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from service.client import Classification, Client
from tests.servers import ServerProcess
from training import onnx_file
from training.data import Dataset
from training.evaluate import OnnxFile
from training.export import main
from training.inspect import inspect

LABELS = ("ant", "bee", "cat")
SIDE = 12
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def keras_like(
    path: Path, *ends: str, batch: str | int = "N", opset: int = 15, ir_version: int = 8, classes: int = 3
) -> Path:
    """An NHWC graph as tf2onnx writes Keras's: transposed inside, global mean, dense layer, and `ends`."""
    draw = np.random.default_rng(0)
    weights = {
        "kernel": draw.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "dense": draw.normal(size=(8, classes)).astype(np.float32) * 3,
        "bias": draw.normal(size=classes).astype(np.float32),
    }
    nodes = [
        helper.make_node("Transpose", ["input_1"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("ReduceMean", ["positive"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "dense"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["end0"]),
    ]
    for place, end in enumerate(ends):
        axis: dict[str, Any] = {"axis": 0 if end == "batch" else -1} if end in ("Softmax", "batch") else {}
        nodes.append(helper.make_node(end.replace("batch", "Softmax"), [f"end{place}"], [f"end{place + 1}"], **axis))
    inputs = [helper.make_tensor_value_info("input_1", TensorProto.FLOAT, [batch, SIDE, SIDE, 3])]
    outputs = [helper.make_tensor_value_info(f"end{len(ends)}", TensorProto.FLOAT, [batch, classes])]
    held = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "model_1", inputs, outputs, held)
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name="tf2onnx"), path)
    return path


def line(folder: Path, file: Path, *more: str, labels: Sequence[str] = LABELS) -> list[str]:
    """A command line for a file of three channels."""
    (folder / "labels.txt").write_text("\n".join(labels), encoding="utf-8")
    numbers = [f"--mean={','.join(map(str, MEAN))}", f"--std={','.join(map(str, STD))}"]
    places = ["--models-dir", str(folder / "models"), "--labels", str(folder / "labels.txt"), "--name", "theirs"]
    return ["--onnx", str(file), "--size", str(SIDE), *numbers, *places, *more]


def by_hand(folder: Path, name: str) -> NDArray[np.float32]:
    """What onnx's own evaluator gives for the images of `shown`, prepared by NumPy."""
    from onnx.reference import ReferenceEvaluator

    pixels = ((shown(SIDE) / 255 - MEAN) / STD).astype(np.float32)
    (found,) = ReferenceEvaluator(str(folder / name)).run(None, {"input_1": pixels})
    return np.asarray(found, np.float32)


def shown(side: int, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (6, side, side, channels), dtype=np.uint8)


@pytest.mark.parametrize("batch", ["N", 1], ids=["free", "fixed-at-one"])
def test_keras_file_is_served(batch: str | int, tmp_path: Path) -> None:
    """An NHWC file with a softmax of its own gives the same probabilities, and its logits, on images."""
    file = keras_like(tmp_path / "keras.onnx", "Softmax", batch=batch)
    assert main(line(tmp_path, file)) == 0
    path = tmp_path / "models" / "theirs" / "1" / "model.onnx"
    assert inspect(path)["problems"] == []
    metadata = onnx_file.read_metadata(path)
    assert (metadata["network"], metadata["architecture"]) == ("model_1", "ONNX file of tf2onnx")
    expected = by_hand(tmp_path, "keras.onnx")
    logits, probabilities = OnnxFile(path).run(shown(SIDE))
    assert probabilities == pytest.approx(expected, abs=1e-5)
    assert np.ptp(logits, axis=1).max() > 1
    with ServerProcess(tmp_path / "models", "--require-probe") as server, Client(server.address) as client:
        for image, row in zip(shown(SIDE), expected, strict=True):
            (result,) = client.classify([Image.fromarray(image)], model="theirs", top_k=3)
            assert isinstance(result, Classification)
            given = {best.label: best.probability for best in result.classes}
            assert [given[label] for label in LABELS] == pytest.approx(row.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LogisticRegression(max_iter=50),
        lambda: MLPClassifier((16,), max_iter=30, random_state=0),
        lambda: RandomForestClassifier(10, random_state=0),
    ],
    ids=["logistic", "perceptron", "forest"],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learn_file_is_served(make: Callable[[], LogisticRegression], mnist: Dataset, tmp_path: Path) -> None:
    """A classifier of flat pixels, with its labels as a second output, gives scikit-learn's probabilities."""
    pixels = mnist.train_images[:600].reshape(600, -1).numpy().astype(np.float32) / 255
    fitted = make().fit(pixels, mnist.train_labels[:600].numpy())
    theirs = to_onnx(fitted, pixels[:1], options={"zipmap": False}, target_opset=15)
    (tmp_path / "sk.onnx").write_bytes(theirs.SerializeToString())
    (tmp_path / "labels.txt").write_text("\n".join("0123456789"))
    places = ["--models-dir", str(tmp_path / "models"), "--labels", str(tmp_path / "labels.txt")]
    given = ["--onnx", str(tmp_path / "sk.onnx"), "--size", "28", "--mean", "0", "--std", "1", *places]
    test = tmp_path / "pictures"
    for place, (image, label) in enumerate(zip(mnist.test_images[:20], mnist.test_labels[:20], strict=True)):
        (test / str(int(label))).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:, :, 0].numpy()).save(test / str(int(label)) / f"{place}.png")
    assert main([*given, "--test", str(test), "--no-report"]) == 0
    path = tmp_path / "models" / "sk" / "1" / "model.onnx"
    images = mnist.test_images[:20]
    expected = fitted.predict_proba(images.reshape(20, -1).numpy() / 255)
    _, probabilities = OnnxFile(path).run(images.numpy())
    assert probabilities == pytest.approx(expected, abs=1e-4)
    correct = int((expected.argmax(1) == mnist.test_labels[:20].numpy()).sum())
    assert onnx_file.read_metadata(path)["test_correct"] == str(correct)


def zip_map(folder: Path) -> Path:
    pixels = np.random.default_rng(0).random((30, SIDE * SIDE * 3), np.float32)
    fitted = LogisticRegression().fit(pixels, np.arange(30) % 3)
    file = folder / "zip.onnx"
    file.write_bytes(to_onnx(fitted, pixels[:1], target_opset=15).SerializeToString())
    return file


def unreadable(folder: Path) -> Path:
    (folder / "text.onnx").write_text("no model at all")
    return folder / "text.onnx"


REFUSALS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "sigmoid": (lambda folder: keras_like(folder / "k.onnx", "Sigmoid"), "as for images with several labels"),
    "softmax over the batch": (
        lambda folder: keras_like(folder / "k.onnx", "batch"),
        "depends on the others in its batch",
    ),
    "old opset": (lambda folder: keras_like(folder / "k.onnx", opset=6), "is of opset 6, and 7 to"),
    "future opset": (lambda folder: keras_like(folder / "k.onnx", opset=99), "is of opset 99, and 7 to"),
    "future IR": (lambda folder: keras_like(folder / "k.onnx", ir_version=99), "IR version"),
    "other labels": (lambda folder: keras_like(folder / "k.onnx", classes=4), "has no outputs of float32 [batch, 3]"),
    "zip map": (zip_map, "export it without ZipMap"),
    "no file": (lambda folder: folder / "none.onnx", "there is no file"),
    "no model": (unreadable, "cannot be read as an ONNX file"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_unsuitable_file_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence names the fault, and nothing is put in place."""
    make, sentence = REFUSALS[name]
    assert main(line(tmp_path, make(tmp_path))) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_other_size_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An input that is not of the size given names what it takes."""
    assert main([*line(tmp_path, keras_like(tmp_path / "k.onnx")), "--size", "14"]) == 1
    assert f"takes ['batch', {SIDE}, {SIDE}, 3], and images of 14 x 14 x 3" in capsys.readouterr().err
