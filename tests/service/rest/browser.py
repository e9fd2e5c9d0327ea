"""A browser for tests of the page: Chromium, driven by playwright, whose every complaint is kept."""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, ViewportSize, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
"""Debian's."""
DESKTOP, PHONE = ViewportSize(width=1280, height=800), ViewportSize(width=390, height=844)
SMALL = ViewportSize(width=320, height=640)
"""The narrowest screen that WCAG 2.2 asks for."""
TIMEOUT_MS = 20_000
"""Bound on what comes at once on an idle machine."""
SEVEN = ((0.28, 0.25), (0.72, 0.24), (0.58, 0.52), (0.45, 0.82))
"""Corners of a seven, as shares of the pad's side."""

Points = Sequence[tuple[float, float]]


@contextmanager
def started() -> Iterator[Browser]:
    """Chromium without a window."""
    assert CHROMIUM is not None
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Desk:
    """The page in a browser's tab, as its user handles it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        """What the browser wrote to its console: errors, refused content, and warnings."""
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, path: str = "") -> "Desk":
        """Loads the page, and waits until it has the list of models."""
        self.page.goto(self.url + path)
        expect(self.page.locator("#state")).to_have_attribute("data-state", "ready")
        return self

    def choose(self, name: str) -> None:
        """Chooses a model."""
        self.page.get_by_label("Model", exact=True).select_option(f"{name}/1")

    def draw(self, points: Points = SEVEN) -> None:
        """Draws a line on the pad with the mouse."""
        (first, *rest), mouse = self.on_pad(points), self.page.mouse
        mouse.move(*first)
        mouse.down()
        for point in rest:
            mouse.move(*point, steps=5)
        mouse.up()

    def on_pad(self, points: Points) -> list[tuple[float, float]]:
        """Places on the screen."""
        box = self.page.get_by_label("Drawing pad").bounding_box()
        assert box is not None
        return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]

    def drop(self, file: Path) -> None:
        """Drops a file on the page."""
        self.page.evaluate(
            """([name, bytes]) => {
                const dataTransfer = new DataTransfer();
                dataTransfer.items.add(new File([new Uint8Array(bytes)], name));
                document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
            }""",
            [file.name, list(file.read_bytes())],
        )

    def paste(self, file: Path) -> None:
        """Puts a PNG file into the clipboard, and pastes it by keys."""
        self.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page.evaluate(
            """(bytes) => {
                const blob = new Blob([new Uint8Array(bytes)], { type: "image/png" });
                return navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
            }""",
            list(file.read_bytes()),
        )
        self.page.keyboard.press("Control+v")

    def expect_answer(self, label: str) -> None:
        """Waits until the model's best class is this."""
        expect(self.page.locator("#best-label")).to_have_text(label)
        expect(self.result).to_have_attribute("data-state", "shown")

    @property
    def result(self) -> Locator:
        """Where the answer stands."""
        return self.page.get_by_role("region", name="Result")

    @property
    def notice(self) -> Locator:
        """What says that the server is away."""
        return self.page.locator("#notice")

    def forgive(self, pattern: str) -> None:
        """Takes complaints away that the test has provoked; there must have been one."""
        kept = [text for text in self.complaints if not re.search(pattern, text)]
        assert len(kept) < len(self.complaints), f"nothing like {pattern!r} in {self.complaints}"
        self.complaints = kept

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@contextmanager
def desk(browser: Browser, url: str, **options: Any) -> Iterator[Desk]:
    """A tab of its own; what the browser complained of and nobody forgave fails the test."""
    with browser.new_context(**{"viewport": DESKTOP} | options) as context:
        context.set_default_timeout(TIMEOUT_MS)
        opened = Desk(context.new_page(), url)
        yield opened
        assert opened.complaints == []
