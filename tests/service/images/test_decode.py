"""Pictures of every format, mode and size become what the model takes; hostile bytes become a sentence."""

import contextlib
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import InvalidRequest
from service.images.decode import ImageShape, decode, from_pixels
from service.tensors import Array

GREY, COLOUR = ImageShape(28, 28, 1), ImageShape(32, 32, 3)
LIMIT = 1_000_000


def gradient(height: int = 32, width: int = 32) -> Image.Image:
    """A picture whose red grows to the right and whose green grows downward."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), 128 + 0 * x], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "WEBP"])
def test_lossless_formats_give_the_very_pixels(file_format: str) -> None:
    options = {"lossless": True} if file_format == "WEBP" else {}
    pixels = decode(encoded(gradient(), file_format, **options), COLOUR, LIMIT)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(gradient()))


@pytest.mark.parametrize("file_format", ["JPEG", "GIF"])
def test_lossy_formats_give_nearly_the_pixels(file_format: str) -> None:
    pixels = decode(encoded(gradient(), file_format), COLOUR, LIMIT).astype(int)
    assert np.abs(pixels - np.asarray(gradient()).astype(int)).mean() < 12


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data, COLOUR, LIMIT)[5, 5].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_is_converted(mode: str) -> None:
    """A white picture is white in every mode, in grey and in colour."""
    white: Any = {"I;16": 65535, "CMYK": (0, 0, 0, 0)}.get(mode, "white")
    data = encoded(Image.new(mode, (40, 40), white), "JPEG" if mode == "CMYK" else "PNG")
    for shape in (GREY, COLOUR):
        assert decode(data, shape, LIMIT).min() >= 254


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.linspace(0, 65535, 28 * 28).reshape(28, 28).astype(np.uint16)
    pixels = decode(encoded(Image.fromarray(values), "PNG"), GREY, LIMIT)[:, :, 0]
    assert np.abs(pixels - values / 257).max() <= 0.5


def test_transparency_is_laid_over_white() -> None:
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert (decode(encoded(clear, "PNG"), COLOUR, LIMIT) == 255).all()
    half = Image.new("RGBA", (32, 32), (0, 0, 0, 128))
    assert (decode(encoded(half, "PNG"), COLOUR, LIMIT) == 127).all()


def test_exif_orientation_is_obeyed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    turned = decode(encoded(gradient(), "PNG", exif=exif), COLOUR, LIMIT)
    assert np.array_equal(turned, np.rot90(np.asarray(gradient()), -1))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (500, 300), (7, 900), (28, 28), (33, 32)])
def test_every_size_is_brought_to_the_models(height: int, width: int) -> None:
    for shape in (GREY, COLOUR):
        pixels = decode(encoded(gradient(height, width), "PNG"), shape, LIMIT)
        assert pixels.shape == (shape.height, shape.width, shape.channels)


def test_a_wide_picture_is_cropped_to_its_middle() -> None:
    picture = Image.new("RGB", (96, 32), "red")
    picture.paste("blue", (32, 0, 64, 32))
    assert (decode(encoded(picture, "PNG"), COLOUR, LIMIT) == [0, 0, 255]).all()


def test_raw_pixels_of_the_models_shape_are_a_view() -> None:
    data = bytes(range(256)) * 12
    pixels = from_pixels(data, 32, 32, 3, COLOUR, LIMIT)
    assert pixels.tobytes() == data
    assert pixels.base is not None


def test_raw_pixels_and_the_same_picture_as_png_are_equal() -> None:
    picture = gradient(50, 40)
    raw = from_pixels(picture.tobytes(), 50, 40, 3, GREY, LIMIT)
    assert np.array_equal(raw, decode(encoded(picture, "PNG"), GREY, LIMIT))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_raw_pixels_may_be_grey_rgb_or_rgba(channels: int) -> None:
    assert from_pixels(b"\xff" * 25 * channels, 5, 5, channels, COLOUR, LIMIT).min() == 255


@pytest.mark.parametrize(
    ("height", "width", "channels", "size", "words"),
    [
        (32, 32, 2, 2048, "pixels have 2 channels"),
        (0, 32, 3, 0, "pixels are 0 high and 32 wide"),
        (32, 32, 3, 3071, "take 3072 bytes, got 3071"),
        (2**31, 2**31, 3, 10, "more than the 1000000 that are accepted"),
    ],
)
def test_raw_pixels_that_do_not_fit_are_refused(height: int, width: int, channels: int, size: int, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        from_pixels(bytes(size), height, width, channels, COLOUR, LIMIT)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    """A few bytes that claim 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    bomb = b"\x89PNG\r\n\x1a\n" + chunks
    with pytest.raises(InvalidRequest, match=r"60000 x 60000 pixels, more than|decompression bomb"):
        decode(bomb, COLOUR, LIMIT)


def test_a_jpeg_that_claims_to_be_huge_is_refused_before_it_is_decoded() -> None:
    data = encoded(gradient(), "JPEG")
    huge = data.replace(struct.pack(">HH", 32, 32), struct.pack(">HH", 60_000, 50_000))
    with pytest.raises(InvalidRequest, match=r"60000 x 50000 pixels, more than|decompression bomb"):
        decode(huge, COLOUR, LIMIT)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP"])
