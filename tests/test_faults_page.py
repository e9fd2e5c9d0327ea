"""docs/faults.md names tests that exist."""

import re

from tests.servers import ROOT

NAMED = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")))


def test_named_tests_exist() -> None:
    """Each test that the page names is defined somewhere."""
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert NAMED
    assert sorted(NAMED - defined) == []
