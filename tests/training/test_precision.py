"""A file of another precision keeps the contract, stays within the limits it states, and is refused where it cannot."""

import dataclasses
import json
import logging
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from torch import nn

from service.errors import ModelRejected
from service.providers import choose
from service.session import Session
from tests.servers import ServerProcess
from tests.wire import infer, infer_request
from training import onnx_file, parity, pixels
from training.data import Dataset
from training.errors import ModelFileError, ParityError
from training.evaluate import OnnxFile, Outputs, count_correct, outputs_of_onnx
from training.networks import NETWORKS, Classifier, Preprocess
from training.publication import publish, publish_variant
from training.recipes import RECIPES
from training.train import Training, train

from .samples import CPU, part, shipped

Precision = Literal["int8", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("int8", "fp16")
# One is trained here for a few seconds, and two are shipped.
NAMES = ("mnist-tiny", "mnist-deep", "cifar10-cnn")
RECIPE = dataclasses.replace(RECIPES["mnist-tiny"], epochs=2, validation=1_000)


@pytest.fixture(scope="module")
def training(mnist: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A mnist-tiny that has seen 11,000 images twice."""
    return train(RECIPE, part(mnist, 12_000, 0), CPU, tmp_path_factory.mktemp("tiny") / "tiny.pt", Console(quiet=True))


@pytest.fixture(scope="module")
def tiny(training: Training, mnist: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its float32 file, in a models folder."""
    path = tmp_path_factory.mktemp("models") / "mnist-tiny" / "1" / "model.onnx"
    publish(RECIPE, training, part(mnist, 12_000, 2_000), path)
    return path


@dataclasses.dataclass(frozen=True)
class Pair:
    """A float32 file, the variant made from it, and what both give for the test images."""

    fp32: Path
    path: Path
    facts: dict[str, str]
    data: Dataset
    expected: Outputs
    found: Outputs

    @property
    def tolerance(self) -> float:
        return float(json.loads(self.facts["probe"])["tolerance"])


@pytest.fixture(scope="module", params=[(name, precision) for name in NAMES for precision in PRECISIONS], ids="-".join)
def pair(
    request: pytest.FixtureRequest,
    tiny: Path,
    mnist: Dataset,
    cifar10: Dataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> Pair:
    """Every network with every precision."""
    name, precision = request.param
    fp32 = tiny if name == "mnist-tiny" else shipped(name)
    data = part(mnist, 12_000, 2_000) if name.startswith("mnist") else cifar10
    path = tmp_path_factory.mktemp("variants") / f"{name}-{precision}" / "1" / "model.onnx"
    facts = publish_variant(precision, data, fp32, path)
    return Pair(fp32, path, facts, data, outputs(fp32, data.test_images), outputs(path, data.test_images))


def signature(path: Path) -> list[tuple[str, int, list[str | int]]]:
    """Name, type and shape of a file's input and outputs."""
    graph = onnx.load(path).graph
    return [
        (v.name, v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in (*graph.input, *graph.output)
    ]


def outputs(path: Path, images: torch.Tensor) -> Outputs:
    return outputs_of_onnx(OnnxFile(path), images)


def test_what_goes_in_and_comes_out_is_that_of_the_float32_file(pair: Pair) -> None:
    onnx.checker.check_model(onnx.load(pair.path), full_check=True)
    assert signature(pair.path) == signature(pair.fp32)
    assert [name for name, *_ in signature(pair.path)] == ["images", "logits", "probabilities"]
    assert [kind for _, kind, _ in signature(pair.path)] == [TensorProto.UINT8, TensorProto.FLOAT, TensorProto.FLOAT]


def test_its_facts_are_those_of_the_float32_file_and_its_own(pair: Pair) -> None:
    facts, fp32 = onnx_file.read_metadata(pair.path), onnx_file.read_metadata(pair.fp32)
    assert facts == pair.facts
    precision = facts["precision"]
    assert precision in PRECISIONS
    assert (facts["name"], facts["variant_of"]) == (f"{fp32['name']}-{precision}", fp32["name"])
    same = ("format", "labels", "dataset", "network", "architecture", "parameters", "recipe", "seed", "history")
    assert {key: facts[key] for key in (*same, "temperature")} == {key: fp32[key] for key in (*same, "temperature")}
    assert facts["versions"] == onnx_file.versions()
    assert facts.keys() - fp32.keys() == {"variant_of", "fp32_test_correct", "agreement"}
    probe, reference = json.loads(facts["probe"]), json.loads(fp32["probe"])
    assert (probe["images"], probe["logits"]) == (reference["images"], reference["logits"])
    assert probe["tolerance"] > reference["tolerance"] == onnx_file.TOLERANCE


def test_it_stays_within_its_limits_on_2000_test_images(pair: Pair) -> None:
    differences = np.abs(pair.found.logits - pair.expected.logits).max(1)[:2_000]
    assert differences.max() > onnx_file.TOLERANCE  # it is another precision indeed
    assert (differences > pair.tolerance).sum() <= 2_000 * parity.OUTLIERS
    scaled = pair.found.logits.astype(np.float64) / float(pair.facts["temperature"])
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    np.testing.assert_allclose(pair.found.probabilities, powers / powers.sum(1, keepdims=True), rtol=0, atol=1e-6)


def test_its_measured_facts_are_counted_on_the_file_and_it_loses_a_fifth_of_a_point_at_most(pair: Pair) -> None:
    labels, images = pair.data.test_labels, len(pair.data.test_labels)
    correct, fp32_correct = count_correct(pair.found.answers, labels), count_correct(pair.expected.answers, labels)
    assert (pair.facts["test_correct"], pair.facts["test_images"]) == (str(correct), str(images))
    assert pair.facts["fp32_test_correct"] == str(fp32_correct)
    assert pair.facts["test_accuracy"] == f"{correct / images:.4f}"
    assert pair.facts["agreement"] == f"{(pair.found.answers == pair.expected.answers).mean():.4f}"
    assert fp32_correct - correct <= 0.002 * images


def test_rows_do_not_depend_on_their_batch(pair: Pair) -> None:
    images = pair.data.test_images[:64].numpy()
    file = OnnxFile(pair.path)
    together, _ = file.run(images)
    limit = onnx_file.TOLERANCE if pair.facts["precision"] == "int8" else pair.tolerance  # integers know no rounding
    for rows in (1, 2, 7, 33):
        np.testing.assert_allclose(file.run(images[:rows])[0], together[:rows], rtol=0, atol=limit)


def test_the_service_opens_it_and_its_probe_passes(pair: Pair) -> None:
    session = Session(pair.path, choose(["cpu"]), threads=2, max_batch_rows=64)
    assert session.spec.is_image_classifier
    assert session.card.precision == pair.facts["precision"]
    assert session.probe_deviation is not None
    assert onnx_file.TOLERANCE < session.probe_deviation <= pair.tolerance


def test_its_tolerance_still_tells_a_damaged_file(pair: Pair, tmp_path: Path) -> None:
    """The weights of its first convolution are turned upside down."""
    model = onnx.load(pair.path)
    weights = next(t for t in model.graph.initializer if "conv" in t.name and len(t.dims) == 4)
    weights.CopyFrom(numpy_helper.from_array(np.flip(numpy_helper.to_array(weights), 2).copy(), weights.name))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ModelRejected, match="the file's own probe fails here"):
        Session(tmp_path / "model.onnx", choose(["cpu"]), threads=2, max_batch_rows=64)


def optimised(path: Path, folder: Path) -> list[str]:
    """The operators that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3  # it warns that such a file fits this processor alone
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]


@pytest.mark.parametrize("pair", [(name, "int8") for name in NAMES], indirect=True, ids="-".join)
def test_int8_runs_in_int8(pair: Pair, tmp_path: Path) -> None:
    """All convolutions, straight from the pixels, with weights in 7 bits; only the last layer is float32."""
    operators = optimised(pair.path, tmp_path)
    convolutions = [node.op_type for node in onnx.load(pair.fp32).graph.node].count("Conv")
    assert operators.count("QLinearConv") == convolutions
    assert not {"Conv", "Cast", "Mul", "Sub", "QuantizeLinear"} & set(operators)
    assert (operators.count("DequantizeLinear"), operators.count("Gemm")) == (1, 1)
    held = [numpy_helper.to_array(t) for t in onnx.load(pair.path).graph.initializer if t.data_type == TensorProto.INT8]
    weights = [array for array in held if array.ndim > 1]
    assert len(weights) >= convolutions
    assert all(np.abs(array.astype(int)).max() == 64 for array in weights)


@pytest.mark.parametrize("pair", [(name, "fp16") for name in NAMES], indirect=True, ids="-".join)
def test_fp16_holds_its_hidden_layers_in_float16(pair: Pair) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(pair.path), strict_mode=True)
    nodes = list(model.graph.node)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    casts = [place for place, node in enumerate(nodes) if node.op_type == "Cast"]
    assert len(casts) == 3  # from uint8, to float16, and back
    half, whole = TensorProto.FLOAT16, TensorProto.FLOAT
    hidden = [name for node in nodes[casts[1] + 1 : casts[2]] for name in node.input]
    assert {types[name] for name in hidden} - {TensorProto.INT64} == {half}
    others = [name for node in (*nodes[casts[0] + 1 : casts[1]], *nodes[casts[2] + 1 :]) for name in node.input]
    assert {types.get(name, whole) for name in others} == {whole}
    assert [node.op_type for node in nodes[casts[2] + 1 :]][:1] == ["Gemm"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_file_gives_the_same_bytes_in_silence_and_leaves_nothing_else(
    precision: Precision,
    tiny: Path,
    mnist: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.chdir(scratch)
    handlers = list(logging.getLogger().handlers)
    for attempt in ("one", "two"):
        publish_variant(precision, part(mnist, 12_000, 500), tiny, tmp_path / attempt)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["one", "scratch", "two"]
    assert list(scratch.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert logging.getLogger().handlers == handlers


def test_test_images_have_no_part_in_the_file(tiny: Path, mnist: Dataset, tmp_path: Path) -> None:
    """Other test images, other figures, the same weights."""
    for name, first in (("one", 0), ("two", 500)):
        data = dataclasses.replace(
            part(mnist, 12_000, 0),
            test_images=mnist.test_images[first : first + 500],
            test_labels=mnist.test_labels[first : first + 500],
        )
        publish_variant("int8", data, tiny, tmp_path / name)
    one, two = (onnx.load(tmp_path / name) for name in ("one", "two"))
    assert one.graph == two.graph
    assert one != two


def test_a_small_data_set_will_do(tiny: Path, mnist: Dataset, tmp_path: Path) -> None:
    """Of 400 training images, half tell the tolerance; batches are filled up from 100 test images."""
    data = part(mnist, 400, 100)
    data = dataclasses.replace(data, validation_images=data.train_images[:40], validation_labels=data.train_labels[:40])
    facts = publish_variant("int8", data, tiny, tmp_path / "model.onnx")
    assert facts["test_images"] == "100"


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.0,), (1.0,)),
        ((0.1307,), (0.3081,)),
        ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ((0.1, 1.0, 0.5), (0.2, 0.5, 1.0)),
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    ],
)
def test_pixels_folded_into_the_first_convolution_leave_the_function_as_it_was(
    mean: tuple[float, ...], std: tuple[float, ...], padding: int, mnist: Dataset, cifar10: Dataset, tmp_path: Path
) -> None:
    """At the edges too, where padding is no channel's mean."""
    torch.manual_seed(0)
    images = (mnist if len(mean) == 1 else cifar10).test_images[:20].clone()
    images[0], images[1] = 0, 255
    height, width, channels = images.shape[1:]
    side = (height + 2 * padding - 5) // 2 + 1
    network = nn.Sequential(
        nn.Conv2d(channels, 6, 5, stride=2, padding=padding), nn.ReLU(), nn.Flatten(), nn.Linear(6 * side * side, 10)
    )
    model = onnx_file.build(Classifier(Preprocess(mean, std), network, 1.5), (height, width, channels))
    folded = pixels.fold(model)
    onnx.checker.check_model(folded, full_check=True)
    onnx.save(model, tmp_path / "fp32.onnx")
    onnx.save(folded, tmp_path / "folded.onnx")
    found, expected = (outputs(tmp_path / name, images).logits for name in ("folded.onnx", "fp32.onnx"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.ptp(expected, axis=0).min() > 0.01  # every logit depends on the image


def stretched(training: Training, images: torch.Tensor, factor: float) -> Training:
    """Give a network that computes the same, with its most active channel made larger, and its next weights smaller."""
    conv, linear = training.network.get_submodule("conv"), training.network.get_submodule("linear")
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(linear, nn.Linear)
    with torch.inference_mode():
        active = conv(Preprocess(RECIPE.mean, RECIPE.std)(images)).relu().mean((0, 2, 3)).argmax()
    network = NETWORKS["mnist-tiny"].build()
    state = {key: value.clone() for key, value in training.network.state_dict().items()}
    state["conv.weight"][active] *= factor
    state["conv.bias"][active] *= factor
    state["linear.weight"].view(10, 8, 13 * 13)[:, active] /= factor
    network.load_state_dict(state)
    return Training(network.eval(), training.history)


@pytest.mark.parametrize(
    ("precision", "factor", "sentence"),
    [
        (
            "int8",
            2.0**12,
            r"mnist-tiny-int8: [\d,]+ of 2,000 test .* by fp32 1,\d+: \d+\.\d\d% are lost, and 0\.20% are",
        ),
        ("fp16", 2.0**20, r"mnist-tiny-fp16: not all logits are finite .* holds \(in fp16 up to 65,504"),
    ],
    ids=PRECISIONS,
)
def test_a_network_that_a_precision_cannot_hold_is_refused(
    precision: Precision, factor: float, sentence: str, training: Training, mnist: Dataset, tmp_path: Path
) -> None:
    """One channel thousands of times as large as the others leaves them no int8 steps, and float16 no number."""
    data, fp32 = part(mnist, 12_000, 2_000), tmp_path / "mnist-tiny" / "1" / "model.onnx"
    publish(RECIPE, stretched(training, mnist.train_images[:100], factor), data, fp32)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ParityError, match=sentence):
        publish_variant(precision, data, fp32, tmp_path / f"mnist-tiny-{precision}" / "1" / "model.onnx")
    assert sorted(tmp_path.rglob("*")) == before


def test_ranges_from_images_that_are_all_alike_are_refused_and_the_file_before_is_kept(
    tiny: Path, mnist: Dataset, tmp_path: Path
) -> None:
    path, data = tmp_path / "model.onnx", part(mnist, 12_000, 2_000)
    publish_variant("int8", data, tiny, path)
    content = path.read_bytes()
    black = dataclasses.replace(data, train_images=torch.zeros_like(data.train_images))
    with pytest.raises(ParityError, match="mnist-tiny-int8: the logits of 2,000 of 2,000 test images differ"):
        publish_variant("int8", black, tiny, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == content


def limits(correct: int, of: int, fp32: int) -> None:
    parity.check_accuracy("a", correct, fp32, of)


def test_a_fifth_of_a_point_may_be_lost_and_in_small_sets_one_image() -> None:
    limits(9_480, 10_000, 9_500)
    limits(9_900, 10_000, 9_500)
    limits(99, 100, 100)
    with pytest.raises(ParityError, match=r"a: 9,479 of 10,000 test .* fp32 9,500: 0\.21% are lost, and 0\.20% are"):
        limits(9_479, 10_000, 9_500)
    with pytest.raises(ParityError, match=r"a: 98 of 100"):
        limits(98, 100, 100)


def made(logits: NDArray[np.float32]) -> Outputs:
    return Outputs(logits, logits)


def test_logits_may_leave_the_tolerance_for_one_image_or_one_in_a_thousand() -> None:
    fp32, variant = np.zeros((3_000, 10), np.float32), np.full((3_000, 10), 0.5, np.float32)
    variant[:3, 7] = 9
    parity.check_variant("a", made(variant), made(fp32), 0.5)
    parity.check_variant("a", made(variant[2:100]), made(fp32[2:100]), 0.5)
    with pytest.raises(ParityError, match=r"the logits of 2 of 99 test images differ from fp32's by more than 0\.5"):
        parity.check_variant("a", made(variant[1:100]), made(fp32[1:100]), 0.5)
    variant[3, 0] = np.nan
    with pytest.raises(ParityError, match="the logits of 4 of 3,000 test images"):
        parity.check_variant("a", made(variant), made(fp32), 0.5)


def file_of(nodes: list[Any], path: Path, fp32: Path) -> Path:
    """A file with the facts of another and a graph that may be no classifier."""
    image = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 28, 28, 1])
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 10]) for n in ("logits", "probabilities")]
    constants = [
        numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "one"),
        numpy_helper.from_array(np.array([0, 784], np.int64), "flat"),
        numpy_helper.from_array(np.ones((784, 10), np.float32), "weights"),
    ]
    graph = helper.make_graph(nodes, "g", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx_file.write(model, onnx_file.read_metadata(fp32), path)
    return path


@pytest.mark.parametrize(
    ("first", "sentence"),
    [
        ([], "the graph of mnist-tiny is not one that this program exported, so it can be given no other precision"),
        (
            [
                helper.make_node("Mul", ["float", "one"], ["scaled"]),
                helper.make_node("Sub", ["scaled", "one"], ["float2"]),
            ],
            "mnist-tiny does not begin with one convolution, so there is no int8 form of it",
        ),
    ],
    ids=["other preprocessing", "no convolution"],
)
def test_a_graph_that_int8_does_not_know_is_refused(
    first: list[onnx.NodeProto], sentence: str, tiny: Path, mnist: Dataset, tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["float"], to=TensorProto.FLOAT),
        *first,
        helper.make_node("Reshape", ["float2" if first else "float", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    fp32 = file_of(nodes, tmp_path / "model.onnx", tiny)
    with pytest.raises(ModelFileError, match=sentence):
        publish_variant("int8", part(mnist, 12_000, 100), fp32, tmp_path / "int8" / "model.onnx")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_all_precisions_are_served_side_by_side(tiny: Path, mnist: Dataset, tmp_path: Path) -> None:
    """By the real server, bit for bit as the files compute."""
    (tmp_path / "mnist-tiny").symlink_to(tiny.parents[1])
    for precision in PRECISIONS:
        path = tmp_path / f"mnist-tiny-{precision}" / "1" / "model.onnx"
        publish_variant(precision, part(mnist, 12_000, 2_000), tiny, path)
    images = mnist.test_images[:8]
    with ServerProcess(tmp_path, "--threads", "2") as server:
        for name in ("mnist-tiny", "mnist-tiny-int8", "mnist-tiny-fp16"):
            answer = infer(server, infer_request(name, images=images.numpy()))["logits"]
            np.testing.assert_array_equal(answer, outputs(tmp_path / name / "1" / "model.onnx", images).logits)
