"""The temperature is where the cross-entropy is least, and the calibration error is what its definition says."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.calibration import BINS, bins, expected_calibration_error, fit_temperature
from training.data import Dataset
from training.evaluate import OnnxFile, outputs_of_onnx

from .samples import shipped


def sampled(temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose labels are drawn from their own softmax, then multiplied: so their temperature is known."""
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=2, size=(20_000, 10))
    powers = np.exp(logits)
    labels = (powers.cumsum(1) / powers.sum(1, keepdims=True) > generator.random((20_000, 1))).argmax(1)
    return (logits * temperature).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_a_known_temperature_is_found(temperature: float) -> None:
    """A known temperature is found."""
    assert fit_temperature(*sampled(temperature)) == pytest.approx(temperature, rel=0.03)


def test_no_mistake_gives_temperature_one() -> None:
    """Without a wrong prediction there is nothing to fit.

    However few images say so: no temperature is low enough then, and the probabilities are left as they are.
    """
    logits = np.array([[3.0, 1.0], [0.0, 2.0]], np.float32)
    assert fit_temperature(logits, np.array([0, 1])) == 1
    assert fit_temperature(logits, np.array([1, 0])) == 1  # nor high enough where all are wrong


def test_temperature_minimises_pytorch_cross_entropy() -> None:
    """The temperature is where PyTorch too finds the least cross entropy."""
    logits, labels = sampled(2.0)
    exact, targets = torch.from_numpy(logits).double(), torch.from_numpy(labels)
    found = fit_temperature(logits, labels)
    loss = {
        t: torch.nn.functional.cross_entropy(exact / t, targets).item() for t in (found * 0.99, found, found * 1.01)
    }
    assert loss[found] == min(loss.values())


@given(st.lists(st.tuples(st.floats(0.5, 1), st.booleans()), min_size=1, max_size=50))
def test_calibration_error_equals_plain_loop(cases: list[tuple[float, bool]]) -> None:
    """The calibration error is that of a plain loop."""
    best = np.array([confidence for confidence, _ in cases], np.float32)
    probabilities = np.stack([best, 1 - best], 1)
    right = np.array([answer for _, answer in cases])
    labels = np.where(right, probabilities.argmax(1), 1 - probabilities.argmax(1))
    expected = 0.0
    for number in range(BINS):
        inside = [i for i, c in enumerate(best.astype(float)) if number / BINS < c <= (number + 1) / BINS]
        if inside:
            expected += abs(best[inside].astype(float).mean() - right[inside].mean()) * len(inside) / len(cases)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected, abs=1e-9)


def test_bins_hold_every_image_once() -> None:
    """Bins hold every image once."""
    logits, labels = sampled(1.0)
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    parts = bins(probabilities, labels)
    assert len(parts) == BINS
    assert sum(part.images for part in parts) == len(labels)
    assert expected_calibration_error(probabilities, labels) < 0.02  # as their labels were drawn from them
    assert expected_calibration_error(np.eye(10, dtype=np.float32)[labels], labels) == 0


def test_shipped_temperature_lowers_calibration_error(cifar10: Dataset) -> None:
    """The temperature of a shipped file lowers its calibration error. On the test set, which the fit has not seen."""
    outputs = outputs_of_onnx(OnnxFile(shipped("cifar10-cnn")), cifar10.test_images)
    labels = cifar10.test_labels.numpy()
    before = torch.from_numpy(outputs.logits).softmax(1).numpy()
    assert expected_calibration_error(outputs.probabilities, labels) < expected_calibration_error(before, labels)
