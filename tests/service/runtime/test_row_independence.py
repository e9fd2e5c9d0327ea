"""Which models are batched: those whose rows are found not to depend on each other."""

from pathlib import Path

import pytest

from service.runtime.providers import choose
from service.runtime.session import Session
from tests.service.runtime.graphs import DEPENDENT, INDEPENDENT


def opened(path: Path, batching: str = "auto") -> Session:
    return Session(path, choose(["cpu"]), threads=2, max_batch_rows=64, batching=batching)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", DEPENDENT)
def test_dependent_rows_are_not_batched(name: str, tmp_path: Path) -> None:
    """A model whose rows depend on each other is served one request at a time, and the reason is kept."""
    session = opened(DEPENDENT[name](tmp_path))
    assert session.spec.unbatched_reason


@pytest.mark.parametrize("name", INDEPENDENT)
def test_independent_rows_are_batched(name: str, tmp_path: Path) -> None:
    """A model whose rows do not depend on each other is batched: the check raises no false alarm."""
    assert opened(INDEPENDENT[name](tmp_path)).spec.unbatched_reason == ""
