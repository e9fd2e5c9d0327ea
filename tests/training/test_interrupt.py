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
def test_keyboard_interrupt_returns_after_imports() -> None:
    """The signal raises keyboard interrupt again afterwards also after an error."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(ImportError), interrupt_ends_process():
        importlib.import_module("training.nothing")
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("_as_it_was")
def test_ignored_signal_stays_ignored() -> None:
    """A process that ignores the signal goes on ignoring it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupt_ends_process():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
