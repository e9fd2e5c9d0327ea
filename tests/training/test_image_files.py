"""Training sees an image file as the server does, and names the files that cannot be decoded."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from service.images.decode import ImageShape, decode
from training.data import Dataset
from training.data.image_files import read, read_all
from training.errors import DataError

GREY, COLOUR = (28, 28, 1), (32, 32, 3)


def rotated(image: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    image.save(path, exif=exif)


def with_transparency(image: Image.Image, path: Path) -> None:
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(path)


def with_transparent_colours(image: Image.Image, path: Path) -> None:
    """Transparency as a list of bytes, of which Pillow warns."""
    image.quantize(16).save(path, transparency=bytes(range(0, 256, 16)))


def of_16_bits(image: Image.Image, path: Path) -> None:
    values = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(values).save(path)


SAVINGS: dict[str, Callable[[Image.Image, Path], None]] = {
    "plain.png": lambda image, path: image.save(path),
    "rotated.jpg": rotated,
    "cmyk.jpg": lambda image, path: image.convert("CMYK").save(path),
    "transparent.png": with_transparency,
    "palette.png": with_transparent_colours,
    "palette.gif": lambda image, path: image.save(path),
    "grey-and-alpha.png": lambda image, path: image.convert("LA").save(path),
    "two-colours.bmp": lambda image, path: image.convert("1").save(path),
    "deep.png": of_16_bits,
    "lossy.webp": lambda image, path: image.save(path),
}


@pytest.mark.parametrize("shape", [GREY, COLOUR])
@pytest.mark.parametrize("size", [(32, 32), (90, 50), (7, 60)])
@pytest.mark.parametrize("name", SAVINGS)
def test_pixels_equal_the_servers(
    name: str, size: tuple[int, int], shape: tuple[int, int, int], cifar10: Dataset, tmp_path: Path
) -> None:
    """A file gives the very pixels that the server gives the model."""
    image = Image.fromarray(cifar10.train_images[0].numpy()).resize(size, Image.Resampling.BICUBIC)
    SAVINGS[name](image, tmp_path / name)
    served = decode((tmp_path / name).read_bytes(), ImageShape(*shape), 10**6)
    (read_here,) = read_all([tmp_path / name], shape, Console(file=io.StringIO()))
    assert read_here.dtype == torch.uint8
    assert np.array_equal(read_here.numpy(), served)
    assert len(np.unique(served)) > 1


def test_large_image_is_averaged(tmp_path: Path) -> None:
    """A large image is shrunk by means of its pixels.

    Black and white columns become grey; nearest-neighbour sampling would keep either.
    """
    stripes = np.tile(np.array([0, 255], np.uint8), (320, 160))
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    shrunk = read(tmp_path / "stripes.png", COLOUR)
    assert shrunk.min() > 120
    assert shrunk.max() < 135


def test_broken_files_are_named_and_counted(cifar10: Dataset, tmp_path: Path, console: Console) -> None:
    """Broken files are named and counted in one sentence."""
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path in paths:
        Image.fromarray(cifar10.train_images[0].numpy()).save(path)
    for path in paths[1:]:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError) as caught:
        read_all(paths, COLOUR, console)
    text = str(caught.value)
    assert text.startswith(f"cannot be decoded: {paths[1]} (")
    assert str(paths[3]) in text
    assert str(paths[0]) not in text
    assert " and 2 more; mend or remove" in text


@pytest.mark.parametrize("content", [b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_is_broken(content: bytes, tmp_path: Path, console: Console) -> None:
    """What is no image is broken."""
    (tmp_path / "one.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"one\.jpg \(it is none of PNG, JPEG, WEBP, BMP, GIF, PPM, TIFF\)"):
        read_all([tmp_path / "one.jpg"], COLOUR, console)


def test_floating_point_pixels_are_refused(tmp_path: Path, console: Console) -> None:
    """Floating point pixels are refused rather than guessed."""
    Image.fromarray(np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)).save(tmp_path / "one.tif")
    with pytest.raises(DataError, match=r"one\.tif \(its pixels are floating-point numbers"):
        read_all([tmp_path / "one.tif"], COLOUR, console)


def test_terminal_has_bar_while_reading(cifar10: Dataset, tmp_path: Path) -> None:
    """A terminal has a bar while images are read."""
    Image.fromarray(cifar10.train_images[0].numpy()).save(tmp_path / "one.png")
    text = io.StringIO()
    read_all([tmp_path / "one.png"] * 50, COLOUR, Console(file=text, force_terminal=True))
    assert "reading images" in text.getvalue()
    assert "50/50" in text.getvalue()
