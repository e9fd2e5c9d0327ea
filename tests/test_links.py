"""Links between pages, and the files that pages name."""

import re
from pathlib import Path

import pytest

from tests import pages
from tests.servers import ROOT

SOURCES = re.compile(r"`((?:benchmarks|docs|models|proto|service|tests|training)/[\w/.-]+\.(?:cpp|md|proto|py|sh))`")


def broken(page: Path) -> list[str]:
    """The page's relative links whose file or anchor does not exist."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", pages.prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in pages.anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    """Each relative link names a file that exists, and an anchor that the file has."""
    assert broken(page) == []


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_named_source_files_exist(page: Path) -> None:
    """Each source file that a page names by its path exists."""
    assert [path for path in SOURCES.findall(pages.prose(page)) if not (ROOT / path).exists()] == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    """A missing file and a missing anchor are reported; a heading's second use has an anchor of its own."""
    page = tmp_path / "page.md"
    page.write_text(
        "# One `two`\n\n## A\n\n## A\n\n[a](#one-two) [b](#a-1) [c](#a-2) [d](no.md) [e](https://x.invalid)\n"
    )
    assert broken(page) == ["#a-2", "no.md"]
