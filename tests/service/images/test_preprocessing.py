"""Images are prepared as torchvision's and timm's transforms prepare them, and as training's copy of the rule does."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from timm.data import create_transform
from torchvision import transforms
from torchvision.transforms._presets import ImageClassification

from service.errors import ModelRejected
from service.images.decode import ImageShape, decode, from_pixels
from service.images.preprocessing import FILTERS, Preprocessing, read_preprocessing
from service.runtime.model_metadata import read_metadata
from service.tensors import Array
from training.data.image_files import read
from training.preprocessing import Preprocessing as TrainingRule

LIMIT = 10**8
SIZES = [(200, 150), (151, 211), (64, 64), (73, 64), (333, 120), (40, 30), (1201, 800)]
RESIZES: list[int | tuple[int, int]] = [64, 73, (64, 64), (80, 70)]


def photo(width: int, height: int) -> Image.Image:
    """Soft shapes with noise, as photographs have them."""
    draw = np.random.default_rng(width * height)
    soft = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noise = draw.integers(-20, 21, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(soft).astype(int) + noise, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def by_torchvision(image: Image.Image, resize: int | tuple[int, int], interpolation: str, side: int) -> Array:
    steps = [
        transforms.Resize(resize, transforms.InterpolationMode(interpolation)),
        transforms.CenterCrop(side),
    ]
    result: Array = np.asarray(transforms.Compose(steps)(image))
    return result


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("resize", RESIZES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_are_torchvisions(size: tuple[int, int], resize: int | tuple[int, int], interpolation: str) -> None:
    """Every size, resize and filter gives the pixels of Resize and CenterCrop, to the last bit."""
    image = photo(*size)
    shape = ImageShape(64, 64, 3, Preprocessing(resize, interpolation))
    assert np.array_equal(decode(encoded(image), shape, LIMIT), by_torchvision(image, resize, interpolation, 64))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_are_timms(size: tuple[int, int], mode: str, interpolation: str) -> None:
    """The transform that timm makes of its data configuration gives the same pixels."""
    image = photo(*size)
    transform = create_transform(
        (3, 64, 64), interpolation=interpolation, crop_pct=0.9, crop_mode=mode, mean=(0,) * 3, std=(1,) * 3
    )
    expected = (transform(image).permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    shape = ImageShape(64, 64, 3, Preprocessing(71 if mode == "center" else (71, 71), interpolation))
    assert np.array_equal(decode(encoded(image), shape, LIMIT), expected)


@pytest.mark.parametrize("size", [(320, 240), (1201, 800), (3000, 2000)], ids=str)
def test_jpeg_pixels_are_torchvisions(size: tuple[int, int]) -> None:
    """JPEG files give the preset's pixels; those that are decoded at a fraction of their size, within 8 of 255."""
    data = encoded(photo(*size), "JPEG", quality=92)
    preset = ImageClassification(crop_size=224, resize_size=256, mean=(0,) * 3, std=(1,) * 3)
    expected = (preset(Image.open(io.BytesIO(data)).convert("RGB")) * 255).permute(1, 2, 0).numpy()
    found = decode(data, ImageShape(224, 224, 3, Preprocessing(256)), LIMIT).astype(np.float64)
    differences = np.abs(found - expected)
    reduced = min(size) >= 2 * 4 * 256
    assert differences.max() <= (8 if reduced else 1e-3)
    assert differences.mean() <= (0.6 if reduced else 1e-3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("side", [1201, 1202])
def test_turned_photo_is_cropped_upright(orientation: int, side: int) -> None:
    """A large JPEG in any EXIF orientation is what torchvision makes of it upright, an odd remainder included."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(side, 800), "JPEG", quality=95, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    expected = by_torchvision(upright, 67, "bicubic", 64).astype(int)
    found = decode(data, ImageShape(64, 64, 3, Preprocessing(67, "bicubic")), LIMIT).astype(int)
    assert np.abs(found - expected).mean() < 1


@pytest.mark.parametrize(
    ("facts", "change"),
    [
        ({"colors": "BGR"}, lambda pixels: pixels[:, :, ::-1]),
        ({"polarity": "inverted"}, lambda pixels: 255 - pixels),
        ({"colors": "BGR", "polarity": "inverted"}, lambda pixels: 255 - pixels[:, :, ::-1]),
    ],
    ids=["bgr", "inverted", "both"],
)
def test_colours_are_as_asked(facts: dict[str, Any], change: Callable[[Array], Array]) -> None:
    """Order of colours and polarity hold for files, and for raw pixels of the model's size."""
    image = photo(64, 64)
    shape = ImageShape(64, 64, 3, read_preprocessing(facts))
    expected = change(np.asarray(image))
    assert np.array_equal(decode(encoded(image), shape, LIMIT), expected)
    assert np.array_equal(from_pixels(image.tobytes(), 64, 64, 3, shape, LIMIT), expected)


def test_prepared_pixels_stay() -> None:
    """Raw pixels of the model's size are taken as scaled and cropped already; a file of that size is not."""
    image = photo(64, 64)
    shape = ImageShape(64, 64, 3, Preprocessing(73))
    assert np.array_equal(from_pixels(image.tobytes(), 64, 64, 3, shape, LIMIT), np.asarray(image))
    assert np.array_equal(decode(encoded(image), shape, LIMIT), by_torchvision(image, 73, "bilinear", 64))


def test_narrow_image_takes_no_memory() -> None:
    """What the longer side would become is never made: here 16 million pixels wide."""
    image = Image.fromarray(np.full((1, 65_000, 3), 77, np.uint8))
    assert (decode(encoded(image), ImageShape(224, 224, 3, Preprocessing(256)), LIMIT) == 77).all()


@pytest.mark.parametrize(
    "facts", [{}, {"resize": 73, "interpolation": "bicubic"}, {"resize": [80, 70]}, {"colors": "BGR"}], ids=str
)
@pytest.mark.parametrize("size", [*SIZES, (2400, 1600)], ids=str)
def test_training_reads_the_same(size: tuple[int, int], facts: dict[str, Any], tmp_path: Path) -> None:
    """Training's copy of the rule gives the same pixels, of files in any orientation."""
    exif = Image.Exif()
    exif[0x0112] = 1 + sum(size) % 8
    path = tmp_path / "photo.jpg"
    photo(*size).save(path, exif=exif)
    kept: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    rule = TrainingRule((64, 56), **kept)
    assert json.loads(json.dumps(rule.facts())) == facts
    shape = ImageShape(64, 56, 3, read_preprocessing(facts))
    assert np.array_equal(read(path, rule.shape, rule), decode(path.read_bytes(), shape, LIMIT))


@pytest.mark.parametrize(
    "facts",
    [
        {"resize": 0},
        {"resize": True},
        {"resize": [256]},
        {"resize": [256, 256.5]},
        {"interpolation": "area"},
        {"colors": "YUV"},
        {"polarity": "negative"},
        {"crop": 0.875},
        {"digits": "mnist", "resize": 28},
    ],
    ids=str,
)
def test_unknown_fact_is_refused(facts: dict[str, Any]) -> None:
    """A fact that is not known would give the model other images than it was trained with."""
    with pytest.raises(ModelRejected, match=r"'convserve\.preprocessing' cannot be read"):
        read_metadata({"convserve.format": "1", "convserve.preprocessing": json.dumps(facts)})


@pytest.mark.parametrize(
    ("facts", "shape", "sentence"),
    [
        ({"resize": 200}, (224, 224, 3), "resizes images to 200, from which 224 x 224 pixels cannot be cropped"),
        ({"resize": [256, 200]}, (224, 224, 3), "cannot be cropped"),
        ({"colors": "BGR"}, (28, 28, 1), "orders colours as BGR, and its images have 1 channel"),
    ],
    ids=["shorter", "narrower", "grey"],
)
def test_fact_must_fit_the_input(facts: dict[str, Any], shape: tuple[int, ...], sentence: str) -> None:
    """What cannot be done for the model's own input rejects the file."""
    metadata = read_metadata({"convserve.format": "1", "convserve.preprocessing": json.dumps(facts)})
    with pytest.raises(ModelRejected, match=sentence):
        metadata.check_preprocessing(shape)
