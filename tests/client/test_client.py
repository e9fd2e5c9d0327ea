"""Both clients against the real server: what goes in, what comes out, and in which order."""

import asyncio
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.client import (
    AsyncClient,
    Classification,
    Client,
    ImageError,
    ModelNotFound,
    RequestRefused,
    Result,
)
from service.client.dataset import read_mnist
from tests.client.conftest import PICTURES, SHOWN
from tests.servers import ServerProcess

MNIST = "mnist-tiny"
CIFAR10 = "cifar10-lenet"


def label(result: Result) -> str:
    assert isinstance(result, Classification)
    return result.classes[0].label


def test_a_picture_is_recognised(server: ServerProcess) -> None:
    with Client(server.address) as client:
        (result,) = client.classify(PICTURES / "seven.png", model=MNIST)
    assert label(result) == SHOWN["seven.png"]


def test_forms_of_pictures_are_equal(server: ServerProcess) -> None:
    """Every way to hand over a picture gives the same answer.

    Path, str, bytes, array, array with a channel axis, Pillow picture, and one array of many.
    """
    path = PICTURES / "ship.png"
    picture = Image.open(path).convert("RGB")
    pixels = np.asarray(picture)
    with Client(server.address) as client:
        results = client.classify(
            [path, str(path), path.read_bytes(), bytearray(path.read_bytes()), pixels, picture], model=CIFAR10, top_k=10
        )
        stacked = client.classify(np.stack([pixels, pixels]), model=CIFAR10, top_k=10)
    assert [*results, *stacked] == [results[0]] * 8


def test_grey_arrays_need_no_channels(server: ServerProcess) -> None:
    """A grey array needs no channel axis."""
    pixels = np.asarray(Image.open(PICTURES / "seven.png").convert("L"))
    with Client(server.address) as client:
        flat, deep = client.classify([pixels, pixels[..., np.newaxis]], model=MNIST, top_k=10)
    assert flat == deep


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "I", "I;16"])
def test_pillow_pictures_of_any_mode(server: ServerProcess, mode: str) -> None:
    """Pillow pictures of any mode are taken.

    Each is converted on its way to what a viewer would show: the same digit, but for a grey level of rounding.
    """
    digit = Image.open(PICTURES / "seven.png").convert("L")
    if mode.startswith("I"):
        picture = Image.fromarray(np.asarray(digit).astype(np.uint16) * 257).convert(mode)
    elif mode == "PA":
        picture = digit.convert("P").convert("PA")
    elif mode in ("CMYK", "YCbCr"):
        picture = digit.convert("RGB").convert(mode)
    else:
        picture = digit.convert(mode)
    with Client(server.address) as client:
        result, plain = client.classify([picture, digit], model=MNIST, logits=True)
    assert isinstance(result, Classification)
    assert isinstance(plain, Classification)
    assert label(result) == SHOWN["seven.png"]
    if mode != "1":  # black and white, dithered
        assert result.logits == pytest.approx(plain.logits, abs=0.1)


