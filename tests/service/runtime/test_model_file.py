"""Model files in memory: later changes on disk reach no session, and what is not all there never loads."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.errors import ModelRejected
from service.runtime import model_file, providers
from service.runtime.model_file import ModelFile
from service.runtime.providers import open_session
from service.runtime.session import Session
from tests import onnx_models

DATA = "model.onnx.data"
TABLE = np.arange(4000, dtype=np.float32).reshape(500, 8) + 1
IDS = np.array([0, 1, 499])


def table(folder: Path, values: NDArray[np.generic] = TABLE, *, element: int = TensorProto.FLOAT) -> Path:
    """``y = table[ids]``, whose table lies in model.onnx.data."""
    weight = numpy_helper.from_array(values, "table")
    weight.data_type = element
    path = onnx_models.save(
        folder,
        "table",
        [helper.make_node("Gather", ["table", "ids"], ["rows"]), helper.make_node("Cast", ["rows"], ["y"], to=1)],
        [onnx_models.value("ids", TensorProto.INT64, ["n"])],
        [onnx_models.value("y", TensorProto.FLOAT, ["n", 8])],
        [weight],
    )
    return externalised(path)


def externalised(path: Path, *, attributes: bool = False) -> Path:
    """The same model with its weights in another file."""
    onnx.save_model(
        onnx.load(path), path, save_as_external_data=True, location=DATA, size_threshold=0, convert_attribute=attributes
    )
    return path


def opened(path: Path) -> Session:
    return Session(path, providers.choose(["cpu"]), threads=1, max_batch_rows=8)


def rows(session: Session) -> NDArray[np.float32]:
    return session.run({"ids": IDS})["y"]


def overwritten(path: Path) -> None:
    """In place, as cp does."""
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))


def cut(path: Path) -> None:
    path.open("wb").close()


@pytest.mark.parametrize("change", [overwritten, cut, Path.unlink], ids=["overwritten", "cut", "removed"])
def test_changes_on_disk_reach_no_session(
    tmp_path: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session goes on with the weights that it was opened with, whatever becomes of the files."""
    monkeypatch.chdir(tmp_path)
    path = table(tmp_path)
    session = opened(path)
    change(path.with_name(DATA))
    change(path)
    np.testing.assert_array_equal(rows(session), TABLE[IDS])


@pytest.mark.parametrize(
    ("values", "element"),
    [
        (TABLE, TensorProto.FLOAT),
        (TABLE.astype(np.float16), TensorProto.FLOAT16),
        ((TABLE.view(np.uint32) >> 16).astype(np.uint16), TensorProto.BFLOAT16),
        (TABLE.astype(np.int64), TensorProto.INT64),
        ((TABLE % 100).astype(np.int8), TensorProto.INT8),
    ],
    ids=["FP32", "FP16", "BF16", "INT64", "INT8"],
)
@pytest.mark.parametrize("most", [0, model_file.MOST_TENSOR_BYTES], ids=["as value", "as file"])
def test_external_weights_of_any_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: NDArray[np.generic], element: int, most: int
) -> None:
    """Weights come out as they are, handed over as a file or, as those beyond 2 GiB are, as a value."""
    monkeypatch.setattr(model_file, "MOST_TENSOR_BYTES", most)
    expected = TABLE[IDS] % 100 if element == TensorProto.INT8 else TABLE[IDS]
    np.testing.assert_allclose(rows(opened(table(tmp_path, values, element=element))), expected, rtol=1e-2)


def branching(folder: Path, *, constant: bool = False) -> Path:
    """``y = x + 1`` or ``x + 2`` by the sign of x; the constants are initializers of the branches, or attributes."""

    def branch(name: str, number: float) -> onnx.GraphProto:
        weight = numpy_helper.from_array(np.full(300, number, np.float32), f"{name}.weight")
        nodes = [helper.make_node("Add", ["x", f"{name}.weight"], [f"{name}.y"])]
        if constant:
            nodes.insert(0, helper.make_node("Constant", [], [f"{name}.weight"], value=weight))
        output = onnx_models.value(f"{name}.y", TensorProto.FLOAT, [300])
        return helper.make_graph(nodes, name, [], [output], [] if constant else [weight])

    return onnx_models.save(
        folder,
        "branching",
        [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["sum"], ["condition"], to=TensorProto.BOOL),
            helper.make_node("If", ["condition"], ["y"], then_branch=branch("one", 1), else_branch=branch("two", 2)),
        ],
        [onnx_models.value("x", TensorProto.FLOAT, [300])],
        [onnx_models.value("y", TensorProto.FLOAT, [300])],
    )


@pytest.mark.parametrize("attributes", [False, True], ids=["initializer", "attribute"])
def test_external_parts_are_refused(tmp_path: Path, *, attributes: bool) -> None:
    """ONNX Runtime maps the weights of branches, and takes attributes from a path only: they are never served so."""
    path = branching(tmp_path, constant=attributes)
    assert opened(path).run({"x": np.ones(300, np.float32)})["y"][0] == 2
    what = "an attribute of a node" if attributes else "a weight of a branch or a loop"
    with pytest.raises(
        ModelRejected, match=rf"'(one|two).weight' in the file '{re.escape(DATA)}' is {what}; only weights of"
    ):
        opened(externalised(path, attributes=attributes))


