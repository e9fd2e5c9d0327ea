"""The pages build as a site, strictly, with all that they link to."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.servers import ROOT


class Addresses(HTMLParser):
    """Whatever a page loads: scripts, styles, images."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag loads."""
        told = dict(attrs)
        if tag in ("script", "img", "iframe"):
            self.loaded.append(told.get("src") or "")
        elif tag == "link" and "stylesheet" in (told.get("rel") or ""):
            self.loaded.append(told.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it; a warning would have ended it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    """Each page of docs/, each model's page and its figures are part of the site."""
    for page in (ROOT / "docs").rglob("*.md"):
        place = page.relative_to(ROOT / "docs").with_suffix("")
        assert (site / (place.parent if place.name == "README" else place) / "index.html").is_file(), page
    for figure in (ROOT / "models").glob("*/*/*.png"):
        assert (site / figure.relative_to(ROOT)).is_file(), figure


def test_nothing_comes_from_elsewhere(site: Path) -> None:
    """No page loads a script, a style or an image from another host."""
    for page in site.rglob("*.html"):
        loaded = Addresses(page.read_text("utf-8")).loaded
        assert [address for address in loaded if urlsplit(address).netloc] == [], page


def test_reference_comes_from_docstrings(site: Path) -> None:
    """The reference has the client's methods and the export's parameters, with their words."""
    client = (site / "reference" / "client" / "index.html").read_text("utf-8")
    export = (site / "reference" / "export" / "index.html").read_text("utf-8")
    assert all(f"convserve.service.client.Client.{name}" in client for name in ("classify", "list_models", "infer"))
    assert all(re.search(rf"\b{name}\b", export) for name in ("interpolation", "temperature", "precision"))
    assert "GRPCInferenceService" in (site / "reference" / "protocols" / "index.html").read_text("utf-8")
