"""Batching as callers and operators see it: settings, reasons, and models of unusual form."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.pb import open_inference_pb2 as pb
from tests import onnx_models
from tests.servers import ServerProcess, run_until_exit
from tests.service.runtime.graphs import DEPENDENT, INDEPENDENT, Build, graph, node
from tests.wire import TIMEOUT_S, ask, infer, infer_request, model_infer

FLOAT = TensorProto.FLOAT


def place(folder: Path, name: str, build: Build) -> Path:
    """Puts a graph into the folder by this name."""
    build(folder)
    return (folder / "graph").rename(folder / name) / "1" / "model.onnx"


def with_metadata(path: Path, **entries: str) -> None:
    """Adds entries to a file's metadata."""
    model = onnx.load(path)
    helper.set_model_props(model, {f"convserve.{key}": value for key, value in entries.items()})
    path.write_bytes(model.SerializeToString())


def scalar_and_rows(folder: Path) -> Path:
    """``y = x * factor``, where ``factor`` is a scalar."""
    return onnx_models.save(
        folder,
        "graph",
        [node("Mul", ["x", "factor"])],
        [onnx_models.value("x", FLOAT, ["n", 2]), onnx_models.value("factor", FLOAT, [])],
        [onnx_models.value("y", FLOAT, ["n", 2])],
    )


def without_inputs(folder: Path) -> Path:
    """``y``, which is always the same."""
    answer = [numpy_helper.from_array(np.array([4, 2], np.float32), "answer")]
    outputs = [onnx_models.value("y", FLOAT, [2])]
    return onnx_models.save(folder, "graph", [node("Identity", ["answer"])], [], outputs, answer)


def with_default(folder: Path) -> Path:
    """``y = x + offset``, where ``offset`` is an input that has a default."""
    return onnx_models.save(
        folder,
        "graph",
        [node("Add", ["x", "offset"])],
        [onnx_models.value("x", FLOAT, ["n", 2]), onnx_models.value("offset", FLOAT, [2])],
        [onnx_models.value("y", FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.array([1, 2], np.float32), "offset")],
    )


