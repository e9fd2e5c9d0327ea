"""docs/layout.md is the file tree: no file that is not there, no module left out."""

import re
from collections import Counter

from tests.servers import ROOT

LAYOUT = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
TREE = Counter(re.findall(r"^    ([\w/.-]+) {2,}[^\s─]", LAYOUT, re.MULTILINE))
"""Each path at the beginning of an indented line, and how often it is there."""


def test_every_named_path_exists() -> None:
    """Each path of the tree exists, and has one line."""
    assert [path for path in TREE if not (ROOT / path).exists()] == []
    assert [path for path, lines in TREE.items() if lines > 1] == []


def test_every_module_is_named() -> None:
    """Each module of the packages has a line; packages' own files and generated code have none."""
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in ("convserve", "service", "training", "benchmarks")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py" and "pb" not in path.parts
    }
    assert sorted(modules - TREE.keys()) == []
