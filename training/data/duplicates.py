"""Images that are in two parts of a data set, such as training and test, which would make its figures too good."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

PARTS = ("training", "validation", "test")


def keep_apart(paths: Sequence[Sequence[Path]], pixels: Sequence[torch.Tensor], console: Console) -> list[list[int]]:
    """Give the rows of each of `PARTS` whose images are in no later part, and say on `console` what is left out.

    `pixels` are uint8 [N, height, width, channels], as the network sees them. By these, and not by files, images are
    the same: links, copies, and the same pixels in another format.
    """
    seen: dict[bytes, Path] = {}
    kept: list[list[int]] = []
    for name, files, images in reversed(list(zip(PARTS, paths, pixels, strict=True))):
        digests = [hashlib.sha256(image.numpy()).digest() for image in images]
        kept.insert(0, [row for row, digest in enumerate(digests) if digest not in seen])
        repeated = [row for row, digest in enumerate(digests) if digest in seen]
        if repeated:
            console.print(
                f"left out of {name}: {len(repeated):,} whose pixels another part has too, such as "
                f"{files[repeated[0]]}, which is {seen[digests[repeated[0]]]}",
                soft_wrap=True,
                highlight=False,
                markup=False,
            )
        seen |= {digest: file for digest, file in zip(digests, files, strict=True) if digest not in seen}
    return kept
