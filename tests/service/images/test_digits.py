"""Digits as people write them are read as well as MNIST's own, by models whose files ask for it."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import ModelRejected
from service.images.decode import ImageShape, decode
from service.images.digits import normalize_digit
from service.images.preprocessing import Preprocessing
from service.pb import image_classifier_pb2 as ic
from service.runtime.model_metadata import read_metadata
from service.tensors import Array
from tests.servers import ServerProcess
from tests.wire import classify, infer, infer_request

DIGITS = ImageShape(28, 28, 1, Preprocessing(digits=True))
PLAIN = ImageShape(28, 28, 1)
COUNT, WANTED = 500, 0.97
LIMIT = 10**7
BICUBIC = Image.Resampling.BICUBIC


@pytest.fixture(scope="module")
def digits(data_dir: Path) -> Array:
    """MNIST's test images [10000, 28, 28]."""
    return np.fromfile(data_dir / "MNIST" / "raw" / "t10k-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 28, 28)


@pytest.fixture(scope="module")
def labels(data_dir: Path) -> Array:
    """MNIST's test labels."""
    return np.fromfile(data_dir / "MNIST" / "raw" / "t10k-labels-idx1-ubyte", np.uint8)[8:]


@pytest.fixture(scope="module")
def asking_models_dir(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled mnist, whose file asks that digits be normalized."""
    model = onnx.load(models_dir / "mnist" / "1" / "model.onnx")
    entries = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, entries | {"convserve.preprocessing": '{"digits": "mnist"}'})
    path = tmp_path_factory.mktemp("asking") / "mnist" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(model, path)
    return path.parents[2]


@pytest.fixture(scope="module")
def asking(asking_models_dir: Path) -> Iterator[ServerProcess]:
    with ServerProcess(asking_models_dir) as process:
        yield process


def encoded(image: Image.Image, file_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, file_format)
    return file.getvalue()


def enlarged(digit: Array, times: float) -> Array:
    side = round(28 * times)
    return np.asarray(Image.fromarray(digit).resize((side, side), BICUBIC))


def strokes(digit: Array, *colour: int) -> Image.Image:
    """Strokes of one colour on a transparent canvas."""
    canvas = np.empty((*digit.shape, 4), np.uint8)
    canvas[:, :, :3], canvas[:, :, 3] = colour, digit
    return Image.fromarray(canvas)


def on_page(digit: Array, *, side: int, left: int, top: int) -> Image.Image:
    """A digit, white on black, somewhere on a page of that colour."""
    page = np.zeros((side, side), np.uint8)
    page[top : top + len(digit), left : left + len(digit)] = digit
    return Image.fromarray(page)


def photographed(digit: Array) -> Image.Image:
    """Dark ink on grey paper, with a shadow and grain."""
    page = np.asarray(on_page(enlarged(digit, 5), side=300, left=110, top=60))
    light = np.linspace(175, 205, 300) + np.random.default_rng(0).normal(0, 4, page.shape)
    return Image.fromarray(np.clip(light * (1 - 0.75 * page / 255), 0, 255).astype(np.uint8))


FORMS: dict[str, Callable[[Array], bytes]] = {
    "as MNIST has it": lambda digit: encoded(Image.fromarray(digit)),
    "RGB": lambda digit: encoded(Image.fromarray(digit).convert("RGB")),
    "ten times as large": lambda digit: encoded(Image.fromarray(enlarged(digit, 10))),
    "black on white": lambda digit: encoded(Image.fromarray(255 - digit)),
    "black on white, JPEG": lambda digit: encoded(Image.fromarray(255 - enlarged(digit, 10)), "JPEG"),
    "white strokes on transparency": lambda digit: encoded(strokes(digit, 255, 255, 255)),
    "black strokes on transparency": lambda digit: encoded(strokes(digit, 0, 0, 0)),
    "red strokes on transparency": lambda digit: encoded(strokes(enlarged(digit, 5), 220, 30, 40)),
    "small on a page": lambda digit: encoded(on_page(digit, side=112, left=42, top=42)),
    "in a page's corner": lambda digit: encoded(on_page(enlarged(digit, 2), side=400, left=330, top=10)),
    "smaller than MNIST's": lambda digit: encoded(on_page(enlarged(digit, 0.6), side=28, left=2, top=8)),
    "photographed": lambda digit: encoded(photographed(digit), "JPEG"),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_digits_of_every_form(
    asking: ServerProcess, digits: Array, labels: Array, form: Callable[[Array], bytes]
) -> None:
    """97 of 100 are read right; as MNIST has them, the model reads 99.7 of 100."""
    images = [ic.Image(encoded=form(digit)) for digit in digits[:COUNT]]
    calls = [ic.ClassifyRequest(model_name="mnist", images=images[at : at + 50]) for at in range(0, COUNT, 50)]
    results = [result for call in calls for result in classify(asking, call).results]
    read = [int(result.classification.classes[0].label) for result in results]
    assert np.mean(read == labels[:COUNT]) >= WANTED


def test_mnist_keeps_every_pixel(digits: Array) -> None:
    """All of the test set, and its negative, which becomes the positive."""
    for digit in digits:
        assert np.array_equal(decode(encoded(Image.fromarray(digit)), DIGITS, LIMIT)[:, :, 0], digit)
    for digit in digits[:COUNT]:
        assert np.array_equal(decode(encoded(Image.fromarray(255 - digit)), DIGITS, LIMIT)[:, :, 0], digit)


def logits_of(server: ServerProcess, image: ic.Image) -> list[float]:
    request = ic.ClassifyRequest(model_name="mnist", images=[image], include_logits=True)
    return list(classify(server, request).results[0].classification.logits)


def test_tensors_and_raw_pixels_stay(asking: ServerProcess, digits: Array) -> None:
    """A negative goes to the model as it is where it has the model's shape, and as a positive from a file."""
    positive = digits[0]
    negative = 255 - positive
    of_tensors = infer(asking, infer_request("mnist", images=np.stack([negative, positive])[:, :, :, None]))["logits"]
    raw = ic.Image(pixels=ic.Pixels(height=28, width=28, channels=1, data=negative.tobytes()))
    assert logits_of(asking, raw) == pytest.approx(of_tensors[0], abs=1e-3)
    file = ic.Image(encoded=encoded(Image.fromarray(negative)))
    assert logits_of(asking, file) == pytest.approx(of_tensors[1], abs=1e-3)
    assert np.abs(of_tensors[0] - of_tensors[1]).max() > 1


def test_normalization_can_be_off(asking_models_dir: Path, digits: Array) -> None:
    negative = 255 - digits[0]
    with ServerProcess(asking_models_dir, "--digit-normalization", "off") as server:
        of_tensors = infer(server, infer_request("mnist", images=negative[None, :, :, None]))["logits"]
        file = ic.Image(encoded=encoded(Image.fromarray(negative)))
        assert logits_of(server, file) == pytest.approx(of_tensors[0], abs=1e-3)


@pytest.mark.parametrize("entry", ['{"digits": "emnist"}', '{"crop": 0.875}', '["digits"]', "mnist", "1"])
def test_unknown_preprocessing_is_refused(entry: str) -> None:
    """Left out, it would give the model other images than it was trained with."""
    with pytest.raises(ModelRejected, match=r"'convserve\.preprocessing' cannot be read"):
        read_metadata({"convserve.format": "1", "convserve.preprocessing": entry})


def noise(height: int, width: int) -> Array:
    return np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)


NOT_DIGITS = {
    "white page": np.full((50, 60), 255, np.uint8),
    "black page": np.zeros((28, 28), np.uint8),
    "faint": np.pad(np.full((20, 20), 30, np.uint8), 20),
    "dust": np.pad(np.full((2, 2), 255, np.uint8), 20),
    "noise": noise(64, 64),
    "gradient": np.tile(np.arange(256, dtype=np.uint8), (256, 1)),
    "filled": np.pad(np.full((60, 60), 255, np.uint8), 2),
    "one pixel": np.zeros((1, 1), np.uint8),
    "one row": noise(1, 900),
}


@pytest.mark.parametrize("pixels", NOT_DIGITS.values(), ids=NOT_DIGITS)
def test_other_images_are_scaled_plainly(pixels: Array) -> None:
    """Empty pages and photographs go the ordinary way."""
    data = encoded(Image.fromarray(pixels))
    assert np.array_equal(decode(data, DIGITS, LIMIT), decode(data, PLAIN, LIMIT))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_image_is_taken(mode: str, data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    pixels = np.frombuffer(data.draw(st.binary(min_size=height * width, max_size=height * width)), np.uint8)
    image = Image.fromarray(pixels.reshape(height, width)).convert("RGB").convert(mode)
    digit = normalize_digit(image)
    assert digit is None or (digit.shape == (28, 28, 1) and digit.dtype == np.uint8 and digit.max() == 255)


def test_mass_is_centred_in_28(digits: Array) -> None:
    """To half a pixel, in a box of 20 x 20, as MNIST's makers did."""
    for digit in digits[:100]:
        result = decode(encoded(on_page(enlarged(digit, 3), side=300, left=9, top=200)), DIGITS, LIMIT)[:, :, 0]
        rows, columns = (np.flatnonzero(result.any(axis=axis)) for axis in (1, 0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
        centre = [np.average(np.arange(28), weights=result.sum(axis=axis)) for axis in (1, 0)]
        assert np.abs(np.subtract(centre, 14)).max() <= 0.51
