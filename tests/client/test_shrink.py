"""Large photos are sent as the pixels that the server would make of them: fewer bytes, the same answer."""

import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.client import Classification, Client, ModelRefused, Result
from service.client.shrink import DIGITS_SIDE, MARGIN, MAX_DEVIATION, THRESHOLD_BYTES, is_jpeg
from service.images import decode, digits
from service.pb import image_classifier_pb2 as pb
from tests.client.conftest import ScriptedServer
from tests.servers import ServerProcess

MODELS = ("cifar10-lenet", "mnist-tiny")
ORIENTATION = 0x0112


@functools.cache
def photo(width: int, height: int, *, mode: str = "RGB", orientation: int = 1) -> bytes:
    """A JPEG of more than 4 MiB: a coloured scene with edges, and the noise of a camera."""
    generator = np.random.default_rng(width)
    scene = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.NEAREST
    )
    noise = generator.integers(-40, 41, (height, width, 1), dtype=np.int16)
    pixels = np.clip(np.asarray(scene, np.int16) + noise, 0, 255).astype(np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", quality=97, exif=exif)
    assert file.tell() > THRESHOLD_BYTES
    return file.getvalue()


@pytest.fixture(scope="module")
def whole() -> bytes:
    """A photo of 2688 x 2016 pixels: whole numbers at 1/8 too."""
    return photo(2688, 2016)


def logits(results: list[Result]) -> Any:
    return np.array([result.logits for result in results if isinstance(result, Classification)])


def both_ways(server: ServerProcess, image: Any, model: str) -> tuple[Any, Any]:
    """The logits of a photo that is shrunk, and of its file."""
    with Client(server.address) as client:
        shrunk = client.classify([image], model=model, logits=True)
        sent = client.classify([image], model=model, logits=True, shrink=False)
    return logits(shrunk), logits(sent)


@pytest.mark.parametrize("model", MODELS)
def test_whole_sizes_are_the_same(server: ServerProcess, whole: bytes, tmp_path: Path, model: str) -> None:
    """The answer is the file's to the bit, of bytes and of a path."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(whole)
    for image in (whole, path):
        shrunk, sent = both_ways(server, image, model)
        assert np.array_equal(shrunk, sent)


@pytest.mark.parametrize("kind", ["L", "CMYK"])
def test_other_colours_are_the_same(server: ServerProcess, kind: str) -> None:
    """Grey photos are shrunk, photos for printers sent as they are."""
    shrunk, sent = both_ways(server, photo(2688, 2016, mode=kind), "cifar10-lenet")
    assert np.array_equal(shrunk, sent)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_turned_photos_are_upright(scripted: ScriptedServer, orientation: int) -> None:
    """A photo that its EXIF turns is sent upright; rounding in turned rows and columns may differ by one level."""
    image = photo(2688, 2016, orientation=orientation)
    sides = (252, 336) if orientation == 3 else (336, 252)
    sent = sent_image(scripted, image)
    assert (sent.pixels.height, sent.pixels.width) == sides
    deviation = model_pixels(sent) - model_pixels(pb.Image(encoded=image))
    assert np.abs(deviation).max() <= 1


def model_pixels(image: pb.Image, side: int = 32) -> Any:
    """What the server makes of an image, for a model of so many pixels in colours."""
    shape = decode.ImageShape(side, side, 3)
    if image.encoded:
        return decode.decode(image.encoded, shape, 10**8).astype(int)
    pixels = image.pixels
    return decode.from_pixels(pixels.data, pixels.height, pixels.width, pixels.channels, shape, 10**8).astype(int)


def sent_image(scripted: ScriptedServer, image: Any, *, side: int = 32, **options: Any) -> pb.Image:
    """What a server of a model of this size receives of one image."""
    scripted.models = [pb.ModelSummary(name="any", version="1", image_height=side, image_width=side, image_channels=3)]
    with Client(scripted.address) as client:
        client.classify([image], model="any", **options)
    return scripted.requests[-1].images[0]


@pytest.mark.parametrize(("size", "height"), [((2692, 2020), 505), ((2684, 2012), 503)], ids=str)
def test_other_sizes_are_nearly_equal(scripted: ScriptedServer, size: tuple[int, int], height: int) -> None:
    """A size that 8 does not divide is reduced less, and the stated bound holds, over edges and noise."""
    image = photo(*size)
    sent = sent_image(scripted, image)
    assert sent.pixels.height == height
    for side in (32, 56):
        deviation = np.abs(model_pixels(sent, side) - model_pixels(pb.Image(encoded=image), side))
        assert 0 < deviation.max() <= MAX_DEVIATION


def test_photos_for_larger_models(scripted: ScriptedServer, whole: bytes) -> None:
    """The larger the model, the less a photo is reduced; where its pixels are more bytes than the file, it is sent."""
    sizes = [sent_image(scripted, whole, side=side).pixels.height for side in (32, 96, 800)]
    assert sizes == [252, 504, 0]


def test_what_is_sent_as_it_is(scripted: ScriptedServer, whole: bytes) -> None:
    """Small files, broken ones, odd sizes, other kinds, and all of them on request are sent as they are."""
    other = b"\x89PNG" + bytes(THRESHOLD_BYTES)
    for image in (whole[:THRESHOLD_BYTES], whole[: THRESHOLD_BYTES + 1], photo(2687, 2015), other):
        assert sent_image(scripted, image).encoded == image
    assert sent_image(scripted, whole, shrink=False).encoded == whole
    assert sent_image(scripted, whole, version=2).encoded == whole  # of a version whose size is not known


def test_refused_models_get_no_photos(odd: ServerProcess, whole: bytes) -> None:
    with Client(odd.address) as client, pytest.raises(ModelRefused):
        client.classify(whole, model="broken")


def test_the_rule_is_the_servers() -> None:
    assert (MARGIN, DIGITS_SIDE) == (decode.MARGIN, digits.WORKING_SIDE)
    assert digits.DIMENSIONS == (28, 28, 1)
    assert not is_jpeg(b"\x89PNG")
