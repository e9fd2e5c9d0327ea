"""A device that is not there is never replaced silently."""

import pytest
import torch

from training.device import choose_device, keep_pages
from training.errors import DeviceError


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="finds no CUDA device"):
        choose_device("cuda")
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")


def test_memory_is_still_given_out_after_pages_are_kept() -> None:
    keep_pages()
    assert torch.ones(20_000_000).sum().item() == 20_000_000
