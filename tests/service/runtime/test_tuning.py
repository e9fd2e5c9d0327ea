"""How runs are made: by rule from what a row costs, as was measured, or as was set."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from service.runtime import tuning
from service.runtime.execution_provider import Cpu
from service.runtime.graph import Graph, read_graph
from service.runtime.session import Session
from service.runtime.tuning import Tuning, by_rule

MEASURED = Tuning(preferred_batch_size=100, one_thread_rows=3, instance_count=5)


def opened(path: Path, provider: Cpu | None = None, threads: int = 2) -> Session:
    return Session(path, (provider or Cpu(),), threads=threads, max_batch_rows=256)


def tuning_of(session: Session) -> Tuning:
    """How the session is run."""
    return Tuning(session.preferred_batch_size or 0, session.one_thread_rows, session.instance_count)


def graph_of(path: Path) -> Graph:
    return read_graph(memoryview(path.read_bytes()))


@pytest.fixture
def path(models_dir: Path, tmp_path: Path) -> Path:
    """A copy of mnist-tiny."""
    copy = tmp_path / "mnist-tiny" / "1" / "model.onnx"
    copy.parent.mkdir(parents=True)
    return Path(shutil.copy(models_dir / "mnist-tiny" / "1" / "model.onnx", copy))


@pytest.mark.parametrize(
    ("row_macs", "threads", "max_rows", "expected"),
    [
        pytest.param(62e3, 2, 256, Tuning(128, 32, 2), id="tiny"),
        pytest.param(62e3, 2, 8, Tuning(8, 8, 2), id="few rows"),
        pytest.param(483e3, 2, 256, Tuning(64, 4, 2), id="small"),
        pytest.param(652e3, 4, 256, Tuning(64, 2, 4), id="four cores"),
        pytest.param(652e3, 1, 256, Tuning(64, 0, 1), id="one core"),
        pytest.param(2.9e6, 2, 256, Tuning(64, 0, 2), id="parallel only"),
        pytest.param(11e6, 2, 256, Tuning(64, 0, 1), id="medium"),
        pytest.param(float("inf"), 2, 256, Tuning(64, 0, 1), id="unknown"),
        pytest.param(0, 2, 256, Tuning(256, 256, 2), id="no weights"),
    ],
)
def test_rules_follow_a_rows_cost(row_macs: float, threads: int, max_rows: int, expected: Tuning) -> None:
    """The cheaper a row, the more are joined, the more run by one thread, and side by side."""
    assert by_rule(row_macs, threads, max_rows, least=64) == expected


@pytest.mark.parametrize("model", ["mnist-tiny", "cifar10-lenet", "cifar10-cnn", "mnist-deep", "cifar10"])
def test_cost_is_what_training_counted(models_dir: Path, model: str) -> None:
    """Multiply-accumulates read from the file are those that PyTorch counted in the network."""
    report = json.loads((models_dir / model / "1" / "report.json").read_text())
    assert graph_of(models_dir / model / "1" / "model.onnx").row_cost() == report["cost"]["multiply_accumulates"]


def test_eight_bits_cost_a_quarter(models_dir: Path) -> None:
    """Products of eight-bit weights count a quarter, within what folding the preprocessing adds."""
    full, quarter = (graph_of(models_dir / name / "1" / "model.onnx").row_cost() for name in ("mnist", "mnist-int8"))
    assert quarter == pytest.approx(full / 4, rel=0.05)


def test_no_graph_costs_unknown(tmp_path: Path) -> None:
    """A file that is no ONNX has no known cost."""
    (tmp_path / "model.onnx").write_bytes(b"\xff" * 100)
    assert graph_of(tmp_path / "model.onnx").row_cost() == float("inf")


def test_two_starts_decide_alike(path: Path) -> None:
    """Nothing is timed: one file is run in one way at each start."""
    assert tuning_of(opened(path)) == tuning_of(opened(path)) == Tuning(128, 32, 2)


def test_threads_give_the_same_answers(path: Path) -> None:
    """Runs by one thread and by all give the same probabilities."""
    several, one = opened(path), opened(path, threads=1)
    for rows in (1, 32, 33, 64):
        images = np.random.default_rng(rows).integers(0, 256, (rows, 28, 28, 1), dtype=np.uint8)
        first, second = (session.run({"images": images})["probabilities"] for session in (several, one))
        np.testing.assert_allclose(first, second, atol=1e-6)


def test_what_was_measured_is_used(path: Path) -> None:
    """A measurement of this file on this machine takes the place of the rules, and settings that of both."""
    tuning.write(path, "cpu", 2, MEASURED, [])
    assert tuning_of(opened(path)) == MEASURED
    provider = Cpu(instances=2, one_thread_rows=0)
    assert tuning_of(opened(path, provider)) == dataclasses.replace(MEASURED, instance_count=2, one_thread_rows=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"measured_on": {"processor": "abacus"}}, "processor abacus, here ", id="processor"),
        pytest.param({"measured_on": {"onnxruntime": "0.1"}}, "onnxruntime 0.1, here 1.", id="ONNX Runtime"),
        pytest.param({"measured_on": {"sha256": "0"}}, "sha256 0, here ", id="file"),
        pytest.param({"tuning": {"instance_count": 0}}, "instance_count is 0, 1 to 1024 are possible", id="impossible"),
        pytest.param({"tuning": {"one_thread_rows": "4"}}, "one_thread_rows is '4'", id="text"),
    ],
)
def test_foreign_measurements_are_ignored(path: Path, change: dict[str, dict[str, Any]], words: str) -> None:
    """What was measured elsewhere, for another file, or cannot be, is ignored with a warning that says so."""
    written = tuning.write(path, "cpu", 2, MEASURED, [])
    content = json.loads(written.read_text())
    for part, entries in change.items():
        content[part] |= entries
    written.write_text(json.dumps(content))
    with structlog.testing.capture_logs() as logs:
        assert tuning_of(opened(path)) == Tuning(128, 32, 2)
    (warning,) = [line for line in logs if line["event"] == "tuning ignored"]
    assert words in warning["reason"]
    assert warning["log_level"] == "warning"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tuning": 3, "measured_on": {}}', "\x00"])
def test_broken_measurements_are_ignored(path: Path, text: str) -> None:
    """A file that cannot be read as a measurement is ignored with a warning."""
    path.with_name(tuning.FILE_NAME).write_text(text)
    with structlog.testing.capture_logs() as logs:
        assert tuning_of(opened(path)) == Tuning(128, 32, 2)
    assert [line["event"] for line in logs] == ["tuning ignored"]
