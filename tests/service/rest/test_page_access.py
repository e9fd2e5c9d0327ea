"""Who can use the page: with a screen reader, in the dark, without motion."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.servers import ServerProcess
from tests.service.rest import browser as browsers
from tests.service.rest.browser import Desk, desk

pytestmark = pytest.mark.skipif(browsers.CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")

LEAST_CONTRAST = 4.5
"""WCAG 2.2, AA, of text."""
CONTRASTS = """
() => {
    const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const paint = (colours) => {
        context.clearRect(0, 0, 1, 1);
        for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
        return context.getImageData(0, 0, 1, 1).data;
    };
    const light = (pixel) => {
        const linear = [...pixel].slice(0, 3).map((value) => value / 255)
            .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
        if (!text || !element.checkVisibility() || element.matches(":disabled, option, optgroup, .unseen")) continue;
        const under = [];
        for (let at = element; at; at = at.parentElement) under.unshift(getComputedStyle(at).backgroundColor);
        const style = getComputedStyle(element), ink = element.namespaceURI.endsWith("svg") ? style.fill : style.color;
        const levels = [paint(under), paint([...under, ink])].map(light).sort((one, other) => other - one);
        found.push([text.slice(0, 40), (levels[0] + 0.05) / (levels[1] + 0.05)]);
    }
    return found;
}
"""
CONTROLS = {"button", "link", "combobox", "radio", "checkbox", "textbox", "application", "region", "img", "image"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests; each has a tab of its own."""
    with browsers.started() as browser:
        yield browser


@pytest.fixture(scope="module")
def url(rest_server: ServerProcess) -> str:
    """Address of the server that other tests use too."""
    return f"{rest_server.url}/"


def views(page: Desk) -> Iterator[str]:
    """Each view in turn: drawing with an answer, a picture that is none, and the model's own page."""
    page.draw()
    page.expect_answer("7")
    yield "drawing"
    page.page.get_by_role("radio", name="Picture").check()
    page.drop(Path(__file__))
    expect(page.result.get_by_role("alert")).to_be_visible()
    page.forgive("status of 400")
    yield "picture"
    page.page.get_by_role("link", name="About this model").click()
    expect(page.page.get_by_role("img", name="Loss against epochs")).to_be_visible()
    page.page.get_by_text("As a table").click()
    yield "model"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser: Browser, url: str, scheme: str) -> None:
    """Each text in each view has a contrast of 4.5 to what lies under it, by day and by night."""
    with desk(browser, url, color_scheme=scheme, reduced_motion="reduce") as page:
        for view in views(page.open()):
            contrasts = page.page.evaluate(CONTRASTS)
            assert len(contrasts) > 10
            assert [(view, *found) for found in contrasts if found[1] < LEAST_CONTRAST] == []


def test_controls_have_names(browser: Browser, url: str) -> None:
    """To a screen reader, each control, region and image of each view has a name, and no heading is skipped."""
    with desk(browser, url) as page:
        for view in views(page.open()):
            nodes = accessible(page.page)
            assert len([role for role, _ in nodes if role in CONTROLS]) > 5
            assert [(view, role) for role, name in nodes if role in CONTROLS and not name] == []
            headings = page.page.locator("h1, h2").filter(visible=True)
            assert headings.first.evaluate("heading => heading.tagName") == "H1"


def test_reduced_motion_moves_nothing(browser: Browser, url: str) -> None:
    """Bars jump for those who asked their system for less motion, and glide for others."""
    durations = []
    for motion in ("reduce", "no-preference"):
        with desk(browser, url, reduced_motion=motion) as page:
            page.open().draw()
            page.expect_answer("7")
            bar = page.page.locator("#bars .track span").first
            durations.append(bar.evaluate("bar => getComputedStyle(bar).transitionDuration"))
    assert durations == ["0s", "0.12s"]


def accessible(page: Page) -> list[tuple[str, str]]:
    """Role and name of all that a screen reader is told of."""
    tree: dict[str, Any] = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")
    return [
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree["nodes"] if not node["ignored"]
    ]
