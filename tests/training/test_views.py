"""A student learns an exported model's answers to fixed views, which are stored once."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from training import views
from training.data import Dataset
from training.errors import ModelFileError
from training.evaluate import OnnxFile
from training.export.pipeline import recipe_for
from training.recipes import RECIPES
from training.train import Training, train

from .samples import CPU, part, shipped

TEACHER = shipped("mnist-deep")
STUDENT = dataclasses.replace(
    RECIPES["mnist-tiny"],
    epochs=3,
    validation=40,
    translation_pixels=2,
    taught_by="mnist-deep",
    views=2,
    distillation_weight=1.0,
    distillation_temperature=4.0,
)


def weights(training: Training) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in training.network.parameters()])


def test_stored_answers_are_the_models(mnist: Dataset, tmp_path: Path, console: Console) -> None:
    """Each file has the logits that the exported model gives for what the student sees in that epoch."""
    images = part(mnist, 120, 0).train_images
    found = views.answer(STUDENT, images, TEACHER, tmp_path, console)
    teacher, rows = OnnxFile(TEACHER), torch.arange(len(images))
    for epoch, answers in enumerate(found):
        view = views.view_of_epoch(STUDENT, tuple(images.shape), epoch, found, CPU)
        assert view.answers is answers
        logits, _ = teacher.run(view.apply(images, rows).numpy())
        np.testing.assert_allclose(answers, logits, rtol=1e-3, atol=1e-3)
    assert len(found) == 2
    assert not torch.equal(found[0], found[1])


def test_every_seed_takes_the_same_answers(mnist: Dataset, tmp_path: Path) -> None:
    """The first asks the teacher, the second finds the files; what is finished asks for nothing."""
    log, data = io.StringIO(), part(mnist, 120, 0)
    for seed in (0, 1, 1):
        recipe = dataclasses.replace(STUDENT, seed=seed)
        train(recipe, data, CPU, tmp_path / f"{seed}.pt", Console(file=log, width=200), TEACHER)
        if seed:
            for stored in tmp_path.glob("*.npy"):
                stored.unlink()
    lines = log.getvalue().splitlines()
    assert [line for line in lines if "answers view" in line] == [
        "mnist-tiny: mnist-deep answers view 1 of 2",
        "mnist-tiny: mnist-deep answers view 2 of 2",
    ]
    assert len(lines) == 2 + 2 * STUDENT.epochs


def test_answers_alone_teach_without_labels(mnist: Dataset, tmp_path: Path, console: Console) -> None:
    """With the whole loss from the teacher, wrong labels give the same weights; with a tenth from labels, others."""
    found = {}
    for share in (1.0, 0.9):
        for moved in (0, 1):
            data = part(mnist, 120, 0)
            data = dataclasses.replace(data, train_labels=(data.train_labels + moved) % 10)
            recipe = dataclasses.replace(STUDENT, distillation_weight=share)
            path = tmp_path / f"{share}-{moved}.pt"
            found[share, moved] = weights(train(recipe, data, CPU, path, console, TEACHER))
    assert torch.equal(found[1.0, 0], found[1.0, 1])
    assert not torch.equal(found[0.9, 0], found[0.9, 1])


def test_the_next_round_is_mirrored(cifar10: Dataset) -> None:
    """After all views each is seen as its mirror image, with the same answers; half of the images begin mirrored."""
    recipe = dataclasses.replace(STUDENT, dataset="cifar10", flip=True, cutout_pixels=8)
    images, rows = part(cifar10, 100, 0).train_images, torch.arange(100)
    answers = [torch.zeros(100, 10), torch.ones(100, 10)]
    seen = [views.view_of_epoch(recipe, tuple(images.shape), epoch, answers, CPU) for epoch in range(4)]
    pictures = [view.apply(images, rows) for view in seen]
    for first, second in ((0, 2), (1, 3)):
        torch.testing.assert_close(pictures[second], pictures[first].flip(2))
        assert seen[second].answers is seen[first].answers
    assert seen[0].mirrored is not None
    assert 30 < int(seen[0].mirrored.sum()) < 70
    assert not torch.equal(pictures[0], pictures[1])


def test_a_missing_teacher_is_named(mnist: Dataset, tmp_path: Path, console: Console) -> None:
    with pytest.raises(ModelFileError, match=r"taught by mnist-deep, and .* is not there; export that first"):
        train(
            STUDENT,
            part(mnist, 120, 0),
            CPU,
            tmp_path / "student.pt",
            console,
            tmp_path / "mnist-deep" / "1" / "model.onnx",
        )
    assert list(tmp_path.iterdir()) == []


def test_own_pictures_have_no_answers(cifar10: Dataset) -> None:
    """The teacher would know other classes."""
    recipe = recipe_for(part(cifar10, 200, 0), RECIPES["mnist-small"], "mine")
    assert (recipe.taught_by, recipe.views, recipe.distillation_weight) == ("", 0, 0)
