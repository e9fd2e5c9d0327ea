"""A student learns its teacher's answers, and the teacher comes first, once."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from training.data import Dataset
from training.export.pipeline import recipe_for
from training.objective import distillation_loss
from training.recipes import RECIPES, teacher_of
from training.reference import softmax
from training.train import train

from .samples import CPU, part

TEACHER = dataclasses.replace(RECIPES["mnist-deep"], epochs=1, validation=40)
STUDENT = dataclasses.replace(
    RECIPES["mnist-tiny"],
    epochs=2,
    validation=40,
    teacher="mnist-deep",
    distillation_weight=1.0,
    distillation_temperature=4.0,
)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_loss_is_scaled_mean_divergence(temperature: float) -> None:
    """The loss is the mean divergence times the square of the temperature."""
    generator = torch.Generator().manual_seed(0)
    logits, answers = torch.randn(2, 5, 10, generator=generator).mul(3).unbind()
    found, expected = (softmax(values.double().numpy() / temperature) for values in (logits, answers))
    divergence = (expected * np.log(expected / found)).sum(1).mean() * temperature**2
    assert float(distillation_loss(logits, answers, temperature)) == pytest.approx(divergence, rel=1e-4)
    assert float(distillation_loss(answers, answers, temperature)) == pytest.approx(0, abs=1e-5)


def test_distillation_gradient_pulls_towards_teacher() -> None:
    """The gradient of the loss pulls towards the teacher's probabilities."""
    logits, answers = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True), torch.tensor([[3.0, 0.0, 1.0]])
    (pull,) = torch.autograd.grad(distillation_loss(logits, answers, 2.0), logits)
    torch.testing.assert_close(pull, 2 * ((logits / 2).softmax(1) - (answers / 2).softmax(1)))


def test_pure_distillation_ignores_labels(mnist: Dataset, tmp_path: Path, console: Console) -> None:
    """What is learned from the teacher alone is the same whatever the labels."""
    data = part(mnist, 200, 0)
    weights = {}
    for name, labels, share in (("right", 0, 1.0), ("wrong", 1, 1.0), ("both", 0, 0.9), ("both-wrong", 1, 0.9)):
        moved = dataclasses.replace(data, train_labels=(data.train_labels + labels) % 10)
        # The teacher's checkpoint, which the first one leaves, serves all.
        recipe = dataclasses.replace(STUDENT, distillation_weight=share)
        trained = train(recipe, moved, CPU, tmp_path / f"{name}.pt", console, TEACHER)
        weights[name] = torch.cat([weight.flatten() for weight in trained.network.parameters()])
    assert torch.equal(weights["right"], weights["wrong"])
    assert not torch.equal(weights["both"], weights["both-wrong"])


def test_teacher_is_trained_first_once(mnist: Dataset, tmp_path: Path) -> None:
    """The teacher is trained first and not where nothing is left to learn."""
    log = io.StringIO()
    for _ in range(2):
        train(STUDENT, part(mnist, 200, 0), CPU, tmp_path / "student.pt", Console(file=log, width=200), TEACHER)
        (tmp_path / "mnist-deep-seed0.pt").unlink(missing_ok=True)
    epochs = [line.split("  ")[0] for line in log.getvalue().splitlines()]
    assert epochs == ["mnist-deep: epoch 1/1", "mnist-tiny: epoch 1/2", "mnist-tiny: epoch 2/2"]


@pytest.mark.parametrize("teacher", [None, RECIPES["cifar10"]])
def test_student_needs_its_recipes_teacher(teacher: None, mnist: Dataset, tmp_path: Path, console: Console) -> None:
    """A student has the teacher that its recipe names."""
    with pytest.raises(ValueError, match="mnist-tiny is taught by mnist-deep, not by"):
        train(STUDENT, part(mnist, 200, 0), CPU, tmp_path / "student.pt", console, teacher)
    assert list(tmp_path.iterdir()) == []


def test_teacher_follows_epochs_not_seed() -> None:
    """A trial of fewer epochs has a teacher of as few and every seed the same one."""
    wide = RECIPES["cifar10-wide"]
    student = dataclasses.replace(RECIPES["cifar10"], seed=7)
    models = Path("models")
    assert teacher_of(student, models) == wide
    assert teacher_of(student, models, 10) == dataclasses.replace(wide, epochs=10, unaugmented_epochs=1)
    assert teacher_of(RECIPES["mnist"], models) is None
    assert teacher_of(RECIPES["mnist-small"], models, 10) == models / "mnist-int8" / "1" / "model.onnx"


def test_own_images_have_no_teacher(cifar10: Dataset) -> None:
    """Images of one's own have no teacher. It would know other classes."""
    recipe = recipe_for(part(cifar10, 200, 0), RECIPES["cifar10"], "mine")
    assert (recipe.teacher, recipe.distillation_weight) == ("", 0)
