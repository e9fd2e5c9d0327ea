"""What a folder may have in it: models in their places, what is passed over, and what a file really is."""

import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from onnx import TensorProto

from service.pb import open_inference_pb2 as pb
from tests import onnx_models
from tests.servers import ServerProcess, run_until_exit
from tests.wire import infer, infer_request, refusal, send_bytes, states

FLOAT = TensorProto.FLOAT
ROW = np.ones((1, 2), np.float32)
MISPLACED = {
    "no-version": "model.onnx",
    "other-name": "1/resnet.onnx",
    "letter": "v1/model.onnx",
    "zero": "01/model.onnx",
    "twice": "twice/1/model.onnx",
}
CONTENTS = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
    "html": (b"\n<!DOCTYPE html><html>404</html>", "an HTML page"),
    "empty": (b"", "it is empty"),
    "zip": (b"PK\x03\x04" + bytes(100), "a ZIP archive"),
    "zeros": (bytes(1000), "it is no ONNX file"),
}
HUGE = 2**40
"""Elements of a tensor that no machine of these tests has memory for."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One good model beside all that can be wrong."""
    folder = tmp_path_factory.mktemp("folder")
    good = onnx_models.identity(folder, "good", FLOAT).read_bytes()
    for name, path in MISPLACED.items():
        (folder / name / path).parent.mkdir(parents=True)
        (folder / name / path).write_bytes(good)
    for name, (content, _) in CONTENTS.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.onnx").write_bytes(content)
    for name in (".ipynb_checkpoints", ".trash"):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.onnx").write_bytes(good)
    (folder / "good" / ".2").mkdir()
    (folder / "..2026" / "mounted" / "1").mkdir(parents=True)  # as Kubernetes mounts a ConfigMap
    (folder / "..2026" / "mounted" / "1" / "model.onnx").write_bytes(good)
    (folder / "..data").symlink_to("..2026")
    (folder / "mounted").symlink_to("..data/mounted")
    (folder / "cut" / "1").mkdir(parents=True)
    (folder / "cut" / "1" / "model.onnx").write_bytes(good[:-10])
    (folder / "pipe" / "1").mkdir(parents=True)
    os.mkfifo(folder / "pipe" / "1" / "model.onnx")
    onnx_models.allocating(folder, "large", HUGE)
    (folder / "link" / "1").mkdir(parents=True)
    (folder / "link" / "1" / "model.onnx").symlink_to("nowhere")
    (folder / "lone.onnx").write_bytes(good)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    """A server of this folder."""
    with ServerProcess(folder) as process:
        yield process


def reason(server: ServerProcess, name: str) -> str:
    """Why version 1 of a model is not served."""
    state, why = states(server)[name, "1"]
    assert state == "UNAVAILABLE"
    return why


def test_misplaced_files_are_told(server: ServerProcess, folder: Path) -> None:
    """Each model in another place has one warning, which names the path that is expected."""
    told = {event["path"]: event for event in server.events if event["event"] == "passed over"}
    paths = [folder / name / path.split("/")[0] for name, path in MISPLACED.items()] + [folder / "lone.onnx"]
    assert {str(path) for path in paths} == told.keys()
    assert all(event["level"] == "warning" and "expected" in event["reason"] for event in told.values())
    assert str(folder / "other-name" / "1" / "model.onnx") in told[str(folder / "other-name" / "1")]["reason"]


@pytest.mark.parametrize("name", CONTENTS)
def test_other_files_are_named(server: ServerProcess, name: str) -> None:
    """A file that is no model is refused with what it is."""
    assert CONTENTS[name][1] in reason(server, name)


def test_cut_files_are_told(server: ServerProcess) -> None:
    """A file without its end is refused as one."""
    assert "not all of one" in reason(server, "cut")


def test_pipes_are_not_opened(server: ServerProcess) -> None:
    """A pipe, whose opening would wait for a writer, is refused; so is a link to nothing."""
    assert "a pipe (FIFO)" in reason(server, "pipe")
    assert "No such file" in reason(server, "link")


def test_huge_tensors_are_refused(server: ServerProcess) -> None:
    """A graph that makes a tensor for which there is no memory is refused with both figures."""
    assert f"a tensor of shape [{HUGE}], of 4,194,304 MiB" in reason(server, "large")


def test_hidden_folders_never_serve(server: ServerProcess) -> None:
    """Names that begin with a dot are no models; what Kubernetes links to behind them is."""
    served = {name for (name, _), (state, _) in states(server).items() if state == "READY"}
    assert served == {"good", "mounted"}


CONFIG = """
name: "configured"  # a comment
platform: "onnxruntime_onnx"
max_batch_size: 4
input [ { name: "x" format: FORMAT_NCHW dims: [ 2 ] } ]
output { name: 'y', label_filename: "labels.txt" }
instance_group [ { count: 2 kind: KIND_CPU } ]
version_policy: { latest { num_versions: 1 } }
"""