@pytest.mark.parametrize("location", [DATA, f"./{DATA}", f"sub/{DATA}"])
def test_what_is_read_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str) -> None:
    """Between reading and opening, other files may take the place of those that were read, hashed and proved."""
    path = table(tmp_path)
    path.with_name("sub").mkdir()
    path.with_name(DATA).rename(path.parent / location)
    monkeypatch.chdir(path.parent)  # where ONNX Runtime would look for a file that was not handed over
    file = ModelFile.read(relocated(path, location))
    overwritten(path.parent / location)
    overwritten(path)
    session = open_session(file, providers.choose(["cpu"]), 1)
    np.testing.assert_array_equal(session.run(["y"], {"ids": IDS})[0], TABLE[IDS])


def relocated(path: Path, location: str) -> Path:
    """The same model, whose weights are said to lie elsewhere."""
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("", "the file must be named relative to the model's folder"),
        ("/etc/hostname", "the file must be named relative to the model's folder"),
        ("../1/model.onnx.data", "the file must be named relative to the model's folder"),
        ("outside", "which leads out of the model's folder: put the file itself there"),
        ("inside/missing", "its file of weights 'inside/missing' cannot be read: No such file or directory"),
        ("inside", "its file of weights 'inside' is not a regular file"),
        ("*/_ORT_MEM_ADDR_/*", "cannot be read: No such file or directory"),
    ],
)
def test_weights_stay_in_their_folder(tmp_path: Path, location: str, words: str) -> None:
    """A location must lead to a file inside the model's folder, symbolic links followed."""
    path = table(tmp_path / "models")
    (tmp_path / "secret").write_bytes(bytes(100_000))
    path.with_name("outside").symlink_to(tmp_path / "secret")
    path.with_name("inside").mkdir()
    with pytest.raises(ModelRejected, match=words.replace("*", r"\*")):
        opened(relocated(path, location))


def test_links_inside_are_followed(tmp_path: Path) -> None:
    """Kubernetes mounts files as links to a hidden folder beside them."""
    path = table(tmp_path)
    hidden = path.parent / "..data"
    hidden.mkdir()
    for name in ("model.onnx", DATA):
        path.with_name(name).rename(hidden / name)
        path.with_name(name).symlink_to(Path("..data") / name)
    np.testing.assert_array_equal(rows(opened(path)), TABLE[IDS])


def test_half_written_weights_are_refused(tmp_path: Path) -> None:
    """A shorter file is refused by how many bytes it has, and how many it should have."""
    path = table(tmp_path)
    os.truncate(path.with_name(DATA), 15_999)
    with pytest.raises(
        ModelRejected, match=r"'model\.onnx\.data' has 15999 bytes, 16000 are needed: it is not all there"
    ):
        opened(path)


def test_untrue_lengths_are_refused(tmp_path: Path) -> None:
    """The length that is told must be that of the shape."""
    path = table(tmp_path)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].dims[0] = 499
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        ModelRejected, match=r"of shape \[499, 8\] takes 15968 bytes, and is said to be 16000 bytes from"
    ):
        opened(path)


def test_hashes_cover_external_weights(tmp_path: Path) -> None:
    """A bit of external data that changed before the start is found; so is a file that no hash is there for."""
    path = table(tmp_path)
    onnx_models.write(onnx.load(path, load_external_data=False), {"convserve.format": "2"}, path)
    assert opened(path).metadata.unproved == "it has no probe"
    with path.with_name(DATA).open("r+b") as file:
        file.write(b"\1")
    with pytest.raises(ModelRejected, match=r"its weights file 'model\.onnx\.data' is not as it was exported"):
        opened(path)
    path.with_name(DATA).rename(path.with_name("other"))
    with pytest.raises(ModelRejected, match="its graph, or a weight in it, is not as it was exported"):
        opened(relocated(path, "other"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 4632401\n",
        b"<!DOCTYPE html><html>not found</html>",
        bytes(1000),
        np.random.default_rng(0).bytes(1000),
    ],
    ids=["empty", "pointer", "page", "zeros", "random"],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    """Bytes that are no ONNX file are refused before ONNX Runtime sees them."""
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelRejected, match="it is no ONNX file, or not all of one"):
        opened(path)


def test_every_cut_is_refused(tmp_path: Path) -> None:
    """A model file cut anywhere is refused, wherever the cut is."""
    path = onnx_models.classifier(tmp_path, size=4)
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(ModelRejected):
            opened(path)


def test_pipes_are_refused(tmp_path: Path) -> None:
    """A pipe, which would be waited for, is no model; neither is a folder, or nothing at all."""
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(ModelRejected, match="it is not a regular file"):
            ModelFile.read(tmp_path / name)
    with pytest.raises(ModelRejected, match="it cannot be read: No such file or directory"):
        ModelFile.read(tmp_path / "missing")