def zip_map(folder: Path) -> Path:
    """Probabilities as maps, as converters of scikit-learn's classifiers write them."""
    zipped = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    maps = onnx.ValueInfoProto(name="y")
    entry = maps.type.sequence_type.elem_type.map_type
    entry.key_type = TensorProto.INT64
    entry.value_type.tensor_type.elem_type = FLOAT
    inputs = [onnx_models.value("x", FLOAT, ["n", 2])]
    domains = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(
        helper.make_graph([zipped], "graph", inputs, [maps]), opset_imports=domains, ir_version=10
    )
    path = folder / "graph" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of unusual form."""
    folder = tmp_path_factory.mktemp("unusual")
    place(folder, "running-sum", DEPENDENT["running sum"])
    place(folder, "baked", DEPENDENT["batch baked in"])
    place(folder, "sound", INDEPENDENT["softmax of a row"])
    place(folder, "set-off", INDEPENDENT["softmax of a row"])
    with_metadata(place(folder, "says-off", INDEPENDENT["softmax of a row"]), batching="off")
    with_metadata(place(folder, "says-on", DEPENDENT["running sum"]), batching="on")
    with_metadata(place(folder, "says-nonsense", INDEPENDENT["softmax of a row"]), batching="maybe")
    with_metadata(place(folder, "overruled", DEPENDENT["running sum"]), batching="on")
    place(folder, "scalar", scalar_and_rows)
    place(folder, "without-inputs", without_inputs)
    place(folder, "with-default", with_default)
    place(folder, "zip-map", zip_map)
    return folder


@pytest.fixture(scope="module")
def unusual(folder: Path) -> Iterator[ServerProcess]:
    """These models, served."""
    with ServerProcess(folder, "--batching", "set-off=off,overruled=off") as server:
        yield server


def reason_of(server: ServerProcess, name: str) -> tuple[str, str]:
    """State and reason of a model in the index."""
    models = ask(server, "RepositoryIndex", pb.RepositoryIndexRequest()).models
    (found,) = [model for model in models if model.name == name]
    return found.state, found.reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("running-sum", "a row's output 'y' changes with how many rows run, or with its place among them, by up to "),
        ("baked", "runs 1 row, fails with 2: Reshape node"),
        ("set-off", "the setting --batching is off"),
        ("overruled", "the setting --batching is off"),
        ("says-off", "its metadata entry 'convserve.batching' is off"),
        ("without-inputs", "it has no inputs"),
        ("scalar", "its inputs do not all have a first axis of any length"),
    ],
)
def test_reasons_are_told_everywhere(unusual: ServerProcess, name: str, reason: str) -> None:
    """Why a model is not batched is in the log, in its configuration, and in the index."""
    (line,) = [event for event in unusual.events if event["event"] == "model ready" and event["model"] == name]
    assert line["unbatched_reason"].startswith(reason)
    config = ask(unusual, "ModelConfig", pb.ModelConfigRequest(name=name)).config
    assert config.max_batch_size == 0
    assert config.parameters["unbatched_reason"].string_value.startswith(reason)
    state, told = reason_of(unusual, name)
    assert state == "READY"
    assert told.startswith(f"not batched: {reason}")


def test_batched_models_need_no_reason(unusual: ServerProcess) -> None:
    """A model that is batched has no remark."""
    assert reason_of(unusual, "sound") == ("READY", "")
    config = ask(unusual, "ModelConfig", pb.ModelConfigRequest(name="sound")).config
    assert (config.max_batch_size, dict(config.parameters)) == (256, {})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("says-on", "'convserve.batching' is on, but requests must not share a run: a row's output 'y' changes"),
        ("says-nonsense", "'convserve.batching' is 'maybe'; it may be auto, on, off"),
        ("zip-map", "export without it (skl2onnx: options={'zipmap': False})"),
    ],
)
def test_refusals_tell_the_remedy(unusual: ServerProcess, name: str, words: str) -> None:
    """A model that cannot be served as it asks is refused, alone, with the reason."""
    state, reason = reason_of(unusual, name)
    assert state == "UNAVAILABLE"
    assert words in reason


@pytest.mark.parametrize("rows", [1, 5, 300])
def test_dependent_rows_are_never_cut(unusual: ServerProcess, rows: int) -> None:
    """A request to a model that is not batched runs as it is, of whatever length."""
    x = np.ones((rows, 4), np.float32)
    assert np.array_equal(infer(unusual, infer_request("running-sum", x=x))["y"], np.cumsum(x, axis=0))


@pytest.mark.parametrize("factor", [np.array(3, np.float32), np.array([3], np.float32)], ids=["scalar", "one element"])
def test_scalars_come_with_an_axis(unusual: ServerProcess, factor: np.ndarray) -> None:
    """A scalar may be sent as one element, because many clients know none."""
    x = np.ones((2, 2), np.float32)
    assert np.array_equal(infer(unusual, infer_request("scalar", x=x, factor=factor))["y"], 3 * x)


def test_models_without_inputs_answer(unusual: ServerProcess) -> None:
    """A model without inputs is asked without any."""
    assert np.array_equal(infer(unusual, infer_request("without-inputs"))["y"], [4, 2])


def test_inputs_with_defaults_are_left_out(unusual: ServerProcess) -> None:
    """An input that has a default takes it, and its model is batched all the same."""
    x = np.ones((2, 2), np.float32)
    assert np.array_equal(infer(unusual, infer_request("with-default", x=x))["y"], [[2, 3], [2, 3]])
    assert reason_of(unusual, "with-default") == ("READY", "")
    with pytest.raises(grpc.RpcError) as caught:
        infer(unusual, infer_request("with-default", x=x, offset=np.ones(2, np.float32)))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_batching_on_refuses_dependent_rows(tmp_path: Path) -> None:
    """The setting ``on`` refuses a model whose rows depend on each other, and says what would serve it."""
    place(tmp_path, "running-sum", DEPENDENT["running sum"])
    code, stderr = run_until_exit(tmp_path, "--batching", "on", "--models", "running-sum", "--providers", "cpu")
    assert (code, "Traceback" in stderr) == (1, False)
    assert "the setting --batching is on, but requests must not share a run: " in stderr
    assert "With auto, it is served one request at a time" in stderr


def test_busy_connections_delay_no_other(tmp_path: Path, transport: str) -> None:
    """A request of another connection is run before those that a busy one has queued behind a long one."""
    onnx_models.laborious(tmp_path)

    def request(name: str, work: int) -> pb.ModelInferRequest:
        made = infer_request("laborious", index=np.zeros(1, np.int64), work=np.full(1, work))
        made.id = name
        return made

    options = ("--batching", "off", "--max-queue-ms", "60000", "--access-log")
    own_connection = [("grpc.use_local_subchannel_pool", 1)]
    with (
        ServerProcess(tmp_path, *options, transport=transport) as server,
        server.channel(own_connection) as busy,
        server.channel(own_connection) as other,
    ):
        model_infer(other)(request("connected", 0), timeout=TIMEOUT_S)
        model_infer(busy)(request("connected", 0), timeout=TIMEOUT_S)
        calls = [model_infer(busy).future(request("long", 400), timeout=TIMEOUT_S)]
        calls += [model_infer(busy).future(request("busy", 1), timeout=TIMEOUT_S) for _ in range(20)]
        calls.append(model_infer(other).future(request("other", 1), timeout=TIMEOUT_S))
        assert [call.exception() for call in calls] == [None] * len(calls)
        server.events.await_one("access", id="other")
        order = [event["id"] for event in server.events if event["event"] == "access" and event["id"] != "connected"]
        assert order.index("other") - order.index("long") <= 2


def test_batching_off_leaves_classifiers(tmp_path: Path) -> None:
    """A classifier that is not batched proves its probe row by row, and answers."""
    onnx_models.classifier(tmp_path)
    with ServerProcess(tmp_path, "--batching", "off") as server:
        images = np.zeros((3, 8, 8, 1), np.uint8)
        assert infer(server, infer_request("linear", images=images))["logits"].shape == (3, 10)


def test_unreadable_batching_is_one_sentence(tmp_path: Path) -> None:
    """A value that is no choice ends the start with what it may be."""
    code, stderr = run_until_exit(tmp_path, "--batching", "x=perhaps")
    assert code == 2
    assert "--batching 'x=perhaps' is neither auto, on or off nor NAME=auto, NAME=on or NAME=off" in stderr


def test_unknown_names_are_warned_of(tmp_path: Path) -> None:
    """A name in --batching that no model has is warned of: it may be misspelt."""
    place(tmp_path, "sound", graph(node("Identity", ["x"])))
    with ServerProcess(tmp_path, "--batching", "sounds=off") as server:
        warnings = [event for event in server.events if event["event"].startswith("--batching names a model")]
    assert [(event["model"], event["models"]) for event in warnings] == [("sounds", ["sound"])]
