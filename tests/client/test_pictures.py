"""What cannot be read is told before anything is sent."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.client import Client, UnusablePicture
from tests.client.conftest import ScriptedServer


def refused(scripted: ScriptedServer, pictures: Any, max_message_mib: int = 64) -> str:
    """Hand pictures over that must be refused without a call; give the sentence."""
    with Client(scripted.address, max_message_mib=max_message_mib) as client:
        with pytest.raises(UnusablePicture) as caught:
            client.classify(pictures, model="any")
        assert scripted.requests == []
        assert len(client.classify(b"picture", model="any")) == 1  # it would have been seen
    assert len(scripted.requests) == 1
    return str(caught.value)


def test_a_missing_file_is_named(scripted: ScriptedServer, tmp_path: Path) -> None:
    there = tmp_path / "there.png"
    there.write_bytes(b"picture")
    assert refused(scripted, [there, tmp_path / "gone.png"]) == (
        f"'{tmp_path / 'gone.png'}' cannot be read: No such file or directory"
    )


def test_a_folder_is_no_picture(scripted: ScriptedServer, tmp_path: Path) -> None:
    sentence = refused(scripted, str(tmp_path))
    assert sentence.startswith(f"'{tmp_path}' is a folder: name the images in it")


def test_all_faults_are_told_at_once(scripted: ScriptedServer, tmp_path: Path) -> None:
    """All that is wrong is told at once."""
    lines = refused(scripted, [tmp_path, b"fine", tmp_path / "gone", 7]).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("image 4 is of type int: expected a path")


def test_large_pictures_are_refused(scripted: ScriptedServer, tmp_path: Path) -> None:
    """A picture larger than a message is refused. By its size on disk: it is never read."""
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(3 * 2**20)
    sentence = refused(scripted, large, max_message_mib=2)
    assert "has 3.0 MiB, more than the 2.0 MiB" in sentence


@pytest.mark.parametrize(
    ("array", "fault"),
    [
        (np.zeros((8, 8, 3), np.float32), "array of float32: expected uint8"),
        (np.zeros((8, 8, 2), np.uint8), r"shape \[8, 8, 2\]: expected \[height, width\]"),
        (np.zeros((5, 28, 28), np.uint8), r"shape \[5, 28, 28\].*\[images, height, width, channels\]"),
        (np.zeros(8, np.uint8), r"shape \[8\]"),
        (np.zeros((0, 8), np.uint8), r"shape \[0, 8\]"),
        (np.zeros((1, 1, 8, 8, 3), np.uint8), r"shape \[1, 1, 8, 8, 3\]"),
    ],
    ids=["datatype", "channels", "stack without channels", "one axis", "no rows", "five axes"],
)
def test_an_array_must_be_a_picture(scripted: ScriptedServer, array: Any, fault: str) -> None:
    with Client(scripted.address) as client, pytest.raises(UnusablePicture, match=fault):
        client.classify(array, model="any")
    assert scripted.requests == []


def test_cut_files_in_pillow_are_told(scripted: ScriptedServer, tmp_path: Path) -> None:
    """A cut file that Pillow has opened is told. Pillow finds out only when the pixels are wanted."""
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 99).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:-2000])
    with Image.open(cut) as picture:
        assert "image 1 cannot be read by Pillow" in refused(scripted, picture)


def test_floating_point_pixels_are_refused(scripted: ScriptedServer) -> None:
    assert "mode F" in refused(scripted, Image.new("F", (8, 8)))


def test_vanishing_files_are_told(scripted: ScriptedServer, tmp_path: Path) -> None:
    """A file that vanishes on the way is told.

    The check has passed, the first call is answered, and then the file is gone.
    """
    fading = tmp_path / "fading.png"
    fading.write_bytes(b"picture")
    answer = scripted.classify

    def remove_and_answer(request: Any, context: Any) -> Any:
        fading.unlink()
        return answer(request, context)

    scripted.classify = remove_and_answer
    with (
        Client(scripted.address, max_call_images=1, calls_in_flight=1) as client,
        pytest.raises(UnusablePicture, match=r"fading\.png' cannot be read: No such file"),
    ):
        client.classify([b"first", fading], model="any")