def test_transparency_of_pillow_pictures(server: ServerProcess) -> None:
    """Transparency of a Pillow picture is kept.

    A palette picture with a transparent colour and its file are the same picture.
    """
    opaque = Image.open(PICTURES / "ship.png").convert("P")
    picture = opaque.copy()
    picture.info["transparency"] = picture.getpixel((picture.width // 2, picture.height // 2))
    file = io.BytesIO()
    picture.save(file, format="PNG")
    with Client(server.address) as client:
        direct, encoded, without = client.classify([picture, file.getvalue(), opaque], model=CIFAR10, top_k=10)
    assert direct == encoded
    assert direct != without


def test_rotated_photos_are_turned_upright(server: ServerProcess) -> None:
    """A photo that lies on its side is turned as its file is.

    EXIF orientation 6: the picture must be turned by 90 degrees to stand upright.
    """
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.open(PICTURES / "seven.png").convert("L").transpose(Image.Transpose.ROTATE_90).save(
        file, format="PNG", exif=exif
    )
    with Client(server.address) as client:
        direct, encoded = client.classify([Image.open(file), file.getvalue()], model=MNIST, top_k=10)
    assert direct == encoded
    assert label(direct) == SHOWN["seven.png"]


def test_long_lists_keep_their_order(server: ServerProcess, data_dir: Path) -> None:
    """A long list keeps its order over many calls.

    Sent seven at a time, three calls at once, each picture has the answer that it has alone.
    """
    digits = read_mnist(data_dir).first(100)
    with Client(server.address, max_call_images=7, calls_in_flight=3) as client:
        split = client.classify(digits.pictures, model=MNIST)
    with Client(server.address, max_call_images=1000) as client:
        whole = client.classify(digits.pictures, model=MNIST)
    assert [label(result) for result in split] == [label(result) for result in whole]
    right = np.mean([label(result) == str(truth) for result, truth in zip(split, digits.labels, strict=True)])
    assert right > 0.9


def test_broken_pictures_have_their_errors(server: ServerProcess) -> None:
    """A broken picture has its error in its place."""
    ship = PICTURES / "ship.png"
    with Client(server.address, max_call_images=2) as client:
        results = client.classify([ship, b"no picture", ship, b"", ship], model=CIFAR10)
    assert [isinstance(result, ImageError) for result in results] == [False, True, False, True, False]
    broken = results[1]
    assert isinstance(broken, ImageError)
    assert broken.code == "INVALID_ARGUMENT"
    assert "PNG" in broken.message


def test_top_k_and_logits(server: ServerProcess) -> None:
    """Classes and logits are returned as asked for. The probabilities are the softmax of the logits, best first."""
    with Client(server.address) as client:
        (plain,) = client.classify(PICTURES / "frog.png", model=CIFAR10)
        (full,) = client.classify(PICTURES / "frog.png", model=CIFAR10, top_k=2**40, logits=True)
    assert isinstance(plain, Classification)
    assert isinstance(full, Classification)
    assert len(plain.classes) == 1
    assert plain.logits == ()
    assert plain.classes[0] == full.classes[0]
    assert len(full.classes) == len(full.logits) == 10
    exponentials = np.exp(np.array(full.logits) - max(full.logits))
    expected = exponentials / exponentials.sum()
    assert [each.probability for each in full.classes] == pytest.approx(sorted(expected, reverse=True), abs=1e-6)
    assert [each.index for each in full.classes] == np.argsort(-expected).tolist()


def test_the_version_that_answered_is_told(server: ServerProcess) -> None:
    with Client(server.address) as client:
        version = next(model.version for model in client.list_models() if model.name == MNIST)
        (result,) = client.classify(PICTURES / "seven.png", model=MNIST, version=version)
    assert isinstance(result, Classification)
    assert result.model_version == version


def test_no_pictures_are_no_answers(server: ServerProcess) -> None:
    with Client(server.address) as client:
        assert client.classify([], model=MNIST) == []


def test_models_are_listed(server: ServerProcess) -> None:
    """Models are listed with what their files tell."""
    with Client(server.address) as client:
        models = {model.name: model for model in client.list_models()}
    model = models[MNIST]
    assert model.labels == tuple("0123456789")
    assert model.dataset == "mnist"
    assert (model.image_height, model.image_width, model.image_channels) == (28, 28, 1)
    assert model.parameters == 13_610
    assert model.test_accuracy is not None
    assert 0.9 < model.test_accuracy < 1
    assert (model.precision, model.provider) == ("fp32", "cpu")
    assert models[CIFAR10].labels[8] == "ship"


def test_an_unknown_model_is_named(server: ServerProcess) -> None:
    with Client(server.address) as client:
        with pytest.raises(ModelNotFound, match="nonesuch") as caught:
            client.classify(PICTURES / "seven.png", model="nonesuch")
        with pytest.raises(ModelNotFound, match="999"):
            client.classify(PICTURES / "seven.png", model=MNIST, version="999")
    assert caught.value.__cause__ is not None


def test_malformed_versions_are_refused(server: ServerProcess) -> None:
    """What the server cannot read is refused."""
    with Client(server.address) as client, pytest.raises(RequestRefused, match="newest"):
        client.classify(PICTURES / "seven.png", model=MNIST, version="newest")


def test_asynchronous_client_answers_the_same(server: ServerProcess, data_dir: Path) -> None:
    """The asynchronous client answers as the other does.

    Many conversations at once on one event loop, errors included.
    """
    digits = read_mnist(data_dir).first(60).pictures

    async def ask() -> tuple[list[list[Result]], int]:
        async with AsyncClient(server.address, max_call_images=7) as client:
            lists = await asyncio.gather(*(client.classify([*digits, b"?"], model=MNIST, top_k=3) for _ in range(5)))
            with pytest.raises(ModelNotFound, match="nonesuch"):
                await client.classify(digits, model="nonesuch")
            return lists, len(await client.list_models())

    lists, models = asyncio.run(ask())
    with Client(server.address, max_call_images=7) as client:
        expected = client.classify([*digits, b"?"], model=MNIST, top_k=3)
        assert models == len(client.list_models())
    for results in lists:
        assert [result.code if isinstance(result, ImageError) else label(result) for result in results] == [
            result.code if isinstance(result, ImageError) else label(result) for result in expected
        ]
