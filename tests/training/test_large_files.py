"""Training reads large JPEG files as the server does: at a fraction of their size."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.images.decode import ImageShape, decode
from training.data.image_files import read


@pytest.mark.parametrize("end", [None, -2, -1], ids=["whole", "no end marker", "half an end marker"])
@pytest.mark.parametrize("orientation", [1, 6, 7])
@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (24, 48, 3)], ids=["grey", "colour", "oblong"])
def test_large_jpeg_as_the_server(
    shape: tuple[int, int, int], orientation: int, end: int | None, tmp_path: Path
) -> None:
    """Turned or not, and without its end marker."""
    y, x = np.mgrid[0:603, 0:805]
    waves = np.stack([128 + 90 * np.sin(x / 90), 128 + 90 * np.cos(y / 70), (x * y) % 251], axis=-1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "large.jpg"
    Image.fromarray(waves).save(path, exif=exif)
    path.write_bytes(path.read_bytes()[:end])
    assert np.array_equal(read(path, shape), decode(path.read_bytes(), ImageShape(*shape), 10**6))


def test_cut_jpeg_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    Image.linear_gradient("L").save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(OSError, match="truncated"):
        read(path, (28, 28, 1))
