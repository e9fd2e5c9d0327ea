"""A teacher's answers, stored once: what an exported model gives for a few fixed views of every training image.

A view is an image as the recipe's augmentation changes it, drawn from the view's own number, so every seed of a
student learns from the same ones. An epoch sees one view of each image, and the next epoch the next; after a round of
all views each is seen mirrored, if the recipe flips, with the answers of the view as it was: a teacher that was trained
on both gives nearly the same. So a student's epochs cost only the student.

The answers are float16 files, one for each view, beside the checkpoints: what was interrupted goes on from there.
"""

import dataclasses
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from .data import augment
from .errors import ModelFileError
from .evaluate import OnnxFile
from .files import replacing
from .recipes import Recipe

# Images in one run of the teacher; a run of more gains nothing.
BATCH = 50
# What of a recipe decides its views.
NUMBERS = (
    *("dataset", "taught_by", "validation", "translation_pixels", "cutout_pixels"),
    *("rotation_degrees", "scale", "shear", "elastic_pixels", "color_jitter"),
)


@dataclasses.dataclass(frozen=True)
class View:
    """What one epoch sees of all images, and what the teacher answers."""

    recipe: Recipe
    draws: augment.Draws
    mirrored: torch.Tensor | None
    """bool [N]; None where the recipe does not flip."""
    answers: torch.Tensor
    """float16 [N, classes]: the teacher's logits."""

    def apply(self, images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Change uint8 images [batch, height, width, channels], which are these `rows` of the data set."""
        images = augment.apply(self.recipe, self.draws, images, rows)
        return images if self.mirrored is None else augment.flip(images, self.mirrored[rows])


def view_of_epoch(
    recipe: Recipe, shape: tuple[int, ...], epoch: int, answers: list[torch.Tensor], device: torch.device
) -> View:
    """Give what an epoch, counted from 0, sees of images of `shape` [N, height, width, channels]."""
    turn, number = divmod(epoch, recipe.views)
    mirrored = None
    if recipe.flip:
        first = torch.rand(shape[0], generator=torch.Generator().manual_seed(recipe.seed)) < 0.5
        mirrored = (first if (turn + number) % 2 else ~first).to(device)
    return View(recipe, draw(recipe, shape, number, device), mirrored, answers[number])


def draw(recipe: Recipe, shape: tuple[int, ...], number: int, device: torch.device) -> augment.Draws:
    """Draw one view of images of `shape` [N, height, width, channels], the same at each call."""
    fixed = dataclasses.replace(recipe, flip=False, unaugmented_epochs=0)
    return augment.draw(fixed, shape, 0, torch.Generator().manual_seed(number), device)


def answer(recipe: Recipe, images: torch.Tensor, path: Path, folder: Path, console: Console) -> list[torch.Tensor]:
    """Give the logits of the model at `path`, float16 [N, classes] for each view of uint8 images [N, H, W, channels].

    What `folder` does not hold yet is computed and kept there. Raises ModelFileError where there is no such file.
    """
    if not path.exists():
        raise ModelFileError(
            f"{recipe.name} is taught by {recipe.taught_by}, and {path} is not there; export that first, or name the "
            f"folder that has it with --models-dir"
        )
    known = path_of(folder, recipe, path, images)
    teacher = None
    found = []
    for number in range(recipe.views):
        stored = known.with_name(f"{known.name}-{number}.npy")
        if not stored.exists():
            teacher = teacher or OnnxFile(path, threads=1)
            console.print(f"{recipe.name}: {recipe.taught_by} answers view {number + 1} of {recipe.views}")
            logits = _answer(recipe, images, number, teacher)
            with replacing(stored) as temporary, temporary.open("wb") as file:
                np.save(file, logits)
        found.append(torch.from_numpy(np.load(stored)))
    return found


def path_of(folder: Path, recipe: Recipe, teacher: Path, images: torch.Tensor) -> Path:
    """Name the files of a recipe's answers, without their number and ending: by all that decides what they hold."""
    numbers = recipe.to_dict()
    decides = {key: numbers.get(key) for key in NUMBERS} | {"images": list(images.shape)}
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode() + teacher.read_bytes()).hexdigest()[:12]
    return folder / f"{recipe.taught_by}-answers-{digest}"


def _answer(recipe: Recipe, images: torch.Tensor, number: int, teacher: OnnxFile) -> NDArray[np.float16]:
    """Run a teacher of one thread in as many threads as there may be: runs do not wait for each other."""
    draws = draw(recipe, tuple(images.shape), number, torch.device("cpu"))

    def run(rows: torch.Tensor) -> NDArray[np.float16]:
        logits, _ = teacher.run(augment.apply(recipe, draws, images[rows], rows).contiguous().numpy())
        return logits.astype(np.float16)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return np.concatenate(list(pool.map(run, torch.split(torch.arange(len(images)), BATCH))))
