"""Winograd's algorithm gives what a convolution gives, and its gradients, to float32's precision."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from training import winograd
from training.networks import NETWORKS

needs_library = pytest.mark.skipif(winograd.library() is None, reason="no compiler, or no x86 with AVX2 alone")
# Measured at most 1.3e-5 of the largest result; a direct convolution in float32 has 1.7e-6.
TOLERANCE = 5e-5
CPU = torch.device("cpu")


@pytest.fixture
def _nothing_compiled() -> Iterator[None]:
    winograd.library.cache_clear()
    yield
    winograd.library.cache_clear()


def tensors(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


def largest_error(found: torch.Tensor | None, expected: torch.Tensor | None) -> float:
    assert found is not None
    assert expected is not None
    return float((found.detach().double() - expected).abs().max() / expected.abs().max())


@needs_library
@pytest.mark.parametrize(
    ("batch", "channels", "out", "height", "width"),
    [
        (5, 16, 32, 8, 8),
        (7, 80, 48, 6, 6),
        (3, 32, 16, 3, 3),
        (1, 16, 16, 1, 1),
        (2, 48, 16, 5, 9),
        (64, 176, 176, 8, 8),
    ],
)
def test_results_and_gradients_are_those_of_a_convolution(
    batch: int, channels: int, out: int, height: int, width: int
) -> None:
    """Also where tiles reach over the edge, threads have no image, and rows are no multiple of six."""
    maps, weight, of_results = tensors(
        (batch, channels, height, width), (out, channels, 3, 3), (batch, out, height, width)
    )
    expected = conv2d(maps, weight, padding=1)
    expected.backward(of_results)  # type: ignore[no-untyped-call] # so in PyTorch
    plain_maps, plain_weight = (value.detach().float().requires_grad_() for value in (maps, weight))
    results = winograd.Function.apply(plain_maps, plain_weight)
    results.backward(of_results.detach().float())
    assert largest_error(results, expected.detach()) < TOLERANCE
    assert largest_error(plain_maps.grad, maps.grad) < TOLERANCE
    assert largest_error(plain_weight.grad, weight.grad) < TOLERANCE


@needs_library
def test_the_same_numbers_give_the_same_bits() -> None:
    first = [value.detach().float() for value in tensors((37, 32, 6, 6), (48, 32, 3, 3))]
    results = []
    for _ in range(3):
        maps, weight = (value.clone().requires_grad_() for value in first)
        output = winograd.Function.apply(maps, weight)
        output.square().sum().backward()
        results.append((output, maps.grad, weight.grad))
    for again in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], again, strict=True))


def some_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),  # 3 channels
        nn.Sequential(nn.Conv2d(16, 32, 3, padding=1, bias=False)),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.Conv2d(32, 16, 3, bias=False),  # no padding
        nn.Conv2d(16, 16, 3, padding=1, bias=False, groups=2),
        nn.Conv2d(16, 16, 3, padding=1, bias=False, stride=2),
        nn.Conv2d(16, 16, 5, padding=2, bias=False),
    )


@needs_library
def test_layers_that_fit_are_computed_so_while_they_train_and_keep_their_weights() -> None:
    network = some_layers()
    images = torch.rand(2, 3, 16, 16)
    names, expected = list(network.state_dict()), network.eval()(images)
    weights = [id(weight) for weight in network.parameters()]
    assert winograd.speed_up(network, "bf16", CPU)
    assert [
        type(layer).__module__ == "training.winograd" for layer in network.modules() if isinstance(layer, nn.Conv2d)
    ] == [False, True, True, False, False, False, False]
    assert list(network.state_dict()) == names
    assert [id(weight) for weight in network.parameters()] == weights
    assert torch.equal(network.eval()(images), expected)
    trained = network.train()(images)
    assert not torch.equal(trained, expected)
    torch.testing.assert_close(trained, expected, rtol=1e-4, atol=1e-5)


@needs_library
def test_a_recipe_in_fp32_and_a_network_without_such_layers_stay_as_they_are() -> None:
    assert not winograd.speed_up(some_layers(), "fp32", CPU)
    assert not winograd.speed_up(NETWORKS["cifar10-lenet"].build(), "bf16", CPU)


@pytest.mark.usefixtures("_nothing_compiled")
def test_without_a_compiler_layers_stay_as_they_are_and_a_warning_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    monkeypatch.setenv("PATH", "")
    network = some_layers()
    with caplog.at_level(logging.WARNING):
        assert not winograd.speed_up(network, "bf16", CPU)
    assert "no g++ or clang++ is here" in caplog.text
    assert all(type(layer) is not winograd.Convolution for layer in network.modules())


@needs_library
@pytest.mark.usefixtures("_nothing_compiled")
def test_what_cannot_be_loaded_is_a_warning_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(winograd, "FLAGS", ("-E",))  # what comes out is no library
    with caplog.at_level(logging.WARNING):
        assert not winograd.speed_up(some_layers(), "bf16", CPU)
    assert "cannot be used" in caplog.text


@pytest.mark.usefixtures("_nothing_compiled")
def test_what_does_not_compile_is_a_warning_with_the_compilers_words(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    broken = tmp_path / "broken.cpp"
    broken.write_text("this is no C++\n")
    monkeypatch.setattr(winograd, "SOURCE", broken)
    with caplog.at_level(logging.WARNING):
        assert not winograd.speed_up(some_layers(), "bf16", CPU)
    assert "does not compile here" in caplog.text or "no g++" in caplog.text
