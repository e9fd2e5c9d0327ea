"""Images that are in two parts of a data set, such as training and test, which would make its figures too good."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

PARTS = ("training", "validation", "test")


def keep_apart(paths: Sequence[Sequence[Path]], pixels: Sequence[torch.Tensor]) -> tuple[list[list[int]], list[str]]:
    """Move the images that no later part has to the front of each of `PARTS`; gives their rows, and what is told.

    `pixels` are uint8 [N, height, width, channels], as the network sees them. By these, and not by files, images are
    the same: links, copies, and the same pixels in another format. The last rows take the places of what is left out,
    so that little is moved, and a part may lie on disk.
    """
    seen: dict[bytes, Path] = {}
    kept: list[list[int]] = []
    told: list[str] = []
    for name, files, images in reversed(list(zip(PARTS, paths, pixels, strict=True))):
        digests = [hashlib.sha256(image.numpy()).digest() for image in images]
        repeated = [row for row, digest in enumerate(digests) if digest in seen]
        rows = list(range(len(images)))
        for row in reversed(repeated):
            rows[row] = rows[-1]
            rows.pop()
        for place, row in enumerate(rows):
            if place != row:
                images[place] = images[row]
        kept.insert(0, rows)
        if repeated:
            told.append(
                f"left out of {name}: {len(repeated):,} whose pixels another part has too, such as "
                f"{files[repeated[0]]}, which is {seen[digests[repeated[0]]]}"
            )
        seen |= {digest: file for digest, file in zip(digests, files, strict=True) if digest not in seen}
    return kept, told