def test_config_files_are_read(tmp_path: Path) -> None:
    """config.pbtxt sets batch size, format, labels and versions; each field that is not read is told."""
    for version in (1, 2):
        onnx_models.save_identity(tmp_path, "configured", version)
    (tmp_path / "configured" / "config.pbtxt").write_text(CONFIG)
    (tmp_path / "configured" / "labels.txt").write_text("cat\ndog\n")
    onnx_models.identity(tmp_path, "unbatched", FLOAT)
    (tmp_path / "unbatched" / "config.pbtxt").write_text("max_batch_size: 0")
    onnx_models.identity(tmp_path, "wrong", FLOAT)
    (tmp_path / "wrong" / "config.pbtxt").write_text('backend: "tensorflow"')
    with ServerProcess(tmp_path) as server:
        config = model_config(server, "configured")
        assert config.max_batch_size == 4
        assert config.input[0].format == pb.ModelInput.FORMAT_NCHW
        assert states(server).keys() & {("configured", "1"), ("configured", "2")} == {("configured", "2")}
        request = infer_request("configured", x=np.array([[0, 1]], np.float32))
        request.outputs.add(name="y").parameters["classification"].int64_param = 1
        answer = pb.ModelInferResponse.FromString(
            send_bytes(server, "/inference.GRPCInferenceService/ModelInfer", request.SerializeToString())
        )
        assert answer.raw_output_contents[0].endswith(b":dog")
        assert model_config(server, "unbatched").max_batch_size == 0
        assert "asks for 'tensorflow'" in states(server)["wrong", "1"][1]
        unread = [event["reason"] for event in server.events if "are not read" in event.get("reason", "")]
    assert unread == [
        "these fields of config.pbtxt are not read: input.dims, instance_group.count, instance_group.kind"
    ]


@pytest.mark.parametrize("path", ["m/model.onnx", "m", "m/1", "m/7/model.onnx", "m/7", "m/other.onnx"])
def test_models_are_served_by_path(tmp_path: Path, path: str) -> None:
    """--model NAME=PATH takes a file, a folder of one, or a folder of versions; only it is served."""
    source = onnx_models.identity(tmp_path, "source", FLOAT)
    file = tmp_path / "mnt" / (path if path.endswith(".onnx") else f"{path}/model.onnx")
    file.parent.mkdir(parents=True)
    source.rename(file)
    with ServerProcess(tmp_path, "--model", f"named={tmp_path / 'mnt' / path}", folder=False) as server:
        assert infer(server, infer_request("named", x=ROW))["y"].tolist() == [[1, 1]]
        assert list(states(server)) == [("named", "7" if "/7" in path else "1")]


def test_folders_above_models_are_found(tmp_path: Path) -> None:
    """A path above a model's folder, as KServe mounts it, leads to the model; several can be named."""
    onnx_models.identity(tmp_path / "a", "first", FLOAT)
    onnx_models.identity(tmp_path / "b", "inner", FLOAT)
    named = ("--model", f"first={tmp_path / 'a'}", "--model", f"second={tmp_path / 'b'}")
    with ServerProcess(tmp_path, *named, folder=False) as server:
        assert set(states(server)) == {("first", "1"), ("second", "1")}
    code, stderr = run_until_exit(tmp_path, "--model", f"gone={tmp_path / 'gone'}")
    assert (code, "it cannot be read: No such file" in stderr) == (1, True)


def test_ports_open_with_the_first(tmp_path: Path) -> None:
    """With --ready-when first, models that take long are LOADING while others are answered, and then READY."""
    onnx_models.identity(tmp_path, "quick", FLOAT)
    onnx_models.allocating(tmp_path, "slow", 2**28)
    with ServerProcess(tmp_path, "--ready-when", "first") as server:
        assert infer(server, infer_request("quick", x=ROW))["y"].tolist() == [[1, 1]]
        assert states(server)["slow", "1"][0] in ("LOADING", "READY")
        server.events.await_one("model ready", model="slow")


def test_unknown_versions_are_told(server: ServerProcess) -> None:
    """A version that is known and not served is UNAVAILABLE, another is NOT_FOUND."""
    for version, code in (("1", grpc.StatusCode.UNAVAILABLE), ("2", grpc.StatusCode.NOT_FOUND)):
        with pytest.raises(grpc.RpcError) as caught:
            infer(server, infer_request("cut", version, x=ROW))
        assert refusal(caught.value)[0] == code


def model_config(server: ServerProcess, name: str) -> pb.ModelConfig:
    """What ModelConfig tells."""
    request = pb.ModelConfigRequest(name=name).SerializeToString()
    answer = send_bytes(server, "/inference.GRPCInferenceService/ModelConfig", request)
    return pb.ModelConfigResponse.FromString(answer).config
