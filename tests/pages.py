"""The pages that people read, and what their Markdown holds."""

import re
from pathlib import Path

from tests.servers import ROOT

GUIDE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GUIDE += [*sorted((ROOT / "docs" / "tutorials").glob("*.md")), *sorted((ROOT / "docs" / "reference").glob("*.md"))]
"""The pages whose examples are run."""
PAGES = [*GUIDE, *sorted((ROOT / "docs" / "decisions").glob("*.md"))]
PAGES += [ROOT / "benchmarks" / "README.md", ROOT / "benchmarks" / "results" / "README.md"]
PAGES += [*sorted((ROOT / "models").glob("*.md")), *sorted((ROOT / "models").glob("*/*/README.md"))]
"""All pages, whose links must lead somewhere."""


def name(page: Path) -> str:
    """A page's path below the top of the repository, for parameter ids."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The contents of a page's fenced blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        again = sum(1 for other in found if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other))
        found.add(f"{slug}-{again}" if again else slug)
    return found
