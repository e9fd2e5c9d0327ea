"""The page while its server is away, or wants a token."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.metrics import free_port
from tests.servers import ServerProcess
from tests.service.rest import browser as browsers
from tests.service.rest.browser import desk

pytestmark = pytest.mark.skipif(browsers.CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")

AWAY = r"net::ERR_(CONNECTION_REFUSED|CONNECTION_RESET|CONNECTION_CLOSED|EMPTY_RESPONSE)"
"""What Chromium writes to its console while a server is away."""
TOKEN = "a word of this test"  # noqa: S105 - no secret
STORED = "() => JSON.stringify({ ...sessionStorage, ...localStorage }) + document.cookie"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests; each has a tab of its own."""
    with browsers.started() as browser:
        yield browser


def test_drawing_outlives_the_server(browser: Browser, models_dir: Path) -> None:
    """What is drawn while the server is gone stays, and is answered when it is back; it outlives a reload too."""
    options, port = ("--models", "mnist-tiny"), free_port()
    with desk(browser, f"http://127.0.0.1:{port}/") as page:
        try_now = page.notice.get_by_role("button", name="Try now")
        with ServerProcess(models_dir, *options, "--http-port", str(port)) as server:
            page.open()
            server.process.kill()
            server.process.wait()
            page.draw()
            expect(page.notice.get_by_role("alert")).to_have_text(
                "The server cannot be reached. What you drew stays here, and is sent when it is back."
            )
            expect(page.page.locator("#state")).to_have_text("Not connected")
            expect(page.notice).to_contain_text("Trying again in")
            page.page.evaluate("window.setTimeout = () => 0")  # from now on the button alone makes it try again
            with page.page.expect_event("requestfailed"):
                try_now.click()
        with ServerProcess(models_dir, *options, "--http-port", str(port)):
            try_now.click()
            page.expect_answer("7")
            expect(page.notice).to_be_hidden()
            page.page.reload()
            page.expect_answer("7")
        page.forgive(AWAY)


def test_token_is_asked_for(browser: Browser, models_dir: Path, tmp_path: Path) -> None:
    """A server with tokens has the page ask for one; it is kept in memory alone, unless its user wants more."""
    file = tmp_path / "tokens.toml"
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    file.write_text(f'[[tokens]]\nname = "page"\nsha256 = "{digest}"\nrights = ["infer"]\n')
    options = ("--models", "mnist-tiny", "--tokens-file", str(file), "--http-port", "0")
    with ServerProcess(models_dir, *options) as server, desk(browser, f"{server.url}/") as page:
        tab = page.page
        tab.goto(page.url)
        field = tab.get_by_label("Bearer token")
        for token in ("a wrong one", TOKEN):
            expect(field).to_be_focused()
            expect(field).to_have_value("")
            field.fill(token)
            tab.keyboard.press("Enter")
        expect(tab.locator("#state")).to_have_attribute("data-state", "ready")
        page.draw()
        page.expect_answer("7")
        tab.get_by_role("link", name="About this model").click()
        expect(tab.get_by_alt_text("Test images that the model got wrong")).to_have_js_property("complete", value=True)
        assert TOKEN not in tab.evaluate(STORED)
        tab.reload()
        expect(field).to_be_focused()
        tab.get_by_role("button", name="Cancel").click()
        page.notice.get_by_role("button", name="Enter a token").click()
        field.fill(TOKEN)
        tab.get_by_label("Keep it until this tab is closed").check()
        tab.get_by_role("button", name="Use this token").click()
        expect(tab.locator("#state")).to_have_attribute("data-state", "ready")
        assert TOKEN in tab.evaluate(STORED)
        tab.reload()
        expect(tab.locator("#state")).to_have_attribute("data-state", "ready")
        page.forgive("status of 401")
