"""A folder that does not fit in memory is decoded once into a file, and trained from there with the same result."""

import dataclasses
import io
import os
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from training.data import Dataset
from training.data.dataset import lies_on_disk
from training.data.folder import load_folder
from training.data.pixel_cache import PixelCache
from training.errors import BusyError, DataError
from training.export import main
from training.export.pipeline import recipe_for
from training.lock import hold
from training.recipes import RECIPES
from training.train import train

from .samples import CPU
from .test_folder import COLOUR

IN_MEMORY = 100_000
"""Bytes of pixels, of which the folder has 184,320."""


@pytest.fixture
def folder(image_folder: Path, tmp_path: Path) -> Path:
    """Sixty images of three classes, one of which is there twice."""
    copy = tmp_path / "images"
    shutil.copytree(image_folder, copy)
    shutil.copy(copy / "cat" / "000.PNG", copy / "cat" / "again.png")
    shutil.copy(copy / "ship" / "003.jpg", copy / "ship" / "again.jpg")
    return copy


def load(folder: Path, cache: PixelCache | None) -> tuple[Dataset, str]:
    said = io.StringIO()
    return load_folder(folder, COLOUR, Console(file=said, width=500), validation_from=1, cache=cache), said.getvalue()


def test_cached_training_is_the_same(folder: Path, tmp_path: Path) -> None:
    """From disk the images, what was left out and the trained weights are the same bit for bit as from memory."""
    cache = PixelCache(tmp_path / "cache", IN_MEMORY)
    (in_memory, told), (cached, told_too) = load(folder, None), load(folder, cache)
    assert [lies_on_disk(data.train_images) for data in (in_memory, cached)] == [False, True]
    assert in_memory.digest() == cached.digest()
    assert told_too.splitlines()[1:] == told.splitlines()
    recipe = recipe_for(in_memory, dataclasses.replace(RECIPES["cifar10-cnn"], epochs=2), "mine")
    networks = [
        train(recipe, data, CPU, tmp_path / f"{place}.pt", Console(quiet=True)).network.state_dict()
        for place, data in enumerate((in_memory, cached))
    ]
    assert all(torch.equal(networks[0][key], networks[1][key]) for key in networks[0])


def test_cache_is_used_until_files_change(folder: Path, tmp_path: Path) -> None:
    """Files of the same names, sizes and times are not decoded again; others are."""
    cache = PixelCache(tmp_path / "cache", IN_MEMORY)
    before, told = load(folder, cache)
    assert "0 MiB of pixels are decoded into" in told
    image = folder / "cat" / "001.jpg"
    times = image.stat().st_atime_ns, image.stat().st_mtime_ns
    image.write_bytes(bytes(image.stat().st_size))
    os.utime(image, ns=times)
    after, told = load(folder, cache)
    assert before.digest() == after.digest()
    assert "decoded" not in told
    image.touch()
    with pytest.raises(DataError, match=r"cannot be decoded: .*cat/001\.jpg"):
        load(folder, cache)


def test_half_written_cache_is_not_used(folder: Path, tmp_path: Path) -> None:
    """What a killed process left is decoded anew; while another process decodes, a second is refused."""
    cache = PixelCache(tmp_path / "cache", IN_MEMORY)
    digest = load(folder, cache)[0].digest()
    (pixels,) = cache.folder.glob("*.u8")
    pixels.write_bytes(b"half")
    after, told = load(folder, cache)
    assert digest == after.digest()
    assert "decoded into" in told
    del after
    pixels.unlink()
    with hold(pixels.with_suffix(".lock"), "it"), pytest.raises(BusyError, match=f"by process {os.getpid()}"):
        load(folder, cache)


def test_large_folder_is_cached_by_command(folder: Path, tmp_path: Path) -> None:
    """By the command line too: what is larger than --pixels-in-memory lies beside the checkpoints."""
    places = ["--models-dir", str(tmp_path / "models"), "--checkpoints-dir", str(tmp_path / "checkpoints")]
    told = ["--network", "torchvision:squeezenet1_1", "--size", "96", "--pixels-in-memory", "1", "--epochs", "1"]
    line = ["--dataset", "folder", "--data-dir", str(folder), "--name", "mine", "--no-report", *told, *places]
    assert main(line) == 0
    assert len([*(tmp_path / "checkpoints").glob("pixels-*.u8")]) == 1
