"""Images of every format, mode and size become what the model takes; hostile bytes become a sentence."""

import contextlib
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from service.errors import InvalidRequest
from service.images.decode import ImageShape, decode, from_pixels
from service.tensors import Array

GREY, COLOUR = ImageShape(28, 28, 1), ImageShape(32, 32, 3)
LIMIT = 1_000_000


def gradient(height: int = 32, width: int = 32) -> Image.Image:
    """A image whose red grows to the right and whose green grows downward."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), 128 + 0 * x], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "WEBP", "TIFF", "PPM"])
def test_lossless_formats_keep_every_pixel(file_format: str) -> None:
    options = {"lossless": True} if file_format == "WEBP" else {}
    pixels = decode(encoded(gradient(), file_format, **options), COLOUR, LIMIT)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(gradient()))


@pytest.mark.parametrize("file_format", ["JPEG", "GIF"])
def test_lossy_formats_nearly_keep_pixels(file_format: str) -> None:
    pixels = decode(encoded(gradient(), file_format), COLOUR, LIMIT).astype(int)
    assert np.abs(pixels - np.asarray(gradient()).astype(int)).mean() < 12


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data, COLOUR, LIMIT)[5, 5].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_is_converted(mode: str) -> None:
    """A white image is white in every mode, in grey and in colour."""
    white: Any = {"I;16": 65535, "CMYK": (0, 0, 0, 0)}.get(mode, "white")
    data = encoded(Image.new(mode, (40, 40), white), "JPEG" if mode == "CMYK" else "PNG")
    for shape in (GREY, COLOUR):
        assert decode(data, shape, LIMIT).min() >= 254


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled(file_format: str) -> None:
    """Black stays black and white stays white; nothing is clipped."""
    values = np.linspace(0, 65535, 28 * 28).reshape(28, 28).astype(np.uint16)
    pixels = decode(encoded(Image.fromarray(values), file_format), GREY, LIMIT)[:, :, 0]
    assert np.abs(pixels - values / 257).max() <= 0.5


def test_transparency_is_laid_over_white() -> None:
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert (decode(encoded(clear, "PNG"), COLOUR, LIMIT) == 255).all()
    half = Image.new("RGBA", (32, 32), (0, 0, 0, 128))
    assert (decode(encoded(half, "PNG"), COLOUR, LIMIT) == 127).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed(orientation: int) -> None:
    """In every one of its eight values, and as Pillow understands them, whatever the model's aspect ratio."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(gradient(60, 40), "PNG", exif=exif)
    shape = ImageShape(16, 28, 3)
    upright = ImageOps.fit(ImageOps.exif_transpose(Image.open(io.BytesIO(data))), (28, 16), Image.Resampling.BILINEAR)
    assert np.abs(decode(data, shape, LIMIT).astype(int) - np.asarray(upright)).max() <= 1


def test_exif_rotation_keeps_every_pixel() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    turned = decode(encoded(gradient(), "PNG", exif=exif), COLOUR, LIMIT)
    assert np.array_equal(turned, np.rot90(np.asarray(gradient()), -1))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (500, 300), (7, 900), (28, 28), (33, 32)])
def test_every_size_is_scaled(height: int, width: int) -> None:
    for shape in (GREY, COLOUR):
        pixels = decode(encoded(gradient(height, width), "PNG"), shape, LIMIT)
        assert pixels.shape == (shape.height, shape.width, shape.channels)


def test_wide_image_keeps_its_middle() -> None:
    image = Image.new("RGB", (96, 32), "red")
    image.paste("blue", (32, 0, 64, 32))
    assert (decode(encoded(image, "PNG"), COLOUR, LIMIT) == [0, 0, 255]).all()


def test_raw_pixels_are_a_view() -> None:
    data = bytes(range(256)) * 12
    pixels = from_pixels(data, 32, 32, 3, COLOUR, LIMIT)
    assert pixels.tobytes() == data
    assert pixels.base is not None


def test_raw_pixels_equal_a_png() -> None:
    image = gradient(50, 40)
    raw = from_pixels(image.tobytes(), 50, 40, 3, GREY, LIMIT)
    assert np.array_equal(raw, decode(encoded(image, "PNG"), GREY, LIMIT))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_raw_pixels_of_every_channels(channels: int) -> None:
    assert from_pixels(b"\xff" * 25 * channels, 5, 5, channels, COLOUR, LIMIT).min() == 255