def test_the_limit_holds_for_small_pictures_too(file_format: str) -> None:
    data = encoded(gradient(40, 50), file_format)
    assert decode(data, COLOUR, 2000).shape == (32, 32, 3)
    with pytest.raises(InvalidRequest, match="the image has 40 x 50 pixels, more than the 1999 that are accepted"):
        decode(data, COLOUR, 1999)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"no picture at all", b"%PDF-1.7", encoded(gradient(), "TIFF")])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="the image is"):
        decode(data, COLOUR, LIMIT)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_are_refused_or_decoded_and_nothing_else(file_format: str, data: st.DataObject) -> None:
    damaged = bytearray(encoded(gradient(), file_format))
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    with contextlib.suppress(InvalidRequest):
        assert decode(bytes(damaged), COLOUR, LIMIT).shape == (32, 32, 3)


def outcome(data: bytes, shape: ImageShape) -> Array | str:
    """The pixels, or the sentence of the refusal."""
    try:
        return decode(data, shape, LIMIT)
    except InvalidRequest as error:
        return str(error)


def by_pillow_alone(data: bytes, shape: ImageShape) -> Array | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.images.decode.sniff", lambda _: None)
        return outcome(data, shape)


@st.composite
def pictures(draw: st.DrawFn) -> bytes:
    """PNG and JPEG files of many kinds: plain ones, and those that only Pillow gets."""
    mode = draw(st.sampled_from(["L", "RGB", "L", "RGB", "1", "LA", "P", "RGBA", "I;16", "CMYK"]))
    height, width = draw(st.integers(1, 80)), draw(st.integers(1, 80))
    if draw(st.booleans()):
        picture = gradient(height, width)
    else:
        noise = np.random.default_rng(draw(st.integers(0, 999))).integers(0, 256, (height, width, 3), dtype=np.uint8)
        picture = Image.fromarray(noise)
    options: dict[str, Any] = {"optimize": draw(st.booleans())}
    if draw(st.integers(0, 9)) == 0:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = draw(st.integers(1, 8))
    if draw(st.integers(0, 9)) == 0:
        options["dpi"] = (72, 72)
    if draw(st.booleans()):
        return encoded(
            picture.convert("L" if mode == "I;16" else "RGB").convert(mode.replace("CMYK", "RGB")), "PNG", **options
        )
    options["quality"] = draw(st.integers(1, 95))
    options["progressive"] = draw(st.booleans())
    options["subsampling"] = draw(st.integers(0, 2))
    if draw(st.booleans()):
        options["restart_marker_blocks"] = draw(st.integers(1, 5))
    return encoded(picture.convert(mode if mode in ("L", "RGB", "CMYK") else "RGB"), "JPEG", **options)


@settings(max_examples=300, deadline=None)
@given(data=pictures(), channels=st.sampled_from([1, 3]), size=st.sampled_from([1, 28, 80]))
def test_whoever_decodes_it_a_picture_has_the_very_same_pixels(data: bytes, channels: int, size: int) -> None:
    shape = ImageShape(size, size, channels)
    pixels = decode(data, shape, LIMIT)
    assert pixels.shape == (size, size, channels)
    assert np.array_equal(pixels, by_pillow_alone(data, shape))


@settings(max_examples=400, deadline=None)
@given(data=pictures(), damage=st.data())
def test_whoever_decodes_it_a_damaged_picture_has_the_very_same_fate(data: bytes, damage: st.DataObject) -> None:
    """Bytes changed, taken out and put in, the end cut off or something added: the same pixels or the same sentence."""
    damaged = bytearray(data)
    for _ in range(damage.draw(st.integers(0, 3))):
        at = damage.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + damage.draw(st.integers(0, 3))] = damage.draw(st.binary(max_size=3))
    damaged = damaged[: damage.draw(st.integers(1, len(damaged)) | st.just(len(damaged)))]
    damaged += damage.draw(st.binary(max_size=20))
    ours, pillows = outcome(bytes(damaged), COLOUR), by_pillow_alone(bytes(damaged), COLOUR)
    assert type(ours) is type(pillows)
    assert np.array_equal(ours, pillows)


@pytest.mark.parametrize("size", [(256, 256), (256, 257), (700, 500)])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_larger_pictures_have_the_very_same_pixels_too(file_format: str, size: tuple[int, int]) -> None:
    data = encoded(gradient(*size), file_format)
    for shape in (GREY, COLOUR, ImageShape(256, 256, 3)):
        assert np.array_equal(decode(data, shape, LIMIT), by_pillow_alone(data, shape))


def test_pillow_has_the_last_word_on_a_checksum() -> None:
    """It does not read that of a PNG's pixels, which kornia-rs refuses."""
    data = bytearray(encoded(gradient(), "PNG"))
    data[data.index(b"IEND") - 5] ^= 0xFF
    assert np.array_equal(decode(bytes(data), COLOUR, LIMIT), np.asarray(gradient()))


def test_what_comes_after_the_last_row_of_a_small_png_does_not_matter() -> None:
    """The one thing in which kornia-rs lets more pass: the chunk has a checksum over the checksum of its content."""
    rows = b"".join(b"\0" + bytes(range(28)) for _ in range(28))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 28, 28, 8, 0, 0, 0, 0))
    content = zlib.compress(rows)[:-4] + b"\0\0\0\0"
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", content) + chunk(b"IEND", b"")
    assert decode(data, GREY, LIMIT)[:, :, 0].tolist() == [list(range(28))] * 28
