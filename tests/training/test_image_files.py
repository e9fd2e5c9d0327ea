"""Training sees a picture file as the server does, and names the files that nobody can decode."""

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


def rotated(picture: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    picture.save(path, exif=exif)


def with_transparency(picture: Image.Image, path: Path) -> None:
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    picture.save(path)


def with_transparent_colours(picture: Image.Image, path: Path) -> None:
    """Transparency as a list of bytes, of which Pillow warns."""
    picture.quantize(16).save(path, transparency=bytes(range(0, 256, 16)))


def of_16_bits(picture: Image.Image, path: Path) -> None:
    values = np.asarray(picture.convert("L")).astype(np.uint16) * 257
    Image.fromarray(values).save(path)


SAVINGS: dict[str, Callable[[Image.Image, Path], None]] = {
    "plain.png": lambda picture, path: picture.save(path),
    "rotated.jpg": rotated,
    "cmyk.jpg": lambda picture, path: picture.convert("CMYK").save(path),
    "transparent.png": with_transparency,
    "palette.png": with_transparent_colours,
    "palette.gif": lambda picture, path: picture.save(path),
    "grey-and-alpha.png": lambda picture, path: picture.convert("LA").save(path),
    "two-colours.bmp": lambda picture, path: picture.convert("1").save(path),
    "deep.png": of_16_bits,
    "lossy.webp": lambda picture, path: picture.save(path),
}


@pytest.mark.parametrize("shape", [GREY, COLOUR])
@pytest.mark.parametrize("size", [(32, 32), (90, 50), (7, 60)])
@pytest.mark.parametrize("name", SAVINGS)
def test_a_file_gives_the_very_pixels_that_the_server_gives_the_model(
    name: str, size: tuple[int, int], shape: tuple[int, int, int], cifar10: Dataset, tmp_path: Path
) -> None:
    picture = Image.fromarray(cifar10.train_images[0].numpy()).resize(size, Image.Resampling.BICUBIC)
    SAVINGS[name](picture, tmp_path / name)
    served = decode((tmp_path / name).read_bytes(), ImageShape(*shape), 10**6)
    (read_here,) = read_all([tmp_path / name], shape, Console(file=io.StringIO()))
    assert read_here.dtype == torch.uint8
    assert np.array_equal(read_here.numpy(), served)
    assert len(np.unique(served)) > 1


def test_a_large_picture_is_shrunk_by_means_of_its_pixels(tmp_path: Path) -> None:
    """Black and white columns become grey; nearest-neighbour sampling would keep either."""
    stripes = np.tile(np.array([0, 255], np.uint8), (320, 160))
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    shrunk = read(tmp_path / "stripes.png", COLOUR)
    assert shrunk.min() > 120
    assert shrunk.max() < 135


def test_broken_files_are_named_and_counted_in_one_sentence(cifar10: Dataset, tmp_path: Path, console: Console) -> None:
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


@pytest.mark.parametrize("content", [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_picture_is_broken(content: bytes, tmp_path: Path, console: Console) -> None:
    (tmp_path / "one.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"one\.jpg \(it is none of PNG, JPEG, WEBP, BMP, GIF, PPM, TIFF\)"):
        read_all([tmp_path / "one.jpg"], COLOUR, console)


def test_floating_point_pixels_are_refused_rather_than_guessed(tmp_path: Path, console: Console) -> None:
    Image.fromarray(np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)).save(tmp_path / "one.tif")
    with pytest.raises(DataError, match=r"one\.tif \(its pixels are floating-point numbers"):
        read_all([tmp_path / "one.tif"], COLOUR, console)


def test_a_terminal_has_a_bar_while_pictures_are_read(cifar10: Dataset, tmp_path: Path) -> None:
    Image.fromarray(cifar10.train_images[0].numpy()).save(tmp_path / "one.png")
    text = io.StringIO()
    read_all([tmp_path / "one.png"] * 50, COLOUR, Console(file=text, force_terminal=True))
    assert "reading pictures" in text.getvalue()
    assert "50/50" in text.getvalue()