@pytest.mark.parametrize(
    ("height", "width", "channels", "size", "words"),
    [
        (32, 32, 2, 2048, "pixels have 2 channels"),
        (0, 32, 3, 0, "pixels are 0 high and 32 wide"),
        (32, 32, 3, 3071, "take 3072 bytes, got 3071"),
        (2**31, 2**31, 3, 10, "more than the 1000000 that are accepted.*--max-image-pixels"),
    ],
)
def test_unfit_raw_pixels_are_refused(height: int, width: int, channels: int, size: int, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        from_pixels(bytes(size), height, width, channels, COLOUR, LIMIT)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_bomb_is_refused_undecoded() -> None:
    """A few bytes that claim 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    bomb = b"\x89PNG\r\n\x1a\n" + chunks
    with pytest.raises(InvalidRequest, match=r"60000 x 60000 pixels, more than.*--max-image-pixels"):
        decode(bomb, COLOUR, LIMIT)


def test_huge_jpeg_is_refused_undecoded() -> None:
    data = encoded(gradient(), "JPEG")
    huge = data.replace(struct.pack(">HH", 32, 32), struct.pack(">HH", 60_000, 50_000))
    with pytest.raises(InvalidRequest, match=r"60000 x 50000 pixels, more than.*--max-image-pixels"):
        decode(huge, COLOUR, LIMIT)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP"])
def test_limit_holds_for_small_images(file_format: str) -> None:
    data = encoded(gradient(40, 50), file_format)
    assert decode(data, COLOUR, 2000).shape == (32, 32, 3)
    with pytest.raises(InvalidRequest, match="the image has 40 x 50 pixels, more than the 1999 that are accepted"):
        decode(data, COLOUR, 1999)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_never_crash(file_format: str, data: st.DataObject) -> None:
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
def images(draw: st.DrawFn) -> bytes:
    """PNG and JPEG files of many kinds: simple ones, and those that only Pillow gets."""
    mode = draw(st.sampled_from(["L", "RGB", "L", "RGB", "1", "LA", "P", "RGBA", "I;16", "CMYK"]))
    height, width = draw(st.integers(1, 80)), draw(st.integers(1, 80))
    if draw(st.booleans()):
        image = gradient(height, width)
    else:
        noise = np.random.default_rng(draw(st.integers(0, 999))).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(noise)
    options: dict[str, Any] = {"optimize": draw(st.booleans())}
    if draw(st.integers(0, 9)) == 0:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = draw(st.integers(1, 8))
    if draw(st.integers(0, 9)) == 0:
        options["dpi"] = (72, 72)
    if draw(st.booleans()):
        return encoded(
            image.convert("L" if mode == "I;16" else "RGB").convert(mode.replace("CMYK", "RGB")), "PNG", **options
        )
    options["quality"] = draw(st.integers(1, 95))
    options["progressive"] = draw(st.booleans())
    options["subsampling"] = draw(st.integers(0, 2))
    if draw(st.booleans()):
        options["restart_marker_blocks"] = draw(st.integers(1, 5))
    return encoded(image.convert(mode if mode in ("L", "RGB", "CMYK") else "RGB"), "JPEG", **options)


@settings(max_examples=300, deadline=None)
@given(data=images(), channels=st.sampled_from([1, 3]), size=st.sampled_from([1, 28, 80]))
def test_fast_path_gives_equal_pixels(data: bytes, channels: int, size: int) -> None:
    shape = ImageShape(size, size, channels)
    pixels = decode(data, shape, LIMIT)
    assert pixels.shape == (size, size, channels)
    assert np.array_equal(pixels, by_pillow_alone(data, shape))


@settings(max_examples=400, deadline=None)
@given(data=images(), damage=st.data())
def test_fast_path_refuses_the_same(data: bytes, damage: st.DataObject) -> None:
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
def test_fast_path_ends_at_size(file_format: str, size: tuple[int, int]) -> None:
    data = encoded(gradient(*size), file_format)
    for shape in (GREY, COLOUR, ImageShape(256, 256, 3)):
        assert np.array_equal(decode(data, shape, LIMIT), by_pillow_alone(data, shape))


def test_pillow_settles_a_wrong_checksum() -> None:
    """It does not read that of a PNG's pixels, which kornia-rs refuses."""
    data = bytearray(encoded(gradient(), "PNG"))
    data[data.index(b"IEND") - 5] ^= 0xFF
    assert np.array_equal(decode(bytes(data), COLOUR, LIMIT), np.asarray(gradient()))


def test_png_trailer_may_be_wrong() -> None:
    """The one thing in which kornia-rs lets more pass: the chunk has a checksum over the checksum of its content."""
    rows = b"".join(b"\0" + bytes(range(28)) for _ in range(28))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 28, 28, 8, 0, 0, 0, 0))
    content = zlib.compress(rows)[:-4] + b"\0\0\0\0"
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", content) + chunk(b"IEND", b"")
    assert decode(data, GREY, LIMIT)[:, :, 0].tolist() == [list(range(28))] * 28


