"""The metadata of a model file: what is read, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from service.errors import ModelRejected
from service.runtime import providers
from service.runtime.model_metadata import ModelMetadata, Probe, read_metadata
from service.runtime.session import Session
from tests import onnx_models

PROBE = onnx_models.probe(np.zeros((2, 4, 4, 1), np.uint8), np.zeros((2, 10), np.float32), 1e-4)


def metadata_with(**entries: str) -> dict[str, str]:
    return {f"convserve.{key}": value for key, value in {"format": "1", **entries}.items()}


def test_a_file_without_our_metadata_has_an_empty_card() -> None:
    assert read_metadata({"author": "somebody"}) == ModelMetadata(properties={"author": "somebody"})


def test_entries_are_read() -> None:
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
        ({"format": "2"}, "its metadata is of format '2'; this version reads format '1'"),
        ({"labels": "no JSON"}, "its metadata entry 'convserve.labels' cannot be read"),
        ({"parameters": "many"}, "its metadata entry 'convserve.parameters' cannot be read"),
        ({"test_accuracy": "good"}, "its metadata entry 'convserve.test_accuracy' cannot be read"),
        ({"probe": "{}"}, "its metadata entry 'convserve.probe' cannot be read"),
        ({"probe": broken_probe(tolerance="nan")}, "its metadata entry 'convserve.probe' cannot be read"),
        ({"probe": broken_probe(images=json.loads(PROBE)["logits"])}, "its metadata entry 'convserve.probe' cannot"),
    ],
)
def test_entries_that_cannot_be_read_are_refused_by_name(entries: dict[str, str], words: str) -> None:
    with pytest.raises(ModelRejected, match=words):
        read_metadata(metadata_with(**entries))


def test_the_probe_tells_the_deviation_and_refuses_what_is_not_a_number() -> None:
    probe = Probe(np.zeros((2, 4, 4, 1), np.uint8), np.zeros((2, 10), np.float32), 1e-4)
    assert probe.check(np.full((2, 10), 5e-5)) == pytest.approx(5e-5)
    with pytest.raises(ModelRejected, match=r"off by 0\.002, 0\.0001 is allowed"):
        probe.check(np.full((2, 10), -2e-3))
    with pytest.raises(ModelRejected, match="off by nan"):
        probe.check(np.full((2, 10), np.nan))
    with pytest.raises(ModelRejected, match=r"logits of shape \(2, 10\), the model gives \(2, 11\)"):
        probe.check(np.zeros((2, 11)))


def test_weights_changed_by_the_last_bit_pass_and_by_more_do_not(tmp_path: Path) -> None:
    """The probe is about the function, not about the bytes."""
    cpu = providers.choose(["cpu"])
    same = onnx_models.classifier(tmp_path, "same", shift=1e-6)
    assert 0 < (Session(same, cpu, threads=1, max_batch_rows=8).probe_deviation or 0) < 1e-4
    other = onnx_models.classifier(tmp_path, "other", shift=1e-3)
    with pytest.raises(ModelRejected, match=r"off by 0\.001"):
        Session(other, cpu, threads=1, max_batch_rows=8)


def test_tensors_the_protocol_has_no_name_for_are_refused(tmp_path: Path) -> None:
    path = onnx_models.save(
        tmp_path,
        "sequence",
        [helper.make_node("SequenceLength", ["x"], ["y"])],
        [helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)],
        [onnx_models.value("y", TensorProto.INT64, [])],
    )
    with pytest.raises(ModelRejected, match=r"'x' is a seq\(tensor\(float\)\), which the protocol has no datatype for"):
        Session(path, providers.choose(["cpu"]), threads=1, max_batch_rows=8)
