"""NumPy float64, PyTorch and the service's own sessions agree, on every execution provider that runs here, as set.

A provider that does not run here must be refused by name: there is no third way.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from service.client.dataset import TEST_SETS
from service.errors import ProviderUnavailable
from service.runtime import providers
from service.runtime.session import Session
from tests.training.samples import SHIPPED, classifier_of, shipped
from tests.wire import Array
from training.recipes import RECIPES
from training.reference import forward

TOLERANCE = 1e-4
IMAGES = 100
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "cpu": ("cpu", {}),
    "cpu sleeping": ("cpu", {"spin_us": 0}),
    "openvino": ("openvino", {}),
    "openvino bf16": ("openvino", {"precision": "bf16"}),
    "cuda": ("cuda", {}),
    "cuda tf32": ("cuda", {"tf32": True}),
    "cuda graphs": ("cuda", {"graphs": True}),
    "cuda graphs tf32, two instances": ("cuda", {"graphs": True, "tf32": True, "instances": 2}),
}


def open_on(provider: str, options: dict[str, Any], path: Path) -> Session | None:
    """A session, or None where the provider was refused by name."""
    try:
        return Session(path, providers.choose([provider], {provider: options}), threads=2, max_batch_rows=128)
    except ProviderUnavailable as refused:
        reason = str(refused)
    assert reason.startswith(f"the execution provider '{provider}' was asked for and does not run here: ")
    return None


@functools.cache
def compared(name: str, data_dir: Path) -> tuple[Array, Array, Array]:
    """Images, and what PyTorch and NumPy in float64 compute for them, once for all providers."""
    images = TEST_SETS[RECIPES[name].dataset].read(data_dir).pictures[:IMAGES].copy()
    classifier = classifier_of(name)
    with torch.inference_mode():
        trained = classifier(torch.from_numpy(images))[0].numpy()
    weights = {key: value.numpy() for key, value in classifier.network.state_dict().items()}
    return images, trained, forward(name, weights, images)


def test_every_provider_is_compared() -> None:
    """Each execution provider has a setting here."""
    assert {provider for provider, _ in SETTINGS.values()} == set(providers.PROVIDERS)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", SHIPPED)
def test_providers_agree_or_are_refused(name: str, setting: str, data_dir: Path) -> None:
    """All three agree on each provider, or it is refused.

    Where factors are rounded, the logits may leave the tolerance by what is stated for that arithmetic.
    """
    provider, options = SETTINGS[setting]
    session = open_on(provider, options, shipped(name))
    assert session is not None or provider != "cpu"
    if session is not None:
        images, trained, independent = compared(name, data_dir)
        allowed = max(TOLERANCE, session.arithmetic.tolerance * float(np.abs(trained).max()))
        assert session.provider == provider
        assert session.probe_deviation is not None
        assert session.probe_tolerance is not None
        assert session.probe_deviation <= session.probe_tolerance
        assert session.arithmetic.tolerance or session.probe_tolerance == TOLERANCE
        for rows in (1, 7, IMAGES):  # with buckets: one that fits, and two that are padded
            served = session.run({"images": images[:rows]})["logits"]
            assert np.abs(served - trained[:rows]).max() <= allowed
            assert np.abs(served - independent[:rows]).max() <= allowed


def test_weights_are_those_of_the_file() -> None:
    """The weights compared are those of the file.

    PyTorch's own copy would agree with itself: what it computes with is read from the file that is served.
    """
    held = [numpy_helper.to_array(weight) for weight in onnx.load(shipped("cifar10-cnn")).graph.initializer]
    for value in classifier_of("cifar10-cnn").network.state_dict().values():
        assert any(weight.shape == value.shape and np.array_equal(weight, value.numpy()) for weight in held)