def photograph(height: int, width: int) -> Image.Image:
    """Soft light with grain, and hard edges."""
    y, x = np.mgrid[0:height, 0:width]
    light = 128 + 90 * np.sin(x / width * 7) * np.cos(y / height * 5)
    edges = 60 * ((x * 9 // width + y * 9 // height) % 2)
    grain = np.random.default_rng(0).normal(0, 8, (height, width))
    pixels = np.stack([light + grain, 255 - light - edges + grain, light / 2 + edges], axis=-1)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def in_full(data: bytes, shape: ImageShape) -> Array:
    """The pixels of a JPEG that is decoded at its full size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.images.decode.MARGIN", 10**6)
        return decode(data, shape, 10**8)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("size", [(600, 401), (1501, 2003), (400, 2500)], ids=["portrait", "large", "wide"])
@pytest.mark.parametrize("shape", [GREY, COLOUR, ImageShape(24, 48, 3)], ids=["grey", "colour", "oblong"])
def test_reduced_jpeg_keeps_its_pixels(shape: ImageShape, size: tuple[int, int], orientation: int) -> None:
    """To within 4 of 255, and to within 1 on average, though it is decoded at a fraction of its size."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photograph(*size), "JPEG", quality=90, exif=exif)
    difference = np.abs(decode(data, shape, 10**8).astype(int) - in_full(data, shape))
    assert 0 < difference.max() <= 4
    assert difference.mean() < 1


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}], ids=str)
@pytest.mark.parametrize("size", [(40, 50), (500, 700)], ids=["small", "large"])
def test_jpeg_may_lack_its_end(size: tuple[int, int], options: dict[str, Any]) -> None:
    """The end marker, or a half of it."""
    data = encoded(photograph(*size), "JPEG", **options)
    whole = decode(data, COLOUR, LIMIT)
    for length in (-2, -1):
        assert np.array_equal(decode(data[:length], COLOUR, LIMIT), whole)


@pytest.mark.parametrize("optimize", [False, True], ids=["usual codes", "own codes"])
@pytest.mark.parametrize("cut", [3, 4, 5, 8, 17, 40])
def test_cut_jpeg_is_refused(cut: int, *, optimize: bool) -> None:
    """A file that lacks more than its end is refused, unless what it lacks is not seen in any pixel."""
    refused = 0
    for number in range(40):
        height, width = 1 + number * 7 % 60, 1 + number * 11 % 53
        data = encoded(photograph(height, width), "JPEG", quality=5 + 9 * number % 90, optimize=optimize)
        shape = ImageShape(height, width, 3)
        result = outcome(data[:-cut], shape)
        refused += isinstance(result, str)
        assert isinstance(result, str) or np.array_equal(result, decode(data, shape, LIMIT))
    assert refused >= 30


def test_floating_point_pixels_are_refused() -> None:
    values = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)
    with pytest.raises(InvalidRequest, match=r"floating-point numbers.*save it with 8 or 16 bits"):
        decode(encoded(Image.fromarray(values), "TIFF"), COLOUR, LIMIT)


def test_slow_forms_have_a_limit() -> None:
    """PPM as text is decoded in Python."""
    text = b"P2 %d %d 255\n" % (800, 700)
    assert decode(b"P2 2 2 255\n" + b"255 " * 4, COLOUR, LIMIT).min() == 255
    with pytest.raises(
        InvalidRequest, match=r"700 x 800 pixels in a form of PPM that is slow to decode.*save it as PNG"
    ):
        decode(text + b"255 " * (800 * 700), COLOUR, LIMIT)


def test_huge_tile_is_refused_undecoded() -> None:
    """A TIFF of 32 x 32 pixels in one tile, which is decoded as a whole."""
    assert decode(tiff(tile=64), COLOUR, LIMIT).max() == 0
    with pytest.raises(InvalidRequest, match="32000 x 32000 pixels, more than"):
        decode(tiff(tile=32_000), COLOUR, LIMIT)


def tiff(tile: int) -> bytes:
    """A grey TIFF of 32 x 32 pixels in a compressed tile of 64 x 64 that says to have the given side."""
    content = zlib.compress(bytes(64 * 64))
    tags = {256: 32, 257: 32, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: len(content)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(content)) + content + struct.pack("<H", len(tags)) + entries + bytes(4)
