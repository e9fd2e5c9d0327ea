"""The metadata of a model file: what is read, what is proved, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.errors import ModelRejected
from service.runtime import providers
from service.runtime.hashes import verify_hashes
from service.runtime.model_file import ModelFile
from service.runtime.model_metadata import read_metadata
from service.runtime.probe import Probe
from service.runtime.session import Session
from tests import onnx_models, pages
from tests.servers import ROOT, ServerProcess

PROBE = onnx_models.probe(np.zeros((2, 4, 4, 1), np.uint8), np.ones((2, 10), np.float32), 1e-4)


def metadata_with(**entries: str) -> dict[str, str]:
    return {f"convserve.{key}": value for key, value in {"format": "1", **entries}.items()}


def opened(path: Path) -> Session:
    return Session(path, providers.choose(["cpu"]), threads=1, max_batch_rows=8)


def changed(path: Path, change: Callable[[onnx.ModelProto, dict[str, str]], object], *, rehash: bool) -> Path:
    """The file after a change to its model or metadata, with the hashes that it had, or with new ones."""
    model = onnx.load(path, load_external_data=False)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    change(model, entries)
    if rehash:
        onnx_models.write(model, entries, path)
    else:
        helper.set_model_props(model, entries)
        path.write_bytes(model.SerializeToString())
    return path


def test_foreign_files_have_no_facts() -> None:
    """A file without our metadata has its own entries as properties, and proves nothing."""
    metadata = read_metadata({"author": "somebody"})
    assert metadata.properties == {"author": "somebody"}
    assert (metadata.labels, metadata.probe, metadata.outdated) == ((), None, False)
    assert metadata.unproved == "it has neither hashes nor a probe"


def test_entries_are_read() -> None:
    """Each entry becomes a fact; the probe is left out of the properties, because it is large."""
    metadata = read_metadata(metadata_with(labels='["a", "b"]', test_accuracy="0.5", parameters="7", probe=PROBE))
    assert (metadata.labels, metadata.test_accuracy, metadata.parameters) == (("a", "b"), 0.5, 7)
    assert metadata.probe is not None
    assert metadata.probe.images.shape == (2, 4, 4, 1)
    assert metadata.properties is not None
    assert "convserve.probe" not in metadata.properties


def broken_probe(**changes: object) -> str:
    return json.dumps(json.loads(PROBE) | changes)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"format": "3"}, "its metadata is of format '3'; this version reads formats '2' and '1'"),
        ({"format": "2"}, "its metadata entry 'convserve.sha256' is missing"),
        ({"labels": "no JSON"}, "its metadata entry 'convserve.labels' cannot be read"),
        ({"labels": '"cat"'}, "its metadata entry 'convserve.labels' cannot be read.*no list of strings"),
        ({"labels": "[1, 2]"}, "its metadata entry 'convserve.labels' cannot be read.*no list of strings"),
        ({"parameters": "many"}, "its metadata entry 'convserve.parameters' cannot be read"),
        ({"parameters": "-1"}, "its metadata entry 'convserve.parameters' cannot be read.*less than 0"),
        ({"test_accuracy": "good"}, "its metadata entry 'convserve.test_accuracy' cannot be read"),
        ({"test_accuracy": "9.99"}, "'convserve.test_accuracy' cannot be read.*does not lie in 0 to 1"),
        ({"test_accuracy": "nan"}, "'convserve.test_accuracy' cannot be read.*does not lie in 0 to 1"),
        ({"calibration_error": "-0.1"}, "'convserve.calibration_error' cannot be read.*does not lie in 0 to 1"),
        ({"agreement": "inf"}, "'convserve.agreement' cannot be read.*does not lie in 0 to 1"),
        ({"temperature": "0"}, "'convserve.temperature' cannot be read.*no finite number above 0"),
        ({"temperature": "nan"}, "'convserve.temperature' cannot be read.*no finite number above 0"),
        ({"test_images": "9", "test_correct": "10"}, "10 of 9 test images are right"),
        ({"test_images": "9", "fp32_test_correct": "10"}, "10 of 9 test images are right"),
        ({"test_images": "9", "test_correct": "3", "test_accuracy": "0.5"}, "3 of 9 test images.*its accuracy is 0.5"),
        ({"probe": "{}"}, "its metadata entry 'convserve.probe' cannot be read"),
        ({"probe": broken_probe(tolerance="nan")}, "its metadata entry 'convserve.probe' cannot be read"),
        ({"probe": broken_probe(tolerance=1)}, "'convserve.probe' cannot be read.*gives zeros would pass"),
        ({"probe": broken_probe(images=json.loads(PROBE)["logits"])}, "its metadata entry 'convserve.probe' cannot"),
        ({"probe": broken_probe(onnxruntime={"tolerance": 0.1})}, "its metadata entry 'convserve.probe' cannot"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_unreadable_entries_are_refused(entries: dict[str, str], words: str) -> None:
    """An entry that cannot be read, or cannot be true, is refused by its name."""
    with pytest.raises(ModelRejected, match=words):
        read_metadata(metadata_with(**entries))


def test_probe_refuses_other_logits() -> None:
    """The probe tells the deviation, and refuses one beyond the tolerance, other shapes, and NaN."""
    probe = Probe(np.zeros((2, 4, 4, 1), np.uint8), np.zeros((2, 10), np.float32), 1e-4)
    assert probe.check(np.full((2, 10), 5e-5)) == pytest.approx(5e-5)
    with pytest.raises(ModelRejected, match=r"off by 0\.002, 0\.0001 is allowed"):
        probe.check(np.full((2, 10), -2e-3))
    with pytest.raises(ModelRejected, match="off by nan"):
        probe.check(np.full((2, 10), np.nan))
    with pytest.raises(ModelRejected, match=r"logits of shape \(2, 10\), the model gives \(2, 11\)"):
        probe.check(np.zeros((2, 11)))


def test_own_logits_are_held_closely() -> None:
    """ONNX Runtime's own logits have a tolerance of their own, whatever PyTorch's allow."""
    images, logits = np.zeros((2, 4, 4, 1), np.uint8), np.zeros((2, 10), np.float32)
    probe = Probe(images, logits, 3.0, logits + 1, 0.1)
    assert probe.check(logits + 0.95) == pytest.approx(0.05)
    with pytest.raises(ModelRejected, match=r"own logits in the file's probe fails here.*off by 0\.5, 0\.1 is allowed"):
        probe.check(logits + 0.5)
    assert probe.allow(0.0).closest[1] == 0.1


def test_last_bits_may_differ(tmp_path: Path) -> None:
    """The probe is about the function, not about the bytes: rounding passes, more does not."""
    same = onnx_models.classifier(tmp_path, "same", shift=1e-6)
    assert 0 < (opened(same).probe_deviation or 0) < 1e-4
    other = onnx_models.classifier(tmp_path, "other", shift=1e-3)
    with pytest.raises(ModelRejected, match=r"off by 0\.001"):
        opened(other)


def test_unknown_tensor_types_are_refused(tmp_path: Path) -> None:
    """A tensor that the protocol has no datatype for is named."""
    path = onnx_models.save(
        tmp_path,
        "sequence",
        [helper.make_node("SequenceLength", ["x"], ["y"])],
        [helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)],
        [onnx_models.value("y", TensorProto.INT64, [])],
    )
    with pytest.raises(ModelRejected, match=r"'x' is a seq\(tensor\(float\)\), which the protocol has no datatype for"):
        opened(path)


def negate(model: onnx.ModelProto) -> None:
    """A Neg before the last softmax."""
    softmax = model.graph.node[-1]
    assert softmax.op_type == "Softmax"
    model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Neg", [softmax.input[0]], ["negated"]))
    model.graph.node[-1].input[0] = "negated"


def zero_weights(model: onnx.ModelProto) -> None:
    """All weights zero."""
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model, _: negate(model), "its graph, or a weight in it, is not as it was exported"),
        (lambda model, _: zero_weights(model), "its graph, or a weight in it, is not as it was exported"),
        (lambda _, entries: entries.update({"convserve.labels": '["x"]'}), "entry 'convserve.labels' is not as"),
        (lambda _, entries: entries.update({"convserve.test_accuracy": "0.51"}), "'convserve.test_accuracy' is not"),
        (lambda _, entries: entries.update({"convserve.temperature": "2"}), "'convserve.temperature' was added"),
        (lambda _, entries: entries.pop("convserve.probe"), "entry 'convserve.probe' is missing"),
        (lambda _, entries: entries.update({"convserve.sha256": "{}"}), "'convserve.sha256' cannot be read"),
    ],
    ids=["negated", "zeroed", "labels", "accuracy", "temperature", "no probe", "no hashes"],
)
def test_hashes_find_each_change(
    tmp_path: Path, change: Callable[[onnx.ModelProto, dict[str, str]], object], words: str
) -> None:
    """Whatever is changed, added or taken away after the export is refused by its name."""
    path = onnx_models.classifier(tmp_path)
    assert opened(path).metadata.unproved == ""
    with pytest.raises(ModelRejected, match=words):
        opened(changed(path, change, rehash=False))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model, _: negate(model), r"its probabilities are not softmax\(logits / 1\)"),
        (lambda _, entries: entries.update({"convserve.temperature": "1.1"}), r"are not softmax\(logits / 1\.1\)"),
        (lambda model, _: zero_weights(model), "the file's own probe fails here"),
        (lambda _, entries: entries.update({"convserve.labels": '["x"]'}), "it has 1 labels for 10 classes"),
    ],
    ids=["negated", "temperature", "zeroed", "labels"],
)
def test_probe_finds_wrong_functions(
    tmp_path: Path, change: Callable[[onnx.ModelProto, dict[str, str]], object], words: str
) -> None:
    """What is wrong although its hashes are right is found by running it."""
    with pytest.raises(ModelRejected, match=words):
        opened(changed(onnx_models.classifier(tmp_path), change, rehash=True))


def test_old_files_load_with_warning(tmp_path: Path) -> None:
    """A file of format 1 is served, and the log says what it lacks; --require-probe refuses it."""
    path = onnx_models.classifier(tmp_path, "old")
    changed(path, lambda _, entries: entries.update({"convserve.format": "1"}), rehash=True)
    onnx_models.classifier(tmp_path, "new")
    with ServerProcess(tmp_path) as server:
        events = [(event["event"], event.get("model")) for event in server.events]
    assert ("model of an old format", "old") in events
    assert ("model of an old format", "new") not in events
    assert {("model ready", "old"), ("model ready", "new")} <= set(events)
    with ServerProcess(tmp_path, "--require-probe") as server:
        reasons = {event.get("model"): event.get("reason") for event in server.events}
    assert reasons["old"] == "it has no hashes, which --require-probe demands (docs/file-format.md)"
    assert reasons["new"] is None


@pytest.mark.parametrize(
    ("path", "lacks"),
    [
        (lambda folder: onnx_models.classifier(folder, probe_tolerance=None), "it has no probe, which"),
        (onnx_models.two_inputs, "it has neither hashes nor a probe, which"),
    ],
    ids=["no probe", "plain"],
)
def test_unproved_files_can_be_refused(tmp_path: Path, path: Callable[[Path], Path], lacks: str) -> None:
    """Files without a probe are served, unless the probe is demanded."""
    metadata = opened(path(tmp_path)).metadata
    with pytest.raises(ModelRejected, match=lacks):
        metadata.require_proof()


def test_page_writes_a_proved_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of file-format.md, which uses nothing of ours, writes a file that passes every proof."""
    (program,) = pages.blocks(ROOT / "docs" / "file-format.md", "py")
    assert "service" not in program
    assert "training" not in program
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "file-format.md", "exec"), {})  # noqa: S102 - our own page
    session = opened(tmp_path / "models" / "mine" / "1" / "model.onnx")
    session.metadata.require_proof()
    assert session.metadata.labels == ("cat", "dog", "owl")
    assert session.probe_deviation is not None
    assert session.spec.is_image_classifier


def test_bundled_files_are_proved(models_dir: Path) -> None:
    """Each file of the repository has hashes that hold, a probe, and in int8 logits of its own."""
    paths = sorted(models_dir.glob("*/*/model.onnx"))
    assert len(paths) >= 11
    for path in paths:
        file = ModelFile.read(path)
        verify_hashes(file)
        metadata = read_metadata(file.metadata)
        metadata.require_proof()
        assert metadata.probe is not None
        assert (metadata.probe.own_logits is not None) == (metadata.precision == "int8")
