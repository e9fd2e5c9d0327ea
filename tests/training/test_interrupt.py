"""Ctrl-C is answered at once while libraries are imported, and as always before and after."""

import importlib
import signal
from collections.abc import Iterator

import pytest

from training.export import interrupt_ends_process


@pytest.fixture
def _as_it_was() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_as_it_was")
def test_the_signal_raises_keyboard_interrupt_again_afterwards_also_after_an_error() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(ImportError), interrupt_ends_process():
        importlib.import_module("training.nothing")
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("_as_it_was")
def test_a_process_that_ignores_the_signal_goes_on_ignoring_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupt_ends_process():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
