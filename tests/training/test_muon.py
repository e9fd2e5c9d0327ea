"""Kernels move by steps of equal length in every direction; everything else moves as SGD moves it."""

import pytest
import torch
from torch import nn

from training.kernels import muon
from training.kernels.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(8, 8), (16, 90), (90, 16)])
def test_orthogonalising_keeps_directions(shape: tuple[int, int]) -> None:
    """Orthogonalising keeps the directions and evens out their lengths."""
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.linspace(0.3, 3, shape[1]))
    left, lengths, right = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalise(matrix)
    inner = left.T @ result @ right.T
    assert inner.diagonal().min() > 0.6 if lengths.min() > 0.05 * lengths.max() else inner.diagonal().min() > 0
    assert inner.diagonal().max() < 1.25
    assert (inner - torch.diag(inner.diagonal())).abs().max() < 0.05
    assert result.dtype == matrix.dtype


@pytest.mark.parametrize("smallest", [1.0, 1e-2, 1e-6])
def test_squares_iterate_like_the_source(smallest: float) -> None:
    """Iterating the square gives what the source iterates."""
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(40, 360), full_matrices=False)
    lengths = torch.logspace(0, float(torch.tensor(smallest).log10()), 40)
    matrix = left @ torch.diag(lengths / lengths.norm()) @ right
    expected = muon.iterate(matrix.double()).float()
    assert float((muon.iterate_squares(matrix) - expected).norm() / expected.norm()) < 1e-3


def test_gradient_size_does_not_matter() -> None:
    """The size of a gradient does not matter to a kernel."""
    torch.manual_seed(0)
    gradient = torch.randn(16, 8, 3, 3)
    results = []
    for factor in (1.0, 1e-3):
        kernel = nn.Parameter(torch.ones(16, 8, 3, 3))
        kernel.grad = gradient * factor
        Muon([kernel], rate=0.1, sgd_learning_rate=0.1, momentum=0.9, weight_decay=0.0).step()
        results.append(kernel.detach().clone())
    torch.testing.assert_close(results[0], results[1], atol=2e-3, rtol=0)
    # Brought to the norm of sqrt(16) first, then moved by a tenth of an orthogonal matrix of 16 rows.
    moved = results[0] - torch.ones(16, 8, 3, 3) * (4 / torch.ones(16, 8, 3, 3).norm())
    assert float(moved.norm()) == pytest.approx(0.1 * 4, rel=0.15)


def test_other_weights_move_like_sgd() -> None:
    """All other weights move as SGD with nesterov momentum moves them."""
    torch.manual_seed(0)
    start = torch.randn(5, 3)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    muon = Muon([ours], rate=1.0, sgd_learning_rate=0.1, momentum=0.9, weight_decay=0.01)
    sgd = torch.optim.SGD([theirs], 0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    for _ in range(5):
        gradient = torch.randn(5, 3)
        for weight, optimizer in ((ours, muon), (theirs, sgd)):
            weight.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_a_weight_without_gradient_stays() -> None:
    """A weight without gradient stays."""
    kernel = nn.Parameter(torch.ones(2, 2, 3, 3))
    Muon([kernel], rate=0.1, sgd_learning_rate=0.1, momentum=0.9, weight_decay=0.1).step()
    assert torch.equal(kernel, torch.ones(2, 2, 3, 3))
