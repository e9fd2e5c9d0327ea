"""The site's hook for MkDocs: pages that lie elsewhere in the repository belong to it, at their own paths.

docs/ is the site's top. Links between the two are written as they are in the repository, and led to the site's places
here; those to folders and source files, which are no part of the site, become plain text.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PATTERNS = ("*.md", "models/*.md", "models/*/*/README.md", "models/*.png", "models/*/*/*.png")
PATTERNS += ("benchmarks/README.md", "benchmarks/*.json", "benchmarks/results/*")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and figures from outside of docs/; README.md of the top is left to the repository."""
    for pattern in PATTERNS:
        for path in sorted(ROOT.glob(pattern)):
            place = path.relative_to(ROOT).as_posix()
            if path.is_file() and place != "README.md":
                files.append(File.generated(config, place, content=path.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - by name
    """Lead each link to where its target is on the site."""
    here = page.file.src_uri
    inside = page.file.generated_by is None
    source = f"docs/{here}" if inside else here

    def lead(found: re.Match[str]) -> str:
        mark, text, link, anchor = found[1], found[2], found[3], found[4] or ""
        if not link or ":" in link:
            return found[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        place = "README.md" if target == "README.md" else target.removeprefix("docs/")
        if files.get_file_from_path(place) is None:
            return text if (ROOT / target).exists() else found[0]
        return f"{mark}[{text}]({posixpath.relpath(place, posixpath.dirname(here) or '.')}{anchor})"

    parts = FENCE.split(markdown)
    return "".join(part if FENCE.fullmatch(part) else LINK.sub(lead, part) for part in parts)
