"""A device that is not there is never replaced silently."""

import pytest
import torch

from training import device as module
from training.device import arithmetic_for, autocast, choose_device, disable_malloc_trim, multiplies_bfloat16
from training.errors import DeviceError


def test_absent_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA is refused where there is none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="finds no CUDA device"):
        choose_device("cuda")
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")


def test_memory_works_without_malloc_trim() -> None:
    """Memory is still given out after pages are kept."""
    disable_malloc_trim()
    assert torch.ones(20_000_000).sum().item() == 20_000_000


@pytest.mark.parametrize(("multiplies", "arithmetic"), [(True, "bf16"), (False, "fp32")])
def test_bfloat16_needs_the_processor(monkeypatch: pytest.MonkeyPatch, *, multiplies: bool, arithmetic: str) -> None:
    """Bfloat16 is used where the processor has it. Emulated, it takes many times as long as float32."""
    monkeypatch.setattr(module, "multiplies_bfloat16", lambda _: multiplies)
    cpu = torch.device("cpu")
    assert (arithmetic_for("bf16", cpu), arithmetic_for("fp32", cpu)) == (arithmetic, "fp32")
    with autocast("bf16", cpu):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if multiplies else torch.float32)
    with autocast("fp32", cpu):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_bfloat16_support_is_a_bool() -> None:
    """A processor is asked only once and answers yes or no."""
    assert multiplies_bfloat16("cpu") in (True, False)
    assert multiplies_bfloat16("cpu") is multiplies_bfloat16("cpu")
